#ifndef RH_KERNELS_OPS_H
#define RH_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/tune_ops.h"

struct rh_backend;

/*
 * The operations of a block, one table per backend. Tensors are row-major and in backend memory,
 * offsets, slots and losses too; a row of x begins at row * ld. Sizes are elements. `void *` points
 * to the backend's activation type (rh_backend_dtype(): f32 on cpu, bf16 on cuda), which is that of
 * activations, matrices and their gradients; what is float here is f32 everywhere. Arithmetic
 * between loads and stores is fp32 or better.
 *
 * An op is put in the backend's queue: it may run later, but in the order of the calls, also
 * between ops and rh_backend_copy() and its like. Nothing here allocates in the steady state, waits
 * or fails: shapes are checked when the block is made, a device's errors are kept for
 * rh_backend_sync(). Formulas: docs/numerics.md.
 *
 * Naming of sizes: rows = batch * seq tokens; sequence s is rows s*seq .. s*seq+seq-1.
 */

enum rh_form {
    RH_NT, /* C[m,n] = A[m,k] * B[n,k]^T : a linear layer */
    RH_NN, /* C[m,n] = A[m,k] * B[k,n]   : gradient of its input */
    RH_TN, /* C[m,n] = A[k,m]^T * B[k,n] : gradient of its weight */
};

struct rh_matmul {
    enum rh_form form;
    int64_t m, n, k;
    const void *a, *b;
    int64_t lda, ldb;
    void *c;
    int64_t ldc;
    bool accumulate; /* C += */
};

/*
 * Rows sorted by expert: rows offsets[e] .. offsets[e+1] of x and y belong to expert e.
 *   RH_NT: y[rows, n] = x[rows, k] * w_e[n, k]^T
 *   RH_NN: y[rows, n] = x[rows, k] * w_e[k, n]
 *   RH_TN: w_e[n, k] = y[rows, n]^T * x[rows, k]; an expert without rows is left alone
 */
struct rh_expert_matmul {
    enum rh_form form;
    int64_t experts, n, k;
    int64_t rows; /* of x and y: offsets[experts] */
    const int64_t *offsets; /* [experts + 1] */
    void *x;
    int64_t ldx;
    void *y;
    int64_t ldy;
    void *w; /* w_e at e * w_stride */
    int64_t w_stride;
};

/* y = (1 + w) * x * r, r = 1/sqrt(mean(x^2) + eps). Backward: dx (+)= gradient of x. */
struct rh_rms_norm {
    int64_t rows, size;
    float eps;
    const void *x;
    const float *w;
    void *y;
    const void *dy; /* backward */
    void *dx;
    bool accumulate;
};

/*
 * Heads of attention: norm over the head, then rotation of its first `rot` dimensions in pairs
 * (i, i + rot/2) by angle position * theta^(-2i/rot).
 * x: head h of a row begins at row * ldx + h * head_stride. y: [rows, heads, size].
 */
struct rh_head_norm {
    int64_t rows, seq, heads, size;
    int64_t ldx, head_stride;
    int64_t rot;
    const float *cos, *sin; /* [seq, rot/2] */
    float eps;
    const void *x;
    const float *w;
    void *y;
    const void *dy; /* backward: [rows, heads, size] */
    void *dx;       /* backward: laid out like x */
};

/*
 * Causal attention with grouped heads: o = softmax(scale q k^T) v; query head h reads
 * key head h / (heads / kv_heads). q, o: [rows, heads, size]; k: [rows, kv_heads, size];
 * v: head h of a row at row * ldv + h * size. lse: [batch, heads, seq], log of the sum.
 */
struct rh_attention {
    int64_t batch, seq, heads, kv_heads, size;
    float scale;
    const void *q, *k, *v;
    int64_t ldv;
    void *o;
    float *lse;
    const void *d_o; /* backward */
    void *dq, *dk;   /* like q, k */
    void *dv;        /* rows of lddv */
    int64_t lddv;
};

/* a = o * sigmoid(gate). gate: head h of a row at row * ldg + h * head_stride.
 * Backward: d_o and dgate (laid out like gate) from da. */
struct rh_head_gate {
    int64_t rows, heads, size;
    int64_t ldg, head_stride;
    const void *o, *gate;
    void *a;
    const void *da;
    void *d_o, *dgate;
};

/* Causal depthwise convolution and silu: c_t = sum_j w[j][ch] u_{t-taps+1+j}, y = silu(c).
 * u, du: rows of ldu; c, y, dy: [rows, channels]. Backward: du from dy and the saved c; cuda leaves
 * c alone and makes it again from u. */
