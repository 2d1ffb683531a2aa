/* The loops of every instruction set against plain formulas, at every length of the tail; all give the
 * same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "isa.h"

#define MOST 70

struct rows {
    float a[MOST], b[MOST], c[MOST], d[MOST];
    float x[MOST + 1], y[MOST + 1]; /* outputs, and a guard behind them */
};

static void fill(struct rows *r)
{
    uint32_t s = 7;
    float *const parts[] = {r->a, r->b, r->c, r->d};
    for (int p = 0; p < 4; p++) {
        for (int i = 0; i < MOST; i++) {
            s = s * 1664525U + 1013904223U;
            parts[p][i] = (float)(int32_t)s / 536870912.0F; /* -4 to 4 */
        }
    }
}

static void reset(struct rows *r)
{
    for (int i = 0; i <= MOST; i++)
        r->x[i] = r->y[i] = (float)i * 0.25F - 3.0F;
}

/* Runs every loop once on n elements; the results of all, sums included, end in `out`. */
static size_t run_all(const struct rh_loops *l, struct rows *r, int64_t n, float *out)
{
    size_t used = 0;
#define KEEP()                                                                                     \
    do {                                                                                           \
        assert_true(r->x[n] == (float)n * 0.25F - 3.0F && r->y[n] == (float)n * 0.25F - 3.0F);     \
        memcpy(out + used, r->x, (size_t)n * sizeof(float));                                       \
        memcpy(out + used + n, r->y, (size_t)n * sizeof(float));                                   \
        used += 2 * (size_t)n;                                                                     \
        reset(r);                                                                                  \
    } while (0)
    reset(r);
    out[used++] = l->dot(r->a, r->b, n);
    out[used++] = l->offset_dot(r->a, r->b, r->c, n);
    l->add(r->x, r->a, n);
    l->axpy(r->y, 0.3F, r->b, n);
    KEEP();
    l->scale(r->x, 0.7F, r->a, n);
    l->scale(r->y, -1.3F, r->b, n);
    KEEP();
    l->sum_products(r->x, (const float *[]){r->a, r->c}, (const float *[]){r->b, r->d}, 2, n);
    l->exp_minus(r->y, r->c, 1.5F, n);
    KEEP();
    l->offset_scale(r->x, r->a, r->b, 0.4F, n);
    l->offset_norm_backward(r->y, r->a, r->b, r->c, 0.6F, 0.2F, 1, n);
    KEEP();
    l->offset_norm_backward(r->x, r->a, r->b, r->c, 0.6F, 0.2F, 0, n);
    l->silu_mul(r->y, r->a, r->b, n);
    KEEP();
    l->silu_mul_backward(r->x, r->y, r->a, r->b, r->c, n);
    KEEP();
    l->sigmoid_mul(r->x, r->a, r->b, n);
    l->silu(r->y, r->c, n);
    KEEP();
    l->sigmoid_mul_backward(r->x, r->y, r->a, r->b, r->c, n);
    KEEP();
    l->silu_backward(r->x, r->a, r->b, n);
    l->gated_norm(r->y, r->a, r->b, r->c, 0.9F, n);
    KEEP();
    out[used++] = l->gated_norm_backward(r->x, r->y, r->a, r->b, r->c, r->d, 0.9F, n);
    KEEP();
    l->norm_backward(r->x, r->a, r->b, 0.5F, 0.1F, n);
    KEEP();
    out[used] = l->exp_row(r->x, n - n / 3, n, &out[used + 1]);
    used += 2;
    l->softmax_backward(r->y, r->x, 0.2F, 0.3F, n - n / 4, n);
    KEEP();
    l->scale_rows(r->x, n, r->a, n, r->b, 1, n);
    l->mul_rows(r->y, n, r->a, r->b, 1, n);
    KEEP();
    l->decay_backward(r->x, r->y, out + used, r->a, r->b, r->c, r->d, r->a, 0, n);
    used += (size_t)n;
    KEEP();
    l->decay_backward(r->x, r->y, out + used, r->a, r->b, r->c, r->d, r->a, 1, n);
    used += (size_t)n;
    KEEP();
    l->two_sums(r->x, r->y, r->a, r->b, r->c, 0.7F, 0.4F, 0, n);
    KEEP();
    l->two_sums(r->x, r->y, r->a, r->b, r->c, 0.7F, 0.4F, 1, n);
    KEEP();
    out[used++] = l->square_error(r->x, r->a, r->b, 2.0F, n);
    out[used++] = l->square_error(NULL, r->a, r->b, 2.0F, n);
    KEEP();
#undef KEEP
    return used;
}

