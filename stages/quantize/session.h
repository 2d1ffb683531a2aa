#ifndef RH_QUANTIZE_SESSION_H
#define RH_QUANTIZE_SESSION_H

#include "families/model_plan.h"
#include "harness/stage.h"
#include "random/minibatch.h"
#include "tuning/background.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/memory_plan.h"
#include "tuning/report.h"
#include "tuning/tuner.h"

/* A block on its way from its file, maybe while another one is tuned. */
struct rh_loading {
    struct rh_session *session;
    int64_t index; /* -1: none */
    struct rh_block *block;
    struct rh_background thread;
};

/* A finished block on its way into files, maybe while the next one is tuned. */
struct rh_writing {
    struct rh_session *session;
    struct rh_tuned tuned;
    struct rh_block_report report; /* tokens and reached are owned */
    const struct rh_chain *chain; /* NULL: nothing follows that would take it */
    int64_t started; /* rh_clock_ns() */
    struct rh_background thread;
};

/* What lives as long as a session of blocks. */
struct rh_session {
    struct rh_task *task;
    const struct rh_recipe *recipe; /* borrowed */
    struct rh_model_plan *plan;
    struct rh_backend *backend;
    size_t room; /* free on the device before the backend was opened; 0: not known */
    struct rh_memory_plan memory;
    struct rh_chain chain;
    struct rh_chain snapshot; /* on the host, of the last block; only beside a device */
    bool without_snapshot;    /* the host has no memory for it */
    struct rh_tune_options options;
    struct rh_minibatch *sampler;
    int64_t *order; /* [iters, rows] of the block at hand */
    int64_t last;   /* block */
    struct rh_loading loading;
    struct rh_writing writing;
    char phase[32];
};

/* "<artifact>/name"; owned by the caller. */
char *rh_session_path(const struct rh_session *s, const char *op, int64_t index, const char *name);
/* The tensors of a unit, once they are fetched. */
RH_MUST_USE enum rh_rc rh_session_open_unit(const struct rh_session *s, const struct rh_unit *unit,
                                            struct rh_safetensors **out, struct rh_error *err);
/* The embedding is the only matrix of the head; NULL: it is not. */
const char *rh_session_embedding(const struct rh_session *s, const struct rh_unit **head);
/* The chains become inputs of the MTP layer. */
RH_MUST_USE enum rh_rc rh_session_enter_mtp(struct rh_session *s, const struct rh_pulse *pulse,
                                            struct rh_error *err);
/* The model's plan and a backend; what is open by then is closed by rh_session_close(). */
RH_MUST_USE enum rh_rc rh_session_open(struct rh_session *s, struct rh_error *err);
void rh_session_close(struct rh_session *s);
/* s->memory for s->options and so many rows; cuts the batch when memory says so. */
RH_MUST_USE enum rh_rc rh_session_plan_memory(struct rh_session *s, int64_t samples, int64_t seq,
                                              struct rh_error *err);
/* The rows to tune on: of the probe, or of calibrate when there is none. */
RH_MUST_USE enum rh_rc rh_session_read_rows(const struct rh_session *s, struct rh_token_rows *out,
                                            struct rh_error *err);
/* s->chain = the embedded rows; waits for the head. */
RH_MUST_USE enum rh_rc rh_session_embed(struct rh_session *s, const struct rh_token_rows *rows,
                                        struct rh_error *err);

/* A block with room for a batch, as soon as its tensors are here; owned by the caller. */
RH_MUST_USE enum rh_rc rh_session_take_block(struct rh_session *s, int64_t index,
                                             struct rh_block **out, struct rh_error *err);
/* Loads the block after `index`, up to s->last, beside a busy device once its tensors are there. */
void rh_session_load_ahead(struct rh_session *s, int64_t index);

/* The rows of all iterations of the next block. */
void rh_session_draw_order(struct rh_session *s);

/* Tunes one block and hands it in, behind the next one where the backend computes beside the host. */
RH_MUST_USE enum rh_rc rh_session_run_block(struct rh_session *s, int64_t index,
                                            struct rh_error *err);
/* Waits for what is still being written, and drops what was loaded ahead. */
RH_MUST_USE enum rh_rc rh_session_settle(struct rh_session *s, struct rh_error *err);

#endif
