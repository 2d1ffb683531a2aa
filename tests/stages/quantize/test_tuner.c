/* The tuning loop on blocks of nano; golden losses: tests/golden/make_tuning.py. */
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

#define ROWS   8
#define TOKENS 64
#define BATCH  4

/* One block of nano with its inputs and targets. */
struct bench {
    struct nano nano;
    struct rh_backend *backend;
    struct rh_chain chain;
    struct rh_block *block;
    struct rh_tuner *tuner;
    int64_t *order;
    int64_t reached[8];
};

static void bench_open(struct bench *b, const char *const *recipe, int threads, int64_t index,
                       int64_t rows, int64_t tokens, const struct rh_tune_options *options)
{
    struct rh_error err;
    *b = (struct bench){0};
    nano_open(recipe, &b->nano);
    nano_check(rh_backend_new("cpu", threads, &b->backend, &err), &err);
    nano_embed_made(&b->nano, b->backend, false, rows, tokens, &b->chain);
    b->block = nano_block(&b->nano, b->backend, index, options->batch_size, tokens,
                          options->iters > 0);
    nano_check(rh_forward_source(b->backend, b->block, options->batch_size, &b->chain, NULL, NULL,
                                 &err),
               &err);
    nano_check(rh_tuner_new(b->backend, b->block, options, tokens, b->chain.hidden, &b->tuner, &err),
               &err);
    b->order = rh_alloc_array((size_t)(options->iters * options->rows) + 1, sizeof *b->order);
    for (int64_t t = 0; t < options->iters; t++) {
        for (int64_t k = 0; k < options->rows; k++)
            b->order[t * options->rows + k] = (5 * (options->rows * t + k) + t) % rows;
    }
}

static void bench_close(struct bench *b)
{
    rh_tuner_free(b->tuner);
    rh_block_free(b->block);
    rh_chain_done(&b->chain);
    rh_backend_free(b->backend);
    rh_free(b->order);
    nano_close(&b->nano);
}

static enum rh_rc tune(struct bench *b, const struct rh_tune_watch *watch,
                       struct rh_tune_result *result, struct rh_error *err)
{
    struct rh_tune_data data = {b->chain.samples, b->chain.seq,  b->chain.hidden,
                                b->chain.quant,   b->chain.fp, b->order};
    return rh_tune_block(b->tuner, &data, watch, b->reached, result, err);
}

struct trace {
    double losses[64], best[64];
    int64_t count, stop_after;
};

static enum rh_rc record(void *arg, int64_t iter, double loss, double best, struct rh_error *err)
{
    struct trace *t = arg;
    assert_int_equal(iter, t->count);
    t->losses[t->count] = loss;
    t->best[t->count++] = best;
    return t->count == t->stop_after ? rh_fail(err, RH_ERR_CANCELLED, "enough") : RH_OK;
}

static void check_golden(const struct rh_json *golden, int64_t iters)
{
    struct rh_error err;
    int64_t index = -1;
    assert_true(rh_json_int(rh_json_get(golden, "block"), &index));
    struct rh_tune_options options = {.iters = iters, .rows = BATCH, .batch_size = BATCH,
                                      .minmax = true};
    struct bench b;
    bench_open(&b, NULL, 2, index, ROWS, TOKENS, &options);
    struct trace trace = {0};
    struct rh_tune_watch watch = {record, &trace};
    struct rh_tune_result result;
    nano_check(tune(&b, &watch, &result, &err), &err);
    const struct rh_json *expected = rh_json_first(rh_json_get(golden, "losses"));
    for (int i = 0; i < 3; i++, expected = rh_json_next(expected)) {
        /* Signs of gradients that differ in the last bit part the ways after some steps. */
        double loss = rh_json_number(expected, 0.0);
        if (!(fabs(trace.losses[i] - loss) <= 1e-6 * loss))
            fail_msg("block %lld, iteration %d: %.9e, torch has %.9e", (long long)index, i,
                     trace.losses[i], loss);
    }
    double best = rh_json_number(rh_json_get(golden, "best_loss"), 0.0);
    print_message("block %lld: best loss %.4e, torch has %.4e\n", (long long)index,
                  result.best_loss, best);
    assert_true(fabs(result.best_loss - best) <= 0.05 * best);
    assert_true(result.init_loss == trace.losses[0]);
    assert_int_equal(trace.count, iters);
    for (int64_t i = 0; i < iters; i++) { /* best is the first of the lowest */
        assert_true(i < result.best_iter ? trace.losses[i] > result.best_loss
                                         : trace.losses[i] >= result.best_loss);
        assert_true(i == 0 || trace.best[i] == fmin(trace.best[i - 1], trace.losses[i]));
    }
    bench_close(&b);
}

