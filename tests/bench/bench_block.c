/* Time of the tuning of every block of a checkpoint on random input, op by op:
 *   bench_block MODEL_DIR BATCH SEQ ITERATIONS [THREADS [LAYER]]
 * First whole iterations of the loop, then as many with every op timed by itself. A command to
 * compare versions on one machine; the numbers depend on it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "models/block.h"
#include "op_timer.h"
#include "tuning/tuner.h"

struct bench {
    struct rh_backend *backend;
    const struct rh_model_plan *plan;
    int64_t batch, seq, iterations;
    float *input, *target; /* [batch, seq, hidden] */
    int64_t *order;
};

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK) {
        fprintf(stderr, "bench_block: %s\n", err->message);
        exit(1);
    }
}

static float *random_rows(uint32_t seed, int64_t count)
{
    float *x = rh_alloc_array((size_t)count, sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525U + 1013904223U;
        x[i] = (float)(int32_t)seed / 2147483648.0F;
    }
    return x;
}

/* Seconds of `iterations` of the loop, and the loss it came to. */
static double tune(const struct bench *b, struct rh_block *block, int64_t iterations, double *loss)
{
    struct rh_error err;
    struct rh_tuner *tuner = NULL;
    struct rh_tune_options options = {
        .iters = iterations, .rows = b->batch, .batch_size = b->batch, .minmax = true};
    int64_t hidden = b->plan->config.hidden_size;
    struct rh_tune_data data = {b->batch, b->seq, hidden, b->input, b->target, b->order};
    struct rh_tune_result result;
    check(rh_tuner_new(b->backend, block, &options, b->seq, hidden, &tuner, &err), &err);
    int64_t begun = rh_clock_ns();
    check(rh_tune_block(tuner, &data, NULL, NULL, &result, &err), &err);
    double seconds = (double)(rh_clock_ns() - begun) * 1e-9;
    *loss = result.best_loss;
    rh_tuner_free(tuner);
    return seconds;
}

static void bench(const struct bench *b, const struct rh_safetensors *weights, int64_t layer)
{
    struct rh_error err;
    struct rh_block *block = NULL;
    double loss = 0.0;
    check(rh_block_new(b->backend, &b->plan->config, rh_model_plan_block(b->plan, layer), weights,
                       &block, &err),
          &err);
    check(rh_block_reserve(block, b->batch, b->seq, true, &err), &err);
    tune(b, block, 1, &loss); /* warms up */
    double seconds = tune(b, block, b->iterations, &loss);
    printf("block %lld: %.2f ms an iteration, loss %.9g\n", (long long)layer,
           seconds * 1e3 / (double)b->iterations, loss);
    rh_block_free(block);
    /* Blocks take the backend's table of ops when they are made. */
    op_timer_start(b->backend);
    check(rh_block_new(b->backend, &b->plan->config, rh_model_plan_block(b->plan, layer), weights,
                       &block, &err),
          &err);
    check(rh_block_reserve(block, b->batch, b->seq, true, &err), &err);
    tune(b, block, b->iterations, &loss);
    op_timer_stop(b->backend, b->iterations);
    rh_block_free(block);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench_block MODEL_DIR BATCH SEQ ITERATIONS [THREADS [LAYER]]\n");
        return 2;
    }
    struct rh_error err;
    struct rh_recipe *recipe = NULL;
    struct rh_model_plan *plan = NULL;
    struct bench b = {.batch = atoll(argv[2]), .seq = atoll(argv[3]), .iterations = atoll(argv[4])};
    struct rh_json *empty = rh_json_new_object();
    check(rh_recipe_from_json(empty, "empty recipe", &recipe, &err), &err);
    rh_json_free(empty);
    check(rh_model_plan_new(argv[1], recipe, &plan, &err), &err);
    check(rh_backend_new("cpu", argc > 5 ? atoi(argv[5]) : 0, &b.backend, &err), &err);
    b.plan = plan;
    b.input = random_rows(1, b.batch * b.seq * plan->config.hidden_size);
    b.target = random_rows(2, b.batch * b.seq * plan->config.hidden_size);
    b.order = rh_alloc_array((size_t)(b.iterations * b.batch), sizeof *b.order);
    for (int64_t i = 0; i < b.iterations * b.batch; i++)
        b.order[i] = i % b.batch;
    for (int64_t layer = 0; layer < plan->config.num_hidden_layers; layer++) {
        if (argc > 6 && layer != atoll(argv[6]))
            continue;
        const struct rh_unit *unit = rh_model_plan_block(plan, layer);
        char *path = rh_fs_join(argv[1], plan->files[unit->tensors[0].file]);
        struct rh_safetensors *weights = NULL;
        check(rh_safetensors_open(path, &weights, &err), &err);
        bench(&b, weights, layer);
        rh_safetensors_close(weights);
        rh_free(path);
    }
    rh_free(b.input);
    rh_free(b.target);
    rh_free(b.order);
    rh_backend_free(b.backend);
    rh_model_plan_free(plan);
    rh_recipe_free(recipe);
    return 0;
}
