#include "tuning/tuner.h"

#include <string.h>

#include "base/mem.h"

/* auto-round's factor of the loss before backward; it decides which gradients of the scales, which
 * are rounded to fp16, are still different from zero. */
#define LOSS_SCALE 1000.0F

/* More iterations in the queue gain nothing. */
#define DEPTH_MAX 8

struct rh_tuner {
    struct rh_backend *backend;
    const struct rh_ops *ops;
    struct rh_block *block; /* borrowed */
    struct rh_tune_options options;
    int64_t experts;
    int64_t weights; /* elements of an arena */
    int64_t batch_elements;
    struct rh_quant_item *items; /* host */
    struct rh_quantizer q;
    struct rh_mark *marks[DEPTH_MAX];
    int depth;
    /* Backend memory. */
    void *memory;
    float *sums; /* of the gradients of an iteration; NULL when it is one batch */
    struct rh_tune_state *state;
    int32_t *never_always;    /* {0, 1}: what stands in for the state's `better` with keep_last */
    double *losses;           /* [iters] */
    int64_t *order;           /* [iters, rows] */
    int64_t *tokens;          /* [experts]: of the iteration */
    int64_t *reached;         /* [experts]: of all iterations */
    void *x, *target, *pred, *dy; /* [batch_size, seq, hidden] */
};

static bool any_asymmetric(const struct rh_tuner *t)
{
    for (int64_t i = 0; i < t->q.count; i++) {
        if (!t->items[i].sym)
            return true;
    }
    return false;
}

/* The quantizer's part stands first; *quantizer (may be NULL) is its size. */
static size_t carve_all(struct rh_tuner *t, void *base, size_t *quantizer)
{
    const struct rh_tune_options *o = &t->options;
    struct rh_quantizer *q = &t->q;
    struct rh_carver c = {base, 0};
    int64_t weights = t->weights;
    size_t element = rh_backend_element_size(t->backend);
    q->items = rh_carve(&c, q->count, sizeof *q->items);
    q->v = rh_carve(&c, weights, sizeof *q->v);
    q->lo = rh_carve(&c, q->groups, sizeof *q->lo);
    q->hi = rh_carve(&c, q->groups, sizeof *q->hi);
    q->alpha = rh_carve(&c, q->groups, sizeof *q->alpha);
    q->beta = rh_carve(&c, q->groups, sizeof *q->beta);
    q->codes = rh_carve(&c, weights, sizeof *q->codes);
    q->scales = rh_carve(&c, q->groups, sizeof *q->scales);
    q->zeros = any_asymmetric(t) ? rh_carve(&c, q->groups, sizeof *q->zeros) : NULL;
    t->state = rh_carve(&c, 1, sizeof *t->state);
    t->never_always = rh_carve(&c, 2, sizeof *t->never_always);
    t->tokens = rh_carve(&c, t->experts, sizeof *t->tokens);
    t->reached = rh_carve(&c, t->experts, sizeof *t->reached);
    if (quantizer)
        *quantizer = c.used;
    if (o->iters == 0)
        return c.used;
    t->losses = rh_carve(&c, o->iters, sizeof *t->losses);
    t->order = rh_carve(&c, o->iters * o->rows, sizeof *t->order);
    t->sums = o->rows > o->batch_size ? rh_carve(&c, weights, sizeof *t->sums) : NULL;
    t->x = rh_carve(&c, t->batch_elements, element);
    t->target = rh_carve(&c, t->batch_elements, element);
    t->pred = rh_carve(&c, t->batch_elements, element);
    t->dy = rh_carve(&c, t->batch_elements, element);
    return c.used;
}

