/* The quantizer of a block: every instruction set and thread count gives the bytes of the plain
 * loops, and those follow the definition in core's quant/group.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "quant/group.h"
#include "quant_ops/quant_ops.h"

#define ITEMS 5
#define STEPS 6

static const struct {
    int64_t out, in, group;
} shapes[ITEMS] = {{40, 256, 128}, {7, 80, 32}, {33, 100, 32}, {3, 48, -1}, {70, 24, 64}};

struct layer {
    float *w, *lo, *hi, *v, *alpha, *beta, *grad, *weight_q;
    uint8_t *codes, *zeros;
    uint16_t *scales;
};

struct layers {
    struct rh_fake_quant items[ITEMS];
    struct layer own[ITEMS];
};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(*state >> 33);
}

/* Multiples of 1/256 make ties of the rounding and of the range frequent. */
static float coarse(uint64_t *state)
{
    return (float)((int)(next_random(state) % 513U) - 256) / 256.0F;
}

static float fine(uint64_t *state)
{
    return ((float)next_random(state) / 1073741824.0F - 1.0F) * 0.1F;
}

/* Groups of every kind: fine, coarse, all zero, one-sided, too small for a scale of fp16. */
static void fill_weights(float *w, int64_t count, int64_t group, uint64_t *state)
{
    for (int64_t at = 0; at < count; at++) {
        switch (at / group % 7) {
        case 0: w[at] = coarse(state); break;
        case 1: w[at] = 0.0F; break;
        case 2: w[at] = -fabsf(fine(state)); break;
        case 3: w[at] = fabsf(fine(state)); break;
        case 4: w[at] = fine(state) * 1e-4F; break;
        case 5: w[at] = -fabsf(fine(state)) * 0.04F; break;
        default: w[at] = fine(state); break;
        }
    }
}

static void layers_new(struct layers *l, int bits, bool sym)
{
    uint64_t state = 7;
    for (int i = 0; i < ITEMS; i++) {
        struct rh_scheme scheme = {bits, sym, shapes[i].group};
        int64_t in = shapes[i].in;
        size_t n = (size_t)(shapes[i].out * in);
        size_t groups = (size_t)(shapes[i].out * rh_scheme_groups(&scheme, in));
        struct layer *o = &l->own[i];
        *o = (struct layer){
            rh_alloc_array(n, 4),      rh_alloc_array(groups, 4), rh_alloc_array(groups, 4),
            rh_alloc_array(n, 4),      rh_alloc_array(groups, 4), rh_alloc_array(groups, 4),
            rh_alloc_array(n, 4),      rh_alloc_array(n, 4),      rh_alloc(n),
            rh_alloc(groups),          rh_alloc_array(groups, 2),
        };
        fill_weights(o->w, (int64_t)n, rh_scheme_group(&scheme, in), &state);
        l->items[i] = (struct rh_fake_quant){
            scheme, shapes[i].out, in,        o->w,      o->lo,     o->hi,
            o->v,   o->alpha,      o->beta,   o->grad,   true,      o->weight_q,
            o->codes, o->scales,   sym ? NULL : o->zeros, 0,
        };
    }
}

static void layers_free(struct layers *l)
{
    for (int i = 0; i < ITEMS; i++) {
        struct layer *o = &l->own[i];
        void *all[] = {o->w,    o->lo,       o->hi,    o->v,     o->alpha, o->beta,
                       o->grad, o->weight_q, o->codes, o->zeros, o->scales};
        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
            rh_free(all[k]);
    }
}

/* The same gradients for every run: mostly fine, some zero. One layer is skipped now and then. */
static void fill_gradients(struct layers *l, int step)
{
    uint64_t state = 1000U + (uint64_t)step;
    for (int i = 0; i < ITEMS; i++) {
        int64_t n = shapes[i].out * shapes[i].in;
        for (int64_t j = 0; j < n; j++)
            l->own[i].grad[j] = next_random(&state) % 8U ? fine(&state) : 0.0F;
        l->items[i].has_grad = i != step % ITEMS;
    }
}

static void run_steps(struct layers *l, int threads)
{
    struct rh_thread_pool *pool = rh_thread_pool_new(threads);
    struct rh_error err;
    assert_int_equal(rh_fake_quant_start(pool, l->items, ITEMS, NULL, &err), RH_OK);
    for (int s = 0; s < STEPS; s++) {
        fill_gradients(l, s);
        struct rh_fake_quant_step step = {0.125F, 0.0625F, s != 4, s % 2 == 1};
        assert_int_equal(rh_fake_quant_advance(pool, l->items, ITEMS, &step, NULL, &err), RH_OK);
    }
    rh_thread_pool_free(pool);
}

