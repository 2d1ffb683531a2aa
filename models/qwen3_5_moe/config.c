#include <math.h>
#include <string.h>

#include "base/mem.h"

#include "qwen3_5_moe.h"

/* An integer of the file and where it goes. The bounds keep every product of two or three
 * dimensions far below 2^63. */
struct int_row {
    const char *key;
    size_t offset;
    int64_t min, max;
};

#define AT(m) offsetof(struct rh_model_config, m)

static const struct int_row text_rows[] = {
    {"hidden_size", AT(hidden_size), 32, 65536},
    {"num_hidden_layers", AT(num_hidden_layers), 1, RH_LAYERS_MAX},
    {"vocab_size", AT(vocab_size), 1, 1 << 24},
    {"num_attention_heads", AT(num_attention_heads), 1, 1024},
    {"num_key_value_heads", AT(num_key_value_heads), 1, 1024},
    {"head_dim", AT(head_dim), 2, 4096},
    {"linear_num_key_heads", AT(linear_num_key_heads), 1, 1024},
    {"linear_num_value_heads", AT(linear_num_value_heads), 1, 1024},
    {"linear_key_head_dim", AT(linear_key_head_dim), 1, 4096},
    {"linear_value_head_dim", AT(linear_value_head_dim), 1, 4096},
    {"linear_conv_kernel_dim", AT(linear_conv_kernel_dim), 1, 64},
    {"num_experts", AT(num_experts), 1, 4096},
    {"num_experts_per_tok", AT(num_experts_per_tok), 1, 4096},
    {"moe_intermediate_size", AT(moe_intermediate_size), 1, 1 << 20},
    {"shared_expert_intermediate_size", AT(shared_expert_intermediate_size), 1, 1 << 20},
    {"max_position_embeddings", AT(max_position_embeddings), 1, INT64_C(1) << 31},
};

/* Read where they are used (layout.c); checked here. */
static const struct int_row vision_rows[] = {
    {"depth", 0, 0, 1024},
    {"hidden_size", 0, 1, 65536},
    {"intermediate_size", 0, 1, 1 << 20},
    {"in_channels", 0, 1, 1024},
    {"temporal_patch_size", 0, 1, 1024},
    {"patch_size", 0, 1, 1024},
    {"num_position_embeddings", 0, 1, 1 << 24},
    {"spatial_merge_size", 0, 1, 64},
    {"out_hidden_size", 0, 1, 65536},
};

/* Layers times experts: 128 layers of 1024, three linears each. */
#define LAYER_EXPERTS_MAX (128 * 1024)

static enum rh_rc want_int_in(const struct rh_json *object, const char *key, const char *what,
                              int64_t min, int64_t max, int64_t *out, struct rh_error *err)
{
    enum rh_rc rc = rh_json_want_int(object, key, what, out, err);
    if (rc == RH_OK && (*out < min || *out > max))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: %s is %lld, allowed are %lld to %lld", what, key,
                     (long long)*out, (long long)min, (long long)max);
    return rc;
}

static enum rh_rc want_number_in(const struct rh_json *object, const char *key, const char *what,
                                 double min, double max, double *out, struct rh_error *err)
{
    *out = rh_json_number(rh_json_get(object, key), NAN);
    if (!(*out >= min && *out <= max))
        return rh_fail(err, RH_ERR_FORMAT, "%s: %s must be a number from %g to %g", what, key, min,
                       max);
    return RH_OK;
}

/* Absent counts as the only form that is implemented, as in transformers' defaults. */
static enum rh_rc want_flag(const struct rh_json *object, const char *key, const char *what,
                            bool wanted, struct rh_error *err)
{
    const struct rh_json *node = rh_json_get(object, key);
    if (!node || (rh_json_type(node) == RH_JSON_BOOL && rh_json_bool(node, false) == wanted))
        return RH_OK;
    return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: only %s = %s is supported", what, key,
                   wanted ? "true" : "false");
}

static enum rh_rc want_text(const struct rh_json *object, const char *key, const char *what,
                            const char *wanted, struct rh_error *err)
{
    const struct rh_json *node = rh_json_get(object, key);
    const char *text = rh_json_string(node);
    if (!node || (text && strcmp(text, wanted) == 0))
        return RH_OK;
    return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: %s is \"%.60s\", only \"%s\" is supported", what,
                   key, text ? text : "?", wanted);
}

