/* Time of forward and backward of every block of a checkpoint, on random input:
 *   bench_block MODEL_DIR BATCH SEQ ITERATIONS [THREADS]
 * A command to compare versions on one machine; the numbers depend on it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "models/block.h"

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK) {
        fprintf(stderr, "bench_block: %s\n", err->message);
        exit(1);
    }
}

static void bench(struct rh_backend *backend, const struct rh_model_plan *plan,
                  const struct rh_safetensors *weights, int64_t layer, int64_t batch, int64_t seq,
                  int iterations)
{
    struct rh_error err;
    struct rh_block *block = NULL;
    int64_t count = batch * seq * plan->config.hidden_size;
    float *x = rh_alloc_array((size_t)count, sizeof *x);
    float *y = rh_alloc_array((size_t)count, sizeof *y);
    uint32_t seed = 1;
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525U + 1013904223U;
        x[i] = (float)(int32_t)seed / 2147483648.0F;
    }
    check(rh_block_new(backend, &plan->config, rh_model_plan_block(plan, layer), weights, &block,
                       &err),
          &err);
    check(rh_block_reserve(block, batch, seq, true, &err), &err);
    int64_t forward = 0;
    int64_t backward = 0;
    for (int i = -1; i < iterations; i++) {
        int64_t t0 = rh_clock_ns();
        check(rh_block_forward(block, RH_WEIGHTS_QUANTIZED, x, y, batch, seq, true, NULL, &err),
              &err);
        int64_t t1 = rh_clock_ns();
        check(rh_block_backward(block, y, &err), &err);
        int64_t t2 = rh_clock_ns();
        forward += i < 0 ? 0 : t1 - t0; /* the first one warms up */
        backward += i < 0 ? 0 : t2 - t1;
    }
    printf("block %lld: forward %.2f ms, backward %.2f ms\n", (long long)layer,
           (double)forward / 1e6 / iterations, (double)backward / 1e6 / iterations);
    rh_block_free(block);
    rh_free(x);
    rh_free(y);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: bench_block MODEL_DIR BATCH SEQ ITERATIONS [THREADS]\n");
        return 2;
    }
    struct rh_error err;
    struct rh_recipe *recipe = NULL;
    struct rh_model_plan *plan = NULL;
    struct rh_backend *backend = NULL;
    struct rh_json *empty = rh_json_new_object();
    check(rh_recipe_from_json(empty, "empty recipe", &recipe, &err), &err);
    rh_json_free(empty);
    check(rh_model_plan_new(argv[1], recipe, &plan, &err), &err);
    check(rh_backend_new("cpu", argc > 5 ? atoi(argv[5]) : 0, &backend, &err), &err);
    for (int64_t layer = 0; layer < plan->config.num_hidden_layers; layer++) {
        const struct rh_unit *unit = rh_model_plan_block(plan, layer);
        char *path = rh_fs_join(argv[1], plan->files[unit->tensors[0].file]);
        struct rh_safetensors *weights = NULL;
        check(rh_safetensors_open(path, &weights, &err), &err);
        bench(backend, plan, weights, layer, atoll(argv[2]), atoll(argv[3]), atoi(argv[4]));
        rh_safetensors_close(weights);
        rh_free(path);
    }
    rh_backend_free(backend);
    rh_model_plan_free(plan);
    rh_recipe_free(recipe);
    return 0;
}