/* Adds a linear to the quantizer; at and expert are the block's. */
static void describe(struct rh_tuner *t, const struct rh_linear *l, int64_t at, int expert)
{
    struct rh_quantizer *q = &t->q;
    struct rh_scheme scheme = {l->bits, l->sym, l->group_size};
    RH_ASSERT(rh_scheme_valid(&scheme));
    struct rh_quant_item *item = &t->items[q->count++];
    *item = (struct rh_quant_item){
        .out_features = l->out_features,
        .in_features = l->in_features,
        .at = at,
        .group_at = q->groups,
        .row_at = q->rows,
        .group = rh_scheme_group(&scheme, l->in_features),
        .groups = rh_scheme_groups(&scheme, l->in_features),
        .expert = expert,
        .bits = l->bits,
        .sym = l->sym,
    };
    q->rows += l->out_features;
    q->groups += l->out_features * item->groups;
}

static void describe_items(struct rh_tuner *t)
{
    size_t count = rh_block_linear_count(t->block);
    t->items = rh_alloc_array(count + 1, sizeof *t->items);
    for (size_t i = 0; i < count; i++) {
        const struct rh_block_linear *b = rh_block_linear_at(t->block, i);
        describe(t, b->linear, b->at, b->expert);
    }
}

void rh_tuner_needs(struct rh_backend *backend, const struct rh_unit *unit, int64_t experts,
                    int64_t elements, const struct rh_tune_options *options, int64_t seq,
                    int64_t hidden, size_t *quantizer, size_t *batches)
{
    struct rh_tuner t = {.backend = backend, .options = *options, .experts = experts,
                         .weights = elements,
                         .batch_elements = options->batch_size * seq * hidden};
    t.items = rh_alloc_array(unit->linear_count + 1, sizeof *t.items);
    for (size_t i = 0; i < unit->linear_count; i++) {
        if (unit->linears[i].bits < 16)
            describe(&t, &unit->linears[i], 0, -1);
    }
    size_t all = carve_all(&t, NULL, quantizer);
    *batches = all - *quantizer;
    rh_free(t.items);
}

static enum rh_rc make_memory(struct rh_tuner *t, struct rh_error *err)
{
    struct rh_quantizer *q = &t->q;
    const struct rh_block_arenas *arenas = rh_block_arenas(t->block);
    const struct rh_tune_state fresh = {.fault = RH_FAULT_NONE, .better = 1};
    enum rh_rc rc = rh_backend_alloc(t->backend, carve_all(t, NULL, NULL),
                                     "tuning parameters of a block", &t->memory, err);
    if (rc != RH_OK)
        return rc;
    carve_all(t, t->memory, NULL);
    q->host_items = t->items;
    q->weight = arenas->weights;
    q->weight_q = arenas->weights_q;
    q->fault = &t->state->fault;
    q->emit = &t->state->better;
    q->tokens = t->tokens;
    q->minmax = t->options.minmax;
    q->search = t->options.search;
    static const int32_t never_always[2] = {0, 1};
    rc = rh_backend_upload(t->backend, t->state, &fresh, sizeof fresh, err);
    if (rc == RH_OK)
        rc = rh_backend_upload(t->backend, t->never_always, never_always, sizeof never_always, err);
    if (rc == RH_OK && q->count > 0)
        rc = rh_backend_upload(t->backend, t->memory, t->items, (size_t)q->count * sizeof *t->items,
                               err);
    rh_backend_zero(t->backend, t->reached, (size_t)t->experts * sizeof *t->reached);
    return rc;
}

/* What the fault of a state says. */
static enum rh_rc check_fault(const struct rh_tuner *t, const struct rh_tune_state *state,
                              bool of_weights, struct rh_error *err)
{
    if (state->fault == RH_FAULT_NONE)
        return RH_OK;
    int64_t item = (int64_t)(state->fault & UINT32_MAX) - 1;
    if (item < 0)
        return rh_fail(err, RH_ERR_NUMERIC, "the loss is %f; weights or inputs are damaged",
                       state->loss);
    const char *name = rh_block_linear_at(t->block, (size_t)item)->linear->name;
    if (of_weights)
        return rh_fail(err, RH_ERR_NUMERIC,
                       "%s: a weight is not finite or needs a scale beyond fp16, the source tensor "
                       "is damaged",
                       name);
    return rh_fail(err, RH_ERR_NUMERIC, "%s: the gradient holds a NaN or an infinity", name);
}