static void losses_follow_those_of_torch(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_json *golden = NULL;
    int64_t iters = 0;
    nano_check(rh_json_read(RH_SOURCE_DIR "/tests/golden/tuning/nano.json", 1 << 20, &golden, &err),
               &err);
    assert_true(rh_json_int(rh_json_get(golden, "iters"), &iters));
    const struct rh_json *blocks = rh_json_get(golden, "blocks");
    assert_int_equal(rh_json_count(blocks), 2);
    for (const struct rh_json *b = rh_json_first(blocks); b; b = rh_json_next(b))
        check_golden(b, iters);
    rh_json_free(golden);
}

/* The result is what the block holds: its loss on the rows of the iteration that was kept is the loss
 * of that iteration. */
static void check_what_the_block_holds(bool keep_last)
{
    struct rh_error err;
    struct rh_tune_options options = {.iters = 9, .rows = BATCH, .batch_size = BATCH,
                                      .lr = 0.02, .minmax = true, .keep_last = keep_last};
    struct bench b;
    bench_open(&b, NULL, 1, 0, ROWS, TOKENS, &options);
    struct rh_tune_result result;
    nano_check(tune(&b, NULL, &result, &err), &err);
    assert_true(result.best_iter > 0);
    assert_true(!keep_last || result.best_iter == options.iters - 1);
    int64_t row = TOKENS * b.chain.hidden;
    float *x = rh_alloc_array((size_t)(BATCH * row), 4);
    float *y = rh_alloc_array((size_t)(BATCH * row), 4);
    float *target = rh_alloc_array((size_t)(BATCH * row), 4);
    for (int64_t k = 0; k < BATCH; k++) {
        int64_t from = b.order[result.best_iter * BATCH + k] * row;
        memcpy(x + k * row, (const float *)b.chain.quant + from, (size_t)row * 4);
        memcpy(target + k * row, (const float *)b.chain.fp + from, (size_t)row * 4);
    }
    nano_check(rh_block_forward(b.block, RH_WEIGHTS_QUANTIZED, x, y, BATCH, TOKENS, false, NULL,
                                &err),
               &err);
    double loss = 0.0;
    for (int64_t i = 0; i < BATCH * row; i++)
        loss += ((double)y[i] - (double)target[i]) * ((double)y[i] - (double)target[i]);
    loss /= (double)(BATCH * row);
    assert_true(fabs(loss - result.best_loss) <= 1e-6 * loss);
    rh_free(x);
    rh_free(y);
    rh_free(target);
    bench_close(&b);
}

static void the_block_holds_the_kept_parameters_afterwards(void **state)
{
    (void)state;
    check_what_the_block_holds(false);
    check_what_the_block_holds(true);
}

static void assert_same_result(const struct bench *a, const struct bench *b)
{
    struct rh_tuned first;
    struct rh_tuned second;
    nano_check(rh_tuned_take(a->tuner, &first, NULL), NULL);
    nano_check(rh_tuned_take(b->tuner, &second, NULL), NULL);
    assert_true(first.count > 0 && first.count == second.count);
    for (size_t i = 0; i < first.count; i++) {
        const struct rh_tuned_linear *x = &first.linears[i];
        const struct rh_tuned_linear *y = &second.linears[i];
        int64_t groups = x->out_features * rh_scheme_groups(&x->scheme, x->in_features);
        assert_memory_equal(x->codes, y->codes, (size_t)(x->out_features * x->in_features));
        assert_memory_equal(x->scales, y->scales, (size_t)groups * 2);
        if (x->zeros)
            assert_memory_equal(x->zeros, y->zeros, (size_t)groups);
    }
    rh_tuned_done(&first);
    rh_tuned_done(&second);
}

