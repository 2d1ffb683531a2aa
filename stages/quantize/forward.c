#include "tuning/forward.h"

#include <math.h>
#include <string.h>

/* One pass over all rows. */
struct walk {
    struct rh_backend *backend;
    struct rh_block *block;
    struct rh_chain *chain;
    const struct rh_pulse *pulse;
    int64_t batch_size;
    enum rh_weights which;
    bool replace;
    int64_t *tokens;
    double *loss; /* NULL: not asked for */
    float *y;     /* [batch_size, seq, hidden] */
};

static enum rh_rc step(const struct walk *w, int64_t first, int64_t rows, struct rh_error *err)
{
    const struct rh_chain *c = w->chain;
    int64_t row = c->seq * c->hidden;
    float *x = (w->which == RH_WEIGHTS_SOURCE ? c->fp : c->quant) + first * row;
    enum rh_rc rc = rh_block_forward(w->block, w->which, x, w->y, rows, c->seq, false, w->tokens,
                                     err);
    if (rc != RH_OK)
        return rc;
    if (w->loss) {
        double mean = 0.0;
        struct rh_mse mse = {.count = rows * row, .pred = w->y, .target = c->fp + first * row,
                             .factor = 1.0F, .loss = &mean};
        rh_backend_ops(w->backend)->mse(w->backend, &mse);
        *w->loss += mean * ((double)rows / (double)c->samples);
    }
    if (w->replace)
        memcpy(x, w->y, (size_t)(rows * row) * sizeof(float));
    return w->pulse ? w->pulse->beat(w->pulse->arg, err) : RH_OK;
}

static enum rh_rc run(struct walk *w, struct rh_error *err)
{
    const struct rh_chain *c = w->chain;
    size_t bytes = (size_t)(w->batch_size * c->seq * c->hidden) * sizeof(float);
    void *memory = NULL;
    enum rh_rc rc = rh_backend_alloc(w->backend, bytes, "outputs of a batch", &memory, err);
    if (rc != RH_OK)
        return rc;
    w->y = memory;
    for (int64_t at = 0; at < c->samples && rc == RH_OK; at += w->batch_size) {
        int64_t left = c->samples - at;
        rc = step(w, at, left < w->batch_size ? left : w->batch_size, err);
    }
    rh_backend_release(w->backend, memory);
    return rc;
}

enum rh_rc rh_forward_source(struct rh_backend *backend, struct rh_block *block, int64_t batch_size,
                             struct rh_chain *chain, int64_t *tokens, const struct rh_pulse *pulse,
                             struct rh_error *err)
{
    struct walk w = {.backend = backend, .block = block, .chain = chain, .pulse = pulse,
                     .batch_size = batch_size, .which = RH_WEIGHTS_SOURCE, .replace = true,
                     .tokens = tokens};
    return run(&w, err);
}

enum rh_rc rh_forward_quantized(struct rh_backend *backend, struct rh_block *block,
                                int64_t batch_size, bool replace, struct rh_chain *chain,
                                double *loss, const struct rh_pulse *pulse, struct rh_error *err)
{
    struct walk w = {.backend = backend, .block = block, .chain = chain, .pulse = pulse,
                     .batch_size = batch_size, .which = RH_WEIGHTS_QUANTIZED, .replace = replace,
                     .loss = loss};
    *loss = 0.0;
    enum rh_rc rc = run(&w, err);
    if (rc == RH_OK && !isfinite(*loss))
        return rh_fail(err, RH_ERR_NUMERIC,
                       "the loss over all rows is %f; weights or inputs are damaged", *loss);
    return rc;
}
