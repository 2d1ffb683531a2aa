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
#include "kernels/backend.h"
#include "quant/group.h"

#define ITEMS 5
#define STEPS 6

static const struct {
    int64_t out, in, group;
} shapes[ITEMS] = {{40, 256, 128}, {7, 80, 32}, {33, 100, 32}, {3, 48, -1}, {70, 24, 64}};

/* One arena for all items, as a block has it; the sizes are those of the arrays. */
struct layers {
    struct rh_quantizer q;
    struct rh_quant_item items[ITEMS];
    float *weight, *weight_q, *grad;
    int64_t weights;
    int64_t tokens[ITEMS]; /* item i is that of expert i */
    uint64_t fault;
    int32_t emit;
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

/* Sizes and places; between the items are gaps that belong to nobody. */
static void place_items(struct layers *l, int bits, bool sym)
{
    for (int i = 0; i < ITEMS; i++) {
        struct rh_scheme scheme = {bits, sym, shapes[i].group};
        struct rh_quant_item *item = &l->items[i];
        *item = (struct rh_quant_item){
            .out_features = shapes[i].out,
            .in_features = shapes[i].in,
            .at = l->weights,
            .group_at = l->q.groups,
            .row_at = l->q.rows,
            .group = rh_scheme_group(&scheme, shapes[i].in),
            .groups = rh_scheme_groups(&scheme, shapes[i].in),
            .expert = i,
            .bits = bits,
            .sym = sym,
        };
        l->weights += (shapes[i].out * shapes[i].in + 31) / 16 * 16;
        l->q.groups += shapes[i].out * item->groups;
        l->q.rows += shapes[i].out;
    }
}

static void layers_new(struct layers *l, int bits, bool sym)
{
    uint64_t state = 7;
    *l = (struct layers){.fault = RH_FAULT_NONE};
    place_items(l, bits, sym);
    size_t n = (size_t)l->weights;
    size_t groups = (size_t)l->q.groups;
    struct rh_quantizer *q = &l->q;
    q->items = q->host_items = l->items;
    q->count = ITEMS;
    q->weight = l->weight = rh_alloc_array(n, 4);
    q->weight_q = l->weight_q = rh_alloc_array(n, 4);
    l->grad = rh_alloc_array(n, 4);
    q->v = rh_alloc_array(n, 4);
    q->lo = rh_alloc_array(groups, 4);
    q->hi = rh_alloc_array(groups, 4);
    q->alpha = rh_alloc_array(groups, 4);
    q->beta = rh_alloc_array(groups, 4);
    q->codes = rh_alloc(n);
    q->scales = rh_alloc_array(groups, 2);
    q->zeros = sym ? NULL : rh_alloc(groups);
    q->fault = &l->fault;
    q->emit = &l->emit;
    q->tokens = l->tokens;
    for (int i = 0; i < ITEMS; i++)
        fill_weights(l->weight + l->items[i].at, shapes[i].out * shapes[i].in, l->items[i].group,
                     &state);
}

static void layers_free(struct layers *l)
{
    void *all[] = {l->weight,  l->weight_q, l->grad,    l->q.v,      l->q.lo,   l->q.hi,
                   l->q.alpha, l->q.beta,   l->q.codes, l->q.scales, l->q.zeros};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
        rh_free(all[k]);
}

static struct rh_backend *backend_new(int threads)
{
    struct rh_error err;
    struct rh_backend *backend = NULL;
    assert_int_equal(rh_backend_new("cpu", threads, &backend, &err), RH_OK);
    return backend;
}

static void start(struct rh_backend *backend, struct layers *l)
{
    l->fault = RH_FAULT_NONE;
    rh_backend_ops(backend)->fake_quant_start(backend, &l->q);
}

static void advance(struct rh_backend *backend, struct layers *l, float rate, float minmax_rate,
                    bool minmax, bool emit)
{
    l->q.rate = rate;
    l->q.minmax_rate = minmax_rate;
    l->q.minmax = minmax;
    l->emit = emit;
    rh_backend_ops(backend)->fake_quant_advance(backend, &l->q);
}

/* The same gradients for every run: mostly fine, some zero. One layer is skipped now and then. */
static void fill_gradients(struct layers *l, int step)
{
    uint64_t state = 1000U + (uint64_t)step;
    l->q.grad = l->grad;
    for (int i = 0; i < ITEMS; i++) {
        float *grad = l->grad + l->items[i].at;
        for (int64_t j = 0; j < shapes[i].out * shapes[i].in; j++)
            grad[j] = next_random(&state) % 8U ? fine(&state) : 0.0F;
        l->tokens[i] = i != step % ITEMS;
    }
}

static void run_steps(struct layers *l, int threads)
{
    struct rh_backend *backend = backend_new(threads);
    start(backend, l);
    for (int s = 0; s < STEPS; s++) {
        fill_gradients(l, s);
        advance(backend, l, 0.125F, 0.0625F, s != 4, s % 2 == 1);
    }
    assert_true(l->fault == RH_FAULT_NONE);
    rh_backend_free(backend);
}

static void assert_same_bytes(const struct layers *a, const struct layers *b)
{
    size_t n = (size_t)a->weights;
    size_t groups = (size_t)a->q.groups;
    assert_memory_equal(a->q.v, b->q.v, n * 4);
    assert_memory_equal(a->weight_q, b->weight_q, n * 4);
    assert_memory_equal(a->q.codes, b->q.codes, n);
    assert_memory_equal(a->q.alpha, b->q.alpha, groups * 4);
    assert_memory_equal(a->q.beta, b->q.beta, groups * 4);
    assert_memory_equal(a->q.scales, b->q.scales, groups * 2);
    if (a->q.zeros)
        assert_memory_equal(a->q.zeros, b->q.zeros, groups);
}

static void every_instruction_set_and_thread_count_gives_the_same_bytes(void **state)
{
    (void)state;
    static const char *const names[] = {"plain", "avx2", "avx512"};
    static const int bits[] = {2, 3, 4, 8};
    const char *best = rh_fake_quant_isa();
    int compared = 0;
    for (int c = 0; c < 16; c++) {
        struct layers plain;
        layers_new(&plain, bits[c / 4], c % 2 == 0);
        plain.q.search = c / 2 % 2 == 1;
        assert_true(rh_fake_quant_force_isa("plain"));
        run_steps(&plain, 1);
        for (int k = 0; k < 3; k++) {
            if (!rh_fake_quant_force_isa(names[k]))
                continue;
            for (int threads = 1; threads <= 5; threads += 2) {
                struct layers other;
                layers_new(&other, bits[c / 4], c % 2 == 0);
                other.q.search = plain.q.search;
                run_steps(&other, threads);
                assert_same_bytes(&plain, &other);
                layers_free(&other);
                compared++;
            }
        }
        layers_free(&plain);
    }
    assert_true(compared >= 48);
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
        struct rh_backend *backend = backend_new(1);
        start(backend, &l);
        fill_gradients(&l, 0);
        advance(backend, &l, 0.125F, 0.0625F, true, false);
        const struct rh_quant_item *x = &l.items[2];
        struct rh_scheme scheme = {4, sym == 1, 32};
        for (int64_t g = 0; g < x->groups * x->out_features; g++) {
            int64_t at = x->at + g / x->groups * x->in_features + g % x->groups * 32;
            int64_t n = g % x->groups == x->groups - 1 ? 4 : 32;
            float v[32] = {0};
            float alpha = 1.0F;
            float beta = 1.0F;
            step_by_definition(&scheme, l.weight + at, l.grad + at, n, 0.125F, v, &alpha, &beta);
            assert_memory_equal(v, l.q.v + at, (size_t)n * 4);
            /* The next forward has clamped them already. */
            assert_true(l.q.alpha[x->group_at + g] == rh_grid_unit(alpha));
            assert_true(l.q.beta[x->group_at + g] == rh_grid_unit(beta));
        }
        for (int64_t j = 0; j < l.items[0].out_features * l.items[0].in_features; j++)
            assert_true(l.q.v[j] == 0.0F); /* it had no gradient in this step */
        rh_backend_free(backend);
        layers_free(&l);
    }
}

