#include "qwen3_5_moe.h"

static const char *const architectures[] = {"Qwen3_5MoeForConditionalGeneration", NULL};

/* Written so that neither matches gate_proj, whatever the anchoring of the loader's regex engine.
 */
static const char *const keep_patterns[] = {
    ".*\\.mlp\\.gate$",
    ".*\\.mlp\\.shared_expert_gate$",
    ".*mtp\\.fc$",
    NULL,
};

const struct rh_family rh_family_qwen3_5_moe = {
    .name = "qwen3_5_moe",
    .architectures = architectures,
    .read_config = rh_qwen3_5_moe_config,
    .dimension = rh_qwen3_5_moe_dimension,
    .units = rh_qwen3_5_moe_units,
    .unit_count = RH_QWEN3_5_MOE_UNIT_COUNT,
    .blocks_name = "model.language_model.layers",
    .mtp_blocks_name = "mtp.layers",
    .keep_patterns = keep_patterns,
};
