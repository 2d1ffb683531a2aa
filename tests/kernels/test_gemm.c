/* The matrix products of every instruction set against sums in fp64, in all forms and at all edges of
 * their tiles; those with fused multiply-add agree to the bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "isa.h"

struct shape {
    int64_t m, n, k;
};

static const struct shape shapes[] = {
    {1, 1, 1},     {6, 16, 8},   {12, 32, 64}, {5, 7, 3},      {7, 33, 17},   {13, 15, 300},
    {64, 64, 32},  {70, 40, 9},  {97, 257, 5}, {100, 300, 31}, {25, 31, 513}, {192, 48, 256},
};

struct operands {
    float *a, *b, *c, *expected;
    size_t size;
};

static float next(uint32_t *x)
{
    *x = *x * 1664525U + 1013904223U;
    return (float)(int32_t)*x / 2147483648.0F;
}

/* Rows have gaps: what stands between them must neither count nor change. */
static struct rh_gemm make(enum rh_form form, const struct shape *s, struct operands *o)
{
    struct rh_gemm g = {.form = form, .m = s->m, .n = s->n, .k = s->k};
    g.lda = (form == RH_TN ? s->m : s->k) + 3;
    g.ldb = (form == RH_NT ? s->k : s->n) + 2;
    g.ldc = s->n + 5;
    size_t rows_a = (size_t)(form == RH_TN ? s->k : s->m);
    size_t rows_b = (size_t)(form == RH_NT ? s->n : s->k);
    o->size = (size_t)(s->m * g.ldc);
    o->a = rh_alloc_array(rows_a * (size_t)g.lda, sizeof *o->a);
    o->b = rh_alloc_array(rows_b * (size_t)g.ldb, sizeof *o->b);
    o->c = rh_alloc_array(o->size, sizeof *o->c);
    o->expected = rh_alloc_array(o->size, sizeof *o->expected);
    uint32_t seed = (uint32_t)(s->m * 131 + s->n * 17 + s->k);
    for (size_t i = 0; i < rows_a * (size_t)g.lda; i++)
        o->a[i] = next(&seed);
    for (size_t i = 0; i < rows_b * (size_t)g.ldb; i++)
        o->b[i] = next(&seed);
    g.a = o->a;
    g.b = o->b;
    g.c = o->c;
    return g;
}

static void operands_done(struct operands *o)
{
    rh_free(o->a);
    rh_free(o->b);
    rh_free(o->c);
    rh_free(o->expected);
}

static double element(const struct rh_gemm *g, int64_t i, int64_t j)
{
    double sum = 0.0;
    for (int64_t p = 0; p < g->k; p++) {
        float a = g->form == RH_TN ? g->a[p * g->lda + i] : g->a[i * g->lda + p];
        float b = g->form == RH_NT ? g->b[j * g->ldb + p] : g->b[p * g->ldb + j];
        sum += (double)a * (double)b;
    }
    return sum;
}

/* A chain of k fp32 additions of numbers below 1: at most k roundings of the running sum, in
 * practice their square root. */
static void check_against_fp64(const struct rh_gemm *g, const struct operands *o, float before)
{
    double bound = 4.0 * sqrt((double)g->k) * 0x1p-24 * sqrt((double)g->k / 9.0 + 1.0);
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->ldc; j++) {
            double got = (double)o->c[i * g->ldc + j];
            if (j >= g->n) {
                assert_true(got == (double)before);
                continue;
            }
            double want = (double)g->alpha * element(g, i, j) + (g->accumulate ? (double)before : 0);
            if (!(fabs(got - want) <= bound + 0x1p-23 * fabs(want)))
                fail_msg("form %d, %lld x %lld x %lld, element %lld %lld: %.9g, not %.9g",
                         (int)g->form, (long long)g->m, (long long)g->n, (long long)g->k,
                         (long long)i, (long long)j, got, want);
        }
    }
}

static void run(const struct rh_loops *loops, struct rh_gemm *g, struct operands *o, float before)
{
    for (size_t i = 0; i < o->size; i++)
        o->c[i] = before;
    loops->gemm(g);
}

