#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "block_private.h"

/* Bytes converted at a time. */
#define PIECE ((uint64_t)8 << 20)

static void measure_sizes(struct rh_block *b)
{
    const struct rh_model_config *c = b->config;
    struct rh_sizes *n = &b->n;
    n->hidden = c->hidden_size;
    n->experts = c->num_experts;
    n->top_k = c->num_experts_per_tok;
    n->width = c->moe_intermediate_size;
    n->shared_width = c->shared_expert_intermediate_size;
    n->heads = c->num_attention_heads;
    n->kv_heads = c->num_key_value_heads;
    n->head_size = c->head_dim;
    n->rot = (int64_t)((double)c->head_dim * c->partial_rotary_factor);
    n->key_heads = c->linear_num_key_heads;
    n->value_heads = c->linear_num_value_heads;
    n->key_size = c->linear_key_head_dim;
    n->value_size = c->linear_value_head_dim;
    n->taps = c->linear_conv_kernel_dim;
    n->q_gate = 2 * n->heads * n->head_size;
    n->kv = n->kv_heads * n->head_size;
    n->z = n->value_heads * n->value_size;
    n->qkv = 2 * n->key_heads * n->key_size + n->z;
    bool full = b->mixer == RH_MIXER_FULL_ATTENTION;
    n->mixer_in = full ? n->q_gate + 2 * n->kv : n->qkv + n->z + 2 * n->value_heads;
    n->mixer_width = full ? n->heads * n->head_size : n->z;
}

void rh_block_measure(struct rh_block *b)
{
    measure_sizes(b);
    const struct rh_sizes *n = &b->n;
    struct rh_places *at = &b->at;
    at->mixer_in = 0;
    at->mixer_out = at->mixer_in + n->mixer_in * n->hidden;
    at->router = at->mixer_out + n->hidden * n->mixer_width;
    at->gate_up = at->router + (n->experts + 1) * n->hidden;
    at->down = at->gate_up + n->experts * 2 * n->width * n->hidden;
    at->shared_gate_up = at->down + n->experts * n->hidden * n->width;
    at->shared_down = at->shared_gate_up + 2 * n->shared_width * n->hidden;
    at->total = at->shared_down + n->hidden * n->shared_width;
}

/* Where the weight of a linear lies; -1: not a linear of this block. */
static int64_t place_of_expert(const struct rh_block *b, const char *name, int *expert)
{
    char *end = NULL;
    long e = strtol(name, &end, 10);
    if (end == name || e < 0 || e >= b->n.experts)
        return -1;
    *expert = (int)e;
    int64_t gate_up = b->at.gate_up + e * 2 * b->n.width * b->n.hidden;
    if (strcmp(end, ".gate_proj") == 0)
        return gate_up;
    if (strcmp(end, ".up_proj") == 0)
        return gate_up + b->n.width * b->n.hidden;
    if (strcmp(end, ".down_proj") == 0)
        return b->at.down + e * b->n.hidden * b->n.width;
    return -1;
}

static int64_t place_of(const struct rh_block *b, const char *name, int *expert)
{
    static const char experts[] = "mlp.experts.";
    const struct rh_sizes *n = &b->n;
    const struct {
        const char *name;
        int64_t at;
    } places[] = {
        {"self_attn.q_proj", b->at.mixer_in},
        {"self_attn.k_proj", b->at.mixer_in + n->q_gate * n->hidden},
        {"self_attn.v_proj", b->at.mixer_in + (n->q_gate + n->kv) * n->hidden},
        {"self_attn.o_proj", b->at.mixer_out},
        {"linear_attn.in_proj_qkv", b->at.mixer_in},
        {"linear_attn.in_proj_z", b->at.mixer_in + n->qkv * n->hidden},
        {"linear_attn.in_proj_b", b->at.mixer_in + (n->qkv + n->z) * n->hidden},
        {"linear_attn.in_proj_a", b->at.mixer_in + (n->qkv + n->z + n->value_heads) * n->hidden},
        {"linear_attn.out_proj", b->at.mixer_out},
        {"mlp.gate", b->at.router},
        {"mlp.shared_expert_gate", b->at.router + n->experts * n->hidden},
        {"mlp.shared_expert.gate_proj", b->at.shared_gate_up},
        {"mlp.shared_expert.up_proj", b->at.shared_gate_up + n->shared_width * n->hidden},
        {"mlp.shared_expert.down_proj", b->at.shared_down},
    };
    *expert = -1;
    if (strncmp(name, experts, sizeof experts - 1) == 0)
        return place_of_expert(b, name + sizeof experts - 1, expert);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (strcmp(name, places[i].name) == 0)
            return places[i].at;
    }
    return -1;
}