static enum rh_rc begin(struct rh_tuner *t, struct rh_error *err)
{
    struct rh_tune_state state;
    t->ops->fake_quant_start(t->backend, &t->q);
    enum rh_rc rc = rh_backend_download(t->backend, &state, t->state, sizeof state, err);
    if (rc == RH_OK)
        rc = check_fault(t, &state, true, err);
    t->depth = rh_backend_depth(t->backend);
    for (int i = 0; i < t->depth && rc == RH_OK; i++)
        rc = rh_mark_new(t->backend, sizeof state, &t->marks[i], err);
    return rc;
}

enum rh_rc rh_tuner_new(struct rh_backend *backend, struct rh_block *block,
                        const struct rh_tune_options *options, int64_t seq, int64_t hidden,
                        struct rh_tuner **out, struct rh_error *err)
{
    RH_ASSERT(options->batch_size > 0 && options->rows > 0 && options->iters >= 0);
    RH_ASSERT(rh_backend_depth(backend) <= DEPTH_MAX);
    *out = NULL;
    struct rh_tuner *t = rh_alloc(sizeof *t);
    t->backend = backend;
    t->ops = rh_backend_ops(backend);
    t->block = block;
    t->options = *options;
    t->experts = rh_block_experts(block);
    t->weights = rh_block_arenas(block)->elements;
    t->batch_elements = options->batch_size * seq * hidden;
    describe_items(t);
    enum rh_rc rc = make_memory(t, err);
    if (rc == RH_OK)
        rc = begin(t, err);
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
    for (int i = 0; i < DEPTH_MAX; i++)
        rh_mark_free(t->marks[i]);
    rh_backend_release(t->backend, t->memory);
    rh_free(t->items);
    rh_free(t);
}

float rh_tune_next_rate(float lr, int64_t iter, int64_t iters)
{
    return lr * (float)(1.0 - 1.0 / (double)(iters - iter + 1));
}

static void gather(const struct rh_tuner *t, const struct rh_tune_data *data, const int64_t *rows,
                   int64_t count)
{
    struct rh_gather_rows p = {.count = count, .size = data->seq * data->hidden, .rows = rows,
                               .x = data->input, .y = t->x};
    t->ops->gather_rows(t->backend, &p);
    p.x = data->target;
    p.y = t->target;
    t->ops->gather_rows(t->backend, &p);
}

/* Takes over the gradients of a batch and notes which experts it reached. */
static void take_gradients(const struct rh_tuner *t, bool first)
{
    const struct rh_quantizer *q = &t->q;
    const int64_t *offsets = rh_block_offsets(t->block);
    if (t->sums)
        t->ops->sum_gradients(
            t->backend, &(struct rh_sum_gradients){.items = q->items, .host_items = q->host_items,
                                                   .count = q->count, .rows = q->rows,
                                                   .grad = rh_block_arenas(t->block)->grads,
                                                   .sums = t->sums, .offsets = offsets,
                                                   .tokens = t->tokens, .first = first});
    t->ops->count_tokens(t->backend,
                         &(struct rh_count_tokens){.experts = t->experts, .offsets = offsets,
                                                   .counts = t->tokens,
                                                   .more_counts = t->reached});
}

/* Queues forward and backward of all rows of an iteration; its loss is the mean over all their
 * elements, and so is what the gradients belong to. */
