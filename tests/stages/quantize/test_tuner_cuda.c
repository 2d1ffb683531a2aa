/* The tuning loop on the emulated GPU: against the CPU, with chains on the host, in parts, and when
 * something breaks; and what the memory planner says before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "emu_control.h"
#include "nano.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/memory_plan.h"
#include "tuning/tuner.h"

#define ROWS   3
#define TOKENS 16
#define ITERS  3

/* One block of nano on a backend, with its inputs and targets. */
struct bench {
    struct nano nano;
    struct rh_backend *backend;
    struct rh_chain chain;
    struct rh_block *block;
    struct rh_tuner *tuner;
    struct rh_tune_options options;
    int64_t order[ITERS * 2];
    int64_t reached[8];
    double losses[ITERS];
};

static void bench_open(struct bench *b, const char *backend, int64_t index, int64_t batch_size,
                       bool on_host)
{
    struct rh_error err;
    *b = (struct bench){.options = {.iters = ITERS, .rows = 2, .batch_size = batch_size,
                                    .lr = 0.002, .minmax = true}};
    nano_open(NULL, &b->nano);
    nano_check(rh_backend_new(backend, 1, &b->backend, &err), &err);
    nano_embed_made(&b->nano, b->backend, on_host, ROWS, TOKENS, &b->chain);
    b->block = nano_block(&b->nano, b->backend, index, batch_size, TOKENS, true);
    nano_check(rh_forward_source(b->backend, b->block, batch_size, &b->chain, NULL, NULL, &err),
               &err);
    nano_check(rh_tuner_new(b->backend, b->block, &b->options, TOKENS, b->chain.hidden, &b->tuner,
                            &err),
               &err);
    for (int64_t i = 0; i < ITERS * 2; i++)
        b->order[i] = (2 * i + i / 2) % ROWS;
}

static void bench_close(struct bench *b)
{
    rh_tuner_free(b->tuner);
    rh_block_free(b->block);
    rh_chain_done(&b->chain);
    rh_backend_free(b->backend);
    nano_close(&b->nano);
}

static enum rh_rc record(void *arg, int64_t iter, double loss, double best, struct rh_error *err)
{
    (void)err;
    (void)best;
    ((struct bench *)arg)->losses[iter] = loss;
    return RH_OK;
}

static enum rh_rc tune(struct bench *b, struct rh_tune_result *result, struct rh_error *err)
{
    struct rh_tune_data data = {b->chain.samples, b->chain.seq, b->chain.hidden,
                                b->chain.quant,   b->chain.fp,  b->order};
    struct rh_tune_watch watch = {record, b};
    return rh_tune_block(b->tuner, &data, &watch, b->reached, result, err);
}

static void assert_same_codes(const struct bench *a, const struct bench *b)
{
    struct rh_error err;
    struct rh_tuned x;
    struct rh_tuned y;
    nano_check(rh_tuned_take(a->tuner, &x, &err), &err);
    nano_check(rh_tuned_take(b->tuner, &y, &err), &err);
    assert_true(x.count > 0 && x.count == y.count);
    for (size_t i = 0; i < x.count; i++) {
        size_t n = (size_t)(x.linears[i].out_features * x.linears[i].in_features);
        assert_memory_equal(x.linears[i].codes, y.linears[i].codes, n);
    }
    rh_tuned_done(&x);
    rh_tuned_done(&y);
}

/* One of the 32 tokens that goes to another expert, in the pass that makes the targets or in the one
 * that is tuned, changes a loss by several percent; after the first step so do the signs of
 * gradients that are nearly zero. tests/models/test_block_cuda.c is the strict comparison. */
