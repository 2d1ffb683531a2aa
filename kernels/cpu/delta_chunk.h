#ifndef RH_KERNELS_CPU_DELTA_CHUNK_H
#define RH_KERNELS_CPU_DELTA_CHUNK_H

#include "ops_cpu.h"

/*
 * The gated delta rule of one chunk of n rows and one value head, c the gate cumulated from its start, S the
 * state that enters it:
 *   G = tril_-1(K K^T * decay), P = tril(Q K^T * decay), decay_ij = exp(c_i - c_j)
 *   Y = V - diag(e^c) K S - G R, R = diag(beta) Y
 *   O = diag(e^c) Q S + P R,     S' = e^c_last S + (diag(e^(c_last - c)) K)^T R
 * K K^T and Q K^T are the same for all value heads of a key head. [S; R] and [diag(e^c) Q | P] stand together
 * in memory: what multiplies both is one product.
 */

/* Half of what the reference takes: the work inside a chunk grows with its square, and small products
 * cost a CPU no more than large ones. */
#define RH_DELTA_CHUNK 32

/* What forward leaves of one chunk of one value head for backward. */
struct rh_delta_chunk {
    int64_t n;       /* rows: RH_DELTA_CHUNK but for the last */
    int64_t first;   /* row of the whole batch */
    int64_t k_at;    /* of its first key in q and k */
    const float *q, *k, *v, *beta; /* rows of ldk, ldk, ldv, value_heads */
    float *grown;    /* [n] e^c */
    float *left;     /* [n] e^(c_last - c) */
    float *decay;    /* [n, n], zero above the diagonal */
    float *g;        /* [n, n] */
    float *qp;       /* [n, key_size + n] diag(e^c) Q | P; rows of key_size + RH_DELTA_CHUNK */
    float *s;        /* [key_size, value_size] */
    float *r;        /* [n, value_size], after s */
    float *y;        /* [n, value_size] */
};

/* Places of the arrays in `memory` and of the inputs of chunk `index`. */
void rh_delta_chunk_at(const struct rh_delta_rule *p, float *memory, int64_t sequence,
                       int64_t value_head, int64_t index, struct rh_delta_chunk *out);
/* Floats that one chunk takes. */
int64_t rh_delta_chunk_size(const struct rh_delta_rule *p);
int64_t rh_delta_chunks(const struct rh_delta_rule *p); /* per sequence */

#endif