static bool readable(enum rh_dtype dtype)
{
    return dtype == RH_BF16 || dtype == RH_F16 || dtype == RH_F32;
}

/* Elements [first, first + count) of a tensor as float. */
static enum rh_rc read_floats(const struct rh_safetensors *weights, const char *name, int64_t first,
                              int64_t count, float *out, struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(weights, name);
    if (!info)
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s has no tensor %s",
                       rh_safetensors_path(weights), name);
    if (!readable(info->dtype))
        return rh_fail(err, RH_ERR_DTYPE, "%s: %s is %s; weights must be BF16, F16 or F32",
                       rh_safetensors_path(weights), name, rh_dtype_name(info->dtype));
    if (first + count > rh_tensor_elements(info))
        return rh_fail(err, RH_ERR_SHAPE, "%s: %s is smaller than the config says",
                       rh_safetensors_path(weights), name);
    uint64_t size = rh_dtype_size(info->dtype);
    void *piece = rh_alloc(PIECE);
    enum rh_rc rc = RH_OK;
    for (int64_t done = 0; done < count && rc == RH_OK;) {
        int64_t n = (int64_t)(PIECE / size);
        n = n < count - done ? n : count - done;
        rc = rh_safetensors_read(weights, info, (uint64_t)(first + done) * size,
                                 (uint64_t)n * size, piece, err);
        if (rc == RH_OK)
            rh_to_f32(info->dtype, piece, out + done, (size_t)n);
        done += n;
    }
    rh_free(piece);
    return rc;
}

static enum rh_rc read_vector(const struct rh_safetensors *weights, const char *prefix,
                              const char *name, int64_t count, float *out, struct rh_error *err)
{
    char *full = rh_format("%s%s", prefix, name);
    enum rh_rc rc = read_floats(weights, full, 0, count, out, err);
    rh_free(full);
    return rc;
}

static float *carve(float **memory, int64_t count)
{
    float *mine = *memory;
    *memory += (count + 15) / 16 * 16;
    return mine;
}

static void turn(const float *in, int64_t rows, int64_t columns, float *out)
{
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < columns; j++)
            out[j * rows + i] = in[i * columns + j];
    }
}

static enum rh_rc load_linear_vectors(struct rh_block *b, const char *prefix,
                                      const struct rh_safetensors *weights, struct rh_error *err)
{
    const struct rh_sizes *n = &b->n;
    float *conv = rh_alloc_array((size_t)(n->qkv * n->taps), sizeof *conv);
    enum rh_rc rc = read_vector(weights, prefix, "linear_attn.conv1d.weight", n->qkv * n->taps, conv,
                                err);
    if (rc == RH_OK)
        turn(conv, n->qkv, n->taps, b->v.conv);
    rh_free(conv);
    if (rc == RH_OK)
        rc = read_vector(weights, prefix, "linear_attn.A_log", n->value_heads, b->v.a_log, err);
    if (rc == RH_OK)
        rc = read_vector(weights, prefix, "linear_attn.dt_bias", n->value_heads, b->v.dt_bias, err);
    if (rc == RH_OK)
        rc = read_vector(weights, prefix, "linear_attn.norm.weight", n->value_size, b->v.norm, err);
    return rc;
}