static void assert_same_bytes(const struct layers *a, const struct layers *b)
{
    for (int i = 0; i < ITEMS; i++) {
        const struct rh_fake_quant *x = &a->items[i];
        const struct layer *p = &a->own[i];
        const struct layer *q = &b->own[i];
        size_t n = (size_t)(x->out_features * x->in_features);
        size_t groups =
            (size_t)(x->out_features * rh_scheme_groups(&x->scheme, x->in_features));
        assert_memory_equal(p->v, q->v, n * 4);
        assert_memory_equal(p->weight_q, q->weight_q, n * 4);
        assert_memory_equal(p->codes, q->codes, n);
        assert_memory_equal(p->alpha, q->alpha, groups * 4);
        assert_memory_equal(p->beta, q->beta, groups * 4);
        assert_memory_equal(p->scales, q->scales, groups * 2);
        assert_memory_equal(p->zeros, q->zeros, groups);
    }
}

static void every_instruction_set_and_thread_count_gives_the_same_bytes(void **state)
{
    (void)state;
    static const char *const names[] = {"plain", "avx2", "avx512"};
    static const int bits[] = {2, 3, 4, 8};
    const char *best = rh_fake_quant_isa();
    int compared = 0;
    for (int c = 0; c < 8; c++) {
        struct layers plain;
        layers_new(&plain, bits[c / 2], c % 2 == 0);
        assert_true(rh_fake_quant_force_isa("plain"));
        run_steps(&plain, 1);
        for (int k = 0; k < 3; k++) {
            if (!rh_fake_quant_force_isa(names[k]))
                continue;
            for (int threads = 1; threads <= 5; threads += 2) {
                struct layers other;
                layers_new(&other, bits[c / 2], c % 2 == 0);
                run_steps(&other, threads);
                assert_same_bytes(&plain, &other);
                layers_free(&other);
                compared++;
            }
        }
        layers_free(&plain);
    }
    assert_true(compared >= 24);
    assert_true(rh_fake_quant_force_isa(best));
    assert_false(rh_fake_quant_force_isa("avx1024"));
}

/* One step of a group, straight from the definition. */
static void step_by_definition(const struct rh_scheme *scheme, const float *w, const float *grad,
                               int64_t n, float rate, float *v, float *alpha, float *beta)
{
    float lo = 0.0F;
    float hi = 0.0F;
    float dv[256];
    struct rh_grid grid;
    struct rh_group_sums sums;
    assert_int_equal(rh_group_range(scheme, w, n, &lo, &hi, NULL), RH_OK);
    rh_grid_make(scheme, lo, hi, alpha, beta, &grid);
    rh_group_backward(&grid, w, v, grad, n, dv, &sums);
    float da = 0.0F;
    float db = 0.0F;
    rh_grid_gradient(scheme, &grid, &sums, lo, hi, &da, &db);
    for (int64_t j = 0; j < n; j++)
        v[j] = rh_grid_sign_step(v[j], dv[j], rate);
    *alpha = rh_grid_sign_step(*alpha, da, rate / 2.0F);
    *beta = rh_grid_sign_step(*beta, db, rate / 2.0F);
}

static void a_step_follows_the_definition_of_a_group(void **state)
{
    (void)state;
    for (int sym = 0; sym < 2; sym++) {
        struct layers l;
        layers_new(&l, 4, sym == 1);
        struct rh_thread_pool *pool = rh_thread_pool_new(1);
        assert_int_equal(rh_fake_quant_start(pool, l.items, ITEMS, NULL, NULL), RH_OK);
        fill_gradients(&l, 0);
        struct rh_fake_quant_step step = {0.125F, 0.0625F, true, false};
        assert_int_equal(rh_fake_quant_advance(pool, l.items, ITEMS, &step, NULL, NULL), RH_OK);
        const struct rh_fake_quant *x = &l.items[2];
        int64_t groups = rh_scheme_groups(&x->scheme, x->in_features);
        for (int64_t g = 0; g < groups * x->out_features; g++) {
            int64_t at = g / groups * x->in_features + g % groups * 32;
            int64_t n = g % groups == groups - 1 ? 4 : 32;
            float v[32] = {0};
            float alpha = 1.0F;
            float beta = 1.0F;
            step_by_definition(&x->scheme, x->weight + at, x->grad + at, n, 0.125F, v, &alpha,
                               &beta);
            assert_memory_equal(v, x->v + at, (size_t)n * 4);
            /* The next forward has clamped them already. */
            assert_true(x->alpha[g] == rh_grid_unit(alpha) && x->beta[g] == rh_grid_unit(beta));
        }
        for (int64_t j = 0; j < l.items[0].out_features * l.items[0].in_features; j++)
            assert_true(l.items[0].v[j] == 0.0F); /* it had no gradient in this step */
        rh_thread_pool_free(pool);
        layers_free(&l);
    }
}