static void losses_are_near_those_of_the_cpu(void **state)
{
    (void)state;
    for (int64_t index = 0; index < 4; index += 3) { /* linear and full attention */
        struct rh_error err;
        struct bench cpu;
        struct bench gpu;
        struct rh_tune_result a;
        struct rh_tune_result b;
        bench_open(&cpu, "cpu", index, 2, false);
        bench_open(&gpu, "cuda", index, 2, false);
        nano_check(tune(&cpu, &a, &err), &err);
        nano_check(tune(&gpu, &b, &err), &err);
        for (int i = 0; i < ITERS; i++) {
            print_message("block %lld, iteration %d: %.4e, the CPU has %.4e\n", (long long)index, i,
                          gpu.losses[i], cpu.losses[i]);
            assert_true(fabs(gpu.losses[i] - cpu.losses[i]) <= 0.2 * cpu.losses[i]);
        }
        assert_true(b.init_loss == gpu.losses[0] && b.best_loss == gpu.losses[b.best_iter]);
        for (int e = 0; e < 8; e++) /* near ties may go elsewhere in bf16 */
            assert_true(llabs((long long)(gpu.reached[e] - cpu.reached[e])) <= 8);
        bench_close(&cpu);
        bench_close(&gpu);
    }
}

static void chains_on_the_host_give_the_same_bytes(void **state)
{
    (void)state;
    struct rh_error err;
    struct bench device;
    struct bench host;
    struct rh_tune_result a;
    struct rh_tune_result b;
    bench_open(&device, "cuda", 0, 2, false);
    bench_open(&host, "cuda", 0, 2, true);
    nano_check(tune(&device, &a, &err), &err);
    nano_check(tune(&host, &b, &err), &err);
    assert_memory_equal(&a, &b, sizeof a);
    assert_same_codes(&device, &host);
    double x = 0.0;
    double y = 0.0;
    nano_check(rh_forward_quantized(device.backend, device.block, 2, true, &device.chain, &x, NULL,
                                    &err),
               &err);
    nano_check(rh_forward_quantized(host.backend, host.block, 2, true, &host.chain, &y, NULL, &err),
               &err);
    assert_true(x == y && x > 0.0);
    bench_close(&device);
    bench_close(&host);
}

