/* From the outputs of the last block to the inputs of the MTP layer and through it, against plain
 * torch; the values and how they were made: tests/golden/make_mtp.py. */
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
#include "tensor/dtype.h"
#include "tuning/forward.h"
#include "tuning/mtp_chain.h"

#define ROWS   3
#define TOKENS 24

struct bench {
    struct nano nano;
    struct rh_backend *backend;
    struct rh_safetensors *golden;
    struct rh_chain chain;
    struct rh_token_rows rows;
};

static float *golden(const struct bench *b, const char *name, int64_t count)
{
    struct rh_error err;
    const struct rh_tensor_info *info = rh_safetensors_find(b->golden, name);
    if (!info)
        fail_msg("no golden value %s", name);
    assert_int_equal(info->bytes, count * 4);
    float *out = rh_alloc(info->bytes);
    nano_check(rh_safetensors_read(b->golden, info, 0, info->bytes, out, &err), &err);
    return out;
}

static void put(const struct bench *b, void *part, const float *values, int64_t count)
{
    struct rh_error err;
    size_t bytes = (size_t)count * rh_backend_element_size(b->backend);
    void *raw = rh_alloc(bytes);
    rh_from_f32(rh_backend_dtype(b->backend), values, raw, (size_t)count);
    if (b->chain.on_host)
        memcpy(part, raw, bytes);
    else
        nano_check(rh_backend_upload(b->backend, part, raw, bytes, &err), &err);
    rh_free(raw);
}

static void expect_near(const struct bench *b, const void *part, const char *name, double bound)
{
    struct rh_error err;
    int64_t count = ROWS * (TOKENS - 1) * b->chain.hidden;
    size_t bytes = (size_t)count * rh_backend_element_size(b->backend);
    float *expected = golden(b, name, count);
    float *got = rh_alloc_array((size_t)count, sizeof *got);
    void *raw = rh_alloc(bytes);
    if (b->chain.on_host)
        memcpy(raw, part, bytes);
    else
        nano_check(rh_backend_download(b->backend, raw, part, bytes, &err), &err);
    rh_to_f32(rh_backend_dtype(b->backend), raw, got, (size_t)count);
    double difference = 0.0;
    double size = 0.0;
    for (int64_t i = 0; i < count; i++) {
        difference += pow((double)got[i] - (double)expected[i], 2);
        size += pow((double)expected[i], 2);
    }
    double relative = sqrt(difference / size);
    print_message("%s: relative L2 difference %.2g\n", name, relative);
    assert_true(relative <= bound);
    rh_free(raw);
    rh_free(got);
    rh_free(expected);
}

/* The part `number` holds the golden hidden states, the other one something else. */
static void bench_open(struct bench *b, bool on_host, int number)
{
    struct rh_error err;
    *b = (struct bench){.rows = {ROWS, TOKENS, rh_alloc_array(ROWS * TOKENS, 4)}};
    nano_open((const char *const[]){"mtp.method=tune", NULL}, &b->nano);
    nano_check(rh_backend_new(BACKEND, 2, &b->backend, &err), &err);
    nano_check(
        rh_safetensors_open(RH_SOURCE_DIR "/tests/golden/mtp/nano.safetensors", &b->golden, &err),
        &err);
    for (int64_t i = 0; i < ROWS * TOKENS; i++)
        b->rows.ids[i] = nano_token(i / TOKENS, i % TOKENS);
    nano_embed(&b->nano, b->backend, on_host, &b->rows, &b->chain);
    int64_t count = ROWS * TOKENS * b->chain.hidden;
    float *hidden = golden(b, "hidden", count);
    put(b, number == 0 ? b->chain.fp : b->chain.quant, hidden, count);
    rh_free(hidden);
}

static void bench_close(struct bench *b)
{
    rh_token_rows_done(&b->rows);
    rh_chain_done(&b->chain);
    rh_safetensors_close(b->golden);
    rh_backend_free(b->backend);
    nano_close(&b->nano);
}

static enum rh_rc enter(struct bench *b, int64_t batch_size, struct rh_error *err)
{
    const struct rh_embedding embedding = {b->nano.weights,
                                           b->nano.plan->units[0].tensors[0].info.name};
    struct rh_mtp_input *input = NULL;
    nano_check(rh_mtp_input_new(b->backend, &b->nano.plan->config, b->nano.weights, b->nano.weights,
                                "model.language_model.norm.weight", batch_size, TOKENS, &input,
                                err),
               err);
    enum rh_rc rc =
        rh_chain_enter_mtp(&b->chain, &b->rows, &embedding, input, batch_size, NULL, err);
    rh_mtp_input_free(input);
    return rc;
}

static void inputs_are_those_of_torch(void **state)
{
    (void)state;
    for (int on_host = 0; on_host < 2; on_host++) {
        for (int part = 0; part < 2; part++) {
            struct rh_error err;
            struct bench b;
            bench_open(&b, on_host == 1, part);
            nano_check(enter(&b, 2 + part, &err), &err); /* the last batch may be smaller */
            assert_int_equal(b.chain.seq, TOKENS - 1);
            expect_near(&b, part == 0 ? b.chain.fp : b.chain.quant, "u", INPUT_BOUND);
            bench_close(&b);
        }
    }
}

/* Positions count from 0 again, and the layer's input is its residual stream. */
static void the_layer_gives_what_torch_says(void **state)
{
    (void)state;
    struct rh_error err;
    struct bench b;
    struct rh_block *block = NULL;
    bench_open(&b, false, 0);
    nano_check(enter(&b, ROWS, &err), &err);
    const struct rh_unit *unit =
        rh_model_plan_step(b.nano.plan, b.nano.plan->config.num_hidden_layers);
    assert_non_null(unit);
    assert_int_equal(unit->kind, RH_UNIT_MTP);
    nano_check(rh_block_new(b.backend, &b.nano.plan->config, unit, b.nano.weights, &block, &err),
               &err);
    nano_check(rh_block_reserve(block, ROWS, TOKENS - 1, false, &err), &err);
    nano_check(rh_forward_source(b.backend, block, ROWS, &b.chain, NULL, NULL, &err), &err);
    expect_near(&b, b.chain.fp, "y", OUTPUT_BOUND);
    rh_block_free(block);
    bench_close(&b);
}

static void damage_does_not_get_in(void **state)
{
    (void)state;
    for (int part = 0; part < 2; part++) {
        struct rh_error err;
        struct bench b;
        const float damaged = (float)NAN;
        bench_open(&b, false, part);
        put(&b, part == 0 ? b.chain.fp : b.chain.quant, &damaged, 1);
        assert_int_equal(enter(&b, 2, &err), RH_ERR_NUMERIC);
        assert_non_null(strstr(err.message, "MTP layer are not finite"));
        bench_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_are_those_of_torch),
        cmocka_unit_test(the_layer_gives_what_torch_says),
        cmocka_unit_test(damage_does_not_get_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