static void results_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    static const char *const asym[] = {"quant.sym=false", "quant.group_size=32", NULL};
    for (int64_t index = 0; index < 4; index += 3) {
        for (int k = 0; k < 2; k++) {
            struct rh_error err;
            struct rh_tune_options options = {.iters = 4, .rows = BATCH, .batch_size = 2,
                                              .lr = 0.02, .minmax = true, .search = k == 1};
            struct bench one;
            struct bench three;
            struct rh_tune_result a;
            struct rh_tune_result b;
            bench_open(&one, k ? asym : NULL, 1, index, ROWS, TOKENS, &options);
            bench_open(&three, k ? asym : NULL, 3, index, ROWS, TOKENS, &options);
            nano_check(tune(&one, NULL, &a, &err), &err);
            nano_check(tune(&three, NULL, &b, &err), &err);
            assert_memory_equal(&a, &b, sizeof a);
            assert_true(a.best_iter > 0);
            assert_same_result(&one, &three);
            bench_close(&one);
            bench_close(&three);
        }
    }
}

static void an_iteration_may_be_cut_into_batches(void **state)
{
    (void)state;
    double losses[3][3];
    for (int k = 0; k < 3; k++) { /* 4, 2 + 2, 3 + 1 rows */
        static const int64_t sizes[] = {4, 2, 3};
        struct rh_error err;
        struct rh_tune_options options = {.iters = 3, .rows = BATCH, .batch_size = sizes[k],
                                          .lr = 0.01, .minmax = true};
        struct bench b;
        bench_open(&b, NULL, 2, 3, ROWS, TOKENS, &options);
        struct trace trace = {0};
        struct rh_tune_watch watch = {record, &trace};
        struct rh_tune_result result;
        nano_check(tune(&b, &watch, &result, &err), &err);
        memcpy(losses[k], trace.losses, sizeof losses[k]);
        assert_true(losses[k][1] != losses[k][0]);
        bench_close(&b);
    }
    for (int k = 1; k < 3; k++) {
        assert_true(fabs(losses[k][0] - losses[0][0]) <= 1e-6 * losses[0][0]);
        /* Gradients summed in another order change a few signs of nearly zero gradients. */
        assert_true(fabs(losses[k][1] - losses[0][1]) <= 1e-3 * losses[0][1]);
        assert_true(fabs(losses[k][2] - losses[0][2]) <= 1e-2 * losses[0][2]);
    }
}

static bool is_rounded(const struct bench *b, const struct rh_tuned *tuned, size_t i, bool search)
{
    const struct rh_tuned_linear *q = &tuned->linears[i];
    const float *weight = rh_block_arenas(b->block)->weights;
    weight += rh_block_linear_at(b->block, i)->at;
    size_t n = (size_t)(q->out_features * q->in_features);
    size_t groups = (size_t)(q->out_features * rh_scheme_groups(&q->scheme, q->in_features));
    uint8_t *codes = rh_alloc(n);
    uint8_t *zeros = rh_alloc(groups);
    uint16_t *scales = rh_alloc_array(groups, 2);
    assert_int_equal(rh_round_to_nearest(&q->scheme, weight, q->out_features, q->in_features,
                                         search, codes, scales, zeros, NULL),
                     RH_OK);
    bool same = memcmp(codes, q->codes, n) == 0 && memcmp(scales, q->scales, groups * 2) == 0;
    rh_free(codes);
    rh_free(zeros);
    rh_free(scales);
    return same;
}

static bool is_rounded_to_nearest(const struct bench *b, const struct rh_tuned *tuned, size_t i)
{
    return is_rounded(b, tuned, i, false);
}

static void check_without_iterations(bool search)
{
    struct rh_error err;
    struct rh_tune_options options = {.rows = BATCH, .batch_size = BATCH, .minmax = true,
                                      .search = search};
    struct bench b;
    bench_open(&b, NULL, 2, 0, ROWS, TOKENS, &options);
    struct rh_tune_result result = {1.0, 1.0, 1};
    nano_check(tune(&b, NULL, &result, &err), &err);
    assert_true(result.init_loss == 0.0 && result.best_iter == 0);
    struct rh_tuned tuned;
    nano_check(rh_tuned_take(b.tuner, &tuned, &err), &err);
    for (size_t i = 0; i < tuned.count; i++)
        assert_true(is_rounded(&b, &tuned, i, search) && !is_rounded(&b, &tuned, i, !search));
    rh_tuned_done(&tuned);
    bench_close(&b);
}

static void no_iterations_round_to_nearest(void **state)
{
    (void)state;
    check_without_iterations(false);
    check_without_iterations(true);
}

