#include "qwen3_5_moe.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define GDN      RH_IF_LINEAR_ATTENTION
#define ATT      RH_IF_FULL_ATTENTION

/* The registration order of the modules in transformers, experts unfused as AutoRound does it. */
static const struct rh_tensor_rule layer[] = {
    {"linear_attn.dt_bias", RH_ROLE_PASS, GDN, {DIM_GDN_VALUE_HEADS}},
    {"linear_attn.A_log", RH_ROLE_PASS, GDN, {DIM_GDN_VALUE_HEADS}},
    {"linear_attn.conv1d.weight", RH_ROLE_PASS, GDN, {DIM_GDN_CONV, DIM_ONE, DIM_CONV_TAPS}},
    {"linear_attn.norm.weight", RH_ROLE_PASS, GDN, {DIM_GDN_VALUE_HEAD}},
    {"linear_attn.out_proj.weight", RH_ROLE_LINEAR, GDN, {DIM_HIDDEN, DIM_GDN_VALUE}},
    {"linear_attn.in_proj_qkv.weight", RH_ROLE_LINEAR, GDN, {DIM_GDN_CONV, DIM_HIDDEN}},
    {"linear_attn.in_proj_z.weight", RH_ROLE_LINEAR, GDN, {DIM_GDN_VALUE, DIM_HIDDEN}},
    {"linear_attn.in_proj_b.weight", RH_ROLE_LINEAR, GDN, {DIM_GDN_VALUE_HEADS, DIM_HIDDEN}},
    {"linear_attn.in_proj_a.weight", RH_ROLE_LINEAR, GDN, {DIM_GDN_VALUE_HEADS, DIM_HIDDEN}},
    {"self_attn.q_proj.weight", RH_ROLE_LINEAR, ATT, {DIM_Q_GATE, DIM_HIDDEN}},
    {"self_attn.k_proj.weight", RH_ROLE_LINEAR, ATT, {DIM_KV, DIM_HIDDEN}},
    {"self_attn.v_proj.weight", RH_ROLE_LINEAR, ATT, {DIM_KV, DIM_HIDDEN}},
    {"self_attn.o_proj.weight", RH_ROLE_LINEAR, ATT, {DIM_HIDDEN, DIM_ATTENTION}},
    {"self_attn.q_norm.weight", RH_ROLE_PASS, ATT, {DIM_HEAD}},
    {"self_attn.k_norm.weight", RH_ROLE_PASS, ATT, {DIM_HEAD}},
    {"mlp.gate.weight", RH_ROLE_KEEP, RH_ALWAYS, {DIM_EXPERTS, DIM_HIDDEN}},
    {"mlp.shared_expert.gate_proj.weight", RH_ROLE_LINEAR, RH_ALWAYS, {DIM_SHARED, DIM_HIDDEN}},
    {"mlp.shared_expert.up_proj.weight", RH_ROLE_LINEAR, RH_ALWAYS, {DIM_SHARED, DIM_HIDDEN}},
    {"mlp.shared_expert.down_proj.weight", RH_ROLE_LINEAR, RH_ALWAYS, {DIM_HIDDEN, DIM_SHARED}},
    {"mlp.experts.", RH_ROLE_EXPERTS, RH_ALWAYS, {0}},
    {"mlp.shared_expert_gate.weight", RH_ROLE_KEEP, RH_ALWAYS, {DIM_ONE, DIM_HIDDEN}},
    {"input_layernorm.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_HIDDEN}},
    {"post_attention_layernorm.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_HIDDEN}},
};

static const struct rh_tensor_rule head[] = {
    {"model.language_model.embed_tokens.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VOCAB, DIM_HIDDEN}},
};

static const struct rh_tensor_rule tail[] = {
    {"model.language_model.norm.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_HIDDEN}},
    {"lm_head.weight", RH_ROLE_PASS, RH_IF_UNTIED, {DIM_VOCAB, DIM_HIDDEN}},
};

static const struct rh_tensor_rule mtp[] = {
    {"fc.weight", RH_ROLE_KEEP, RH_ALWAYS, {DIM_HIDDEN, DIM_HIDDEN_2}},
    {"norm.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_HIDDEN}},
    {"pre_fc_norm_embedding.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_HIDDEN}},
    {"pre_fc_norm_hidden.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_HIDDEN}},
};

static const struct rh_tensor_rule visual[] = {
    {"patch_embed.proj.weight",
     RH_ROLE_PASS,
     RH_ALWAYS,
     {DIM_VISION_HIDDEN, DIM_VISION_CHANNELS, DIM_VISION_TEMPORAL, DIM_VISION_PATCH,
      DIM_VISION_PATCH}},
    {"patch_embed.proj.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"pos_embed.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_POSITIONS, DIM_VISION_HIDDEN}},
};

static const struct rh_tensor_rule visual_block[] = {
    {"norm1.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"norm1.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"norm2.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"norm2.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"attn.qkv.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_QKV, DIM_VISION_HIDDEN}},
    {"attn.qkv.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_QKV}},
    {"attn.proj.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN, DIM_VISION_HIDDEN}},
    {"attn.proj.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"mlp.linear_fc1.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_MLP, DIM_VISION_HIDDEN}},
    {"mlp.linear_fc1.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_MLP}},
    {"mlp.linear_fc2.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN, DIM_VISION_MLP}},
    {"mlp.linear_fc2.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
};

static const struct rh_tensor_rule visual_merger[] = {
    {"norm.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"norm.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_HIDDEN}},
    {"linear_fc1.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_MERGED, DIM_VISION_MERGED}},
    {"linear_fc1.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_MERGED}},
    {"linear_fc2.weight", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_OUT, DIM_VISION_MERGED}},
    {"linear_fc2.bias", RH_ROLE_PASS, RH_ALWAYS, {DIM_VISION_OUT}},
};

const struct rh_unit_rules rh_qwen3_5_moe_units[RH_QWEN3_5_MOE_UNIT_COUNT] = {
    {RH_UNIT_HEAD, NULL, 0, {{"", head, COUNT(head), 0}}, 1},
    {RH_UNIT_BLOCK,
     NULL,
     0,
     {{"model.language_model.layers.", layer, COUNT(layer), DIM_LAYERS}},
     1},
    {RH_UNIT_TAIL, NULL, 0, {{"", tail, COUNT(tail), 0}}, 1},
    {RH_UNIT_MTP,
     "mtp.",
     DIM_MTP_LAYERS,
     {{"mtp.", mtp, COUNT(mtp), 0}, {"mtp.layers.", layer, COUNT(layer), DIM_MTP_LAYERS}},
     2},
    {RH_UNIT_VISUAL,
     "model.visual.",
     DIM_VISION_HIDDEN,
     {{"model.visual.", visual, COUNT(visual), 0},
      {"model.visual.blocks.", visual_block, COUNT(visual_block), DIM_VISION_DEPTH},
      {"model.visual.merger.", visual_merger, COUNT(visual_merger), 0}},
     3},
};

static int64_t vision(const struct rh_model_config *config, const char *key)
{
    int64_t value = 0;
    return rh_json_int(rh_json_get(rh_json_get(config->json, "vision_config"), key), &value) ? value
                                                                                             : 0;
}

static int64_t vision_dimension(const struct rh_model_config *c, int number)
{
    int64_t merge = vision(c, "spatial_merge_size");
    switch (number) {
    case DIM_VISION_DEPTH:
        return vision(c, "depth");
    case DIM_VISION_HIDDEN:
        return vision(c, "hidden_size");
    case DIM_VISION_QKV:
        return 3 * vision(c, "hidden_size");
    case DIM_VISION_MLP:
        return vision(c, "intermediate_size");
    case DIM_VISION_CHANNELS:
        return vision(c, "in_channels");
    case DIM_VISION_TEMPORAL:
        return vision(c, "temporal_patch_size");
    case DIM_VISION_PATCH:
        return vision(c, "patch_size");
    case DIM_VISION_POSITIONS:
        return vision(c, "num_position_embeddings");
    case DIM_VISION_MERGED:
        return merge * merge * vision(c, "hidden_size");
    case DIM_VISION_OUT:
        return vision(c, "out_hidden_size");
    default:
        return 0;
    }
}

int64_t rh_qwen3_5_moe_dimension(const struct rh_model_config *c, int number)
{
    int64_t value = c->linear_num_value_heads * c->linear_value_head_dim;
    switch (number) {
    case DIM_ONE:
        return 1;
    case DIM_HIDDEN:
        return c->hidden_size;
    case DIM_HIDDEN_2:
        return 2 * c->hidden_size;
    case DIM_VOCAB:
        return c->vocab_size;
    case DIM_LAYERS:
        return c->num_hidden_layers;
    case DIM_MTP_LAYERS:
        return c->mtp_num_hidden_layers;
    case DIM_EXPERTS:
        return c->num_experts;
    case DIM_SHARED:
        return c->shared_expert_intermediate_size;
    case DIM_HEAD:
        return c->head_dim;
    case DIM_Q_GATE:
        return 2 * c->num_attention_heads * c->head_dim;
    case DIM_KV:
        return c->num_key_value_heads * c->head_dim;
    case DIM_ATTENTION:
        return c->num_attention_heads * c->head_dim;
    case DIM_GDN_CONV:
        return 2 * c->linear_num_key_heads * c->linear_key_head_dim + value;
    case DIM_GDN_VALUE:
        return value;
    case DIM_GDN_VALUE_HEADS:
        return c->linear_num_value_heads;
    case DIM_GDN_VALUE_HEAD:
        return c->linear_value_head_dim;
    case DIM_CONV_TAPS:
        return c->linear_conv_kernel_dim;
    default:
        return vision_dimension(c, number);
    }
}
