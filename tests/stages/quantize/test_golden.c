/* Blocks of nano against transformers, and the first step of tuning against torch's autograd; the
 * values and how they were made: tests/golden/make_tuning.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "nano.h"
#include "quant/group.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/tuner.h"

#define HIDDEN_TOKENS 70
#define ROWS          8
#define TOKENS        64
#define BATCH         4
#define ITERS         40
#define LOSS_SCALE    1000.0F

struct bench {
    struct nano nano;
    struct rh_backend *backend;
    struct rh_safetensors *golden;
    struct rh_chain chain;
};

static void bench_open(struct bench *b, int64_t rows, int64_t tokens)
{
    struct rh_error err;
    *b = (struct bench){0};
    nano_open(NULL, &b->nano);
    nano_check(rh_backend_new("cpu", 2, &b->backend, &err), &err);
    nano_check(rh_safetensors_open(RH_SOURCE_DIR "/tests/golden/tuning/nano.safetensors", &b->golden,
                                   &err),
               &err);
    nano_embed_made(&b->nano, b->backend, false, rows, tokens, &b->chain);
}

static void bench_close(struct bench *b)
{
    rh_chain_done(&b->chain);
    rh_safetensors_close(b->golden);
    rh_backend_free(b->backend);
    nano_close(&b->nano);
}

static void *golden(const struct bench *b, const char *name, uint64_t *bytes)
{
    struct rh_error err;
    const struct rh_tensor_info *info = rh_safetensors_find(b->golden, name);
    if (!info)
        fail_msg("no golden value %s", name);
    void *out = rh_alloc(info->bytes);
    nano_check(rh_safetensors_read(b->golden, info, 0, info->bytes, out, &err), &err);
    *bytes = info->bytes;
    return out;
}

static void hidden_states_are_those_of_transformers(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, 1, HIDDEN_TOKENS);
    int64_t layers = b.nano.plan->config.num_hidden_layers;
    for (int64_t index = 0; index < layers; index++) {
        struct rh_error err;
        uint64_t bytes = 0;
        char *name = rh_format("hidden.%lld", (long long)index);
        float *expected = golden(&b, name, &bytes);
        struct rh_block *block = nano_block(&b.nano, b.backend, index, 1, HIDDEN_TOKENS, false);
        nano_check(rh_forward_source(b.backend, block, 1, &b.chain, NULL, NULL, &err), &err);
        const float *got = b.chain.fp;
        double difference = 0.0;
        double norm = 0.0;
        assert_int_equal(bytes, HIDDEN_TOKENS * b.chain.hidden * 4);
        for (int64_t i = 0; i < HIDDEN_TOKENS * b.chain.hidden; i++) {
            difference += pow((double)got[i] - (double)expected[i], 2);
            norm += pow((double)expected[i], 2);
        }
        double relative = sqrt(difference / norm);
        print_message("block %lld: relative L2 difference %.2g\n", (long long)index, relative);
        assert_true(relative <= 1e-5);
        rh_block_free(block);
        rh_free(expected);
        rh_free(name);
    }
    assert_true(layers == 4);
    bench_close(&b);
}

/* The gradients of iteration 0: of the mean squared error of rows 0, 5, 2, 7, times LOSS_SCALE. */
static void first_gradients(struct bench *b, struct rh_block *block)
{
    struct rh_error err;
    int64_t row = TOKENS * b->chain.hidden;
    int64_t count = BATCH * row;
    float *x = rh_alloc_array((size_t)(4 * count), sizeof *x);
    float *y = x + count;
    float *target = y + count;
    float *dy = target + count;
    for (int64_t k = 0; k < BATCH; k++) {
        int64_t from = 5 * k % ROWS * row;
        memcpy(x + k * row, (const float *)b->chain.quant + from, (size_t)row * sizeof *x);
        memcpy(target + k * row, (const float *)b->chain.fp + from, (size_t)row * sizeof *x);
    }
    nano_check(rh_block_forward(block, RH_WEIGHTS_QUANTIZED, x, y, BATCH, TOKENS, true, NULL, &err),
               &err);
    for (int64_t i = 0; i < count; i++)
        dy[i] = LOSS_SCALE * 2.0F / (float)count * (y[i] - target[i]);
    nano_check(rh_block_backward(block, dy, &err), &err);
    rh_free(x);
}

static int sign_of(float x)
{
    return (x > 0.0F) - (x < 0.0F);
}

static int digit(const uint8_t *packed, int64_t at)
{
    return (packed[at / 4] >> (at % 4 * 2) & 3) - 1;
}

struct tally {
    int64_t signs, wrong;
};

static void count_sign(struct tally *t, float gradient, const uint8_t *packed, int64_t at)
{
    t->signs++;
    t->wrong += sign_of(gradient) != digit(packed, at);
}

