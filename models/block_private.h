#ifndef RH_MODELS_BLOCK_PRIVATE_H
#define RH_MODELS_BLOCK_PRIVATE_H

#include "models/block.h"

/* Matrices in the three weight arenas (source, quantized, gradients), all at the same places, so that
 * matrices which share their input are one matrix. Offsets in elements. */
struct rh_places {
    int64_t mixer_in;  /* full: [q+gate | k | v], linear: [qkv | z | b | a]; rows of hidden_size */
    int64_t mixer_out; /* [hidden, mixer_width] */
    int64_t router;    /* [experts + 1, hidden]: router, then the shared expert's gate */
    int64_t gate_up;   /* [experts, 2 I, hidden] */
    int64_t down;      /* [experts, hidden, I] */
    int64_t shared_gate_up, shared_down;
    int64_t total;
};

/* Sizes that the code uses again and again. */
struct rh_sizes {
    int64_t hidden, experts, top_k, width, shared_width;
    int64_t mixer_in;    /* rows of the fused input projection */
    int64_t mixer_width; /* columns of the output projection */
    int64_t q_gate, kv;  /* full: rows of q+gate, rows of k (or v) */
    int64_t qkv, z;      /* linear */
    int64_t key_heads, value_heads, key_size, value_size, taps;
    int64_t heads, kv_heads, head_size, rot;
};

/* The tensors that are no matrices. */
struct rh_vectors {
    float *input_norm, *post_norm;
    float *q_norm, *k_norm;
    float *conv; /* [taps, channels], turned */
    float *a_log, *dt_bias, *norm;
};

/* Activations; rows = batch * seq. Those of forward are kept for backward. */
struct rh_activations {
    void *xn, *u, *core, *mixed, *h, *hn, *logits;
    float *p, *shared;
    int32_t *expert;
    int64_t *slot, *offsets; /* offsets: of the last forward */
    void *dispatched, *gate_up, *act, *expert_out;
    void *shared_gate_up, *shared_act, *shared_out;
    /* full attention */
    void *q, *k;
    float *lse;
    /* linear attention */
    void *conv_pre, *conv, *qn, *kn;
    float *rq, *rk, *beta, *g;
    void *saved;
    /* backward */
    void *d_expert_out, *d_act, *d_gate_up, *d_shared_out, *d_shared_act, *d_shared_gate_up,
        *dlogits, *dhn, *dh, *dmixed, *dcore, *du, *dq, *dk, *dconv;
    float *dp, *dshared, *dbeta, *dg;
};

struct rh_block {
    struct rh_backend *backend;
    const struct rh_ops *ops;
    size_t element; /* bytes of the activation type */
    const struct rh_model_config *config;
    enum rh_mixer mixer;
    struct rh_sizes n;
    struct rh_places at;
    struct rh_vectors v;
    void *vector_memory;
    void *weights; /* the arena that rh_block_arenas shows as constant */
    struct rh_block_arenas arenas;
    struct rh_block_linear *linears;
    size_t linear_count;
    struct rh_activations act;
    void *activation_memory;
    float *cos, *sin; /* [seq, rot/2] */
    int64_t rows_max, seq_max;
    bool with_backward;
    /* Of the last forward. */
    const void *x, *w;
    int64_t batch, seq, rows;
};

/* Element `count` after `base`, in the activation type. */
static inline void *rh_at(const struct rh_block *b, const void *base, int64_t count)
{
    return (void *)((uintptr_t)base + (uintptr_t)count * b->element);
}

/* Places and loading: weights.c */
void rh_block_measure(struct rh_block *block);
int64_t rh_block_vector_bytes(const struct rh_sizes *n);
RH_MUST_USE enum rh_rc rh_block_load(struct rh_block *block, const struct rh_unit *unit,
                                     const char *prefix, const struct rh_tensor_source *source,
                                     struct rh_error *err);
/* A whole tensor of `count` elements as float. */
RH_MUST_USE enum rh_rc rh_weights_read(const struct rh_safetensors *file, const char *name,
                                       int64_t count, float *out, struct rh_error *err);
/* Parts; all read the block's last-forward members. */
void rh_full_attention_forward(struct rh_block *block);
void rh_full_attention_backward(struct rh_block *block);
void rh_linear_attention_forward(struct rh_block *block, bool for_backward);
void rh_linear_attention_backward(struct rh_block *block);
void rh_moe_forward(struct rh_block *block, void *y);
void rh_moe_backward(struct rh_block *block, const void *dy);

/* y[rows, out] (+)= x[rows, in] W^T; ld in elements. */
void rh_apply(struct rh_block *block, const void *x, int64_t in, int64_t at, int64_t out, void *y,
              bool accumulate);
/* dx[rows, in] (+)= dy[rows, out] W */
void rh_apply_backward(struct rh_block *block, const void *dy, int64_t out, int64_t at, int64_t in,
                       void *dx, bool accumulate);
/* dW[out, in] = dy^T x */
void rh_weight_gradient(struct rh_block *block, const void *dy, int64_t out, const void *x,
                        int64_t in, int64_t at);

#endif