static void all_instruction_sets_give_the_same_bits(void **state)
{
    (void)state;
    static float plain[64 * MOST];
    static float other[64 * MOST];
    struct rows r;
    const struct rh_loops *all[ISA_MAX];
    int count = isa_usable(all);
    fill(&r);
    for (int64_t n = 1; n < MOST; n++) {
        size_t used = run_all(all[0], &r, n, plain);
        for (int i = 1; i < count; i++) {
            assert_int_equal(run_all(all[i], &r, n, other), used);
            for (size_t k = 0; k < used; k++) {
                if (memcmp(&plain[k], &other[k], sizeof plain[k]) != 0)
                    fail_msg("%s, n = %lld, value %zu: %.9g, the plain loops have %.9g",
                             all[i]->name, (long long)n, k, (double)other[k], (double)plain[k]);
            }
        }
    }
}

static void close_to(float got, double want, double scale);

/* exp(c_i - c_j) below the diagonal and on it, 1 there, and 0 above; its rows less its columns; x turned, with zeros behind it. */
static void squares_are_filled(void **state)
{
    (void)state;
    enum { N = 21, WIDE = 24 };
    double c[N];
    static float y[N * N], first[N * N], x[N * 3], turned[3 * WIDE];
    const struct rh_loops *all[ISA_MAX];
    int count = isa_usable(all);
    for (int i = 0; i < N; i++)
        c[i] = -0.37 * i * i;
    for (int i = 0; i < N * 3; i++)
        x[i] = (float)i;
    for (int k = 0; k < count; k++) {
        all[k]->decay(y, c, N);
        if (k == 0)
            memcpy(first, y, sizeof y);
        assert_memory_equal(first, y, sizeof y);
        all[k]->transpose(x, 3, N, 3, turned, WIDE);
        for (int i = 0; i < 3 * WIDE; i++)
            assert_true(turned[i] == (i % WIDE < N ? x[i % WIDE * 3 + i / WIDE] : 0.0F));
    }
    for (int k = 0; k < count; k++) {
        double dc[N];
        for (int i = 0; i < N; i++)
            dc[i] = 0.5;
        all[k]->balance(dc, first, N);
        for (int i = 0; i < N; i++) {
            double want = 0.5;
            for (int j = 0; j < N; j++)
                want += (double)first[i * N + j] - (double)first[j * N + i];
            assert_true(fabs(dc[i] - want) < 1e-12);
        }
    }
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            close_to(y[i * N + j], j <= i ? exp(c[i] - c[j]) : 0.0, 1);
        assert_true(y[i * N + i] == 1.0F);
    }
}

static void close_to(float got, double want, double scale)
{
    if (!(fabs((double)got - want) <= 1e-6 * scale))
        fail_msg("%.9g, not %.9g", (double)got, want);
}

static double silu(double x)
{
    return x / (1.0 + exp(-x));
}

static double silu_slope(double x)
{
    double s = 1.0 / (1.0 + exp(-x));
    return s * (1.0 + x * (1.0 - s));
}

/* The formulas of loops.h in fp64, for one length with a tail. */
static void the_loops_are_their_formulas(void **state)
{
    (void)state;
    const struct rh_loops *l = rh_loops_best();
    const int64_t n = 45;
    struct rows r;
    fill(&r);
    double dot = 0;
    double total = 0;
    double weighted = 0;
    double most = -10;
    for (int64_t i = 0; i < n; i++) {
        dot += (double)r.a[i] * (double)r.b[i];
        weighted += (1.0 + (double)r.b[i]) * (double)r.c[i] * (double)r.a[i];
        most = fmax(most, (double)r.a[i]);
    }
    close_to(l->dot(r.a, r.b, n), dot, 100);
    close_to(l->offset_dot(r.a, r.b, r.c, n), weighted, 400);
    memcpy(r.x, r.a, sizeof r.a);
    float max = 0.0F;
    total = (double)l->exp_row(r.x, n, MOST, &max);
    assert_true((double)max == most && r.x[n] == 0.0F && r.x[MOST - 1] == 0.0F);
    for (int64_t i = 0; i < n; i++) {
        close_to(r.x[i], exp((double)r.a[i] - most), 1);
        total -= (double)r.x[i];
    }
    close_to((float)total, 0.0, 100);
    l->silu_mul_backward(r.x, r.y, r.a, r.b, r.c, n);
    for (int64_t i = 0; i < n; i++) {
        close_to(r.x[i], (double)r.c[i] * (double)r.b[i] * silu_slope((double)r.a[i]), 20);
        close_to(r.y[i], (double)r.c[i] * silu((double)r.a[i]), 20);
    }
    total = (double)l->gated_norm_backward(r.x, r.y, r.a, r.b, r.c, r.d, 0.9F, n);
    for (int64_t i = 0; i < n; i++) {
        double t = (double)r.c[i] * (double)r.d[i] * silu((double)r.b[i]);
        close_to(r.x[i], t, 70);
        close_to(r.y[i], (double)r.d[i] * (double)r.c[i] * (double)r.a[i] * (double)0.9F *
                             silu_slope((double)r.b[i]), 70);
        total -= t * (double)r.a[i];
    }
    close_to((float)total, 0.0, 3000);
}

