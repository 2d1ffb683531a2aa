#include "tuning/tuner.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread_pool.h"

/* auto-round's factor of the loss before backward; it decides which gradients of the scales, which
 * are rounded to fp16, are still different from zero. */
#define LOSS_SCALE 1000.0F

struct rh_tuner {
    struct rh_backend *backend;
    struct rh_block *block; /* borrowed */
    struct rh_tune_options options;
    int64_t batch_elements;
    struct rh_fake_quant *items;
    float **sums; /* of the gradients of an iteration; NULL when it is one batch */
    int64_t count;
    void *memory; /* of all items */
    void *batch_memory;
    float *x, *target, *pred, *dy; /* [batch_size, seq, hidden] */
};

/* Two passes over one list: sizes first, then places. */
struct carver {
    char *base; /* NULL: only measure */
    size_t used;
};

static void *carve(struct carver *c, int64_t count, size_t size)
{
    size_t at = c->used;
    c->used += ((size_t)count * size + 63) / 64 * 64;
    return c->base ? c->base + at : NULL;
}

static bool several_batches(const struct rh_tuner *t)
{
    return t->options.rows > t->options.batch_size;
}

static size_t carve_items(struct rh_tuner *t, char *base)
{
    struct carver c = {base, 0};
    for (int64_t i = 0; i < t->count; i++) {
        struct rh_fake_quant *q = &t->items[i];
        int64_t weights = q->out_features * q->in_features;
        int64_t groups = q->out_features * rh_scheme_groups(&q->scheme, q->in_features);
        q->v = carve(&c, weights, sizeof *q->v);
        q->lo = carve(&c, groups, sizeof *q->lo);
        q->hi = carve(&c, groups, sizeof *q->hi);
        q->alpha = carve(&c, groups, sizeof *q->alpha);
        q->beta = carve(&c, groups, sizeof *q->beta);
        q->codes = carve(&c, weights, sizeof *q->codes);
        q->scales = carve(&c, groups, sizeof *q->scales);
        q->zeros = q->scheme.sym ? NULL : carve(&c, groups, sizeof *q->zeros);
        if (t->options.iters > 0 && several_batches(t)) {
            t->sums[i] = carve(&c, weights, sizeof(float));
            q->grad = t->sums[i];
        }
    }
    return c.used;
}

static void describe_items(struct rh_tuner *t)
{
    for (int64_t i = 0; i < t->count; i++) {
        const struct rh_block_linear *b = rh_block_linear_at(t->block, (size_t)i);
        t->items[i] = (struct rh_fake_quant){
            .scheme = {b->linear->bits, b->linear->sym, b->linear->group_size},
            .out_features = b->linear->out_features,
            .in_features = b->linear->in_features,
            .weight = b->weight,
            .grad = b->grad,
            .weight_q = b->weight_q,
        };
    }
}

static enum rh_rc make_items(struct rh_tuner *t, struct rh_error *err)
{
    t->count = (int64_t)rh_block_linear_count(t->block);
    t->items = rh_alloc_array((size_t)t->count + 1, sizeof *t->items);
    t->sums = rh_alloc_array((size_t)t->count + 1, sizeof *t->sums);
    describe_items(t);
    enum rh_rc rc =
        rh_try_alloc(carve_items(t, NULL) + 64, "tuning parameters of a block", &t->memory, err);
    if (rc != RH_OK)
        return rc;
    carve_items(t, t->memory);
    int64_t bad = -1;
    rc = rh_fake_quant_start(rh_backend_pool(t->backend), t->items, t->count, &bad, err);
    if (rc != RH_OK && bad >= 0)
        return rh_error_prefix(err, "%s",
                               rh_block_linear_at(t->block, (size_t)bad)->linear->name);
    return rc;
}

