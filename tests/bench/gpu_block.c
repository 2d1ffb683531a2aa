/*
 * One tuned block of each kind, shapes of Qwen3.6-35B-A3B, as rh-quantize runs it:
 *   gpu_block [--backend cuda] [--kind full|linear] [--batch N] [--cut N] [--host-chains] [--seq N]
 *             [--samples N] [--iters N] [--tiny]
 * --cut N: rows of one forward and backward, gradients summed (for small GPUs); --host-chains: the
 * calibration activations in pinned host memory.
 * Seconds per phase, against what this GPU gives cuBLAS and copies in the same run; then the whole
 * recipe (40 blocks, 400 iterations), extrapolated. Weights and activations are made up
 * (gpu_model.h); losses mean nothing, times do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "gpu_model.h"
#include "op_timer.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/tuner.h"

#define REPEATS 5

struct bench {
    struct rh_backend *backend;
    struct gpu_model model;
    const char *kind; /* NULL: both */
    int64_t batch, cut, seq, samples, iters;
    bool host_chains;
    double peak, bandwidth; /* FLOP/s of a large product, bytes/s of a copy, read and write */
    struct rh_error err;
};

/* Of one block. */
struct times {
    double load, reserve, source, start, iteration, restore, quantized, take, forward, backward;
    double first_loss, best_loss;
    size_t memory;
};

static void check(enum rh_rc rc, const struct bench *b)
{
    if (rc != RH_OK) {
        fprintf(stderr, "gpu_block: %s\n", b->err.message);
        exit(1);
    }
}

static void synchronize(struct bench *b)
{
    check(rh_backend_sync(b->backend, &b->err), b);
}

/* Seconds since *at, after the queue; *at becomes now. */
static double lap(struct bench *b, int64_t *at)
{
    synchronize(b);
    int64_t now = rh_clock_ns();
    double seconds = (double)(now - *at) * 1e-9;
    *at = now;
    return seconds;
}

static void *backend_memory(struct bench *b, size_t bytes)
{
    void *memory = NULL;
    check(rh_backend_alloc(b->backend, bytes, "benchmark", &memory, &b->err), b);
    return memory;
}

static void fill_random(struct bench *b, void *to, int64_t count)
{
    size_t element = rh_backend_element_size(b->backend);
    uint16_t *values = rh_alloc_array((size_t)count, sizeof *values);
    gpu_model_sample(&b->model, 3, count, values);
    void *own = values;
    if (rh_backend_dtype(b->backend) == RH_F32) {
        own = rh_alloc_array((size_t)count, sizeof(float));
        rh_to_f32(RH_BF16, values, own, (size_t)count);
    }
    check(rh_backend_upload(b->backend, to, own, (size_t)count * element, &b->err), b);
    if (own != values)
        rh_free(own);
    rh_free(values);
}

static void measure_ceilings(struct bench *b, bool tiny)
{
    int64_t n = tiny ? 128 : 8192;
    size_t element = rh_backend_element_size(b->backend);
    size_t bytes = (size_t)(n * n) * element;
    void *x = backend_memory(b, bytes);
    void *y = backend_memory(b, bytes);
    void *z = backend_memory(b, bytes);
    fill_random(b, x, n * n);
    fill_random(b, y, n * n);
    struct rh_matmul p = {.form = RH_NT, .m = n, .n = n, .k = n, .a = x, .lda = n, .b = y, .ldb = n,
                          .c = z, .ldc = n};
    rh_backend_ops(b->backend)->matmul(b->backend, &p);
    rh_backend_copy(b->backend, z, x, bytes);
    synchronize(b);
    int64_t at = rh_clock_ns();
    for (int i = 0; i < 4 * REPEATS; i++)
        rh_backend_ops(b->backend)->matmul(b->backend, &p);
    b->peak = 2.0 * (double)n * (double)n * (double)n * 4 * REPEATS / lap(b, &at);
    for (int i = 0; i < 20 * REPEATS; i++)
        rh_backend_copy(b->backend, i % 2 ? z : y, x, bytes);
    b->bandwidth = 2.0 * (double)bytes * 20 * REPEATS / lap(b, &at);
    rh_backend_release(b->backend, x);
    rh_backend_release(b->backend, y);
    rh_backend_release(b->backend, z);
}