static enum rh_rc read_layer_types(const struct rh_json *text, const char *what,
                                   struct rh_model_config *out, struct rh_error *err)
{
    const struct rh_json *list;
    enum rh_rc rc = rh_json_want_array(text, "layer_types", what, &list, err);
    if (rc != RH_OK)
        return rc;
    if (rh_json_count(list) != (size_t)out->num_hidden_layers)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: layer_types has %zu entries, but num_hidden_layers is %lld", what,
                       rh_json_count(list), (long long)out->num_hidden_layers);
    size_t i = 0;
    for (const struct rh_json *c = rh_json_first(list); c; c = rh_json_next(c), i++) {
        const char *kind = rh_json_string(c);
        if (kind && strcmp(kind, "linear_attention") == 0)
            out->mixer[i] = RH_MIXER_LINEAR_ATTENTION;
        else if (kind && strcmp(kind, "full_attention") == 0)
            out->mixer[i] = RH_MIXER_FULL_ATTENTION;
        else
            return rh_fail(err, RH_ERR_UNSUPPORTED,
                           "%s: layer_types[%zu] is \"%.60s\"; known are linear_attention and "
                           "full_attention",
                           what, i, kind ? kind : "?");
    }
    return RH_OK;
}

/* The M-RoPE sections share out the rotated pairs: their sum is half the rotated width. */
static enum rh_rc read_rope(const struct rh_json *text, const char *what,
                            struct rh_model_config *out, struct rh_error *err)
{
    const struct rh_json *rope, *sections;
    enum rh_rc rc = rh_json_want_object(text, "rope_parameters", what, &rope, err);
    if (rc == RH_OK)
        rc = want_text(rope, "rope_type", what, "default", err);
    if (rc == RH_OK)
        rc = want_flag(rope, "mrope_interleaved", what, true, err);
    if (rc == RH_OK)
        rc = want_number_in(rope, "rope_theta", what, 1.0, 1e12, &out->rope_theta, err);
    if (rc == RH_OK)
        rc = want_number_in(rh_json_get(rope, "partial_rotary_factor") ? rope : text,
                            "partial_rotary_factor", what, 0.0, 1.0, &out->partial_rotary_factor,
                            err);
    if (rc == RH_OK)
        rc = rh_json_want_array(rope, "mrope_section", what, &sections, err);
    if (rc != RH_OK)
        return rc;
    int64_t sum = 0;
    size_t i = 0;
    for (const struct rh_json *c = rh_json_first(sections); c && i < 3; c = rh_json_next(c), i++) {
        if (!rh_json_int(c, &out->mrope_section[i]) || out->mrope_section[i] < 0 ||
            out->mrope_section[i] > out->head_dim)
            return rh_fail(err, RH_ERR_FORMAT, "%s: mrope_section[%zu] is out of range", what, i);
        sum += out->mrope_section[i];
    }
    int64_t rotated = (int64_t)((double)out->head_dim * out->partial_rotary_factor);
    if (rh_json_count(sections) != 3 || rotated < 2 || rotated % 2 != 0 || 2 * sum != rotated)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: mrope_section must be three counts that add up to half of the %lld "
                       "rotated dimensions",
                       what, (long long)rotated);
    return RH_OK;
}

static enum rh_rc check_divides(const char *what, const char *many_key, int64_t many,
                                const char *few_key, int64_t few, struct rh_error *err)
{
    if (many % few == 0)
        return RH_OK;
    return rh_fail(err, RH_ERR_FORMAT, "%s: %s = %lld is no multiple of %s = %lld", what, many_key,
                   (long long)many, few_key, (long long)few);
}

static enum rh_rc check_together(const struct rh_model_config *c, const char *what,
                                 struct rh_error *err)
{
    enum rh_rc rc = check_divides(what, "num_attention_heads", c->num_attention_heads,
                                  "num_key_value_heads", c->num_key_value_heads, err);
    if (rc == RH_OK)
        rc = check_divides(what, "linear_num_value_heads", c->linear_num_value_heads,
                           "linear_num_key_heads", c->linear_num_key_heads, err);
    if (rc != RH_OK)
        return rc;
    if (c->num_experts_per_tok > c->num_experts)
        return rh_fail(err, RH_ERR_FORMAT, "%s: num_experts_per_tok is %lld, but num_experts %lld",
                       what, (long long)c->num_experts_per_tok, (long long)c->num_experts);
    if (c->num_hidden_layers * c->num_experts > LAYER_EXPERTS_MAX)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: %lld layers of %lld experts are more than %d",
                       what, (long long)c->num_hidden_layers, (long long)c->num_experts,
                       LAYER_EXPERTS_MAX);
    return RH_OK;
}

