#ifndef RH_KERNELS_CPU_DELTA_CHUNK_H
#define RH_KERNELS_CPU_DELTA_CHUNK_H

#include "ops_cpu.h"

/* Half of what the reference takes: the work inside a chunk grows with its square, and small products
 * cost a CPU no more than large ones. */
#define RH_DELTA_CHUNK 32

/* What forward leaves of one chunk of one value head for backward; n rows are in use. */
struct rh_delta_chunk {
    int64_t n;      /* rows: RH_DELTA_CHUNK but for the last */
    double *c;      /* [n] cumulated gate, from the chunk's start */
    float *decay;   /* [n, n] exp(c_i - c_j) for j <= i, else 0 */
    float *kk;      /* [n, n] K K^T */
    float *p;       /* [n, n] Q K^T * decay, lower with diagonal */
    float *u;       /* [n, value_size] */
    float *w;       /* [n, key_size] */
    float *r;       /* [n, value_size] U - W S */
    float *s;       /* [key_size, value_size], entering state */
    const float *q, *k, *v, *beta; /* rows of ldk, ldk, ldv, value_heads */
    int64_t first;  /* row of the whole batch */
    int64_t k_at;   /* of its first key in q and k */
};

/* Places of the arrays in `memory` and of the inputs of chunk `index`. */
void rh_delta_chunk_at(const struct rh_delta_rule *p, float *memory, int64_t sequence,
                       int64_t value_head, int64_t index, struct rh_delta_chunk *out);
/* Floats that one chunk takes. */
int64_t rh_delta_chunk_size(const struct rh_delta_rule *p);
int64_t rh_delta_chunks(const struct rh_delta_rule *p); /* per sequence */

/* l = tril_-1(diag(beta) K K^T * decay) */
void rh_delta_chunk_lower(const struct rh_loops *loops, const struct rh_delta_rule *p,
                          const struct rh_delta_chunk *chunk, float *l);
/* exp in fp32 of a difference of cumulated gates, which are fp64. */
float rh_delta_exp(double difference);

#endif
