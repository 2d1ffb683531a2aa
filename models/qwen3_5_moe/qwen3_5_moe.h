#ifndef RH_FAMILIES_QWEN3_5_MOE_H
#define RH_FAMILIES_QWEN3_5_MOE_H

#include "family.h"

/* Dimension numbers of the tables in layout.c; 0 ends a shape. */
enum rh_qwen_dim {
    DIM_ONE = 1,
    DIM_HIDDEN,
    DIM_HIDDEN_2, /* embedding and hidden state side by side, the input of mtp.fc */
    DIM_VOCAB,
    DIM_LAYERS,
    DIM_MTP_LAYERS,
    DIM_EXPERTS,
    DIM_SHARED,
    DIM_HEAD,
    DIM_Q_GATE, /* per head query and gate */
    DIM_KV,
    DIM_ATTENTION,
    DIM_GDN_CONV, /* q, k and v of the delta rule: the channels of the convolution */
    DIM_GDN_VALUE,
    DIM_GDN_VALUE_HEADS,
    DIM_GDN_VALUE_HEAD,
    DIM_CONV_TAPS,
    DIM_VISION_DEPTH,
    DIM_VISION_HIDDEN,
    DIM_VISION_QKV,
    DIM_VISION_MLP,
    DIM_VISION_CHANNELS,
    DIM_VISION_TEMPORAL,
    DIM_VISION_PATCH,
    DIM_VISION_POSITIONS,
    DIM_VISION_MERGED,
    DIM_VISION_OUT,
};

enum rh_rc rh_qwen3_5_moe_config(const struct rh_json *json, const char *what,
                                 struct rh_model_config *out, struct rh_error *err);
int64_t rh_qwen3_5_moe_dimension(const struct rh_model_config *config, int number);

#define RH_QWEN3_5_MOE_UNIT_COUNT 5

extern const struct rh_unit_rules rh_qwen3_5_moe_units[RH_QWEN3_5_MOE_UNIT_COUNT];

#endif