/* All signs of a linear's first step; experts stand in the rows of a fused tensor. */
static void check_linear(const struct bench *b, const struct rh_block *block,
                         const struct rh_block_linear *l, int64_t index, struct tally *offsets,
                         struct tally *factors)
{
    static const char *const parts[] = {"v", "alpha", "beta"};
    struct rh_scheme scheme = {l->linear->bits, l->linear->sym, l->linear->group_size};
    int64_t in = l->linear->in_features;
    int64_t groups = rh_scheme_groups(&scheme, in);
    int64_t n = in / groups;
    const float *w = (const float *)rh_block_arenas(block)->weights + l->at;
    const float *grad = (const float *)rh_block_arenas(block)->grads + l->at;
    uint8_t *packed[3];
    const char *source = strstr(l->linear->source, "layers.");
    source = strchr(source + strlen("layers."), '.') + 1;
    for (int p = 0; p < 3; p++) {
        uint64_t bytes = 0;
        char *name = rh_format("block.%lld.%s.%s", (long long)index, source, parts[p]);
        packed[p] = golden(b, name, &bytes);
        rh_free(name);
    }
    float *dv = rh_alloc_array((size_t)n, sizeof *dv);
    float *zeros = rh_alloc_array((size_t)n, sizeof *zeros);
    for (int64_t g = 0; g < l->linear->out_features * groups; g++) {
        float lo = 0.0F;
        float hi = 0.0F;
        float alpha = 1.0F;
        float beta = 1.0F;
        float slopes[2];
        struct rh_grid grid;
        struct rh_group_sums sums;
        assert_int_equal(rh_group_range(&scheme, w + g * n, n, &lo, &hi, NULL), RH_OK);
        rh_grid_make(&scheme, lo, hi, &alpha, &beta, &grid);
        rh_group_backward(&grid, w + g * n, zeros, grad + g * n, n, dv, &sums);
        rh_grid_gradient(&scheme, &grid, &sums, lo, hi, &slopes[0], &slopes[1]);
        int64_t at = l->linear->source_row * groups + g;
        for (int64_t j = 0; j < n; j++)
            count_sign(offsets, dv[j], packed[0], at * n + j);
        for (int p = 0; p < 2; p++)
            count_sign(factors, slopes[p], packed[p + 1], at);
    }
    for (int p = 0; p < 3; p++)
        rh_free(packed[p]);
    rh_free(dv);
    rh_free(zeros);
}

/* Every parameter moves by the rate or stays, so the signs are the parameters after the step. Two
 * backward passes that are equally right differ in the last bits of their sums, and a sum that is zero
 * but for them may take either sign: one in 100,000 may differ. The gradient of a factor is a difference
 * of two sums rounded to fp16 and cancels to a unit of fp16 more often: one in 2,000. */
static void all_parameters_agree_after_the_first_step(void **state)
{
    (void)state;
    for (int64_t index = 0; index < 4; index += 3) {
        struct bench b;
        struct rh_error err;
        struct rh_tuner *tuner = NULL;
        struct tally offsets = {0};
        struct tally factors = {0};
        struct rh_tune_options options = {.iters = ITERS, .rows = BATCH, .batch_size = BATCH,
                                          .minmax = true};
        bench_open(&b, ROWS, TOKENS);
        struct rh_block *block = nano_block(&b.nano, b.backend, index, BATCH, TOKENS, true);
        nano_check(rh_forward_source(b.backend, block, BATCH, &b.chain, NULL, NULL, &err), &err);
        nano_check(rh_tuner_new(b.backend, block, &options, TOKENS, b.chain.hidden, &tuner, &err),
                   &err); /* rounds the block's weights to nearest */
        first_gradients(&b, block);
        for (size_t i = 0; i < rh_block_linear_count(block); i++)
            check_linear(&b, block, rh_block_linear_at(block, i), index, &offsets, &factors);
        print_message("block %lld: %lld of %lld offsets and %lld of %lld factors differ\n",
                      (long long)index, (long long)offsets.wrong, (long long)offsets.signs,
                      (long long)factors.wrong, (long long)factors.signs);
        assert_true(offsets.signs > 400000 && factors.signs > 6000);
        assert_true(offsets.wrong * 100000 <= offsets.signs);
        assert_true(factors.wrong * 2000 <= factors.signs);
        rh_tuner_free(tuner);
        rh_block_free(block);
        bench_close(&b);
    }
}

static void all_rates_are_those_of_torch(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_json *json = NULL;
    nano_check(rh_json_read(RH_SOURCE_DIR "/tests/golden/tuning/nano.json", 1 << 20, &json, &err),
               &err);
    const struct rh_json *rates = rh_json_get(json, "rates");
    assert_int_equal(rh_json_count(rates), ITERS);
    float rate = (float)(1.0 / ITERS);
    int64_t iter = 0;
    for (const struct rh_json *r = rh_json_first(rates); r; r = rh_json_next(r), iter++) {
        if (iter > 0)
            rate = rh_tune_next_rate(rate, iter, ITERS);
        assert_true((double)rate == rh_json_number(r, 0.0));
    }
    rh_json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_states_are_those_of_transformers),
        cmocka_unit_test(all_parameters_agree_after_the_first_step),
        cmocka_unit_test(all_rates_are_those_of_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
