#ifndef RH_MODELS_BLOCK_H
#define RH_MODELS_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "families/model_plan.h"
#include "kernels/backend.h"

/*
 * One decoder block on a backend: forward, and backward down to the gradients of its linears.
 * Formulas: docs/numerics.md. Activations are rows of hidden_size in the backend's activation type
 * (rh_backend_dtype()), sequences are equally long and causal, positions are 0..seq_len-1. All
 * arrays are backend memory, and forward and backward are queued like the ops.
 */
struct rh_block;

/* A linear of the block that may be tuned: row-major [out_features, in_features], element `at` of
 * the three arenas and what follows. */
struct rh_block_linear {
    const struct rh_linear *linear; /* borrowed from the plan */
    int64_t at;
    int expert; /* -1: every token reaches it. Else, when no token of a batch reached the expert (see
                 * rh_block_offsets()), its part of `grads` is that of an earlier batch. */
};

/* All matrices of the block, in the activation type, owned by the block. The arenas share one
 * layout; weights_q and grads are there once rh_block_reserve() has made them. */
struct rh_block_arenas {
    int64_t elements;
    const void *weights; /* source weights */
    void *weights_q;     /* what the quantized forward uses; equal to `weights` at first */
    void *grads;         /* dL/dweights_q of the last backward, zero at first; NULL without backward */
};

/* Bytes of backend memory that a block takes; known without one. */
struct rh_block_needs {
    int64_t elements; /* of an arena */
    size_t weights;   /* rh_block_new(): the arena and the vectors */
    /* rh_block_reserve(): */
    size_t weights_q, grads, activations;
};

void rh_block_needs(struct rh_backend *backend, const struct rh_model_config *config,
                    enum rh_mixer mixer, int64_t batch_size, int64_t seq_len, bool with_backward,
                    struct rh_block_needs *out);

enum rh_weights { RH_WEIGHTS_SOURCE, RH_WEIGHTS_QUANTIZED };

/* Where the tensors of a unit come from, source names and dtypes; thread safe. */
struct rh_tensor_source {
    const char *what; /* names it in errors */
    const struct rh_tensor_info *(*find)(const void *arg, const char *name); /* NULL: absent */
    /* Bytes [begin, begin + size) of the tensor's data. */
    enum rh_rc (*read)(const void *arg, const struct rh_tensor_info *tensor, uint64_t begin,
                       uint64_t size, void *buffer, struct rh_error *err);
    const void *arg;
};

/* Uses the queue of the backend for nothing: another thread may load a block while this one
 * computes. */
RH_MUST_USE enum rh_rc rh_block_new_from(struct rh_backend *backend,
                                         const struct rh_model_config *config,
                                         const struct rh_unit *unit,
                                         const struct rh_tensor_source *source,
                                         struct rh_block **out, struct rh_error *err);
/* The same from the unit's tensors.safetensors. */
RH_MUST_USE enum rh_rc rh_block_new(struct rh_backend *backend,
                                    const struct rh_model_config *config, const struct rh_unit *unit,
                                    const struct rh_safetensors *weights, struct rh_block **out,
                                    struct rh_error *err);
void rh_block_free(struct rh_block *block);

/* Only the linears with bits < 16, in plan order. */
size_t rh_block_linear_count(const struct rh_block *block);
const struct rh_block_linear *rh_block_linear_at(const struct rh_block *block, size_t index);
const struct rh_block_arenas *rh_block_arenas(const struct rh_block *block);
int64_t rh_block_experts(const struct rh_block *block); /* num_experts */
/* [num_experts + 1]: first row of each expert among the routed rows of the last forward. */
const int64_t *rh_block_offsets(const struct rh_block *block);

/* Sizes all scratch for batches of up to batch_size x seq_len; after it neither forward nor
 * backward allocates. with_backward also allocates the gradients. */
RH_MUST_USE enum rh_rc rh_block_reserve(struct rh_block *block, int64_t batch_size, int64_t seq_len,
                                        bool with_backward, struct rh_error *err);

/* y = block(x); x, y: [batch_size * seq_len, hidden_size], may not alias. Keeps what backward needs
 * when `for_backward`. expert_tokens ([num_experts], may be NULL) += tokens routed. */
RH_MUST_USE enum rh_rc rh_block_forward(struct rh_block *block, enum rh_weights which,
                                        const void *x, void *y, int64_t batch_size, int64_t seq_len,
                                        bool for_backward, int64_t *expert_tokens,
                                        struct rh_error *err);
/* Given dL/dy of the last forward (quantized weights), overwrites the gradients of all linears that
 * have one. */
RH_MUST_USE enum rh_rc rh_block_backward(struct rh_block *block, const void *dy,
                                         struct rh_error *err);

#endif
