#ifndef RH_KERNELS_CPU_OPS_CPU_H
#define RH_KERNELS_CPU_OPS_CPU_H

#include "backend_private.h"
#include "kernels/ops.h"

extern const struct rh_ops rh_ops_cpu;

/* Rows handed out at a time by ops that work row by row. */
#define RH_ROW_GRAIN 32

void rh_cpu_matmul(struct rh_backend *b, const struct rh_matmul *p);
void rh_cpu_expert_matmul(struct rh_backend *b, const struct rh_expert_matmul *p);
void rh_cpu_rms_norm(struct rh_backend *b, const struct rh_rms_norm *p);
void rh_cpu_rms_norm_backward(struct rh_backend *b, const struct rh_rms_norm *p);
void rh_cpu_head_norm(struct rh_backend *b, const struct rh_head_norm *p);
void rh_cpu_head_norm_backward(struct rh_backend *b, const struct rh_head_norm *p);
void rh_cpu_attention(struct rh_backend *b, const struct rh_attention *p);
void rh_cpu_attention_backward(struct rh_backend *b, const struct rh_attention *p);
void rh_cpu_head_gate(struct rh_backend *b, const struct rh_head_gate *p);
void rh_cpu_head_gate_backward(struct rh_backend *b, const struct rh_head_gate *p);
void rh_cpu_conv_silu(struct rh_backend *b, const struct rh_conv_silu *p);
void rh_cpu_conv_silu_backward(struct rh_backend *b, const struct rh_conv_silu *p);
void rh_cpu_delta_inputs(struct rh_backend *b, const struct rh_delta_inputs *p);
void rh_cpu_delta_inputs_backward(struct rh_backend *b, const struct rh_delta_inputs *p);
int64_t rh_cpu_delta_rule_saved(const struct rh_delta_rule *p);
void rh_cpu_delta_rule(struct rh_backend *b, const struct rh_delta_rule *p);
void rh_cpu_delta_rule_backward(struct rh_backend *b, const struct rh_delta_rule *p);
void rh_cpu_gated_norm(struct rh_backend *b, const struct rh_gated_norm *p);
void rh_cpu_gated_norm_backward(struct rh_backend *b, const struct rh_gated_norm *p);
void rh_cpu_route(struct rh_backend *b, const struct rh_route *p);
void rh_cpu_route_backward(struct rh_backend *b, const struct rh_route *p);
void rh_cpu_dispatch(struct rh_backend *b, const struct rh_dispatch *p);
void rh_cpu_dispatch_backward(struct rh_backend *b, const struct rh_dispatch *p);
void rh_cpu_swiglu(struct rh_backend *b, const struct rh_swiglu *p);
void rh_cpu_swiglu_backward(struct rh_backend *b, const struct rh_swiglu *p);
void rh_cpu_combine(struct rh_backend *b, const struct rh_combine *p);
void rh_cpu_combine_backward(struct rh_backend *b, const struct rh_combine *p);
void rh_cpu_mlp(struct rh_backend *b, const struct rh_mlp *p);
void rh_cpu_mlp_backward(struct rh_backend *b, const struct rh_mlp *p);
void rh_cpu_mse(struct rh_backend *b, const struct rh_mse *p);
void rh_cpu_gather_rows(struct rh_backend *b, const struct rh_gather_rows *p);
void rh_cpu_count_tokens(struct rh_backend *b, const struct rh_count_tokens *p);
void rh_cpu_sum_gradients(struct rh_backend *b, const struct rh_sum_gradients *p);
void rh_cpu_judge(struct rh_backend *b, const struct rh_judge *p);
void rh_cpu_fake_quant_start(struct rh_backend *b, const struct rh_quantizer *q);
void rh_cpu_fake_quant_advance(struct rh_backend *b, const struct rh_quantizer *q);
void rh_cpu_fake_quant_restore(struct rh_backend *b, const struct rh_quantizer *q);

/* C = (beta) C + alpha op(A) op(B), one thread; sizes fit an int. */
void rh_cpu_gemm(enum rh_form form, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

#endif