static enum rh_rc pass(const struct rh_tuner *t, const struct rh_tune_data *data, int64_t iter,
                       struct rh_error *err)
{
    const struct rh_tune_options *o = &t->options;
    const int64_t *rows = t->order + iter * o->rows;
    rh_backend_zero(t->backend, t->tokens, (size_t)t->experts * sizeof *t->tokens);
    for (int64_t at = 0; at < o->rows; at += o->batch_size) {
        int64_t left = o->rows - at;
        int64_t n = left < o->batch_size ? left : o->batch_size;
        double share = (double)n / (double)o->rows;
        gather(t, data, rows + at, n);
        enum rh_rc rc = rh_block_forward(t->block, RH_WEIGHTS_QUANTIZED, t->x, t->pred, n,
                                         data->seq, true, NULL, err);
        if (rc != RH_OK)
            return rc;
        struct rh_mse mse = {.count = n * data->seq * data->hidden, .pred = t->pred,
                             .target = t->target, .grad = t->dy,
                             .factor = LOSS_SCALE * (float)share, .share = share,
                             .accumulate = at > 0, .loss = t->losses + iter};
        t->ops->mse(t->backend, &mse);
        rc = rh_block_backward(t->block, t->dy, err);
        if (rc != RH_OK)
            return rc;
        take_gradients(t, at == 0);
    }
    return RH_OK;
}

/* Queues an iteration; its loss belongs to the parameters before the step. */
static enum rh_rc queue_iteration(struct rh_tuner *t, const struct rh_tune_data *data, int64_t iter,
                                  struct rh_error *err)
{
    const struct rh_tune_options *o = &t->options;
    struct rh_quantizer *q = &t->q;
    if (iter == 0) {
        q->rate = (float)(o->lr > 0.0 ? o->lr : 1.0 / (double)o->iters);
        q->minmax_rate = o->minmax_lr > 0.0 ? (float)o->minmax_lr : q->rate;
    } else {
        q->rate = rh_tune_next_rate(q->rate, iter, o->iters);
        q->minmax_rate = rh_tune_next_rate(q->minmax_rate, iter, o->iters);
    }
    enum rh_rc rc = pass(t, data, iter, err);
    if (rc != RH_OK)
        return rc;
    t->ops->judge(t->backend, &(struct rh_judge){.iter = iter, .loss = t->losses + iter,
                                                 .state = t->state});
    if (o->keep_last)
        q->emit = t->never_always + (iter == o->iters - 1);
    q->iter = iter;
    q->grad = rh_block_arenas(t->block)->grads;
    q->grad_sum = t->sums;
    t->ops->fake_quant_advance(t->backend, q);
    rh_mark_read(t->marks[iter % t->depth], t->state);
    return RH_OK;
}

/* What an iteration came to, once it is known. */
static enum rh_rc collect(struct rh_tuner *t, int64_t iter, const struct rh_tune_watch *watch,
                          struct rh_tune_result *result, struct rh_error *err)
{
    const void *value = NULL;
    enum rh_rc rc = rh_mark_wait(t->marks[iter % t->depth], &value, err);
    if (rc == RH_OK)
        rc = check_fault(t, value, false, err);
    if (rc != RH_OK)
        return rh_error_prefix(err, "iteration %lld", (long long)iter);
    const struct rh_tune_state *state = value;
    if (iter == 0)
        result->init_loss = state->loss;
    result->best_loss = t->options.keep_last ? state->loss : state->best_loss;
    result->best_iter = t->options.keep_last ? iter : state->best_iter;
    return watch ? watch->each(watch->arg, iter, state->loss, state->best_loss, err) : RH_OK;
}

static enum rh_rc iterate(struct rh_tuner *t, const struct rh_tune_data *data,
                          const struct rh_tune_watch *watch, struct rh_tune_result *result,
                          struct rh_error *err)
{
    int64_t iters = t->options.iters;
    int64_t count = iters * t->options.rows;
    for (int64_t i = 0; i < count; i++)
        RH_ASSERT(data->order[i] >= 0 && data->order[i] < data->samples);
    enum rh_rc rc = rh_backend_upload(t->backend, t->order, data->order,
                                      (size_t)count * sizeof *t->order, err);
    for (int64_t i = 0; i < iters + t->depth - 1 && rc == RH_OK; i++) {
        int64_t known = i - t->depth + 1;
        if (i < iters)
            rc = queue_iteration(t, data, i, err);
        if (rc == RH_OK && known >= 0)
            rc = collect(t, known, watch, result, err);
    }
    return rc;
}

