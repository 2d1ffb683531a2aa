#ifndef RH_TUNING_MTP_CHAIN_H
#define RH_TUNING_MTP_CHAIN_H

#include "models/mtp_input.h"
#include "tuning/chain.h"
#include "tuning/forward.h"

/* Where embeddings come from. */
struct rh_embedding {
    const struct rh_safetensors *file;
    const char *name;
};

/*
 * Both chains, outputs of the last block, become inputs of the MTP layer, in place: seq is one less
 * afterwards, for the last position of a row has no next token. rows: those that the chain began
 * with; batch_size and seq: those of `input`. RH_ERR_NUMERIC when what comes out is not finite.
 */
RH_MUST_USE enum rh_rc rh_chain_enter_mtp(struct rh_chain *chain, const struct rh_token_rows *rows,
                                          const struct rh_embedding *embedding,
                                          struct rh_mtp_input *input, int64_t batch_size,
                                          const struct rh_pulse *pulse, struct rh_error *err);

#endif
