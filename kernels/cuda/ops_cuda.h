#ifndef RH_KERNELS_CUDA_OPS_CUDA_H
#define RH_KERNELS_CUDA_OPS_CUDA_H

#include "kernels/ops.h"

/* The ops of the CUDA backend: kernels/ops.h says what they do, with everything in device memory. */
#ifdef __cplusplus
extern "C" {
#endif

void rh_cuda_matmul(struct rh_backend *b, const struct rh_matmul *p);
void rh_cuda_expert_matmul(struct rh_backend *b, const struct rh_expert_matmul *p);
void rh_cuda_rms_norm(struct rh_backend *b, const struct rh_rms_norm *p);
void rh_cuda_rms_norm_backward(struct rh_backend *b, const struct rh_rms_norm *p);
void rh_cuda_head_norm(struct rh_backend *b, const struct rh_head_norm *p);
void rh_cuda_head_norm_backward(struct rh_backend *b, const struct rh_head_norm *p);
void rh_cuda_attention(struct rh_backend *b, const struct rh_attention *p);
void rh_cuda_attention_backward(struct rh_backend *b, const struct rh_attention *p);
void rh_cuda_head_gate(struct rh_backend *b, const struct rh_head_gate *p);
void rh_cuda_head_gate_backward(struct rh_backend *b, const struct rh_head_gate *p);
void rh_cuda_conv_silu(struct rh_backend *b, const struct rh_conv_silu *p);
void rh_cuda_conv_silu_backward(struct rh_backend *b, const struct rh_conv_silu *p);
void rh_cuda_delta_inputs(struct rh_backend *b, const struct rh_delta_inputs *p);
void rh_cuda_delta_inputs_backward(struct rh_backend *b, const struct rh_delta_inputs *p);
int64_t rh_cuda_delta_rule_saved(const struct rh_delta_rule *p);
void rh_cuda_delta_rule(struct rh_backend *b, const struct rh_delta_rule *p);
void rh_cuda_delta_rule_backward(struct rh_backend *b, const struct rh_delta_rule *p);
void rh_cuda_gated_norm(struct rh_backend *b, const struct rh_gated_norm *p);
void rh_cuda_gated_norm_backward(struct rh_backend *b, const struct rh_gated_norm *p);
void rh_cuda_route(struct rh_backend *b, const struct rh_route *p);
void rh_cuda_route_backward(struct rh_backend *b, const struct rh_route *p);
void rh_cuda_dispatch(struct rh_backend *b, const struct rh_dispatch *p);
void rh_cuda_dispatch_backward(struct rh_backend *b, const struct rh_dispatch *p);
void rh_cuda_swiglu(struct rh_backend *b, const struct rh_swiglu *p);
void rh_cuda_swiglu_backward(struct rh_backend *b, const struct rh_swiglu *p);
void rh_cuda_combine(struct rh_backend *b, const struct rh_combine *p);
void rh_cuda_combine_backward(struct rh_backend *b, const struct rh_combine *p);
void rh_cuda_mse(struct rh_backend *b, const struct rh_mse *p);
void rh_cuda_gather_rows(struct rh_backend *b, const struct rh_gather_rows *p);
void rh_cuda_count_tokens(struct rh_backend *b, const struct rh_count_tokens *p);
void rh_cuda_sum_gradients(struct rh_backend *b, const struct rh_sum_gradients *p);
void rh_cuda_judge(struct rh_backend *b, const struct rh_judge *p);
void rh_cuda_fake_quant_start(struct rh_backend *b, const struct rh_quantizer *q);
void rh_cuda_fake_quant_advance(struct rh_backend *b, const struct rh_quantizer *q);
void rh_cuda_fake_quant_restore(struct rh_backend *b, const struct rh_quantizer *q);

extern const struct rh_ops rh_ops_cuda;

#ifdef __cplusplus
}
#endif

#endif