static void emitted_codes_restore_the_weights_before_the_step(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    for (int c = 0; c < 8; c++) {
        struct layers l;
        layers_new(&l, bits[c / 2], c % 2 == 0);
        run_steps(&l, 2);
        struct rh_thread_pool *pool = rh_thread_pool_new(2);
        float *before[ITEMS];
        for (int i = 0; i < ITEMS; i++) {
            size_t n = (size_t)(shapes[i].out * shapes[i].in);
            before[i] = rh_alloc_array(n, 4);
            memcpy(before[i], l.items[i].weight_q, n * 4);
        }
        struct rh_fake_quant_step step = {0.125F, 0.125F, true, true};
        assert_int_equal(rh_fake_quant_advance(pool, l.items, ITEMS, &step, NULL, NULL), RH_OK);
        assert_memory_not_equal(before[2], l.items[2].weight_q, sizeof(float) * 33 * 100);
        rh_fake_quant_restore(pool, l.items, ITEMS);
        for (int i = 0; i < ITEMS; i++) {
            for (int64_t j = 0; j < shapes[i].out * shapes[i].in; j++) {
                if (before[i][j] != l.items[i].weight_q[j]) /* zeros may differ in their sign */
                    fail_msg("bits %d, layer %d, weight %lld: %g became %g", bits[c / 2], i,
                             (long long)j, (double)before[i][j], (double)l.items[i].weight_q[j]);
            }
            rh_free(before[i]);
        }
        rh_thread_pool_free(pool);
        layers_free(&l);
    }
}

static void starting_is_plain_rounding_to_nearest(void **state)
{
    (void)state;
    for (int sym = 0; sym < 2; sym++) {
        struct layers l;
        layers_new(&l, 4, sym == 1);
        struct rh_thread_pool *pool = rh_thread_pool_new(2);
        assert_int_equal(rh_fake_quant_start(pool, l.items, ITEMS, NULL, NULL), RH_OK);
        struct rh_fake_quant_step emit = {.emit = true};
        for (int i = 0; i < ITEMS; i++)
            l.items[i].has_grad = false;
        assert_int_equal(rh_fake_quant_advance(pool, l.items, ITEMS, &emit, NULL, NULL), RH_OK);
        for (int i = 0; i < ITEMS; i++) {
            const struct rh_fake_quant *x = &l.items[i];
            size_t n = (size_t)(x->out_features * x->in_features);
            size_t groups =
                (size_t)(x->out_features * rh_scheme_groups(&x->scheme, x->in_features));
            uint8_t *codes = rh_alloc(n);
            uint8_t *zeros = rh_alloc(groups);
            uint16_t *scales = rh_alloc_array(groups, 2);
            assert_int_equal(rh_round_to_nearest(&x->scheme, x->weight, x->out_features,
                                                 x->in_features, codes, scales, zeros, NULL),
                             RH_OK);
            assert_memory_equal(codes, x->codes, n);
            assert_memory_equal(scales, x->scales, groups * 2);
            if (!x->scheme.sym)
                assert_memory_equal(zeros, x->zeros, groups);
            rh_free(codes);
            rh_free(zeros);
            rh_free(scales);
        }
        rh_thread_pool_free(pool);
        layers_free(&l);
    }
}

static void damaged_numbers_name_the_lowest_layer(void **state)
{
    (void)state;
    struct layers l;
    struct rh_error err;
    int64_t bad = -2;
    layers_new(&l, 4, true);
    struct rh_thread_pool *pool = rh_thread_pool_new(3);
    l.own[4].w[5] = INFINITY;
    l.own[3].w[100] = NAN;
    assert_int_equal(rh_fake_quant_start(pool, l.items, ITEMS, &bad, &err), RH_ERR_NUMERIC);
    assert_int_equal(bad, 3);
    l.own[4].w[5] = 0.0F;
    l.own[3].w[100] = 1e9F; /* beyond an fp16 scale */
    assert_int_equal(rh_fake_quant_start(pool, l.items, ITEMS, &bad, &err), RH_ERR_NUMERIC);
    assert_int_equal(bad, 3);
    l.own[3].w[100] = 0.0F;
    assert_int_equal(rh_fake_quant_start(pool, l.items, ITEMS, &bad, &err), RH_OK);
    assert_int_equal(bad, -1);
    struct rh_fake_quant_step step = {0.125F, 0.125F, true, false};
    fill_gradients(&l, 0);
    l.own[0].grad[0] = NAN; /* not read: this layer has no gradient now */
    assert_int_equal(rh_fake_quant_advance(pool, l.items, ITEMS, &step, &bad, &err), RH_OK);
    l.own[2].grad[99] = -INFINITY;
    l.own[4].grad[0] = NAN;
    assert_int_equal(rh_fake_quant_advance(pool, l.items, ITEMS, &step, &bad, &err),
                     RH_ERR_NUMERIC);
    assert_int_equal(bad, 2);
    rh_thread_pool_free(pool);
    layers_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_and_thread_count_gives_the_same_bytes),
        cmocka_unit_test(a_step_follows_the_definition_of_a_group),
        cmocka_unit_test(emitted_codes_restore_the_weights_before_the_step),
        cmocka_unit_test(starting_is_plain_rounding_to_nearest),
        cmocka_unit_test(damaged_numbers_name_the_lowest_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