struct rh_conv_silu {
    int64_t batch, seq, channels, taps;
    const void *u;
    const float *w; /* [taps, channels] */
    int64_t ldu;
    void *c, *y;
    const void *dy;
    void *du;
};

/*
 * Inputs of the delta rule. From m = [q | k | v] rows: q and k normalised to length 1 per head
 * (1/sqrt(sum + 1e-6)), q also times key_size^-1/2. From b and a: beta = sigmoid(b),
 * g = -exp(a_log) softplus(a + dt_bias).
 * qn, kn: [rows, key_heads, key_size]; rq, rk: [rows, key_heads]; beta, g: [rows, value_heads].
 * Backward: dq, dk (per key head) -> the q and k parts of dm; dbeta, dg -> db, da.
 */
struct rh_delta_inputs {
    int64_t rows, key_heads, value_heads, key_size;
    const void *m;
    int64_t ldm;
    const void *b, *a; /* rows of ldb, value_heads wide */
    int64_t ldb;
    const float *a_log, *dt_bias;
    void *qn, *kn;
    float *rq, *rk, *beta, *g;
    const void *dq, *dk;
    const float *dbeta, *dg;
    void *dm, *db, *da; /* db, da: rows of ldb */
};

/*
 * Gated delta rule, in chunks of 64: S_t = exp(g_t) S_{t-1} + k_t (beta_t e_t)^T with
 * e_t = v_t - (exp(g_t) S_{t-1})^T k_t, o_t = S_t^T q_t; value head j reads key head
 * j / (value_heads / key_heads). q (scaled), k: [rows, key_heads, key_size]; v: head j of a row at
 * row * ldv + j * value_size; o, d_o: [rows, value_heads, value_size].
 * saved: rh_ops.delta_rule_saved() bytes, written by forward when not NULL, read by backward.
 * Backward: dq, dk are summed over the value heads of a key head; dv as v with lddv.
 */
struct rh_delta_rule {
    int64_t batch, seq, key_heads, value_heads, key_size, value_size;
    const void *q, *k, *v;
    const float *beta, *g;
    int64_t ldv;
    void *o;
    void *saved;
    const void *d_o;
    void *dq, *dk, *dv;
    float *dbeta, *dg;
    int64_t lddv;
};

/* y = w * o * r * silu(z) per head, r over the head. z: rows of ldz. Backward: d_o, dz. */
struct rh_gated_norm {
    int64_t rows, heads, size;
    float eps;
    const void *o, *z;
    const float *w; /* [size] */
    int64_t ldz;
    void *y;
    const void *dy;
    void *d_o, *dz;
};

/*
 * Top-k routing. logits: rows of ldl; the first `experts` are the router's, the next one is the
 * shared expert's gate. p: [rows, top_k] in descending order of probability, summing to 1; a tie
 * goes to the lower number. slot: [rows, top_k], the place of (row, j) among all rows sorted by
 * expert and then by row; offsets: [experts + 1]. shared: [rows], sigmoid of the gate.
 * Backward: dlogits (all of the row) from dp and dshared.
 */
struct rh_route {
    int64_t rows, experts, top_k;
    const void *logits;
    int64_t ldl;
    float *p;
    int32_t *expert; /* [rows, top_k] */
    int64_t *slot;
    int64_t *offsets;
    float *shared;
    const float *dp, *dshared;
    void *dlogits;
};

/* y[slot[row, j]] = x[row]. Backward: dx[row] += sum_j dy[slot[row, j]], j ascending. */
struct rh_dispatch {
    int64_t rows, top_k, size;
    const int64_t *slot;
    const void *x;
    void *y;
    const void *dy;
    void *dx;
};

/* x rows are [gate | up]: y = silu(gate) * up. Backward: dx = [dgate | dup]. */
struct rh_swiglu {
    int64_t rows, size;
    const void *x; /* [rows, 2 * size] */
    void *y;       /* [rows, size] */
    const void *dy;
    void *dx;
};

/*
 * The experts' way from rows to rows, sorted as in rh_expert_matmul: u = x gate_up_e^T, act = silu(gate) * up,
 * y = act down_e^T, the bytes of the ops it is made of. Backward, without the weights' gradients:
 * du from dy and u, dx (+)= du gate_up_e; dx may be dy when it does not accumulate. Where a backend has no
 * such op (NULL), the block calls the parts.
 */
struct rh_mlp {
    int64_t experts, hidden, width;
    const int64_t *offsets; /* [experts + 1]; on the host */
    const void *gate_up;    /* [experts, 2 * width, hidden] */
    const void *down;       /* [experts, hidden, width] */
    const void *x;          /* [rows, hidden] */
    void *u, *act, *y;      /* [rows, 2 * width], [rows, width], [rows, hidden] */
    const void *dy;
    void *du, *dx;
    bool accumulate;
};

