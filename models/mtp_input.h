#ifndef RH_MODELS_MTP_INPUT_H
#define RH_MODELS_MTP_INPUT_H

#include "models/block.h"

/*
 * What the MTP layer takes: u_t = fc [N(embed(x_{t+1})); N(h_t)], h_t = N(output of the last block
 * at t), for t = 0..seq-2: the token behind the last position of a row is not known. N are the
 * final norm and those of the MTP head (docs/numerics.md). Weights are the source's; nothing here
 * is quantized. All arrays are backend memory in the activation type, and forward is queued like
 * the ops.
 */
struct rh_mtp_input;

/* For batches of up to batch_size rows of seq tokens. head: the tensors of the MTP head, tail:
 * those of the final norm, of which `norm` is the name. */
RH_MUST_USE enum rh_rc rh_mtp_input_new(struct rh_backend *backend,
                                        const struct rh_model_config *config,
                                        const struct rh_safetensors *head,
                                        const struct rh_safetensors *tail, const char *norm,
                                        int64_t batch_size, int64_t seq, struct rh_mtp_input **out,
                                        struct rh_error *err);
void rh_mtp_input_free(struct rh_mtp_input *input);

/* Bytes of backend memory that one takes. */
size_t rh_mtp_input_needs(struct rh_backend *backend, const struct rh_model_config *config,
                          int64_t batch_size, int64_t seq);

/* hidden: [rows, seq, hidden_size], outputs of the last block; embeddings: [rows, seq - 1,
 * hidden_size], of the tokens after the first; u: [rows, seq - 1, hidden_size], none of the others.
 */
void rh_mtp_input_forward(struct rh_mtp_input *input, const void *hidden, const void *embeddings,
                          void *u, int64_t rows);

#endif
