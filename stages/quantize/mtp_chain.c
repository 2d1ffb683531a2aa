#include "tuning/mtp_chain.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

struct entrance {
    struct rh_chain *chain;
    const struct rh_token_rows *rows;
    const struct rh_embedding *embedding;
    struct rh_mtp_input *input;
    int64_t batch_size;
    struct rh_token_rows ids; /* of a batch, without the first of a row */
    struct rh_chain next;     /* their embeddings */
    void *memory;             /* backend memory of what follows */
    void *x, *u;              /* [batch_size, seq, hidden]; x only for a chain on the host */
    double *apart; /* mean squared difference of the two chains; not finite when either is not */
};

static enum rh_rc open_entrance(struct entrance *e, struct rh_error *err)
{
    const struct rh_chain *c = e->chain;
    size_t row = rh_chain_bytes(c) / (size_t)c->samples;
    size_t batch = ((size_t)e->batch_size * row + 255) / 256 * 256;
    size_t batches = c->on_host ? 2 : 1;
    e->ids = (struct rh_token_rows){
        e->batch_size, c->seq - 1,
        rh_alloc_array((size_t)(e->batch_size * c->seq), sizeof *e->ids.ids)};
    enum rh_rc rc =
        rh_chain_new(c->backend, false, e->batch_size, c->seq - 1, c->hidden, &e->next, err);
    if (rc == RH_OK)
        rc = rh_backend_alloc(c->backend, batches * batch + sizeof *e->apart,
                              "inputs of the MTP layer", &e->memory, err);
    if (rc != RH_OK)
        return rc;
    e->u = e->memory;
    e->x = c->on_host ? (char *)e->memory + batch : NULL;
    e->apart = (double *)(void *)((char *)e->memory + batches * batch);
    rh_backend_zero(c->backend, e->apart, sizeof *e->apart);
    return RH_OK;
}

static void close_entrance(struct entrance *e)
{
    rh_backend_release(e->chain->backend, e->memory);
    rh_chain_done(&e->next);
    rh_token_rows_done(&e->ids);
}

static enum rh_rc embed(struct entrance *e, int64_t first, int64_t rows, struct rh_error *err)
{
    int64_t seq = e->chain->seq;
    for (int64_t i = 0; i < rows; i++)
        memcpy(e->ids.ids + i * (seq - 1), e->rows->ids + (first + i) * seq + 1,
               (size_t)(seq - 1) * sizeof *e->ids.ids);
    e->ids.samples = e->next.samples = rows;
    return rh_chain_embed(&e->next, &e->ids, e->embedding->file, e->embedding->name, err);
}

/* Rows become shorter, so what is written lies before all that is still to be read. */
static void enter(struct entrance *e, void *part, int64_t first, int64_t rows)
{
    const struct rh_chain *c = e->chain;
    size_t row = rh_chain_bytes(c) / (size_t)c->samples;
    size_t shorter = row / (size_t)c->seq * (size_t)(c->seq - 1);
    const void *x = rh_chain_rows(c, part, first);
    if (c->on_host) {
        rh_backend_copy(c->backend, e->x, x, (size_t)rows * row);
        x = e->x;
    }
    rh_mtp_input_forward(e->input, x, e->next.fp, e->u, rows);
    if (part == c->quant) {
        struct rh_mse mse = {.count = rows * (c->seq - 1) * c->hidden,
                             .pred = e->u,
                             .target = (char *)c->fp + (size_t)first * shorter,
                             .factor = 1.0F,
                             .share = (double)rows / (double)c->samples,
                             .accumulate = true,
                             .loss = e->apart};
        rh_backend_ops(c->backend)->mse(c->backend, &mse);
    }
    rh_backend_copy(c->backend, (char *)part + (size_t)first * shorter, e->u,
                    (size_t)rows * shorter);
}

static enum rh_rc check_finite(const struct entrance *e, struct rh_error *err)
{
    double apart = 0.0;
    enum rh_rc rc = rh_backend_download(e->chain->backend, &apart, e->apart, sizeof apart, err);
    if (rc == RH_OK && !isfinite(apart))
        return rh_fail(err, RH_ERR_NUMERIC,
                       "inputs of the MTP layer are not finite; the embedding, the final norm or "
                       "mtp.fc is damaged");
    return rc;
}

enum rh_rc rh_chain_enter_mtp(struct rh_chain *chain, const struct rh_token_rows *rows,
                              const struct rh_embedding *embedding, struct rh_mtp_input *input,
                              int64_t batch_size, const struct rh_pulse *pulse,
                              struct rh_error *err)
{
    RH_ASSERT(rows->samples == chain->samples && rows->seq == chain->seq);
    struct entrance e = {.chain = chain,
                         .rows = rows,
                         .embedding = embedding,
                         .input = input,
                         .batch_size = batch_size};
    enum rh_rc rc = open_entrance(&e, err);
    for (int64_t first = 0; first < chain->samples && rc == RH_OK; first += batch_size) {
        int64_t left = chain->samples - first;
        int64_t count = left < batch_size ? left : batch_size;
        rc = embed(&e, first, count, err);
        if (rc != RH_OK)
            break;
        enter(&e, chain->fp, first, count);
        enter(&e, chain->quant, first, count);
        rc = rh_backend_sync(chain->backend, err); /* before other embeddings come */
        if (rc == RH_OK && pulse)
            rc = pulse->beat(pulse->arg, err);
    }
    if (rc == RH_OK)
        rc = check_finite(&e, err);
    close_entrance(&e);
    if (rc == RH_OK)
        chain->seq--;
    return rc;
}
