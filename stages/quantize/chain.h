#ifndef RH_TUNING_CHAIN_H
#define RH_TUNING_CHAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "kernels/backend.h"

/*
 * The activations between two blocks on all calibration rows: `fp`, of the source model, and
 * `quant`, what the next block is tuned on (of the quantized model; the same as fp without
 * enable_quanted_input). [samples, seq, hidden] each in the backend's activation type, in backend
 * memory or, `on_host`, in memory of rh_backend_alloc_host(), which ops reach more slowly.
 */
struct rh_chain {
    struct rh_backend *backend; /* borrowed */
    int64_t samples, seq, hidden;
    bool on_host;
    void *fp, *quant;
};

/* Token ids: input_ids I32 [samples, seq] of an ids.safetensors. */
struct rh_token_rows {
    int64_t samples, seq;
    int32_t *ids; /* owned */
};

/* RH_ERR_FORMAT for another shape or type and for ids outside 0..vocab_size-1. */
RH_MUST_USE enum rh_rc rh_token_rows_read(const char *path, int64_t vocab_size,
                                          struct rh_token_rows *out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_token_rows_write(const char *path, const struct rh_token_rows *rows,
                                           struct rh_error *err);
void rh_token_rows_done(struct rh_token_rows *rows);

RH_MUST_USE enum rh_rc rh_chain_new(struct rh_backend *backend, bool on_host, int64_t samples,
                                    int64_t seq, int64_t hidden, struct rh_chain *out,
                                    struct rh_error *err);
/* Without quant, which is NULL: for what is not tuned on. */
RH_MUST_USE enum rh_rc rh_chain_new_source(struct rh_backend *backend, bool on_host,
                                           int64_t samples, int64_t seq, int64_t hidden,
                                           struct rh_chain *out, struct rh_error *err);
void rh_chain_done(struct rh_chain *chain);
size_t rh_chain_bytes(const struct rh_chain *chain); /* of fp, or of quant */
/* Rows from `first` of fp or quant. */
void *rh_chain_rows(const struct rh_chain *chain, void *part, int64_t first);

/* Both chains (fp alone where there is no quant) = rows of the embedding matrix `name` ([vocab_size,
 * hidden], BF16, F16 or F32). */
RH_MUST_USE enum rh_rc rh_chain_embed(struct rh_chain *chain, const struct rh_token_rows *rows,
                                      const struct rh_safetensors *head, const char *name,
                                      struct rh_error *err);

/* A chain on the host may be written beside a busy queue, when nothing queued writes to it.
 * chain.safetensors: fp and quant, [samples, seq, hidden] in the activation type. Reading refuses
 * other shapes and takes F32 and BF16. */
RH_MUST_USE enum rh_rc rh_chain_read(struct rh_chain *chain, const char *path,
                                     struct rh_error *err);
RH_MUST_USE enum rh_rc rh_chain_write(const struct rh_chain *chain, const char *path,
                                      struct rh_error *err);

#endif