static enum rh_rc check_flags(const struct rh_json *text, const char *what, struct rh_error *err)
{
    enum rh_rc rc = want_text(text, "hidden_act", what, "silu", err);
    if (rc == RH_OK)
        rc = want_flag(text, "attention_bias", what, false, err);
    if (rc == RH_OK)
        rc = want_flag(text, "attn_output_gate", what, true, err);
    if (rc == RH_OK)
        rc = want_flag(text, "mtp_use_dedicated_embeddings", what, false, err);
    return rc;
}

static enum rh_rc check_vision(const struct rh_json *json, const char *what, struct rh_error *err)
{
    const struct rh_json *vision = rh_json_get(json, "vision_config");
    if (rh_json_is_null(vision))
        return RH_OK;
    if (rh_json_type(vision) != RH_JSON_OBJECT)
        return rh_fail(err, RH_ERR_FORMAT, "%s: vision_config must be an object", what);
    if (rh_json_count(rh_json_get(vision, "deepstack_visual_indexes")) != 0)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s: vision_config.deepstack_visual_indexes is not empty", what);
    char *where = rh_format("%s: vision_config", what);
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; rc == RH_OK && i < sizeof vision_rows / sizeof vision_rows[0]; i++) {
        int64_t value;
        rc = want_int_in(vision, vision_rows[i].key, where, vision_rows[i].min, vision_rows[i].max,
                         &value, err);
    }
    rh_free(where);
    return rc;
}

/* How layers of one head follow each other no release shows. */
static enum rh_rc read_mtp(const struct rh_json *text, const char *what,
                           struct rh_model_config *out, struct rh_error *err)
{
    static const char key[] = "mtp_num_hidden_layers";
    if (rh_json_is_null(rh_json_get(text, key)))
        return RH_OK;
    enum rh_rc rc =
        want_int_in(text, key, what, 0, RH_LAYERS_MAX, &out->mtp_num_hidden_layers, err);
    if (rc == RH_OK && out->mtp_num_hidden_layers > 1)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s: %s is %lld; an MTP head has one layer here, and leaving the others out "
                       "would change the model",
                       what, key, (long long)out->mtp_num_hidden_layers);
    return rc;
}

static enum rh_rc read_text(const struct rh_json *text, const char *what,
                            struct rh_model_config *out, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; rc == RH_OK && i < sizeof text_rows / sizeof text_rows[0]; i++) {
        int64_t value = 0;
        rc = want_int_in(text, text_rows[i].key, what, text_rows[i].min, text_rows[i].max, &value,
                         err);
        memcpy((char *)out + text_rows[i].offset, &value, sizeof value);
    }
    if (rc == RH_OK)
        rc = read_mtp(text, what, out, err);
    if (rc == RH_OK)
        rc = want_number_in(text, "rms_norm_eps", what, 1e-12, 0.1, &out->rms_norm_eps, err);
    if (rc == RH_OK)
        rc = check_together(out, what, err);
    if (rc == RH_OK)
        rc = read_layer_types(text, what, out, err);
    if (rc == RH_OK)
        rc = read_rope(text, what, out, err);
    if (rc == RH_OK)
        rc = check_flags(text, what, err);
    return rc;
}

enum rh_rc rh_qwen3_5_moe_config(const struct rh_json *json, const char *what,
                                 struct rh_model_config *out, struct rh_error *err)
{
    const struct rh_json *text;
    const char *model_type;
    enum rh_rc rc = rh_json_want_string(json, "model_type", what, &model_type, err);
    if (rc == RH_OK)
        rc = rh_json_want_object(json, "text_config", what, &text, err);
    if (rc != RH_OK)
        return rc;
    out->model_type = rh_strdup(model_type);
    out->tie_word_embeddings = rh_json_bool(rh_json_get(json, "tie_word_embeddings"), false) ||
                               rh_json_bool(rh_json_get(text, "tie_word_embeddings"), false);
    char *where = rh_format("%s: text_config", what);
    rc = read_text(text, where, out, err);
    rh_free(where);
    return rc == RH_OK ? check_vision(json, what, err) : rc;
}
