#include "ops_cpu.h"

const struct rh_loops *rh_loops_best(void)
{
#ifdef RH_X86_KERNELS
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &rh_loops_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &rh_loops_avx2;
#endif
    return &rh_loops_plain;
}

const struct rh_ops rh_ops_cpu = {
    .matmul = rh_cpu_matmul,
    .expert_matmul = rh_cpu_expert_matmul,
    .rms_norm = rh_cpu_rms_norm,
    .rms_norm_backward = rh_cpu_rms_norm_backward,
    .head_norm = rh_cpu_head_norm,
    .head_norm_backward = rh_cpu_head_norm_backward,
    .attention = rh_cpu_attention,
    .attention_backward = rh_cpu_attention_backward,
    .head_gate = rh_cpu_head_gate,
    .head_gate_backward = rh_cpu_head_gate_backward,
    .conv_silu = rh_cpu_conv_silu,
    .conv_silu_backward = rh_cpu_conv_silu_backward,
    .delta_inputs = rh_cpu_delta_inputs,
    .delta_inputs_backward = rh_cpu_delta_inputs_backward,
    .delta_rule_saved = rh_cpu_delta_rule_saved,
    .delta_rule = rh_cpu_delta_rule,
    .delta_rule_backward = rh_cpu_delta_rule_backward,
    .gated_norm = rh_cpu_gated_norm,
    .gated_norm_backward = rh_cpu_gated_norm_backward,
    .route = rh_cpu_route,
    .route_backward = rh_cpu_route_backward,
    .dispatch = rh_cpu_dispatch,
    .dispatch_backward = rh_cpu_dispatch_backward,
    .swiglu = rh_cpu_swiglu,
    .swiglu_backward = rh_cpu_swiglu_backward,
    .combine = rh_cpu_combine,
    .combine_backward = rh_cpu_combine_backward,
    .mse = rh_cpu_mse,
    .gather_rows = rh_cpu_gather_rows,
    .count_tokens = rh_cpu_count_tokens,
    .sum_gradients = rh_cpu_sum_gradients,
    .judge = rh_cpu_judge,
    .fake_quant_start = rh_cpu_fake_quant_start,
    .fake_quant_advance = rh_cpu_fake_quant_advance,
    .fake_quant_restore = rh_cpu_fake_quant_restore,
    .mlp = rh_cpu_mlp,
    .mlp_backward = rh_cpu_mlp_backward,
};