static enum rh_rc make_buffers(struct rh_tuner *t, struct rh_error *err)
{
    size_t bytes = ((size_t)t->batch_elements * sizeof(float) + 63) / 64 * 64;
    enum rh_rc rc = rh_backend_alloc(t->backend, 4 * bytes, "minibatch", &t->batch_memory, err);
    if (rc != RH_OK)
        return rc;
    struct carver c = {t->batch_memory, 0};
    t->x = carve(&c, t->batch_elements, sizeof *t->x);
    t->target = carve(&c, t->batch_elements, sizeof *t->target);
    t->pred = carve(&c, t->batch_elements, sizeof *t->pred);
    t->dy = carve(&c, t->batch_elements, sizeof *t->dy);
    return RH_OK;
}

enum rh_rc rh_tuner_new(struct rh_backend *backend, struct rh_block *block,
                        const struct rh_tune_options *options, int64_t seq, int64_t hidden,
                        struct rh_tuner **out, struct rh_error *err)
{
    RH_ASSERT(options->batch_size > 0 && options->rows > 0 && options->iters >= 0);
    *out = NULL;
    struct rh_tuner *t = rh_alloc(sizeof *t);
    t->backend = backend;
    t->block = block;
    t->options = *options;
    t->batch_elements = options->batch_size * seq * hidden;
    enum rh_rc rc = make_items(t, err);
    if (rc == RH_OK && options->iters > 0)
        rc = make_buffers(t, err);
    if (rc != RH_OK) {
        rh_tuner_free(t);
        return rc;
    }
    *out = t;
    return RH_OK;
}

void rh_tuner_free(struct rh_tuner *t)
{
    if (!t)
        return;
    rh_backend_release(t->backend, t->batch_memory);
    rh_free(t->memory);
    rh_free(t->items);
    rh_free(t->sums);
    rh_free(t);
}

const struct rh_fake_quant *rh_tuner_items(const struct rh_tuner *t, size_t *count)
{
    *count = (size_t)t->count;
    return t->items;
}

float rh_tune_next_rate(float lr, int64_t iter, int64_t iters)
{
    return lr * (float)(1.0 - 1.0 / (double)(iters - iter + 1));
}

static void sum_gradients(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    struct rh_tuner *t = arg;
    for (int64_t i = begin; i < end; i++) {
        struct rh_fake_quant *q = &t->items[i];
        const struct rh_block_linear *b = rh_block_linear_at(t->block, (size_t)i);
        size_t n = (size_t)(q->out_features * q->in_features);
        if (!b->has_grad)
            continue;
        const float *grad = b->grad;
        float *sum = t->sums[i];
        if (!q->has_grad)
            memcpy(sum, grad, n * sizeof *sum);
        for (size_t j = 0; q->has_grad && j < n; j++)
            sum[j] += grad[j];
        q->has_grad = true;
    }
}

/* Takes over the gradients of a batch. */
static void take_gradients(struct rh_tuner *t, bool first)
{
    for (int64_t i = 0; first && i < t->count; i++)
        t->items[i].has_grad = false;
    if (several_batches(t)) {
        rh_parallel_for(rh_backend_pool(t->backend), t->count, 1, sum_gradients, t);
        return;
    }
    for (int64_t i = 0; i < t->count; i++)
        t->items[i].has_grad = rh_block_linear_at(t->block, (size_t)i)->has_grad;
}

static void gather(struct rh_tuner *t, const struct rh_tune_data *data, const int64_t *rows,
                   int64_t count)
{
    int64_t row = data->seq * data->hidden;
    size_t bytes = (size_t)row * sizeof(float);
    for (int64_t i = 0; i < count; i++) {
        RH_ASSERT(rows[i] >= 0 && rows[i] < data->samples);
        memcpy(t->x + i * row, data->input + rows[i] * row, bytes);
        memcpy(t->target + i * row, data->target + rows[i] * row, bytes);
    }
}

/* Forward and backward of all rows of an iteration; *loss is the mean over all their elements, and
 * so is what the gradients belong to. */