static void a_sum_of_gradients_may_stand_for_them(void **state)
{
    (void)state;
    struct layers one;
    struct layers two;
    struct rh_backend *backend = backend_new(3);
    layers_new(&one, 4, true);
    layers_new(&two, 4, true);
    start(backend, &one);
    start(backend, &two);
    fill_gradients(&one, 1);
    fill_gradients(&two, 1);
    advance(backend, &one, 0.125F, 0.0625F, true, false);
    two.q.grad_sum = two.grad;
    two.q.grad = two.weight; /* not looked at */
    advance(backend, &two, 0.125F, 0.0625F, true, false);
    assert_same_bytes(&one, &two);
    rh_backend_free(backend);
    layers_free(&one);
    layers_free(&two);
}

static void emitted_codes_restore_the_weights_before_the_step(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    for (int c = 0; c < 8; c++) {
        struct layers l;
        layers_new(&l, bits[c / 2], c % 2 == 0);
        run_steps(&l, 2);
        struct rh_backend *backend = backend_new(2);
        size_t bytes = (size_t)l.weights * sizeof(float);
        float *before = rh_alloc(bytes);
        memcpy(before, l.weight_q, bytes);
        advance(backend, &l, 0.125F, 0.125F, true, true);
        assert_memory_not_equal(before + l.items[2].at, l.weight_q + l.items[2].at,
                                sizeof(float) * 33 * 100);
        rh_backend_ops(backend)->fake_quant_restore(backend, &l.q);
        for (int64_t j = 0; j < l.weights; j++) {
            if (before[j] != l.weight_q[j]) /* zeros may differ in their sign */
                fail_msg("bits %d, weight %lld: %g became %g", bits[c / 2], (long long)j,
                         (double)before[j], (double)l.weight_q[j]);
        }
        rh_free(before);
        rh_backend_free(backend);
        layers_free(&l);
    }
}

