#ifndef RH_KERNELS_REFERENCE_OPS_REFERENCE_H
#define RH_KERNELS_REFERENCE_OPS_REFERENCE_H

#include <math.h>

#include "backend_private.h"
#include "kernels/ops.h"

/* The formulas of kernels/ops.h, one element after the other, sums in fp64; f32 in memory. Nothing
 * is shared with kernels/cpu: whoever disagrees with this is wrong. */
void rh_reference_matmul(struct rh_backend *b, const struct rh_matmul *p);
void rh_reference_expert_matmul(struct rh_backend *b, const struct rh_expert_matmul *p);
void rh_reference_rms_norm(struct rh_backend *b, const struct rh_rms_norm *p);
void rh_reference_rms_norm_backward(struct rh_backend *b, const struct rh_rms_norm *p);
void rh_reference_head_norm(struct rh_backend *b, const struct rh_head_norm *p);
void rh_reference_head_norm_backward(struct rh_backend *b, const struct rh_head_norm *p);
void rh_reference_attention(struct rh_backend *b, const struct rh_attention *p);
void rh_reference_attention_backward(struct rh_backend *b, const struct rh_attention *p);
void rh_reference_head_gate(struct rh_backend *b, const struct rh_head_gate *p);
void rh_reference_head_gate_backward(struct rh_backend *b, const struct rh_head_gate *p);
void rh_reference_conv_silu(struct rh_backend *b, const struct rh_conv_silu *p);
void rh_reference_conv_silu_backward(struct rh_backend *b, const struct rh_conv_silu *p);
void rh_reference_delta_inputs(struct rh_backend *b, const struct rh_delta_inputs *p);
void rh_reference_delta_inputs_backward(struct rh_backend *b, const struct rh_delta_inputs *p);
int64_t rh_reference_delta_rule_saved(const struct rh_delta_rule *p);
void rh_reference_delta_rule(struct rh_backend *b, const struct rh_delta_rule *p);
void rh_reference_delta_rule_backward(struct rh_backend *b, const struct rh_delta_rule *p);
void rh_reference_gated_norm(struct rh_backend *b, const struct rh_gated_norm *p);
void rh_reference_gated_norm_backward(struct rh_backend *b, const struct rh_gated_norm *p);
void rh_reference_route(struct rh_backend *b, const struct rh_route *p);
void rh_reference_route_backward(struct rh_backend *b, const struct rh_route *p);
void rh_reference_dispatch(struct rh_backend *b, const struct rh_dispatch *p);
void rh_reference_dispatch_backward(struct rh_backend *b, const struct rh_dispatch *p);
void rh_reference_swiglu(struct rh_backend *b, const struct rh_swiglu *p);
void rh_reference_swiglu_backward(struct rh_backend *b, const struct rh_swiglu *p);
void rh_reference_combine(struct rh_backend *b, const struct rh_combine *p);
void rh_reference_combine_backward(struct rh_backend *b, const struct rh_combine *p);
void rh_reference_mse(struct rh_backend *b, const struct rh_mse *p);

extern const struct rh_ops rh_ops_reference;

static inline double rh_reference_sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* Derivative of x sigmoid(x). */
static inline double rh_reference_silu_slope(double x)
{
    double s = rh_reference_sigmoid(x);
    return s * (1.0 + x * (1.0 - s));
}

/* Sum of a[i] b[i], a's elements `stride` apart. */
static inline double rh_reference_dot(const float *a, int64_t stride, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i * stride] * (double)b[i];
    return sum;
}

/* 1 / sqrt(mean(x^2) + eps) */
static inline double rh_reference_rate(const float *x, int64_t n, float eps)
{
    return 1.0 / sqrt(rh_reference_dot(x, 1, x, n) / (double)n + (double)eps);
}

#endif