static enum rh_rc pass(struct rh_tuner *t, const struct rh_tune_data *data, const int64_t *rows,
                       int64_t *reached, double *loss, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    *loss = 0.0;
    for (int64_t at = 0; at < t->options.rows && rc == RH_OK; at += t->options.batch_size) {
        int64_t left = t->options.rows - at;
        int64_t n = left < t->options.batch_size ? left : t->options.batch_size;
        gather(t, data, rows + at, n);
        rc = rh_block_forward(t->block, RH_WEIGHTS_QUANTIZED, t->x, t->pred, n, data->seq, true,
                              reached, err);
        if (rc != RH_OK)
            return rc;
        double mean = 0.0;
        double share = (double)n / (double)t->options.rows;
        struct rh_mse mse = {.count = n * data->seq * data->hidden, .pred = t->pred,
                             .target = t->target, .grad = t->dy,
                             .factor = LOSS_SCALE * (float)share, .loss = &mean};
        rh_backend_ops(t->backend)->mse(t->backend, &mse);
        *loss += mean * share;
        if (!isfinite(mean))
            return rh_fail(err, RH_ERR_NUMERIC, "the loss is %f; weights or inputs are damaged",
                           mean);
        rc = rh_block_backward(t->block, t->dy, err);
        if (rc == RH_OK)
            take_gradients(t, at == 0);
    }
    return rc;
}

static enum rh_rc advance(struct rh_tuner *t, float rate, float minmax_rate, bool emit,
                          struct rh_error *err)
{
    struct rh_fake_quant_step step = {rate, minmax_rate, t->options.minmax, emit};
    int64_t bad = -1;
    enum rh_rc rc = rh_fake_quant_advance(rh_backend_pool(t->backend), t->items, t->count, &step,
                                          &bad, err);
    if (rc != RH_OK && bad >= 0)
        return rh_error_prefix(err, "%s",
                               rh_block_linear_at(t->block, (size_t)bad)->linear->name);
    return rc;
}

static enum rh_rc iterate(struct rh_tuner *t, const struct rh_tune_data *data,
                          const struct rh_tune_watch *watch, int64_t *reached,
                          struct rh_tune_result *result, struct rh_error *err)
{
    const struct rh_tune_options *o = &t->options;
    float rate = (float)(o->lr > 0.0 ? o->lr : 1.0 / (double)o->iters);
    float minmax_rate = o->minmax_lr > 0.0 ? (float)o->minmax_lr : rate;
    for (int64_t i = 0; i < o->iters; i++) {
        double loss = 0.0;
        enum rh_rc rc = pass(t, data, data->order + i * o->rows, reached, &loss, err);
        if (i > 0) {
            rate = rh_tune_next_rate(rate, i, o->iters);
            minmax_rate = rh_tune_next_rate(minmax_rate, i, o->iters);
        }
        /* The loss belongs to the parameters before the step. */
        bool better = i == 0 || loss < result->best_loss;
        if (i == 0)
            result->init_loss = loss;
        if (better) {
            result->best_loss = loss;
            result->best_iter = i;
        }
        if (rc == RH_OK)
            rc = advance(t, rate, minmax_rate, better, err);
        if (rc != RH_OK)
            return rh_error_prefix(err, "iteration %lld", (long long)i);
        if (watch)
            rc = watch->each(watch->arg, i, loss, result->best_loss, err);
        if (rc != RH_OK)
            return rc;
    }
    return RH_OK;
}

enum rh_rc rh_tune_block(struct rh_tuner *t, const struct rh_tune_data *data,
                         const struct rh_tune_watch *watch, int64_t *reached,
                         struct rh_tune_result *result, struct rh_error *err)
{
    RH_ASSERT(t->options.iters == 0 ||
              t->options.batch_size * data->seq * data->hidden == t->batch_elements);
    *result = (struct rh_tune_result){0};
    enum rh_rc rc = t->options.iters > 0 ? iterate(t, data, watch, reached, result, err)
                                         : advance(t, 0.0F, 0.0F, true, err);
    if (rc == RH_OK)
        rh_fake_quant_restore(rh_backend_pool(t->backend), t->items, t->count);
    return rc;
}
