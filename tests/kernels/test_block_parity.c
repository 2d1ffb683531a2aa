/*
 * A whole block of each kind on the GPU, or on the emulated one, against the CPU: output, and gradients of all
 * linears. Routing is made to be clear-cut, for a near tie that bf16 decides otherwise would compare two different
 * functions: tokens carry two strong features, and the router looks for those.
 *
 *   test_block_parity [--orders N]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gpu_model.h"
#include "op_small.h"
#include "tensor/dtype.h"

#define BATCH 2
#define SEQ   72 /* a chunk of the delta rule and a ragged one */
#define ROWS  (BATCH * SEQ)

/*
 * Relative L2 differences. Every tensor between two ops is rounded to bf16, 1.1e-3 each in the mean square: about ten
 * roundings lie between input and output, twenty and more between input and a gradient.
 */
#define OUTPUT_BOUND   5e-3
#define GRADIENT_BOUND 2e-2

void rh_emu_set_order(uint64_t seed) __attribute__((weak));

static int failures;

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc == RH_OK)
        return;
    printf("FAIL %s\n", err->message);
    exit(1);
}

/* ---- a model whose router is sure ---- */

struct sure {
    const struct rh_tensor_source *source;
    int64_t hidden;
};

static bool is_router(const struct rh_tensor_info *tensor)
{
    static const char tail[] = "mlp.gate.weight";
    size_t n = strlen(tensor->name);
    return n >= sizeof tail - 1 && strcmp(tensor->name + n - (sizeof tail - 1), tail) == 0;
}

static const struct rh_tensor_info *find(const void *arg, const char *name)
{
    const struct sure *s = arg;
    return s->source->find(s->source->arg, name);
}

/* Expert e looks at feature e. */
static enum rh_rc read_sure(const void *arg, const struct rh_tensor_info *tensor, uint64_t begin,
                            uint64_t size, void *buffer, struct rh_error *err)
{
    const struct sure *s = arg;
    enum rh_rc rc = s->source->read(s->source->arg, tensor, begin, size, buffer, err);
    if (rc != RH_OK || !is_router(tensor))
        return rc;
    uint16_t *values = buffer;
    for (uint64_t i = 0; i < size / 2; i++) {
        int64_t at = (int64_t)(begin / 2 + i);
        if (at / s->hidden == at % s->hidden)
            values[i] = rh_f32_to_bf16(1.5F);
    }
    return RH_OK;
}

static void add_features(uint16_t *x, int64_t hidden, int64_t experts)
{
    for (int64_t t = 0; t < ROWS; t++) {
        int64_t first = t * 3 % experts, second = (first + 1 + t / 7 % (experts - 1)) % experts;
        for (int64_t e = 0; e < experts; e++)
            x[t * hidden + e] = rh_f32_to_bf16(e == first ? 7.0F : e == second ? 4.5F : 0.25F);
    }
}

/* ---- one run ---- */

struct outcome {
    float *y, *grads;
    int64_t y_count, grad_count;
    int64_t offsets[17];
};

static float *download(struct rh_backend *b, const void *from, int64_t count)
{
    struct rh_error err;
    size_t element = rh_backend_element_size(b);
    void *there = rh_alloc((size_t)count * element);
    float *out = rh_alloc_array((size_t)count, sizeof *out);
    check(rh_backend_download(b, there, from, (size_t)count * element, &err), &err);
    rh_to_f32(rh_backend_dtype(b), there, out, (size_t)count);
    rh_free(there);
    return out;
}

static void *upload(struct rh_backend *b, const uint16_t *values, int64_t count)
{
    struct rh_error err;
    void *memory = NULL;
    float *wide = rh_alloc_array((size_t)count, sizeof *wide);
    size_t bytes = (size_t)count * rh_backend_element_size(b);
    rh_to_f32(RH_BF16, values, wide, (size_t)count);
    check(rh_backend_alloc(b, bytes, "activations", &memory, &err), &err);
    bool narrow = rh_backend_dtype(b) == RH_BF16;
    check(rh_backend_upload(b, memory, narrow ? (const void *)values : wide, bytes, &err), &err);
    rh_free(wide);
    return memory;
}

static void run_block(const char *backend, const struct gpu_model *model, enum rh_mixer mixer,
                      struct outcome *out)
{
    struct rh_error err;
    struct rh_backend *b = NULL;
    struct rh_block *block = NULL;
    struct gpu_block made;
    int64_t hidden = model->config.hidden_size, count = ROWS * hidden;
    check(rh_backend_new(backend, 0, &b, &err), &err);
    gpu_block_init(&made, model, mixer);
    struct sure sure = {&made.source, hidden};
    struct rh_tensor_source source = {"test", find, read_sure, &sure};
    check(rh_block_new_from(b, &model->config, &made.unit, &source, &block, &err), &err);
    check(rh_block_reserve(block, BATCH, SEQ, true, &err), &err);
    uint16_t *values = rh_alloc_array((size_t)count, sizeof *values);
    gpu_model_sample(model, 1, count, values);
    add_features(values, hidden, model->config.num_experts);
    void *x = upload(b, values, count), *y = upload(b, values, count);
    gpu_model_sample(model, 2, count, values);
    void *dy = upload(b, values, count);
    check(rh_block_forward(block, RH_WEIGHTS_QUANTIZED, x, y, BATCH, SEQ, true, NULL, &err), &err);
    check(rh_block_backward(block, dy, &err), &err);
    const struct rh_block_arenas *arenas = rh_block_arenas(block);
    out->y_count = count;
    out->y = download(b, y, count);
    out->grad_count = arenas->elements;
    out->grads = download(b, arenas->grads, arenas->elements);
    RH_ASSERT(rh_block_experts(block) < 17);
    check(rh_backend_download(b, out->offsets, rh_block_offsets(block),
                              (size_t)(rh_block_experts(block) + 1) * sizeof(int64_t), &err),
          &err);
    rh_free(values);
    rh_backend_release(b, x);
    rh_backend_release(b, y);
    rh_backend_release(b, dy);
    rh_block_free(block);
    gpu_block_done(&made);
    rh_backend_free(b);
}