static void fill_chain(struct bench *b, struct rh_chain *chain)
{
    check(rh_chain_new(b->backend, b->host_chains, b->samples, b->seq, b->model.config.hidden_size, chain,
                       &b->err),
          b);
    int64_t row = chain->seq * chain->hidden;
    uint16_t *values = rh_alloc_array((size_t)row, sizeof *values);
    float *wide = rh_alloc_array((size_t)row, sizeof *wide);
    bool narrow = rh_backend_dtype(b->backend) == RH_BF16;
    for (int64_t i = 0; i < b->samples; i++) {
        gpu_model_sample(&b->model, i, row, values);
        rh_to_f32(RH_BF16, values, wide, (size_t)row);
        void *to = rh_chain_rows(chain, chain->fp, i);
        const void *from = narrow ? (void *)values : (void *)wide;
        size_t bytes = (size_t)row * rh_backend_element_size(b->backend);
        if (b->host_chains)
            memcpy(to, from, bytes);
        else
            check(rh_backend_upload(b->backend, to, from, bytes, &b->err), b);
    }
    rh_backend_copy(b->backend, chain->quant, chain->fp, rh_chain_bytes(chain));
    synchronize(b);
    rh_free(values);
    rh_free(wide);
}

static enum rh_rc note_loss(void *arg, int64_t iter, double loss, double best, struct rh_error *err)
{
    (void)err;
    struct times *t = arg;
    if (iter == 0)
        t->first_loss = loss;
    t->best_loss = best;
    return RH_OK;
}

/* Forward and backward by themselves; the rest of an iteration is gather, loss and update. */
static void measure_passes(struct bench *b, struct rh_block *block, const struct rh_chain *chain,
                           struct times *t)
{
    size_t bytes = rh_chain_bytes(chain) / (size_t)chain->samples * (size_t)b->cut;
    void *x = backend_memory(b, bytes);
    void *y = backend_memory(b, bytes);
    void *dy = backend_memory(b, bytes);
    rh_backend_copy(b->backend, x, chain->quant, bytes);
    rh_backend_copy(b->backend, dy, chain->fp, bytes);
    synchronize(b);
    for (int i = -1; i < REPEATS; i++) {
        int64_t at = rh_clock_ns();
        check(rh_block_forward(block, RH_WEIGHTS_QUANTIZED, x, y, b->cut, b->seq, true, NULL,
                               &b->err),
              b);
        double forward = lap(b, &at);
        check(rh_block_backward(block, dy, &b->err), b);
        double backward = lap(b, &at);
        double batches = (double)b->batch / (double)b->cut / REPEATS;
        t->forward += i < 0 ? 0.0 : forward * batches; /* the first one warms up */
        t->backward += i < 0 ? 0.0 : backward * batches;
    }
    rh_backend_release(b->backend, x);
    rh_backend_release(b->backend, y);
    rh_backend_release(b->backend, dy);
}

/* The ops of two iterations, each waited for. */
static void measure_ops(struct bench *b, const struct gpu_block *made, const struct rh_chain *chain,
                        const int64_t *order)
{
    struct rh_block *block = NULL;
    struct rh_tuner *tuner = NULL;
    struct rh_tune_options options = {.iters = 2, .rows = b->batch, .batch_size = b->cut,
                                      .minmax = true};
    struct rh_tune_result result;
    struct rh_tune_data data = {b->samples, b->seq, chain->hidden, chain->quant, chain->fp, order};
    op_timer_start(b->backend);
    check(rh_block_new_from(b->backend, &b->model.config, &made->unit, &made->source, &block,
                            &b->err),
          b);
    check(rh_block_reserve(block, b->cut, b->seq, true, &b->err), b);
    check(rh_tuner_new(b->backend, block, &options, b->seq, chain->hidden, &tuner, &b->err), b);
    check(rh_tune_block(tuner, &data, NULL, NULL, &result, &b->err), b);
    printf("  ops of an iteration:\n");
    op_timer_stop(b->backend, options.iters);
    rh_tuner_free(tuner);
    rh_block_free(block);
}

static int64_t *make_order(const struct bench *b)
{
    int64_t *order = rh_alloc_array((size_t)(b->iters * b->batch), sizeof *order);
    for (int64_t i = 0; i < b->iters * b->batch; i++)
        order[i] = (i * 37 + i / b->samples) % b->samples;
    return order;
}

