#ifndef RH_MODELS_BLOCK_H
#define RH_MODELS_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "families/model_plan.h"
#include "kernels/backend.h"

/*
 * One decoder block on a backend: forward, and backward down to the gradients of its linears.
 * Formulas: docs/numerics.md. Activations are rows of hidden_size in the backend's activation type
 * (f32 on the CPU), sequences are equally long and causal, positions are 0..seq_len-1.
 */
struct rh_block;

/* A linear of the block that may be tuned. All pointers are backend memory, row-major
 * [out_features, in_features], owned by the block. */
struct rh_block_linear {
    const struct rh_linear *linear; /* borrowed from the plan */
    void *weight;    /* source weight, backend weight type; never changed */
    void *weight_q;  /* what the quantized forward uses; equals `weight` at first */
    void *grad;      /* dL/dweight_q of the last backward, f32 on the CPU; NULL before begin_tuning */
    bool has_grad;   /* false: no token reached this expert in the last backward */
};

enum rh_weights { RH_WEIGHTS_SOURCE, RH_WEIGHTS_QUANTIZED };

/* `weights` is the unit's tensors.safetensors (source names and dtypes). */
RH_MUST_USE enum rh_rc rh_block_new(struct rh_backend *backend,
                                    const struct rh_model_config *config, const struct rh_unit *unit,
                                    const struct rh_safetensors *weights, struct rh_block **out,
                                    struct rh_error *err);
void rh_block_free(struct rh_block *block);

/* Only the linears with bits < 16, in plan order. */
size_t rh_block_linear_count(const struct rh_block *block);
struct rh_block_linear *rh_block_linear_at(struct rh_block *block, size_t index);

/* Sizes all scratch for batches of up to batch_size x seq_len; after it neither forward nor
 * backward allocates. with_backward also allocates the gradients. */
RH_MUST_USE enum rh_rc rh_block_reserve(struct rh_block *block, int64_t batch_size, int64_t seq_len,
                                        bool with_backward, struct rh_error *err);

/* y = block(x); x, y: [batch_size * seq_len, hidden_size], may not alias. Keeps what backward needs
 * when `for_backward`. expert_tokens (host, [num_experts], may be NULL) += tokens routed. */
RH_MUST_USE enum rh_rc rh_block_forward(struct rh_block *block, enum rh_weights which,
                                        const void *x, void *y, int64_t batch_size, int64_t seq_len,
                                        bool for_backward, int64_t *expert_tokens,
                                        struct rh_error *err);
/* Given dL/dy of the last forward (quantized weights), overwrites every linear's grad and has_grad. */
RH_MUST_USE enum rh_rc rh_block_backward(struct rh_block *block, const void *dy,
                                         struct rh_error *err);

#endif