static enum rh_rc load_vectors(struct rh_block *b, const char *prefix,
                               const struct rh_safetensors *weights, struct rh_error *err)
{
    const struct rh_sizes *n = &b->n;
    int64_t total = 2 * n->hidden + 2 * n->head_size + n->qkv * n->taps + 2 * n->value_heads +
                    n->value_size + 8 * 16;
    enum rh_rc rc = rh_backend_alloc(b->backend, (size_t)total * sizeof(float), "norms of a block",
                                     &b->vector_memory, err);
    if (rc != RH_OK)
        return rc;
    float *memory = b->vector_memory;
    b->v.input_norm = carve(&memory, n->hidden);
    b->v.post_norm = carve(&memory, n->hidden);
    b->v.q_norm = carve(&memory, n->head_size);
    b->v.k_norm = carve(&memory, n->head_size);
    b->v.conv = carve(&memory, n->qkv * n->taps);
    b->v.a_log = carve(&memory, n->value_heads);
    b->v.dt_bias = carve(&memory, n->value_heads);
    b->v.norm = carve(&memory, n->value_size);
    rc = read_vector(weights, prefix, "input_layernorm.weight", n->hidden, b->v.input_norm, err);
    if (rc == RH_OK)
        rc = read_vector(weights, prefix, "post_attention_layernorm.weight", n->hidden,
                         b->v.post_norm, err);
    if (rc == RH_OK && b->mixer == RH_MIXER_LINEAR_ATTENTION)
        return load_linear_vectors(b, prefix, weights, err);
    if (rc == RH_OK)
        rc = read_vector(weights, prefix, "self_attn.q_norm.weight", n->head_size, b->v.q_norm, err);
    if (rc == RH_OK)
        rc = read_vector(weights, prefix, "self_attn.k_norm.weight", n->head_size, b->v.k_norm, err);
    return rc;
}

static enum rh_rc load_linear(struct rh_block *b, const struct rh_linear *linear,
                              const char *prefix, const struct rh_safetensors *weights,
                              int64_t *loaded, struct rh_error *err)
{
    size_t skip = strlen(prefix);
    if (strncmp(linear->name, prefix, skip) != 0)
        return RH_OK; /* beside the block, as mtp.fc is */
    int expert;
    int64_t at = place_of(b, linear->name + skip, &expert);
    if (at < 0)
        return rh_fail(err, RH_ERR_INTERNAL, "%s has no place in a block", linear->name);
    int64_t count = linear->out_features * linear->in_features;
    *loaded += count;
    if (linear->bits < 16) {
        b->expert_of[b->linear_count] = expert;
        b->linears[b->linear_count++] = (struct rh_block_linear){
            .linear = linear,
            .weight = b->weights + at,
            .weight_q = b->weights_q + at,
        };
    }
    return read_floats(weights, linear->source, linear->source_row * linear->in_features, count,
                       b->weights + at, err);
}

enum rh_rc rh_block_load(struct rh_block *b, const struct rh_unit *unit, const char *prefix,
                         const struct rh_safetensors *weights, struct rh_error *err)
{
    size_t bytes = (size_t)b->at.total * sizeof(float);
    void *memory = NULL;
    enum rh_rc rc = rh_backend_alloc(b->backend, bytes, "weights of a block", &memory, err);
    b->weights = memory;
    if (rc == RH_OK) {
        rc = rh_backend_alloc(b->backend, bytes, "quantized weights of a block", &memory, err);
        b->weights_q = rc == RH_OK ? memory : NULL;
    }
    if (rc != RH_OK)
        return rc;
    b->linears = rh_alloc_array(unit->linear_count, sizeof *b->linears);
    b->expert_of = rh_alloc_array(unit->linear_count, sizeof *b->expert_of);
    int64_t loaded = 0;
    for (size_t i = 0; i < unit->linear_count && rc == RH_OK; i++)
        rc = load_linear(b, &unit->linears[i], prefix, weights, &loaded, err);
    if (rc == RH_OK && loaded != b->at.total)
        rc = rh_fail(err, RH_ERR_SHAPE, "%s: the linears of %s have %" PRId64
                     " weights, the config says %" PRId64, rh_safetensors_path(weights), unit->name,
                     loaded, b->at.total);
    if (rc != RH_OK)
        return rc;
    memcpy(b->weights_q, b->weights, bytes);
    return load_vectors(b, prefix, weights, err);
}
