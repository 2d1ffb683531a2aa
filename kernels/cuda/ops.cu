#include "cuda/ops_cuda.h"

/* Until the last of them is written. */
#pragma weak rh_cuda_matmul
#pragma weak rh_cuda_expert_matmul
#pragma weak rh_cuda_rms_norm
#pragma weak rh_cuda_rms_norm_backward
#pragma weak rh_cuda_head_norm
#pragma weak rh_cuda_head_norm_backward
#pragma weak rh_cuda_attention
#pragma weak rh_cuda_attention_backward
#pragma weak rh_cuda_head_gate
#pragma weak rh_cuda_head_gate_backward
#pragma weak rh_cuda_conv_silu
#pragma weak rh_cuda_conv_silu_backward
#pragma weak rh_cuda_delta_inputs
#pragma weak rh_cuda_delta_inputs_backward
#pragma weak rh_cuda_delta_rule_saved
#pragma weak rh_cuda_delta_rule
#pragma weak rh_cuda_delta_rule_backward
#pragma weak rh_cuda_gated_norm
#pragma weak rh_cuda_gated_norm_backward
#pragma weak rh_cuda_route
#pragma weak rh_cuda_route_backward
#pragma weak rh_cuda_dispatch
#pragma weak rh_cuda_dispatch_backward
#pragma weak rh_cuda_swiglu
#pragma weak rh_cuda_swiglu_backward
#pragma weak rh_cuda_combine
#pragma weak rh_cuda_combine_backward
#pragma weak rh_cuda_mse
#pragma weak rh_cuda_gather_rows
#pragma weak rh_cuda_count_tokens
#pragma weak rh_cuda_sum_gradients
#pragma weak rh_cuda_judge
#pragma weak rh_cuda_fake_quant_start
#pragma weak rh_cuda_fake_quant_advance
#pragma weak rh_cuda_fake_quant_restore

/* In the order of the table in kernels/ops.h: C++17 has no designated initialisers. */
extern "C" const struct rh_ops rh_ops_cuda = {
    rh_cuda_matmul,
    rh_cuda_expert_matmul,
    rh_cuda_rms_norm,
    rh_cuda_rms_norm_backward,
    rh_cuda_head_norm,
    rh_cuda_head_norm_backward,
    rh_cuda_attention,
    rh_cuda_attention_backward,
    rh_cuda_head_gate,
    rh_cuda_head_gate_backward,
    rh_cuda_conv_silu,
    rh_cuda_conv_silu_backward,
    rh_cuda_delta_inputs,
    rh_cuda_delta_inputs_backward,
    rh_cuda_delta_rule_saved,
    rh_cuda_delta_rule,
    rh_cuda_delta_rule_backward,
    rh_cuda_gated_norm,
    rh_cuda_gated_norm_backward,
    rh_cuda_route,
    rh_cuda_route_backward,
    rh_cuda_dispatch,
    rh_cuda_dispatch_backward,
    rh_cuda_swiglu,
    rh_cuda_swiglu_backward,
    rh_cuda_combine,
    rh_cuda_combine_backward,
    rh_cuda_mse,
    rh_cuda_gather_rows,
    rh_cuda_count_tokens,
    rh_cuda_sum_gradients,
    rh_cuda_judge,
    rh_cuda_fake_quant_start,
    rh_cuda_fake_quant_advance,
    rh_cuda_fake_quant_restore,
};
