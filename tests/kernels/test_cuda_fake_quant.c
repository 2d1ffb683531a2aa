/* The quantizer of the CUDA backend: from the same bf16 weights and gradients come the bytes of the
 * CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "emu_control.h"
#include "kernels/backend.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

#define ITEMS 8
#define STEPS 5

/* The first, the sixth and the last take the fast path with 4 bits. */
static const struct {
    int64_t out, in, group;
} shapes[ITEMS] = {{40, 256, 128}, {7, 80, 32},   {33, 100, 32}, {3, 48, -1},
                   {70, 24, 64},   {5, 384, 128}, {9, 33, 11},   {4, 192, 128}};

/* The arrays of a quantizer, all of one backend; host: what is in host memory, f32. */
struct side {
    struct rh_backend *backend;
    struct rh_quantizer q;
    int64_t *tokens;
    int32_t *emit;
    void *grad, *weight, *weight_q, *items;
};

struct both {
    struct side cpu, gpu;
    struct rh_quant_item items[ITEMS];
    size_t weights, groups;
    float *weight, *grad;
};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(*state >> 33);
}

static float bf16(float x)
{
    return rh_bf16_to_f32(rh_f32_to_bf16(x));
}

static float fine(uint64_t *state)
{
    return bf16(((float)next_random(state) / 1073741824.0F - 1.0F) * 0.1F);
}

/* Coarse (ties), zero, one-sided, fine groups, and such as are too small for a scale of fp16. */
static float weight_of(int64_t group, uint64_t *state)
{
    switch (group % 6) {
    case 0: return (float)((int)(next_random(state) % 513U) - 256) / 256.0F;
    case 1: return 0.0F;
    case 2: return -fabsf(fine(state));
    case 3: return fabsf(fine(state));
    case 4: return bf16(fine(state) * 1e-4F);
    default: return fine(state);
    }
}

static void *alloc(const struct side *s, size_t bytes)
{
    void *out = NULL;
    struct rh_error err;
    assert_int_equal(rh_backend_alloc(s->backend, bytes, "test", &out, &err), RH_OK);
    return out;
}

static void upload(const struct side *s, void *to, const void *from, size_t bytes)
{
    struct rh_error err;
    assert_int_equal(rh_backend_upload(s->backend, to, from, bytes, &err), RH_OK);
}

/* f32 numbers into an array of the backend's activation type. */
static void put(const struct side *s, void *to, const float *from, size_t count)
{
    enum rh_dtype dtype = rh_backend_dtype(s->backend);
    void *converted = rh_alloc(count * 4);
    rh_from_f32(dtype, from, converted, count);
    upload(s, to, converted, count * rh_dtype_size(dtype));
    rh_free(converted);
}

static void *get(const struct side *s, const void *from, size_t bytes)
{
    void *out = rh_alloc(bytes);
    struct rh_error err;
    assert_int_equal(rh_backend_download(s->backend, out, from, bytes, &err), RH_OK);
    return out;
}

static void side_new(struct side *s, const char *backend, const struct both *b, bool sym)
{
    struct rh_error err;
    assert_int_equal(rh_backend_new(backend, 1, &s->backend, &err), RH_OK);
    size_t n = b->weights;
    size_t groups = b->groups;
    struct rh_quantizer *q = &s->q;
    q->items = s->items = alloc(s, sizeof b->items);
    upload(s, s->items, b->items, sizeof b->items);
    q->host_items = b->items;
    q->weight = s->weight = alloc(s, n * 4);
    q->weight_q = s->weight_q = alloc(s, n * 4);
    q->grad = s->grad = alloc(s, n * 4);
    q->v = alloc(s, n * 4);
    q->lo = alloc(s, groups * 4);
    q->hi = alloc(s, groups * 4);
    q->alpha = alloc(s, groups * 4);
    q->beta = alloc(s, groups * 4);
    q->codes = alloc(s, n);
    q->scales = alloc(s, groups * 2);
    q->zeros = sym ? NULL : alloc(s, groups);
    q->fault = alloc(s, sizeof *q->fault);
    q->tokens = s->tokens = alloc(s, ITEMS * sizeof *s->tokens);
    q->emit = s->emit = alloc(s, sizeof *s->emit);
    upload(s, q->fault, &(uint64_t){RH_FAULT_NONE}, sizeof *q->fault);
    put(s, s->weight, b->weight, n);
    rh_backend_zero(s->backend, s->grad, n * 4);
    rh_backend_zero(s->backend, s->weight_q, n * 4);
    rh_backend_zero(s->backend, q->v, n * 4);
    rh_backend_zero(s->backend, q->codes, n);
}