static void free_outcome(struct outcome *o)
{
    rh_free(o->y);
    rh_free(o->grads);
}

/* ---- comparison ---- */

static double difference(const float *got, const float *want, int64_t count)
{
    double d = 0.0, size = 0.0;
    for (int64_t i = 0; i < count; i++) {
        d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
    }
    return size > 0.0 ? sqrt(d / size) : sqrt(d);
}

static double hold(const char *kind, const char *what, const float *got, const float *want,
                   int64_t count, double bound)
{
    double d = difference(got, want, count);
    if (!(d <= bound)) {
        printf("FAIL %s: %s differs by %.3g, allowed %.3g\n", kind, what, d, bound);
        failures++;
    }
    return d;
}

/* Names and places of the linears do not depend on the backend. */
static void compare_gradients(const char *kind, const struct gpu_model *model, enum rh_mixer mixer,
                              const struct outcome *got, const struct outcome *want)
{
    struct rh_error err;
    struct rh_backend *b = NULL;
    struct rh_block *block = NULL;
    struct gpu_block made;
    double worst = 0.0;
    const char *worst_name = "";
    check(rh_backend_new("cpu", 1, &b, &err), &err);
    gpu_block_init(&made, model, mixer);
    check(rh_block_new_from(b, &model->config, &made.unit, &made.source, &block, &err), &err);
    for (size_t i = 0; i < rh_block_linear_count(block); i++) {
        const struct rh_block_linear *l = rh_block_linear_at(block, i);
        int64_t count = l->linear->out_features * l->linear->in_features;
        if (l->expert >= 0 && want->offsets[l->expert + 1] == want->offsets[l->expert])
            continue;
        double d = hold(kind, l->linear->name, got->grads + l->at, want->grads + l->at, count,
                        GRADIENT_BOUND);
        if (d > worst) {
            worst = d;
            worst_name = l->linear->name;
        }
    }
    printf("%s: gradients of %zu linears differ by up to %.2g (%s)\n", kind,
           rh_block_linear_count(block), worst, worst_name);
    rh_block_free(block);
    gpu_block_done(&made);
    rh_backend_free(b);
}

static void run_kind(const char *kind, const struct gpu_model *model, enum rh_mixer mixer, int orders)
{
    struct outcome want, first = {0};
    run_block("cpu", model, mixer, &want);
    for (int order = 0; order < orders; order++) {
        struct outcome got;
        if (rh_emu_set_order)
            rh_emu_set_order((uint64_t)order * 7919);
        run_block("cuda", model, mixer, &got);
        if (order == 0) {
            first = got;
            continue;
        }
        if (memcmp(got.y, first.y, (size_t)got.y_count * sizeof(float)) != 0 ||
            memcmp(got.grads, first.grads, (size_t)got.grad_count * sizeof(float)) != 0) {
            printf("FAIL %s: run %d gives other bytes than the first\n", kind, order);
            failures++;
        }
        free_outcome(&got);
    }
    if (memcmp(first.offsets, want.offsets,
               (size_t)(model->config.num_experts + 1) * sizeof(int64_t)) != 0) {
        printf("FAIL %s: tokens went to other experts\n", kind);
        failures++;
    }
    printf("%s: output differs by %.2g\n", kind,
           hold(kind, "output", first.y, want.y, want.y_count, OUTPUT_BOUND));
    compare_gradients(kind, model, mixer, &first, &want);
    free_outcome(&first);
    free_outcome(&want);
}

int main(int argc, char **argv)
{
    struct rh_backend *gpu = NULL;
    struct rh_error err;
    struct gpu_model model;
    int orders = 2;
    if (argc >= 3 && strcmp(argv[1], "--orders") == 0)
        orders = atoi(argv[2]);
    if (argc >= 2 && strcmp(argv[argc - 1], "--small") == 0)
        rh_small_gpu();
    if (rh_backend_new("cuda", 0, &gpu, &err) != RH_OK) {
        printf("skipped: %s\n", err.message);
        return 77;
    }
    printf("%s against the CPU, %d runs each\n", rh_backend_device(gpu), orders);
    rh_backend_free(gpu);
    gpu_model_init(&model, true);
    run_kind("full attention", &model, RH_MIXER_FULL_ATTENTION, orders);
    run_kind("linear attention", &model, RH_MIXER_LINEAR_ATTENTION, orders);
    gpu_model_done(&model);
    printf(failures ? "%d failures\n" : "all within their bounds\n", failures);
    return failures != 0;
}
