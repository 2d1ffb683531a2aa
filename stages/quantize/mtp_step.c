#include "base/mem.h"
#include "session.h"
#include "tuning/mtp_chain.h"

/* What of the source the inputs of the MTP layer are made of. */
struct sources {
    struct rh_safetensors *head, *tail, *mtp;
    const char *embedding, *norm;
};

/* The final norm is the only vector of the tail. */
static const char *norm_name(const struct rh_unit *tail)
{
    const char *name = NULL;
    for (size_t i = 0; tail && i < tail->tensor_count; i++) {
        if (tail->tensors[i].info.rank == 1)
            name = tail->tensors[i].info.name;
    }
    return name;
}

static enum rh_rc open_sources(struct rh_session *s, struct sources *out, struct rh_error *err)
{
    const struct rh_unit *head = NULL;
    const struct rh_unit *tail = rh_model_plan_kind(s->plan, RH_UNIT_TAIL);
    const struct rh_unit *mtp = rh_model_plan_kind(s->plan, RH_UNIT_MTP);
    out->embedding = rh_session_embedding(s, &head);
    out->norm = norm_name(tail);
    if (!out->embedding || !out->norm)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "the plan has no embedding matrix or no final norm for the MTP head");
    enum rh_rc rc = rh_session_open_unit(s, head, &out->head, err);
    if (rc == RH_OK)
        rc = rh_session_open_unit(s, tail, &out->tail, err);
    if (rc == RH_OK)
        rc = rh_session_open_unit(s, mtp, &out->mtp, err);
    return rc;
}

static enum rh_rc enter(struct rh_session *s, const struct sources *from,
                        const struct rh_token_rows *rows, const struct rh_pulse *pulse,
                        struct rh_error *err)
{
    int64_t batch = s->options.batch_size;
    struct rh_embedding embedding = {from->head, from->embedding};
    struct rh_mtp_input *input = NULL;
    enum rh_rc rc = rh_mtp_input_new(s->backend, &s->plan->config, from->mtp, from->tail,
                                     from->norm, batch, rows->seq, &input, err);
    if (rc == RH_OK)
        rc = rh_chain_enter_mtp(&s->chain, rows, &embedding, input, batch, pulse, err);
    rh_mtp_input_free(input);
    return rc;
}

enum rh_rc rh_session_enter_mtp(struct rh_session *s, const struct rh_pulse *pulse,
                                struct rh_error *err)
{
    struct sources from = {0};
    struct rh_token_rows rows = {0};
    enum rh_rc rc = open_sources(s, &from, err);
    if (rc == RH_OK)
        rc = rh_session_read_rows(s, &rows, err);
    if (rc == RH_OK)
        rc = enter(s, &from, &rows, pulse, err);
    rh_token_rows_done(&rows);
    rh_safetensors_close(from.mtp);
    rh_safetensors_close(from.tail);
    rh_safetensors_close(from.head);
    return rc;
}