static void side_free(struct side *s)
{
    void *all[] = {s->items,  s->weight,  s->weight_q, s->grad,    s->q.v,
                   s->q.lo,   s->q.hi,    s->q.alpha,  s->q.beta,  s->q.codes,
                   s->q.scales, s->q.zeros, s->q.fault, s->tokens, s->emit};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        rh_backend_release(s->backend, all[i]);
    rh_backend_free(s->backend);
}

static void both_new(struct both *b, int bits, bool sym)
{
    uint64_t state = 7;
    *b = (struct both){0};
    int64_t at = 0;
    int64_t groups = 0;
    int64_t rows = 0;
    for (int i = 0; i < ITEMS; i++) {
        struct rh_scheme scheme = {bits, sym, shapes[i].group};
        b->items[i] = (struct rh_quant_item){
            .out_features = shapes[i].out, .in_features = shapes[i].in, .at = at,
            .group_at = groups, .row_at = rows, .group = rh_scheme_group(&scheme, shapes[i].in),
            .groups = rh_scheme_groups(&scheme, shapes[i].in), .expert = i % 2 ? i : -1,
            .bits = bits, .sym = sym};
        at += (shapes[i].out * shapes[i].in + 31) / 16 * 16;
        groups += shapes[i].out * b->items[i].groups;
        rows += shapes[i].out;
    }
    b->weights = (size_t)at;
    b->groups = (size_t)groups;
    b->weight = rh_alloc_array(b->weights, sizeof *b->weight);
    b->grad = rh_alloc_array(b->weights, sizeof *b->grad);
    for (int i = 0; i < ITEMS; i++) {
        for (int64_t j = 0; j < shapes[i].out * shapes[i].in; j++)
            b->weight[b->items[i].at + j] = weight_of(j / b->items[i].group, &state);
    }
    b->cpu.q = b->gpu.q = (struct rh_quantizer){
        .count = ITEMS, .rows = rows, .groups = groups, .rate = 0.125F, .minmax_rate = 0.0625F};
    side_new(&b->cpu, "cpu", b, sym);
    side_new(&b->gpu, "cuda", b, sym);
}

static void both_free(struct both *b)
{
    side_free(&b->cpu);
    side_free(&b->gpu);
    rh_free(b->weight);
    rh_free(b->grad);
}

/* Some gradients are zero; every second item has none now and then. */
static void fill_gradients(struct both *b, int step)
{
    uint64_t state = 1000U + (uint64_t)step;
    int64_t tokens[ITEMS];
    for (size_t j = 0; j < b->weights; j++)
        b->grad[j] = next_random(&state) % 8U ? fine(&state) : 0.0F;
    for (int i = 0; i < ITEMS; i++)
        tokens[i] = i % STEPS != step;
    struct side *sides[] = {&b->cpu, &b->gpu};
    for (int k = 0; k < 2; k++) {
        put(sides[k], sides[k]->grad, b->grad, b->weights);
        upload(sides[k], sides[k]->tokens, tokens, sizeof tokens);
    }
}

static void advance(struct both *b, bool minmax, bool emit)
{
    struct side *sides[] = {&b->cpu, &b->gpu};
    for (int k = 0; k < 2; k++) {
        upload(sides[k], sides[k]->emit, &(int32_t){emit}, sizeof(int32_t));
        sides[k]->q.minmax = minmax;
        rh_backend_ops(sides[k]->backend)->fake_quant_advance(sides[k]->backend, &sides[k]->q);
    }
}

static void start(struct both *b)
{
    rh_backend_ops(b->cpu.backend)->fake_quant_start(b->cpu.backend, &b->cpu.q);
    rh_backend_ops(b->gpu.backend)->fake_quant_start(b->gpu.backend, &b->gpu.q);
}

static void assert_same(const struct both *b, const void *cpu, const void *gpu, size_t bytes)
{
    void *y = get(&b->gpu, gpu, bytes);
    assert_memory_equal(cpu, y, bytes);
    rh_free(y);
}