static void the_order_of_threads_never_changes_a_byte(void **state)
{
    (void)state;
    struct rh_error err;
    struct bench one;
    struct bench two;
    struct rh_tune_result a;
    struct rh_tune_result b;
    bench_open(&one, "cuda", 3, 2, false);
    nano_check(tune(&one, &a, &err), &err);
    rh_emu_set_order(12345);
    bench_open(&two, "cuda", 3, 2, false);
    nano_check(tune(&two, &b, &err), &err);
    rh_emu_set_order(0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_same_codes(&one, &two);
    bench_close(&one);
    bench_close(&two);
}

static void an_iteration_may_be_cut_into_batches(void **state)
{
    (void)state;
    struct rh_error err;
    struct bench whole;
    struct bench cut;
    struct rh_tune_result result;
    bench_open(&whole, "cuda", 0, 2, false);
    bench_open(&cut, "cuda", 0, 1, false);
    nano_check(tune(&whole, &result, &err), &err);
    nano_check(tune(&cut, &result, &err), &err);
    for (int i = 0; i < ITERS; i++)
        assert_true(fabs(cut.losses[i] - whole.losses[i]) <= 0.02 * whole.losses[i]);
    assert_memory_equal(cut.reached, whole.reached, sizeof cut.reached);
    bench_close(&whole);
    bench_close(&cut);
}

/* Sets one bf16 of backend memory. */
static void poison(struct bench *b, void *at, int64_t element)
{
    const uint16_t nan = 0x7fc0;
    struct rh_error err;
    nano_check(rh_backend_upload(b->backend, (char *)at + element * 2, &nan, sizeof nan, &err),
               &err);
}

static void damage_is_found_on_the_device(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_tune_result result;
    struct bench b;
    bench_open(&b, "cuda", 0, 2, false);
    int64_t row = b.order[2]; /* of iteration 1 */
    int64_t first = row == b.order[0] || row == b.order[1] ? 0 : 1;
    poison(&b, rh_chain_rows(&b.chain, b.chain.fp, row), 5);
    char *expected = rh_format("iteration %lld: the loss is", (long long)first);
    assert_int_equal(tune(&b, &result, &err), RH_ERR_NUMERIC);
    assert_non_null(strstr(err.message, expected));
    rh_free(expected);
    rh_tuner_free(b.tuner);
    b.tuner = NULL;
    /* A damaged weight is named before the first iteration. */
    const struct rh_block_linear *l = rh_block_linear_at(b.block, 2);
    poison(&b, (void *)(uintptr_t)rh_block_arenas(b.block)->weights, l->at + 7);
    assert_int_equal(rh_tuner_new(b.backend, b.block, &b.options, TOKENS, b.chain.hidden, &b.tuner,
                                  &err),
                     RH_ERR_NUMERIC);
    assert_non_null(strstr(err.message, l->linear->name));
    assert_null(b.tuner);
    bench_close(&b);
}

static void a_lost_gpu_ends_the_loop(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_tune_result result;
    struct bench b;
    bench_open(&b, "cuda", 3, 2, false);
    rh_emu_lose_device_after(9);
    assert_int_equal(tune(&b, &result, &err), RH_ERR_DEVICE);
    assert_int_equal(err.failure, RH_FAILURE_TRANSIENT);
    rh_emu_lose_device_after(-1);
    bench_close(&b);
}

static void the_planner_knows_the_peak(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_memory_plan plan;
    struct bench b;
    size_t before = rh_emu_allocated();
    bench_open(&b, "cuda", 0, 2, false);
    rh_emu_set_memory((size_t)8 << 30);
    nano_check(rh_memory_plan_make(b.backend, b.nano.plan, &b.options, ROWS, TOKENS, &plan, &err),
               &err);
    assert_int_equal(plan.batch_size, 2);
    assert_false(plan.chains_on_host);
    size_t runtime = (size_t)1 << 30;
    size_t arrays = plan.peak - plan.scratch - plan.next_weights;
    size_t held = rh_emu_allocated() - before;
    print_message("planned %zu + %zu, held %zu\n", arrays, plan.scratch, held);
    assert_true(held <= arrays + (plan.scratch - runtime) + ((size_t)40 << 20)); /* and cuBLAS */
    assert_true(arrays <= held); /* the planned parts are all there */
    bench_close(&b);
    rh_emu_set_memory((size_t)1 << 30);
}

static void the_planner_cuts_before_it_refuses(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_memory_plan plan;
    struct nano nano;
    struct rh_backend *backend = NULL;
    struct rh_tune_options options = {.iters = 5, .rows = 8, .batch_size = 8, .minmax = true};
    nano_open(NULL, &nano);
    rh_emu_set_memory((size_t)64 << 30);
    nano_check(rh_backend_new("cuda", 1, &backend, &err), &err);
    nano_check(rh_memory_plan_make(backend, nano.plan, &options, 64, 256, &plan, &err), &err);
    assert_int_equal(plan.batch_size, 8);
    size_t used = rh_emu_allocated();
    size_t whole = plan.peak;
    rh_emu_set_memory(used + whole - 1);
    nano_check(rh_memory_plan_make(backend, nano.plan, &options, 64, 256, &plan, &err), &err);
    assert_true(plan.chains_on_host && plan.batch_size == 8 && plan.peak < whole);
    rh_emu_set_memory(used + plan.peak - 1);
    nano_check(rh_memory_plan_make(backend, nano.plan, &options, 64, 256, &plan, &err), &err);
    assert_int_equal(plan.batch_size, 4);
    rh_emu_set_memory(used + ((size_t)1 << 20));
    assert_int_equal(rh_memory_plan_make(backend, nano.plan, &options, 64, 256, &plan, &err),
                     RH_ERR_NO_MEMORY);
    static const char *const words[] = {"batch 1", "weights", "activations", "peak", "available"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        assert_non_null(strstr(err.message, words[i]));
    rh_emu_set_memory((size_t)1 << 30);
    rh_backend_free(backend);
    nano_close(&nano);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_planner_knows_the_peak),
        cmocka_unit_test(the_planner_cuts_before_it_refuses),
        cmocka_unit_test(losses_are_near_those_of_the_cpu),
        cmocka_unit_test(chains_on_the_host_give_the_same_bytes),
        cmocka_unit_test(the_order_of_threads_never_changes_a_byte),
        cmocka_unit_test(an_iteration_may_be_cut_into_batches),
        cmocka_unit_test(damage_is_found_on_the_device),
        cmocka_unit_test(a_lost_gpu_ends_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