static void check_rounded(const struct layers *l, const struct rh_quant_item *x, bool sym)
{
    size_t n = (size_t)(x->out_features * x->in_features);
    size_t groups = (size_t)(x->out_features * x->groups);
    struct rh_scheme scheme = {4, sym, x->group};
    uint8_t *codes = rh_alloc(n);
    uint8_t *zeros = rh_alloc(groups);
    uint16_t *scales = rh_alloc_array(groups, 2);
    assert_int_equal(rh_round_to_nearest(&scheme, l->weight + x->at, x->out_features,
                                         x->in_features, l->q.search, codes, scales, zeros, NULL),
                     RH_OK);
    assert_memory_equal(codes, l->q.codes + x->at, n);
    assert_memory_equal(scales, l->q.scales + x->group_at, groups * 2);
    if (!sym)
        assert_memory_equal(zeros, l->q.zeros + x->group_at, groups);
    rh_free(codes);
    rh_free(zeros);
    rh_free(scales);
}

static void starting_is_rounding_to_nearest(void **state)
{
    (void)state;
    for (int c = 0; c < 4; c++) {
        bool sym = c % 2 == 1;
        struct layers l;
        layers_new(&l, 4, sym);
        l.q.search = c >= 2;
        struct rh_backend *backend = backend_new(2);
        start(backend, &l);
        advance(backend, &l, 0.0F, 0.0F, false, true); /* without gradients */
        for (int i = 0; i < ITEMS; i++)
            check_rounded(&l, &l.items[i], sym);
        rh_backend_free(backend);
        layers_free(&l);
    }
}

static void damaged_numbers_name_the_lowest_layer(void **state)
{
    (void)state;
    struct layers l;
    layers_new(&l, 4, true);
    struct rh_backend *backend = backend_new(3);
    float *third = l.weight + l.items[3].at;
    l.weight[l.items[4].at + 5] = INFINITY;
    third[100] = NAN;
    start(backend, &l);
    assert_true(l.fault == 3 + 1);
    l.weight[l.items[4].at + 5] = 0.0F;
    third[100] = 1e9F; /* beyond an fp16 scale */
    start(backend, &l);
    assert_true(l.fault == 3 + 1);
    third[100] = 0.0F;
    start(backend, &l);
    assert_true(l.fault == RH_FAULT_NONE);
    fill_gradients(&l, 0);
    l.grad[l.items[0].at] = NAN; /* not read: this layer has no gradient now */
    advance(backend, &l, 0.125F, 0.125F, true, false);
    assert_true(l.fault == RH_FAULT_NONE);
    l.grad[l.items[2].at + 99] = -INFINITY;
    l.grad[l.items[4].at] = NAN;
    l.q.iter = 7;
    advance(backend, &l, 0.125F, 0.125F, true, false);
    assert_true(l.fault == ((uint64_t)7 << 32 | (2 + 1)));
    l.q.iter = 8;
    advance(backend, &l, 0.125F, 0.125F, true, false);
    assert_true(l.fault == ((uint64_t)7 << 32 | (2 + 1))); /* the first one stays */
    rh_backend_free(backend);
    layers_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_and_thread_count_gives_the_same_bytes),
        cmocka_unit_test(a_step_follows_the_definition_of_a_group),
        cmocka_unit_test(a_sum_of_gradients_may_stand_for_them),
        cmocka_unit_test(emitted_codes_restore_the_weights_before_the_step),
        cmocka_unit_test(starting_is_rounding_to_nearest),
        cmocka_unit_test(damaged_numbers_name_the_lowest_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
