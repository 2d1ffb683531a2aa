#ifndef RH_KERNELS_QUANT_OPS_H
#define RH_KERNELS_QUANT_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/thread_pool.h"
#include "quant/scheme.h"

/*
 * The quantizer of a whole block on the CPU: forward, gradient, sign step and next forward of every
 * group in one pass over memory. Formulas: docs/numerics.md. The results of all instruction sets
 * are the same bytes (core's quant/group.h defines them), for any number of threads.
 */

/* The tuning state of one linear. Arrays are host memory, row-major, owned by the caller. */
struct rh_fake_quant {
    struct rh_scheme scheme;
    int64_t out_features, in_features;
    const float *weight; /* [out, in] */
    float *lo, *hi;      /* [out, groups]: min(min w, 0), max(max w, 0) of a group */
    float *v;            /* [out, in] */
    float *alpha, *beta; /* [out, groups]; clamped to [0, 1] by every forward */
    const float *grad;   /* [out, in], dL/dweight_q; read only where has_grad */
    bool has_grad;       /* false: the linear keeps its parameters in this step */
    float *weight_q;     /* [out, in]: what the forward pass of the block uses */
    /* What emit writes: one code a byte, fp16 bits of the scales, zero points (NULL when sym). */
    uint8_t *codes;    /* [out, in] */
    uint16_t *scales;  /* [out, groups] */
    uint8_t *zeros;    /* [out, groups] */
    int64_t first_row; /* set by rh_fake_quant_start() */
};

struct rh_fake_quant_step {
    float rate;        /* of v */
    float minmax_rate; /* of alpha and beta */
    bool minmax;       /* tune alpha and beta at all */
    bool emit;         /* first write codes, scales and zeros of the parameters before this step */
};

/* Fills lo, hi, v = 0, alpha = beta = 1 and weight_q (round to nearest) of all items.
 * RH_ERR_NUMERIC when a weight is not finite or too large for an fp16 scale; *bad (may be NULL) is
 * then the index of its item. */
RH_MUST_USE enum rh_rc rh_fake_quant_start(struct rh_thread_pool *pool, struct rh_fake_quant *items,
                                           int64_t count, int64_t *bad, struct rh_error *err);

/* One optimiser step of all items, then weight_q of the new parameters. Allocates nothing.
 * RH_ERR_NUMERIC when a gradient is not finite: *bad (may be NULL) is the lowest such item, and the
 * state is no longer of use. */
RH_MUST_USE enum rh_rc rh_fake_quant_advance(struct rh_thread_pool *pool,
                                             struct rh_fake_quant *items, int64_t count,
                                             const struct rh_fake_quant_step *step, int64_t *bad,
                                             struct rh_error *err);

/* weight_q from codes, scales and zeros: scale * (code - zero). */
void rh_fake_quant_restore(struct rh_thread_pool *pool, struct rh_fake_quant *items, int64_t count);

/* Which inner loops run: "plain", "avx2" or "avx512". The best one that the processor has is chosen
 * at first use; force is for tests and false when this processor or build lacks it. */
const char *rh_fake_quant_isa(void);
bool rh_fake_quant_force_isa(const char *name);

#endif