static void compare(const struct both *b, bool emitted)
{
    const struct rh_quantizer *x = &b->cpu.q;
    const struct rh_quantizer *y = &b->gpu.q;
    assert_same(b, x->lo, y->lo, b->groups * 4);
    assert_same(b, x->hi, y->hi, b->groups * 4);
    assert_same(b, x->v, y->v, b->weights * 4);
    assert_same(b, x->alpha, y->alpha, b->groups * 4);
    assert_same(b, x->beta, y->beta, b->groups * 4);
    assert_same(b, x->fault, y->fault, sizeof *x->fault);
    uint16_t *rounded = rh_alloc(b->weights * 2);
    rh_from_f32(RH_BF16, x->weight_q, rounded, b->weights);
    assert_same(b, rounded, y->weight_q, b->weights * 2);
    rh_free(rounded);
    if (!emitted)
        return;
    assert_same(b, x->codes, y->codes, b->weights);
    assert_same(b, x->scales, y->scales, b->groups * 2);
    if (x->zeros)
        assert_same(b, x->zeros, y->zeros, b->groups);
}

static void every_scheme_gives_the_bytes_of_the_cpu(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    for (int c = 0; c < 16; c++) {
        struct both b;
        both_new(&b, bits[c / 4], c % 2 == 0);
        b.cpu.q.search = b.gpu.q.search = c / 2 % 2 == 1;
        rh_emu_set_order((uint64_t)c);
        start(&b);
        compare(&b, false);
        for (int s = 0; s < STEPS; s++) {
            fill_gradients(&b, s);
            advance(&b, s != 3, s != 2);
            compare(&b, true);
        }
        rh_backend_ops(b.cpu.backend)->fake_quant_restore(b.cpu.backend, &b.cpu.q);
        rh_backend_ops(b.gpu.backend)->fake_quant_restore(b.gpu.backend, &b.gpu.q);
        compare(&b, true);
        both_free(&b);
    }
}

static void sums_of_gradients_stand_for_them(void **state)
{
    (void)state;
    for (int sym = 0; sym < 2; sym++) {
        struct both b;
        both_new(&b, 4, sym == 1);
        start(&b);
        fill_gradients(&b, 0);
        float *sum = alloc(&b.gpu, b.weights * 4);
        for (size_t j = 0; j < b.weights; j++)
            b.grad[j] *= 1.001F; /* more digits than bf16 has */
        put(&b.cpu, b.cpu.grad, b.grad, b.weights);
        upload(&b.gpu, sum, b.grad, b.weights * 4);
        b.gpu.q.grad_sum = sum;
        advance(&b, true, true);
        compare(&b, true);
        rh_backend_release(b.gpu.backend, sum);
        both_free(&b);
    }
}

static void codes_are_written_only_when_asked_for(void **state)
{
    (void)state;
    struct both b;
    both_new(&b, 4, true);
    uint8_t *mark = rh_alloc(b.weights);
    memset(mark, 0xA5, b.weights);
    start(&b);
    upload(&b.gpu, b.gpu.q.codes, mark, b.weights);
    fill_gradients(&b, 1);
    advance(&b, true, false);
    assert_same(&b, mark, b.gpu.q.codes, b.weights);
    compare(&b, false);
    rh_free(mark);
    /* Without any gradient the codes are those of rounding to nearest, and nothing moves. */
    start(&b);
    b.cpu.q.grad = b.gpu.q.grad = NULL;
    upload(&b.gpu, b.gpu.q.codes, b.cpu.q.codes, b.weights);
    advance(&b, true, true);
    compare(&b, true);
    both_free(&b);
}

static void damaged_numbers_name_the_iteration_and_the_lowest_item(void **state)
{
    (void)state;
    static const float values[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 9; k++) {
        struct both b;
        int item = 2 * (k / 3);
        both_new(&b, 4, k % 2 == 0);
        start(&b);
        fill_gradients(&b, 1);
        b.grad[b.items[item].at + 31] = values[k % 3];
        b.grad[b.items[7].at] = NAN;
        put(&b.gpu, b.gpu.grad, b.grad, b.weights);
        b.gpu.q.iter = 17;
        advance(&b, true, true);
        uint64_t expected = (uint64_t)17 << 32 | (uint64_t)(item + 1);
        assert_same(&b, &expected, b.gpu.q.fault, sizeof expected);

        b.weight[b.items[item].at + 31] = values[k % 3];
        put(&b.gpu, b.gpu.weight, b.weight, b.weights);
        start(&b);
        expected = (uint64_t)(item + 1);
        assert_same(&b, &expected, b.gpu.q.fault, sizeof expected);
        both_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scheme_gives_the_bytes_of_the_cpu),
        cmocka_unit_test(sums_of_gradients_stand_for_them),
        cmocka_unit_test(codes_are_written_only_when_asked_for),
        cmocka_unit_test(damaged_numbers_name_the_iteration_and_the_lowest_item),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
