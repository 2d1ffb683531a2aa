#include "loops.h"

#include <stddef.h>
#include <string.h>

#include "vector.h"

/* RH_LOOPS names the table, RH_GEMM and the like the functions of gemm.c of the same instruction
 * set; the build compiles this file once for each. */

/* Runs BODY for every vector: P(p) reads and W(p, v) writes RH_WIDTH elements, or what is left. */
#define FOR_ROW(BODY)                                                                              \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + RH_WIDTH <= n; i += RH_WIDTH) {                                                 \
            BODY(load, store)                                                                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            BODY(TAIL_LOAD, TAIL_STORE)                                                            \
        }                                                                                          \
    } while (0)
/* Sums stay in registers when every lane's number is known. */
#define UNROLL _Pragma("GCC unroll 4")
#define TAIL_LOAD(p)     load_part((p), n - i)
#define TAIL_STORE(p, v) store_part((p), (v), n - i)

/* The same for a sum: element i adds to lane i mod RH_LANES, part k of `total`. */
#define FOR_SUM(BODY)                                                                              \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        while (i + RH_LANES <= n) {                                                                \
            UNROLL for (int k = 0; k < RH_PARTS; k++, i += RH_WIDTH)                               \
            {                                                                                      \
                BODY(load, store)                                                                  \
            }                                                                                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            UNROLL for (int k = 0; k < RH_PARTS; k++, i += RH_WIDTH)                               \
            {                                                                                      \
                if (i < n) {                                                                       \
                    BODY(TAIL_LOAD, TAIL_STORE)                                                    \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static float dot(const float *x, const float *y, int64_t n)
{
    vec total[RH_PARTS] = {{0}};
#define BODY(P, W) total[k] += P(x + i) * P(y + i);
    FOR_SUM(BODY);
#undef BODY
    return sum_lanes(total);
}

static void add(float *y, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, P(y + i) + P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, P(y + i) + a * P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void scale(float *y, float a, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, a * P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void sum_products(float *y, const float *const *x, const float *const *w, int64_t terms,
                         int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec total = P(x[0] + i) * P(w[0] + i);                                                         \
    for (int64_t k = 1; k < terms; k++)                                                            \
        total += P(x[k] + i) * P(w[k] + i);                                                        \
    W(y + i, total);
    FOR_ROW(BODY);
#undef BODY
}

static void exp_minus(float *y, const float *x, float max_value, int64_t n)
{
#define BODY(P, W) W(y + i, exp_lanes(P(x + i) - max_value));
    FOR_ROW(BODY);
#undef BODY
}

static float max_of(const float *x, int64_t n)
{
    float best = x[0];
    int64_t i = 0;
    vec most = (vec){0} + x[0];
    for (; i + RH_WIDTH <= n; i += RH_WIDTH) {
        vec v = load(x + i);
        most = select_lanes(v > most, v, most);
    }
    for (int k = 0; k < RH_WIDTH; k++)
        best = most[k] > best ? most[k] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static void offset_scale(float *y, const float *x, const float *w, float r, int64_t n)
{
#define BODY(P, W) W(y + i, (P(w + i) + 1.0F) * (P(x + i) * r));
    FOR_ROW(BODY);
#undef BODY
}

static void offset_norm_backward(float *dx, const float *x, const float *w, const float *dy,
                                 float r, float m, int accumulate, int64_t n)
{
#define VALUE(P) (((P(w + i) + 1.0F) * P(dy + i) - P(x + i) * (r * m)) * r)
    if (accumulate) {
#define BODY(P, W) W(dx + i, P(dx + i) + VALUE(P));
        FOR_ROW(BODY);
#undef BODY
    } else {
#define BODY(P, W) W(dx + i, VALUE(P));
        FOR_ROW(BODY);
#undef BODY
    }
#undef VALUE
}

static float offset_dot(const float *x, const float *w, const float *dy, int64_t n)
{
    vec total[RH_PARTS] = {{0}};
#define BODY(P, W) total[k] += (P(w + i) + 1.0F) * P(dy + i) * P(x + i);
    FOR_SUM(BODY);
#undef BODY
    return sum_lanes(total);
}

static void silu_mul(float *y, const float *gate, const float *up, int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec g = P(gate + i);                                                                           \
    W(y + i, g * sigmoid_lanes(g) * P(up + i));
    FOR_ROW(BODY);
#undef BODY
}

static void silu_mul_backward(float *dgate, float *dup, const float *gate, const float *up,
                              const float *dy, int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec g = P(gate + i), d = P(dy + i), s = sigmoid_lanes(g);                                      \
    W(dup + i, d *g *s);                                                                           \
    W(dgate + i, d *P(up + i) * (s * (1.0F + g * (1.0F - s))));
    FOR_ROW(BODY);
#undef BODY
}

static void sigmoid_mul(float *a, const float *o, const float *gate, int64_t n)
{
#define BODY(P, W) W(a + i, P(o + i) * sigmoid_lanes(P(gate + i)));
    FOR_ROW(BODY);
#undef BODY
}

static void sigmoid_mul_backward(float *d_o, float *dgate, const float *o, const float *gate,
                                 const float *da, int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec s = sigmoid_lanes(P(gate + i)), d = P(da + i);                                             \
    W(dgate + i, d *P(o + i) * (s * (1.0F - s)));                                                  \
    W(d_o + i, d *s);
    FOR_ROW(BODY);
#undef BODY
}

static void silu(float *y, const float *x, int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec v = P(x + i);                                                                              \
    W(y + i, v *sigmoid_lanes(v));
    FOR_ROW(BODY);
#undef BODY
}

static void silu_backward(float *dx, const float *x, const float *dy, int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec v = P(x + i), s = sigmoid_lanes(v);                                                        \
    W(dx + i, P(dy + i) * (s * (1.0F + v * (1.0F - s))));
    FOR_ROW(BODY);
#undef BODY
}

static void gated_norm(float *y, const float *o, const float *z, const float *w, float r, int64_t n)
{
#define BODY(P, W)                                                                                 \
    vec v = P(z + i);                                                                              \
    W(y + i, P(w + i) * (P(o + i) * r) * (v * sigmoid_lanes(v)));
    FOR_ROW(BODY);
#undef BODY
}

static float gated_norm_backward(float *t, float *dz, const float *o, const float *z,
                                 const float *w, const float *dy, float r, int64_t n)
{
    vec total[RH_PARTS] = {{0}};
#define BODY(P, W)                                                                                 \
    vec v = P(z + i), s = sigmoid_lanes(v), wd = P(w + i) * P(dy + i), ov = P(o + i);              \
    vec tv = wd * (v * s);                                                                         \
    W(t + i, tv);                                                                                  \
    W(dz + i, wd *(ov *r) * (s * (1.0F + v * (1.0F - s))));                                        \
    total[k] += tv * ov;
    FOR_SUM(BODY);
#undef BODY
    return sum_lanes(total);
}

static void norm_backward(float *dx, const float *t, const float *x, float r, float m, int64_t n)
{
#define BODY(P, W) W(dx + i, (P(t + i) - P(x + i) * m) * r);
    FOR_ROW(BODY);
#undef BODY
}

static float exp_row(float *x, int64_t n, int64_t all, float *max)
{
    vec total[RH_PARTS] = {{0}};
    float most = *max = max_of(x, n);
#define BODY(P, W)                                                                                 \
    W(x + i, exp_lanes(P(x + i) - most));                                                          \
    total[k] += P(x + i); /* in the tail without what is beyond n */
    FOR_SUM(BODY);
#undef BODY
    memset(x + n, 0, (size_t)(all - n) * sizeof *x);
    return sum_lanes(total);
}

static void softmax_backward(float *s, float *dp, float lse, float delta, int64_t n, int64_t all)
{
#define BODY(P, W)                                                                                 \
    vec p = exp_lanes(P(s + i) - lse);                                                             \
    W(s + i, p);                                                                                   \
    W(dp + i, p *(P(dp + i) - delta));
    FOR_ROW(BODY);
#undef BODY
    memset(s + n, 0, (size_t)(all - n) * sizeof *s);
    memset(dp + n, 0, (size_t)(all - n) * sizeof *dp);
}

static void scale_rows(float *y, int64_t ldy, const float *x, int64_t ldx, const float *factor,
                       int64_t rows, int64_t n)
{
    for (int64_t row = 0; row < rows; row++, y += ldy, x += ldx) {
        float a = factor[row];
#define BODY(P, W) W(y + i, a * P(x + i));
        FOR_ROW(BODY);
#undef BODY
    }
}

static void mul_rows(float *y, int64_t ldy, const float *x, const float *w, int64_t rows, int64_t n)
{
    for (int64_t row = 0; row < rows; row++, y += ldy, x += n, w += n) {
#define BODY(P, W) W(y + i, P(x + i) * P(w + i));
        FOR_ROW(BODY);
#undef BODY
    }
}

typedef double four_double __attribute__((vector_size(32)));

RH_INLINE four_double load_doubles(const double *p)
{
    four_double v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void decay(float *y, const double *c, int64_t n)
{
    for (int64_t row = 0; row < n; row++, y += n) {
        int64_t j = 0;
        for (; j + 4 <= n && j <= row; j += 4) {
            four d = __builtin_convertvector(c[row] - load_doubles(c + j), four);
            memcpy(y + j, &d, sizeof d);
        }
        for (; j <= row; j++)
            y[j] = (float)(c[row] - c[j]);
        exp_minus(y, y, 0.0F, row + 1);
        memset(y + row + 1, 0, (size_t)(n - row - 1) * sizeof *y);
    }
}

static void balance(double *dc, const float *m, int64_t n)
{
    for (int64_t row = 0; row < n; row++, m += n) {
        four_double sums = {0};
        double rest = 0.0;
        int64_t j = 0;
        for (; j + 4 <= n && j <= row; j += 4) {
            four x;
            memcpy(&x, m + j, sizeof x);
            four_double wide = __builtin_convertvector(x, four_double);
            sums += wide;
            wide = load_doubles(dc + j) - wide;
            memcpy(dc + j, &wide, sizeof wide);
        }
        for (; j <= row; j++) {
            rest += (double)m[j];
            dc[j] -= (double)m[j];
        }
        dc[row] += ((sums[0] + sums[2]) + (sums[1] + sums[3])) + rest;
    }
}

static void two_sums(float *p, float *q, const float *x, const float *y, const float *z, float a,
                     float b, int accumulate, int64_t n)
{
#define P_TERM(P) (a * P(x + i))
#define Q_TERM(P) (b * P(z + i) - a * P(y + i))
    if (accumulate) {
#define BODY(P, W)                                                                                 \
    W(p + i, P(p + i) + P_TERM(P));                                                                \
    W(q + i, P(q + i) + Q_TERM(P));
        FOR_ROW(BODY);
#undef BODY
    } else {
#define BODY(P, W)                                                                                 \
    W(p + i, P_TERM(P));                                                                           \
    W(q + i, Q_TERM(P));
        FOR_ROW(BODY);
#undef BODY
    }
#undef P_TERM
#undef Q_TERM
}

static void decay_backward(float *da, float *db, float *m, const float *x, const float *y,
                           const float *decays, const float *p, const float *g, int accumulate,
                           int64_t n)
{
#define EACH(P) vec d = P(decays + i), xi = P(x + i), yi = P(y + i);
    if (accumulate) {
#define BODY(P, W)                                                                                 \
    EACH(P)                                                                                        \
    W(da + i, P(da + i) + xi * d);                                                                 \
    W(db + i, P(db + i) - yi * d);                                                                 \
    W(m + i, xi *P(p + i) - yi * P(g + i));
        FOR_ROW(BODY);
#undef BODY
    } else {
#define BODY(P, W)                                                                                 \
    EACH(P)                                                                                        \
    W(da + i, xi *d);                                                                              \
    W(db + i, -yi * d);                                                                            \
    W(m + i, xi *P(p + i) - yi * P(g + i));
        FOR_ROW(BODY);
#undef BODY
    }
#undef EACH
}

static float square_error(float *grad, const float *pred, const float *target, float factor,
                          int64_t n)
{
    vec total[RH_PARTS] = {{0}};
    if (grad) {
#define BODY(P, W)                                                                                 \
    vec d = P(pred + i) - P(target + i);                                                           \
    W(grad + i, d *factor);                                                                        \
    total[k] += d * d;
        FOR_SUM(BODY);
#undef BODY
    } else {
#define BODY(P, W)                                                                                 \
    vec d = P(pred + i) - P(target + i);                                                           \
    total[k] += d * d;
        FOR_SUM(BODY);
#undef BODY
    }
    return sum_lanes(total);
}

#define TEXT(x)  #x
#define NAMED(x) TEXT(x)

const struct rh_loops RH_LOOPS = {
    .name = NAMED(RH_LOOPS),
    .gemm = RH_GEMM,
    .pack = RH_PACK,
    .dot = dot,
    .add = add,
    .axpy = axpy,
    .scale = scale,
    .sum_products = sum_products,
    .exp_minus = exp_minus,
    .offset_scale = offset_scale,
    .offset_norm_backward = offset_norm_backward,
    .offset_dot = offset_dot,
    .silu_mul = silu_mul,
    .silu_mul_backward = silu_mul_backward,
    .sigmoid_mul = sigmoid_mul,
    .sigmoid_mul_backward = sigmoid_mul_backward,
    .silu = silu,
    .silu_backward = silu_backward,
    .gated_norm = gated_norm,
    .gated_norm_backward = gated_norm_backward,
    .norm_backward = norm_backward,
    .exp_row = exp_row,
    .softmax_backward = softmax_backward,
    .solve = RH_SOLVE,
    .transpose = RH_TRANSPOSE,
    .scale_rows = scale_rows,
    .mul_rows = mul_rows,
    .decay = decay,
    .balance = balance,
    .two_sums = two_sums,
    .decay_backward = decay_backward,
    .square_error = square_error,
};