static void a_searched_range_begins_with_a_lower_loss(void **state)
{
    (void)state;
    for (int64_t index = 0; index < 4; index += 3) {
        double losses[2];
        for (int search = 0; search < 2; search++) {
            struct rh_error err;
            struct rh_tune_options options = {.iters = 1, .rows = ROWS, .batch_size = ROWS,
                                              .minmax = true, .search = search == 1};
            struct rh_tune_result result;
            struct bench b;
            bench_open(&b, NULL, 2, index, ROWS, TOKENS, &options);
            nano_check(tune(&b, NULL, &result, &err), &err);
            losses[search] = result.init_loss;
            bench_close(&b);
        }
        print_message("block %lld: %.4e, without search %.4e\n", (long long)index, losses[1],
                      losses[0]);
        assert_true(losses[1] < losses[0]);
    }
}

static void an_expert_without_tokens_stays_rounded_to_nearest(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_tune_options options = {.iters = 3, .rows = 1, .batch_size = 1, .lr = 0.01,
                                      .minmax = true};
    struct bench b;
    bench_open(&b, NULL, 2, 0, 1, 2, &options); /* two tokens: four experts of eight at a time */
    struct rh_tune_result result;
    nano_check(tune(&b, NULL, &result, &err), &err);
    assert_true(result.best_iter > 0);
    struct rh_tuned tuned;
    nano_check(rh_tuned_take(b.tuner, &tuned, &err), &err);
    int untouched = 0;
    int moved = 0;
    for (size_t i = 0; i < tuned.count; i++) {
        const char *name = rh_block_linear_at(b.block, i)->linear->name;
        const char *expert = strstr(name, ".experts.");
        bool reached = !expert || b.reached[expert[strlen(".experts.")] - '0'] > 0;
        assert_true(reached || is_rounded_to_nearest(&b, &tuned, i));
        untouched += !reached;
        moved += !is_rounded_to_nearest(&b, &tuned, i);
    }
    rh_tuned_done(&tuned);
    assert_true(untouched >= 3 && moved > 0); /* a whole expert at least: the case is there */
    bench_close(&b);
}

static void damaged_numbers_and_watchers_end_the_loop(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_tune_options options = {.iters = 5, .rows = BATCH, .batch_size = BATCH,
                                      .minmax = true};
    struct rh_tune_result result;
    struct bench b;
    bench_open(&b, NULL, 2, 0, ROWS, TOKENS, &options);
    struct trace trace = {.stop_after = 2};
    struct rh_tune_watch watch = {record, &trace};
    assert_int_equal(tune(&b, &watch, &result, &err), RH_ERR_CANCELLED);
    assert_int_equal(trace.count, 2);
    bench_close(&b);

    bench_open(&b, NULL, 2, 0, ROWS, TOKENS, &options);
    ((float *)b.chain.fp)[b.order[2 * BATCH] * TOKENS * b.chain.hidden + 5] = NAN;
    int64_t first = 2;
    for (int64_t t = 1; t >= 0; t--) {
        for (int64_t k = 0; k < BATCH; k++)
            first = b.order[t * BATCH + k] == b.order[2 * BATCH] ? t : first;
    }
    char *expected = rh_format("iteration %lld: the loss is", (long long)first);
    assert_int_equal(tune(&b, NULL, &result, &err), RH_ERR_NUMERIC);
    assert_non_null(strstr(err.message, expected));
    rh_free(expected);
    bench_close(&b);
}

static void rates_are_the_recurrence_of_torch(void **state)
{
    (void)state;
    float rate = (float)(1.0 / 200.0);
    for (int64_t i = 1; i < 200; i++) {
        rate = rh_tune_next_rate(rate, i, 200);
        if (i == 49)
            assert_true((double)rate == 0.0037750019691884518);
    }
    assert_true((double)rate == 2.500003029126674e-05); /* the closed form gives 2.5e-05 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_follow_those_of_torch),
        cmocka_unit_test(the_block_holds_the_kept_parameters_afterwards),
        cmocka_unit_test(results_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(an_iteration_may_be_cut_into_batches),
        cmocka_unit_test(no_iterations_round_to_nearest),
        cmocka_unit_test(a_searched_range_begins_with_a_lower_loss),
        cmocka_unit_test(an_expert_without_tokens_stays_rounded_to_nearest),
        cmocka_unit_test(damaged_numbers_and_watchers_end_the_loop),
        cmocka_unit_test(rates_are_the_recurrence_of_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
