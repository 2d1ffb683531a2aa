/* The tuning loop on nano against a run of auto-round on the same rows. RH_PEER_IDS names a safetensors
 * file with the rows (input_ids [64, 512]) that auto-round 0.16.1 takes from its calibration text with
 * seed 42; the text itself is not part of the project. */
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
#include "nano.h"
#include "random/minibatch.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/tuner.h"

#define ITERS 200
#define BATCH 8
#define KNOWN 3 /* losses of tests/golden/tuning/peer.json */

/* Printed by auto-round for each block: the lowest loss of a minibatch. */
static const double best_losses[] = {9.224e-03, 1.769e-02, 3.966e-02, 9.949e-02};

struct bench {
    struct nano nano;
    struct rh_backend *backend;
    struct rh_chain chain;
    struct rh_minibatch *sampler;
    int64_t order[ITERS * BATCH];
};

static void bench_open(struct bench *b)
{
    struct rh_error err;
    struct rh_token_rows ids;
    memset(b, 0, sizeof *b);
    nano_open(NULL, &b->nano);
    const struct rh_model_config *config = &b->nano.plan->config;
    nano_check(rh_backend_new("cpu", 0, &b->backend, &err), &err);
    nano_check(rh_token_rows_read(getenv("RH_PEER_IDS"), config->vocab_size, &ids, &err), &err);
    nano_embed(&b->nano, b->backend, false, &ids, &b->chain);
    b->sampler = rh_minibatch_new(42, ids.samples, BATCH);
    rh_token_rows_done(&ids);
}

static void bench_close(struct bench *b)
{
    rh_minibatch_free(b->sampler);
    rh_chain_done(&b->chain);
    rh_backend_free(b->backend);
    nano_close(&b->nano);
}

struct trace {
    double losses[ITERS];
    int64_t count, stop_after;
};

static enum rh_rc record(void *arg, int64_t iter, double loss, double best, struct rh_error *err)
{
    struct trace *t = arg;
    (void)best;
    assert_int_equal(iter, t->count);
    t->losses[t->count++] = loss;
    return t->count == t->stop_after ? rh_fail(err, RH_ERR_CANCELLED, "enough") : RH_OK;
}

static double tune(struct bench *b, int64_t index, struct trace *trace)
{
    struct rh_error err;
    struct rh_tuner *tuner = NULL;
    struct rh_tune_result result;
    struct rh_chain *c = &b->chain;
    double loss = 0.0;
    struct rh_tune_options options = {.iters = ITERS, .rows = BATCH, .batch_size = BATCH,
                                      .minmax = true};
    rh_minibatch_begin_block(b->sampler);
    for (int64_t i = 0; i < ITERS; i++)
        rh_minibatch_next(b->sampler, b->order + i * BATCH);
    struct rh_block *block = nano_block(&b->nano, b->backend, index, BATCH, c->seq, true);
    nano_check(rh_forward_source(b->backend, block, BATCH, c, NULL, NULL, &err), &err);
    nano_check(rh_tuner_new(b->backend, block, &options, c->seq, c->hidden, &tuner, &err), &err);
    struct rh_tune_data data = {c->samples, c->seq, c->hidden, c->quant, c->fp, b->order};
    struct rh_tune_watch watch = {record, trace};
    enum rh_rc rc = rh_tune_block(tuner, &data, &watch, NULL, &result, &err);
    if (rc == RH_OK)
        rc = rh_forward_quantized(b->backend, block, BATCH, true, c, &loss, NULL, &err);
    if (rc != RH_ERR_CANCELLED)
        nano_check(rc, &err);
    rh_tuner_free(tuner);
    rh_block_free(block);
    return result.best_loss;
}

static void the_first_losses_are_those_of_auto_round(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_json *json = NULL;
    static struct bench b;
    struct trace trace = {.stop_after = KNOWN};
    nano_check(rh_json_read(RH_SOURCE_DIR "/tests/golden/tuning/peer.json", 1 << 20, &json, &err),
               &err);
    bench_open(&b);
    tune(&b, 0, &trace);
    bench_close(&b);
    assert_int_equal(trace.count, KNOWN);
    const struct rh_json *expected = rh_json_first(rh_json_get(json, "losses"));
    for (int i = 0; i < KNOWN; i++, expected = rh_json_next(expected)) {
        double loss = rh_json_number(expected, 0.0);
        print_message("iteration %d: %.9e, auto-round has %.9e\n", i, trace.losses[i], loss);
        assert_true(fabs(trace.losses[i] - loss) <= 1e-5 * loss);
    }
    rh_json_free(json);
}

static void the_best_loss_of_every_block_is_near_auto_rounds(void **state)
{
    (void)state;
    static struct bench b;
    bench_open(&b);
    for (int64_t index = 0; index < 4; index++) {
        struct trace trace = {0};
        double best = tune(&b, index, &trace);
        print_message("block %lld: best loss %.4e, auto-round has %.4e\n", (long long)index, best,
                      best_losses[index]);
        assert_int_equal(trace.count, ITERS);
        assert_true(best <= 1.05 * best_losses[index]);
        assert_true(best >= 0.95 * best_losses[index]);
    }
    bench_close(&b);
}

int main(void)
{
    if (!getenv("RH_PEER_IDS")) {
        puts("skipped: RH_PEER_IDS does not name the rows that auto-round took");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_losses_are_those_of_auto_round),
        cmocka_unit_test(the_best_loss_of_every_block_is_near_auto_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
