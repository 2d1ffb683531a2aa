#ifndef RH_QUANT_GROUP_H
#define RH_QUANT_GROUP_H

#include <stdint.h>

#include "base/error.h"
#include "quant/grid.h"
#include "quant/scheme.h"

/*
 * The quantizers on one group, in plain C: the definition that every fast kernel is held to, bit
 * for bit. w, v, grad: [n] fp32 in host memory. Formulas: docs/numerics.md.
 */

/* lo = min(min w, 0), hi = max(max w, 0); RH_ERR_NUMERIC for a weight that is not finite or whose
 * scale would not fit fp16. */
RH_MUST_USE enum rh_rc rh_group_range(const struct rh_scheme *scheme, const float *w, int64_t n,
                                      float *out_lo, float *out_hi, struct rh_error *err);

/* Values and codes; v NULL means zeros, weight_q and codes may be NULL. */
void rh_group_forward(const struct rh_grid *grid, const float *w, const float *v, int64_t n,
                      float *weight_q, uint8_t *codes);

/* Sum (scale * d - w)^2 of rounding to nearest, in the order of rh_grid_lane_sum(). */
float rh_group_error(const struct rh_grid *grid, const float *w, int64_t n);

/* The factor of both ends of the range (rh_grid_factor()) with the lowest `error`, which is
 * rh_group_error() or a faster one of the same bytes. */
float rh_group_search(const struct rh_scheme *scheme, float lo, float hi, const float *w, int64_t n,
                      float (*error)(const struct rh_grid *grid, const float *w, int64_t n));

/* Gradient of v (may be NULL) and the sums that rh_grid_gradient() takes. */
void rh_group_backward(const struct rh_grid *grid, const float *w, const float *v,
                       const float *grad, int64_t n, float *grad_v, struct rh_group_sums *sums);

/* Round to nearest of a whole matrix: rh_grid_make() and rh_group_forward() with v = 0 and
 * alpha = beta = 1, or what the search finds. scales (fp16 bits) and zeros: [out_features, groups];
 * zeros NULL when symmetric. codes [out_features, in_features]. */
RH_MUST_USE enum rh_rc rh_round_to_nearest(const struct rh_scheme *scheme, const float *w,
                                           int64_t out_features, int64_t in_features, bool search,
                                           uint8_t *codes, uint16_t *scales, uint8_t *zeros,
                                           struct rh_error *err);

#endif