static void every_form_and_edge_is_the_sum_of_products(void **state)
{
    (void)state;
    const struct rh_loops *all[ISA_MAX];
    int count = isa_usable(all);
    for (int form = RH_NT; form <= RH_TN; form++) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            struct operands o;
            struct rh_gemm g = make((enum rh_form)form, &shapes[s], &o);
            for (int i = 0; i < count; i++) {
                g.alpha = 1.0F;
                g.accumulate = false;
                run(all[i], &g, &o, NAN); /* C is not read */
                for (size_t at = 0; at < o.size; at++)
                    o.c[at] = isnan(o.c[at]) ? 0.5F : o.c[at]; /* the gaps */
                check_against_fp64(&g, &o, 0.5F);
                g.alpha = -0.75F;
                g.accumulate = true;
                run(all[i], &g, &o, 0.5F);
                check_against_fp64(&g, &o, 0.5F);
            }
            operands_done(&o);
        }
    }
}

static void the_width_of_a_register_does_not_change_a_bit(void **state)
{
    (void)state;
    const struct rh_loops *all[ISA_MAX];
    int count = isa_usable(all);
    if (count < 3) {
        print_message("this processor has no two instruction sets with fused multiply-add\n");
        return;
    }
    for (int form = RH_NT; form <= RH_TN; form++) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            struct operands o;
            struct rh_gemm g = make((enum rh_form)form, &shapes[s], &o);
            g.alpha = 1.25F;
            run(all[1], &g, &o, 0.0F);
            memcpy(o.expected, o.c, o.size * sizeof *o.c);
            run(all[2], &g, &o, 0.0F);
            assert_memory_equal(o.c, o.expected, o.size * sizeof *o.c);
            operands_done(&o);
        }
    }
}

/* Cutting rows or columns off changes nothing in what is left: so tiles may follow any plan. */
static void an_element_does_not_depend_on_the_tile_around_it(void **state)
{
    (void)state;
    const struct rh_loops *loops = rh_loops_best();
    for (int form = RH_NT; form <= RH_TN; form++) {
        struct operands o;
        struct rh_gemm g = make((enum rh_form)form, &(struct shape){41, 70, 600}, &o);
        g.alpha = 1.0F;
        run(loops, &g, &o, 0.0F);
        memcpy(o.expected, o.c, o.size * sizeof *o.c);
        g.m = 23;
        g.n = 37;
        run(loops, &g, &o, 0.0F);
        for (int64_t i = 0; i < g.m; i++)
            assert_memory_equal(o.c + i * g.ldc, o.expected + i * g.ldc,
                                (size_t)g.n * sizeof *o.c);
        operands_done(&o);
    }
}

/* B packed beforehand is read for B, in blocks of columns and of k, whole or not. */
static void packing_beforehand_changes_nothing(void **state)
{
    (void)state;
    const struct rh_loops *all[ISA_MAX];
    int count = isa_usable(all);
    static const struct shape packed[] = {{5, 7, 3}, {97, 257, 5}, {100, 300, 31}, {70, 529, 600}};
    for (int form = RH_NT; form <= RH_TN; form++) {
        for (size_t s = 0; s < sizeof packed / sizeof packed[0]; s++) {
            struct operands o;
            struct rh_gemm g = make((enum rh_form)form, &packed[s], &o);
            size_t size = (size_t)rh_gemm_packed_size(g.n, g.k);
            float *out = rh_alloc_array(size + 1, sizeof *out);
            g.alpha = 1.0F;
            for (int i = 0; i < count; i++) {
                run(all[i], &g, &o, 0.0F);
                memcpy(o.expected, o.c, o.size * sizeof *o.c);
                struct rh_gemm other = g;
                out[size] = 77.0F;
                all[i]->pack(&g, out);
                assert_true(out[size] == 77.0F);
                other.packed = out;
                other.b = NULL;
                run(all[i], &other, &o, 0.0F);
                assert_memory_equal(o.c, o.expected, o.size * sizeof *o.c);
            }
            rh_free(out);
            operands_done(&o);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_and_edge_is_the_sum_of_products),
        cmocka_unit_test(the_width_of_a_register_does_not_change_a_bit),
        cmocka_unit_test(packing_beforehand_changes_nothing),
        cmocka_unit_test(an_element_does_not_depend_on_the_tile_around_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