static void print_phase(const char *name, double seconds, double flops, double bytes,
                        const struct bench *b)
{
    printf("  %-34s %10.3f ms", name, seconds * 1e3);
    if (flops > 0.0)
        printf("  %7.1f TFLOP/s, %3.0f %% of cuBLAS", flops / seconds * 1e-12,
               100.0 * flops / seconds / b->peak);
    if (bytes > 0.0)
        printf("  %7.1f GB/s, %3.0f %% of a copy", bytes / seconds * 1e-9,
               100.0 * bytes / seconds / b->bandwidth);
    printf("\n");
}

static double fixed_cost(const struct times *t)
{
    return t->load + t->reserve + t->source + t->start + t->quantized + t->take;
}

static void print_block(const struct bench *b, enum rh_mixer mixer, const struct times *t)
{
    struct gpu_flops flops = gpu_model_flops(&b->model.config, mixer, b->batch, b->seq);
    double passes = (double)b->samples / (double)b->batch;
    double chain = 2.0 * (double)(b->samples * b->seq * b->model.config.hidden_size);
    printf("%s-attention block, batch %lld x %lld in parts of %lld, %lld samples on the %s, %lld "
           "iterations\n",
           mixer == RH_MIXER_FULL_ATTENTION ? "full" : "linear", (long long)b->batch,
           (long long)b->seq, (long long)b->cut, (long long)b->samples,
           b->host_chains ? "host" : "device", (long long)b->iters);
    print_phase("weights: make and upload", t->load, 0.0, 0.0, b);
    print_phase("buffers", t->reserve, 0.0, 0.0, b);
    print_phase("source forward, all samples", t->source, flops.forward * passes, 0.0, b);
    print_phase("quantizer start", t->start, 0.0, 0.0, b);
    print_phase("quantized forward, all samples", t->quantized, flops.forward * passes, 0.0, b);
    print_phase("codes to the host", t->take, 0.0, 0.0, b);
    print_phase("one iteration", t->iteration, flops.forward + flops.backward, 0.0, b);
    print_phase("  forward", t->forward, flops.forward, 0.0, b);
    print_phase("  backward", t->backward, flops.backward, 0.0, b);
    print_phase("  gather, loss, update", t->iteration - t->forward - t->backward, 0.0, 0.0, b);
    printf("  %.2f iterations/s; fixed cost %.2f s (of it %.2f s weights, loaded behind the block "
           "before)\n",
           1.0 / t->iteration, fixed_cost(t), t->load);
    printf("  GPU memory %.2f GB, of it chains %.2f GB; loss %.4e -> %.4e\n",
           (double)t->memory * 1e-9, b->host_chains ? 0.0 : 2.0 * chain * 1e-9, t->first_loss,
           t->best_loss);
}

static void run_block(struct bench *b, enum rh_mixer mixer, struct rh_chain *chain, struct times *t)
{
    struct gpu_block made;
    struct rh_block *block = NULL;
    struct rh_tuner *tuner = NULL;
    struct rh_tune_options options = {.iters = b->iters, .rows = b->batch, .batch_size = b->cut,
                                      .minmax = true};
    struct rh_tune_result result;
    struct rh_tune_watch watch = {note_loss, t};
    struct rh_tuned tuned;
    double loss = 0.0;
    size_t available = 0;
    size_t total = 0;
    int64_t *order = make_order(b);
    gpu_block_init(&made, &b->model, mixer);
    int64_t at = rh_clock_ns();
    check(rh_block_new_from(b->backend, &b->model.config, &made.unit, &made.source, &block, &b->err),
          b);
    t->load = lap(b, &at);
    check(rh_block_reserve(block, b->cut, b->seq, true, &b->err), b);
    t->reserve = lap(b, &at);
    check(rh_forward_source(b->backend, block, b->cut, chain, NULL, NULL, &b->err), b);
    t->source = lap(b, &at);
    check(rh_tuner_new(b->backend, block, &options, b->seq, chain->hidden, &tuner, &b->err), b);
    t->start = lap(b, &at);
    struct rh_tune_data data = {b->samples, b->seq, chain->hidden, chain->quant, chain->fp, order};
    check(rh_tune_block(tuner, &data, &watch, NULL, &result, &b->err), b);
    t->iteration = lap(b, &at) / (double)b->iters;
    rh_backend_memory(b->backend, &available, &total);
    t->memory = total - available;
    check(rh_forward_quantized(b->backend, block, b->cut, true, chain, &loss, NULL, &b->err), b);
    t->quantized = lap(b, &at);
    check(rh_tuned_take(tuner, &tuned, &b->err), b);
    t->take = lap(b, &at);
    measure_passes(b, block, chain, t);
    rh_tuned_done(&tuned);
    rh_tuner_free(tuner);
    rh_block_free(block);
    print_block(b, mixer, t);
    measure_ops(b, &made, chain, order);
    gpu_block_done(&made);
    rh_free(order);
}