static void exponentials_hold_from_end_to_end(void **state)
{
    (void)state;
    const struct rh_loops *l = rh_loops_best();
    for (float x = -86.9F; x < 88.0F; x += 0.0371F) {
        float y = 0.0F;
        l->exp_minus(&y, &x, 0.0F, 1);
        if (!(fabs((double)y / exp((double)x) - 1.0) < 2e-7))
            fail_msg("exp(%.9g) is %.9g, not %.9g", (double)x, (double)y, exp((double)x));
    }
    const float far[4] = {-87.1F, -1e30F, -INFINITY, 500.0F};
    float y[4];
    l->exp_minus(y, far, 0.0F, 4);
    assert_true(y[0] == 0.0F && y[1] == 0.0F && y[2] == 0.0F);
    assert_true(fabs((double)y[3] / exp(88.0) - 1.0) < 1e-6);
}

/* The two equations of struct rh_solve, for widths with and without a tail and rows that are no
 * multiple of those taken together; with fused multiply-add the width of a register changes no bit. */
static void triangular_systems_are_solved(void **state)
{
    (void)state;
    enum { N = 23, MOST_WIDE = 41 };
    static float lower[N * N];
    static float b[N * MOST_WIDE], x[N * MOST_WIDE], y[N * MOST_WIDE], first[N * MOST_WIDE];
    float factor[2 * N];
    const struct rh_loops *all[ISA_MAX];
    int count = isa_usable(all);
    uint32_t s = 3;
    for (int i = 0; i < N * N; i++) {
        s = s * 1664525U + 1013904223U;
        lower[i] = i % N < i / N ? (float)(int32_t)s / 2147483648.0F * 0.3F : NAN; /* not read */
    }
    for (int i = 0; i < 2 * N; i++)
        factor[i] = i % 2 ? NAN : 0.5F + (float)i / (float)N;
    for (int64_t width = 1; width <= MOST_WIDE; width += 5) {
        for (int64_t i = 0; i < N * width; i++) {
            s = s * 1664525U + 1013904223U;
            b[i] = (float)(int32_t)s / 2147483648.0F;
        }
        for (int k = 0; k < 2 * count; k++) {
            bool transposed = k >= count;
            int isa = k % count;
            memcpy(x, b, sizeof b);
            all[isa]->solve(&(struct rh_solve){N, width, lower, factor, 2, transposed, x, y});
            for (int64_t i = 0; i < N; i++) {
                for (int64_t w = 0; w < width; w++) {
                    double sum = (double)x[i * width + w];
                    assert_true(y[i * width + w] == x[i * width + w] * factor[2 * i]);
                    for (int64_t j = 0; j < N; j++) {
                        double f = transposed ? (double)lower[j * N + i] : (double)lower[i * N + j];
                        if (transposed ? j > i : j < i)
                            sum += f * (double)y[j * width + w];
                    }
                    close_to((float)sum, (double)b[i * width + w], 10);
                }
            }
            if (isa == 1)
                memcpy(first, y, sizeof y);
            if (isa > 1)
                assert_memory_equal(first, y, (size_t)(N * width) * sizeof *y);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_instruction_sets_give_the_same_bits),
        cmocka_unit_test(the_loops_are_their_formulas),
        cmocka_unit_test(exponentials_hold_from_end_to_end),
        cmocka_unit_test(squares_are_filled),
        cmocka_unit_test(triangular_systems_are_solved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
