#include "tuning/forward.h"

#include <math.h>

#include "base/mem.h"

/* One pass over all rows. */
struct walk {
    struct rh_backend *backend;
    struct rh_block *block;
    struct rh_chain *chain;
    const struct rh_pulse *pulse;
    int64_t batch_size;
    enum rh_weights which;
    bool replace;
    bool by_row;     /* tokens are counted for each row; batch_size is 1 */
    void *memory;    /* backend memory of what follows */
    void *x, *y;     /* [batch_size, seq, hidden]; x only for a chain on the host */
    int64_t *tokens; /* [experts], by_row [samples, experts] */
    double *loss;
};

static size_t batch_bytes(const struct walk *w)
{
    const struct rh_chain *c = w->chain;
    size_t row = rh_chain_bytes(c) / (size_t)c->samples;
    return ((size_t)w->batch_size * row + 255) / 256 * 256;
}

static size_t token_bytes(const struct walk *w)
{
    int64_t counted = w->by_row ? w->chain->samples : 1;
    return (size_t)(counted * rh_block_experts(w->block)) * sizeof *w->tokens;
}

static enum rh_rc open_walk(struct walk *w, struct rh_error *err)
{
    size_t batch = batch_bytes(w);
    size_t counts = token_bytes(w) + sizeof *w->loss;
    enum rh_rc rc = rh_backend_alloc(w->backend, (w->chain->on_host ? 2 : 1) * batch + counts,
                                     "outputs of a batch", &w->memory, err);
    if (rc != RH_OK)
        return rc;
    w->y = w->memory;
    w->x = w->chain->on_host ? (char *)w->memory + batch : NULL;
    w->loss = (double *)(void *)((char *)w->memory + (w->chain->on_host ? 2 : 1) * batch);
    w->tokens = (int64_t *)(void *)(w->loss + 1);
    rh_backend_zero(w->backend, w->loss, counts);
    return RH_OK;
}

static enum rh_rc step(const struct walk *w, int64_t first, int64_t rows, struct rh_error *err)
{
    const struct rh_chain *c = w->chain;
    int64_t count = rows * c->seq * c->hidden;
    size_t bytes = (size_t)count * rh_backend_element_size(w->backend);
    bool source = w->which == RH_WEIGHTS_SOURCE;
    int64_t *tokens = w->tokens + (w->by_row ? first * rh_block_experts(w->block) : 0);
    void *place = rh_chain_rows(c, source ? c->fp : c->quant, first);
    if (c->on_host)
        rh_backend_copy(w->backend, w->x, place, bytes);
    enum rh_rc rc = rh_block_forward(w->block, w->which, c->on_host ? w->x : place, w->y, rows,
                                     c->seq, false, tokens, err);
    if (rc != RH_OK)
        return rc;
    if (!source) {
        struct rh_mse mse = {.count = count, .pred = w->y,
                             .target = rh_chain_rows(c, c->fp, first), .factor = 1.0F,
                             .share = (double)rows / (double)c->samples, .accumulate = true,
                             .loss = w->loss};
        rh_backend_ops(w->backend)->mse(w->backend, &mse);
    }
    if (w->replace)
        rh_backend_copy(w->backend, place, w->y, bytes);
    return w->pulse ? w->pulse->beat(w->pulse->arg, err) : RH_OK;
}

/* tokens and loss (host, may be NULL) receive what was counted. */
static enum rh_rc run(struct walk *w, int64_t *tokens, double *loss, struct rh_error *err)
{
    const struct rh_chain *c = w->chain;
    size_t count = token_bytes(w) / sizeof *w->tokens;
    enum rh_rc rc = open_walk(w, err);
    for (int64_t at = 0; at < c->samples && rc == RH_OK; at += w->batch_size) {
        int64_t left = c->samples - at;
        rc = step(w, at, left < w->batch_size ? left : w->batch_size, err);
    }
    int64_t *counted = rh_alloc_array(count, sizeof *counted);
    if (rc == RH_OK)
        rc = rh_backend_download(w->backend, counted, w->tokens, count * sizeof *counted, err);
    for (size_t i = 0; i < count && tokens && rc == RH_OK; i++)
        tokens[i] += counted[i];
    if (rc == RH_OK && loss)
        rc = rh_backend_download(w->backend, loss, w->loss, sizeof *loss, err);
    rh_free(counted);
    rh_backend_release(w->backend, w->memory);
    return rc;
}

enum rh_rc rh_forward_source(struct rh_backend *backend, struct rh_block *block, int64_t batch_size,
                             struct rh_chain *chain, int64_t *tokens, const struct rh_pulse *pulse,
                             struct rh_error *err)
{
    struct walk w = {.backend = backend, .block = block, .chain = chain, .pulse = pulse,
                     .batch_size = batch_size, .which = RH_WEIGHTS_SOURCE, .replace = true};
    return run(&w, tokens, NULL, err);
}

enum rh_rc rh_forward_rows(struct rh_backend *backend, struct rh_block *block,
                           struct rh_chain *chain, int64_t *tokens, const struct rh_pulse *pulse,
                           struct rh_error *err)
{
    struct walk w = {.backend = backend, .block = block, .chain = chain, .pulse = pulse,
                     .batch_size = 1, .which = RH_WEIGHTS_SOURCE, .replace = true, .by_row = true};
    return run(&w, tokens, NULL, err);
}

enum rh_rc rh_forward_quantized(struct rh_backend *backend, struct rh_block *block,
                                int64_t batch_size, bool replace, struct rh_chain *chain,
                                double *loss, const struct rh_pulse *pulse, struct rh_error *err)
{
    struct walk w = {.backend = backend, .block = block, .chain = chain, .pulse = pulse,
                     .batch_size = batch_size, .which = RH_WEIGHTS_QUANTIZED, .replace = replace};
    *loss = 0.0;
    enum rh_rc rc = run(&w, NULL, loss, err);
    if (rc == RH_OK && !isfinite(*loss))
        return rh_fail(err, RH_ERR_NUMERIC,
                       "the loss over all rows is %f; weights or inputs are damaged", *loss);
    return rc;
}