static enum rh_rc add_reached(const struct rh_tuner *t, int64_t *reached, struct rh_error *err)
{
    int64_t *tokens = rh_alloc_array((size_t)t->experts, sizeof *tokens);
    enum rh_rc rc = rh_backend_download(t->backend, tokens, t->reached,
                                        (size_t)t->experts * sizeof *tokens, err);
    for (int64_t e = 0; e < t->experts && rc == RH_OK; e++)
        reached[e] += tokens[e];
    rh_free(tokens);
    return rc;
}

enum rh_rc rh_tune_block(struct rh_tuner *t, const struct rh_tune_data *data,
                         const struct rh_tune_watch *watch, int64_t *reached,
                         struct rh_tune_result *result, struct rh_error *err)
{
    RH_ASSERT(t->options.iters == 0 ||
              t->options.batch_size * data->seq * data->hidden == t->batch_elements);
    *result = (struct rh_tune_result){0};
    enum rh_rc rc = RH_OK;
    if (t->options.iters > 0)
        rc = iterate(t, data, watch, result, err);
    else
        t->ops->fake_quant_advance(t->backend, &t->q); /* no gradients: only the codes */
    if (rc != RH_OK)
        return rc;
    t->ops->fake_quant_restore(t->backend, &t->q);
    return reached ? add_reached(t, reached, err) : rh_backend_sync(t->backend, err);
}

static enum rh_rc download(const struct rh_tuner *t, const void *from, size_t bytes, void **out,
                           struct rh_error *err)
{
    enum rh_rc rc = rh_try_alloc(bytes + 1, "codes and scales of a block", out, err);
    return rc == RH_OK ? rh_backend_download(t->backend, *out, from, bytes, err) : rc;
}

enum rh_rc rh_tuned_take(const struct rh_tuner *t, struct rh_tuned *out, struct rh_error *err)
{
    const struct rh_quantizer *q = &t->q;
    *out = (struct rh_tuned){.count = (size_t)q->count};
    out->linears = rh_alloc_array(out->count + 1, sizeof *out->linears);
    enum rh_rc rc = download(t, q->codes, (size_t)t->weights, &out->codes, err);
    if (rc == RH_OK)
        rc = download(t, q->scales, (size_t)q->groups * sizeof *q->scales, &out->scales, err);
    if (rc == RH_OK && q->zeros)
        rc = download(t, q->zeros, (size_t)q->groups, &out->zeros, err);
    for (size_t i = 0; i < out->count && rc == RH_OK; i++) {
        const struct rh_quant_item *item = &t->items[i];
        const struct rh_linear *l = rh_block_linear_at(t->block, i)->linear;
        out->linears[i] = (struct rh_tuned_linear){
            .linear = l,
            .scheme = {l->bits, l->sym, l->group_size},
            .out_features = l->out_features,
            .in_features = l->in_features,
            .codes = (const uint8_t *)out->codes + item->at,
            .scales = (const uint16_t *)out->scales + item->group_at,
            .zeros = l->sym ? NULL : (const uint8_t *)out->zeros + item->group_at,
        };
    }
    if (rc != RH_OK)
        rh_tuned_done(out);
    return rc;
}

void rh_tuned_done(struct rh_tuned *tuned)
{
    rh_free(tuned->linears);
    rh_free(tuned->codes);
    rh_free(tuned->scales);
    rh_free(tuned->zeros);
    *tuned = (struct rh_tuned){0};
}
