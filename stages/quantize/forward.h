#ifndef RH_TUNING_FORWARD_H
#define RH_TUNING_FORWARD_H

#include <stdbool.h>

#include "models/block.h"
#include "tuning/chain.h"

/* Called after every batch; an error ends the pass. */
struct rh_pulse {
    enum rh_rc (*beat)(void *arg, struct rh_error *err);
    void *arg;
};

/* fp = block(fp) with source weights, in place, batch_size rows at a time. tokens (host,
 * [num_experts]) += tokens routed to each expert. */
RH_MUST_USE enum rh_rc rh_forward_source(struct rh_backend *backend, struct rh_block *block,
                                         int64_t batch_size, struct rh_chain *chain,
                                         int64_t *tokens, const struct rh_pulse *pulse,
                                         struct rh_error *err);

/* The same a row at a time: tokens (host, [samples, num_experts]) += those of each row. */
RH_MUST_USE enum rh_rc rh_forward_rows(struct rh_backend *backend, struct rh_block *block,
                                       struct rh_chain *chain, int64_t *tokens,
                                       const struct rh_pulse *pulse, struct rh_error *err);

/* *loss = mean squared difference of block(quant), with quantized weights, and fp over all rows.
 * When `replace`, quant becomes that output. RH_ERR_NUMERIC when the loss is not finite. */
RH_MUST_USE enum rh_rc rh_forward_quantized(struct rh_backend *backend, struct rh_block *block,
                                            int64_t batch_size, bool replace,
                                            struct rh_chain *chain, double *loss,
                                            const struct rh_pulse *pulse, struct rh_error *err);

#endif