/*
 * y[row] = h[row] + sum_j p[row, j] e[slot[row, j]] + shared[row] s[row].
 * Backward from dy: de[slot] = p dy, dp = dy . e, ds = shared dy, dshared = dy . s.
 */
struct rh_combine {
    int64_t rows, top_k, size;
    const void *h, *e, *s;
    const float *p, *shared;
    const int64_t *slot;
    void *y;
    const void *dy;
    void *de, *ds;
    float *dp, *dshared;
};

/* *loss (+)= share * mean squared difference of `count` elements, summed in fp64 over a fixed order;
 * grad = factor * 2 (pred - target) / count. grad may be NULL. */
struct rh_mse {
    int64_t count;
    const void *pred, *target;
    void *grad;
    float factor;
    double share;
    bool accumulate;
    double *loss;
};

/* y[i] = x[rows[i]]: rows of `size` elements. x may be host memory of rh_backend_alloc_host(). */
struct rh_gather_rows {
    int64_t count, size;
    const int64_t *rows; /* [count] */
    const void *x;
    void *y;
};

/* counts[e] += offsets[e + 1] - offsets[e], into both arrays; either may be NULL. */
struct rh_count_tokens {
    int64_t experts;
    const int64_t *offsets;
    int64_t *counts, *more_counts;
};

struct rh_ops {
    void (*matmul)(struct rh_backend *, const struct rh_matmul *);
    void (*expert_matmul)(struct rh_backend *, const struct rh_expert_matmul *);
    void (*rms_norm)(struct rh_backend *, const struct rh_rms_norm *);
    void (*rms_norm_backward)(struct rh_backend *, const struct rh_rms_norm *);
    void (*head_norm)(struct rh_backend *, const struct rh_head_norm *);
    void (*head_norm_backward)(struct rh_backend *, const struct rh_head_norm *);
    void (*attention)(struct rh_backend *, const struct rh_attention *);
    void (*attention_backward)(struct rh_backend *, const struct rh_attention *);
    void (*head_gate)(struct rh_backend *, const struct rh_head_gate *);
    void (*head_gate_backward)(struct rh_backend *, const struct rh_head_gate *);
    void (*conv_silu)(struct rh_backend *, const struct rh_conv_silu *);
    void (*conv_silu_backward)(struct rh_backend *, const struct rh_conv_silu *);
    void (*delta_inputs)(struct rh_backend *, const struct rh_delta_inputs *);
    void (*delta_inputs_backward)(struct rh_backend *, const struct rh_delta_inputs *);
    int64_t (*delta_rule_saved)(const struct rh_delta_rule *); /* bytes */
    void (*delta_rule)(struct rh_backend *, const struct rh_delta_rule *);
    void (*delta_rule_backward)(struct rh_backend *, const struct rh_delta_rule *);
    void (*gated_norm)(struct rh_backend *, const struct rh_gated_norm *);
    void (*gated_norm_backward)(struct rh_backend *, const struct rh_gated_norm *);
    void (*route)(struct rh_backend *, const struct rh_route *);
    void (*route_backward)(struct rh_backend *, const struct rh_route *);
    void (*dispatch)(struct rh_backend *, const struct rh_dispatch *);
    void (*dispatch_backward)(struct rh_backend *, const struct rh_dispatch *);
    void (*swiglu)(struct rh_backend *, const struct rh_swiglu *);
    void (*swiglu_backward)(struct rh_backend *, const struct rh_swiglu *);
    void (*combine)(struct rh_backend *, const struct rh_combine *);
    void (*combine_backward)(struct rh_backend *, const struct rh_combine *);
    void (*mse)(struct rh_backend *, const struct rh_mse *);
    void (*gather_rows)(struct rh_backend *, const struct rh_gather_rows *);
    void (*count_tokens)(struct rh_backend *, const struct rh_count_tokens *);
    /* kernels/tune_ops.h */
    void (*sum_gradients)(struct rh_backend *, const struct rh_sum_gradients *);
    void (*judge)(struct rh_backend *, const struct rh_judge *);
    void (*fake_quant_start)(struct rh_backend *, const struct rh_quantizer *);
    void (*fake_quant_advance)(struct rh_backend *, const struct rh_quantizer *);
    void (*fake_quant_restore)(struct rh_backend *, const struct rh_quantizer *);
    /* These may be NULL. */
    void (*mlp)(struct rh_backend *, const struct rh_mlp *);
    void (*mlp_backward)(struct rh_backend *, const struct rh_mlp *);
};

#endif