static void extrapolate(const struct times *linear, const struct times *full)
{
    double per_linear = 400.0 * linear->iteration + fixed_cost(linear) - linear->load;
    double per_full = 400.0 * full->iteration + fixed_cost(full) - full->load;
    double total = 30.0 * per_linear + 10.0 * per_full;
    printf("extrapolated, not measured: 30 linear and 10 full blocks, 400 iterations each, weights "
           "loaded behind the tuning: %.0f s = %.1f minutes\n",
           total, total / 60.0);
}

static int64_t number(const char *text)
{
    char *end = NULL;
    long long value = strtoll(text, &end, 10);
    if (*end != '\0' || value <= 0) {
        fprintf(stderr, "gpu_block: \"%s\" is no positive number\n", text);
        exit(2);
    }
    return value;
}

static void parse(struct bench *b, int argc, char **argv, const char **backend, bool *tiny)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        struct {
            const char *name;
            int64_t *to;
        } numbers[] = {{"--batch", &b->batch}, {"--cut", &b->cut}, {"--seq", &b->seq},
                       {"--samples", &b->samples}, {"--iters", &b->iters}};
        bool known = false;
        for (size_t k = 0; k < 5 && value; k++) {
            if (strcmp(argv[i], numbers[k].name) == 0) {
                *numbers[k].to = number(value);
                known = true;
            }
        }
        if (!known && value && strcmp(argv[i], "--backend") == 0) {
            *backend = value;
            known = true;
        } else if (!known && value && strcmp(argv[i], "--kind") == 0) {
            b->kind = value;
            known = true;
        } else if (strcmp(argv[i], "--tiny") == 0) {
            *tiny = true;
            continue;
        } else if (strcmp(argv[i], "--host-chains") == 0) {
            b->host_chains = true;
            continue;
        }
        if (!known) {
            fprintf(stderr, "gpu_block: unknown argument \"%s\"; see the head of gpu_block.c\n",
                    argv[i]);
            exit(2);
        }
        i++;
    }
}

int main(int argc, char **argv)
{
    struct bench b = {.batch = 8, .seq = 4096, .samples = 256, .iters = 30};
    const char *backend = "cuda";
    bool tiny = false;
    parse(&b, argc, argv, &backend, &tiny);
    if (tiny && b.seq == 4096)
        b.batch = 2, b.seq = 64, b.samples = 4, b.iters = 3;
    if (b.cut == 0 || b.cut > b.batch)
        b.cut = b.batch;
    gpu_model_init(&b.model, tiny);
    check(rh_backend_new(backend, 0, &b.backend, &b.err), &b);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%s, %s\n", rh_backend_name(b.backend), rh_backend_device(b.backend));
    measure_ceilings(&b, tiny);
    printf("ceilings: product %.0f TFLOP/s, copy %.0f GB/s (read and write)\n", b.peak * 1e-12,
           b.bandwidth * 1e-9);
    struct rh_chain chain;
    struct times linear = {0};
    struct times full = {0};
    fill_chain(&b, &chain);
    bool one = b.kind != NULL;
    if (!one || strcmp(b.kind, "linear") == 0)
        run_block(&b, RH_MIXER_LINEAR_ATTENTION, &chain, &linear);
    if (!one || strcmp(b.kind, "full") == 0)
        run_block(&b, RH_MIXER_FULL_ATTENTION, &chain, &full);
    if (!one && !tiny)
        extrapolate(&linear, &full);
    rh_chain_done(&chain);
    rh_backend_free(b.backend);
    gpu_model_done(&b.model);
    return 0;
}
