#include "gpu_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "tensor/dtype.h"

/* Tensors take the numbers of one pool, each from another place on. */
#define POOL   ((size_t)1 << 24)
#define STRIDE ((size_t)104729 * 64)

static const struct rh_model_config qwen = {
    .hidden_size = 2048, .num_attention_heads = 16, .num_key_value_heads = 2, .head_dim = 256,
    .partial_rotary_factor = 0.25, .rope_theta = 1e7, .rms_norm_eps = 1e-6,
    .linear_num_key_heads = 16, .linear_num_value_heads = 32, .linear_key_head_dim = 128,
    .linear_value_head_dim = 128, .linear_conv_kernel_dim = 4, .num_experts = 256,
    .num_experts_per_tok = 8, .moe_intermediate_size = 512,
    .shared_expert_intermediate_size = 512,
};

static const struct rh_model_config toy = {
    .hidden_size = 128, .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 32,
    .partial_rotary_factor = 0.25, .rope_theta = 1e7, .rms_norm_eps = 1e-6,
    .linear_num_key_heads = 2, .linear_num_value_heads = 4, .linear_key_head_dim = 32,
    .linear_value_head_dim = 32, .linear_conv_kernel_dim = 4, .num_experts = 8,
    .num_experts_per_tok = 2, .moe_intermediate_size = 64, .shared_expert_intermediate_size = 64,
};

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 32;
}

void gpu_model_init(struct gpu_model *model, bool tiny)
{
    uint64_t state = 42;
    model->config = tiny ? toy : qwen;
    model->config.num_hidden_layers = 2;
    model->pool = rh_alloc_array(POOL, sizeof *model->pool);
    model->weights = rh_alloc_array(POOL, sizeof *model->weights);
    for (size_t i = 0; i < POOL; i++) { /* a sum of four uniform numbers, variance 1 */
        double sum = 0.0;
        for (int k = 0; k < 4; k++)
            sum += (double)next(&state) / 4294967296.0 - 0.5;
        model->pool[i] = rh_f32_to_bf16((float)(sum * sqrt(3.0)));
        model->weights[i] = rh_f32_to_bf16(rh_bf16_to_f32(model->pool[i]) / 32.0F);
    }
}

void gpu_model_done(struct gpu_model *model)
{
    rh_free(model->pool);
    rh_free(model->weights);
}

static void fill(const uint16_t *pool, size_t from, size_t count, uint16_t *out)
{
    while (count > 0) {
        from %= POOL;
        size_t n = count < POOL - from ? count : POOL - from;
        memcpy(out, pool + from, n * sizeof *out);
        out += n;
        count -= n;
        from = 0;
    }
}

void gpu_model_sample(const struct gpu_model *model, int64_t sample, int64_t count, uint16_t *out)
{
    fill(model->pool, (size_t)(sample + 7) * STRIDE, (size_t)count, out);
}

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name);
    return n >= strlen(tail) && strcmp(name + n - strlen(tail), tail) == 0;
}

static enum rh_rc read_tensor(const void *arg, const struct rh_tensor_info *t, uint64_t begin,
                              uint64_t size, void *buffer, struct rh_error *err)
{
    (void)err;
    const struct gpu_block *block = arg;
    size_t index = (size_t)(t - block->tensors);
    uint16_t *out = buffer;
    size_t count = (size_t)size / 2;
    float fixed = ends(t->name, "A_log") ? 1.0F : ends(t->name, "dt_bias") ? -3.0F : 0.0F;
    if (ends(t->name, "linear_attn.norm.weight"))
        fixed = 1.0F;
    bool wide = ends(t->name, "conv1d.weight");
    if (fixed == 0.0F)
        fill(wide ? block->model->pool : block->model->weights,
             index * STRIDE + (size_t)begin / 2, count, out);
    for (size_t i = 0; i < count && fixed != 0.0F; i++)
        out[i] = rh_f32_to_bf16(fixed);
    return RH_OK;
}

static const struct rh_tensor_info *find_tensor(const void *arg, const char *name)
{
    const struct gpu_block *block = arg;
    for (size_t i = 0; i < block->tensor_count; i++) {
        if (strcmp(block->tensors[i].name, name) == 0)
            return &block->tensors[i];
    }
    return NULL;
}

static void add_tensor(struct gpu_block *b, char *name, int64_t rows, int64_t columns)
{
    int64_t count = rows * (columns ? columns : 1);
    b->tensors = rh_realloc_array(b->tensors, b->tensor_count + 1, sizeof *b->tensors);
    b->tensors[b->tensor_count++] = (struct rh_tensor_info){
        .name = name,
        .dtype = RH_BF16,
        .rank = columns ? 2 : 1,
        .shape = {rows, columns},
        .bytes = (uint64_t)count * 2,
    };
}

static void add_linear(struct gpu_block *b, char *name, int64_t out, int64_t in, int bits)
{
    struct rh_unit *u = &b->unit;
    u->linears = rh_realloc_array(u->linears, u->linear_count + 1, sizeof *u->linears);
    u->linears[u->linear_count++] = (struct rh_linear){
        .name = name,
        .out_features = out,
        .in_features = in,
        .source = rh_format("%s.weight", name),
        .dtype = RH_BF16,
        .bits = out % 32 || in % 32 ? 16 : bits,
        .group_size = 128,
        .sym = true,
    };
    add_tensor(b, rh_strdup(u->linears[u->linear_count - 1].source), out, in);
}

static void add_attention(struct gpu_block *b, const struct rh_model_config *c)
{
    int64_t q = c->num_attention_heads * c->head_dim;
    int64_t kv = c->num_key_value_heads * c->head_dim;
    add_linear(b, rh_strdup("self_attn.q_proj"), 2 * q, c->hidden_size, 4);
    add_linear(b, rh_strdup("self_attn.k_proj"), kv, c->hidden_size, 4);
    add_linear(b, rh_strdup("self_attn.v_proj"), kv, c->hidden_size, 4);
    add_linear(b, rh_strdup("self_attn.o_proj"), c->hidden_size, q, 4);
    add_tensor(b, rh_strdup("self_attn.q_norm.weight"), c->head_dim, 0);
    add_tensor(b, rh_strdup("self_attn.k_norm.weight"), c->head_dim, 0);
}

static void add_delta(struct gpu_block *b, const struct rh_model_config *c)
{
    int64_t heads = c->linear_num_value_heads;
    int64_t z = heads * c->linear_value_head_dim;
    int64_t qkv = 2 * c->linear_num_key_heads * c->linear_key_head_dim + z;
    add_linear(b, rh_strdup("linear_attn.in_proj_qkv"), qkv, c->hidden_size, 4);
    add_linear(b, rh_strdup("linear_attn.in_proj_z"), z, c->hidden_size, 4);
    add_linear(b, rh_strdup("linear_attn.in_proj_b"), heads, c->hidden_size, 4);
    add_linear(b, rh_strdup("linear_attn.in_proj_a"), heads, c->hidden_size, 4);
    add_linear(b, rh_strdup("linear_attn.out_proj"), c->hidden_size, z, 4);
    add_tensor(b, rh_strdup("linear_attn.conv1d.weight"), qkv, c->linear_conv_kernel_dim);
    add_tensor(b, rh_strdup("linear_attn.A_log"), heads, 0);
    add_tensor(b, rh_strdup("linear_attn.dt_bias"), heads, 0);
    add_tensor(b, rh_strdup("linear_attn.norm.weight"), c->linear_value_head_dim, 0);
}

static void add_experts(struct gpu_block *b, const struct rh_model_config *c)
{
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    int64_t hidden = c->hidden_size;
    add_linear(b, rh_strdup("mlp.gate"), c->num_experts, hidden, 16);
    for (int64_t e = 0; e <= c->num_experts; e++) { /* the last one is the shared expert */
        bool shared = e == c->num_experts;
        int64_t width = shared ? c->shared_expert_intermediate_size : c->moe_intermediate_size;
        for (int k = 0; k < 3; k++) {
            char *name = shared ? rh_format("mlp.shared_expert.%s", parts[k])
                                : rh_format("mlp.experts.%lld.%s", (long long)e, parts[k]);
            add_linear(b, name, k < 2 ? width : hidden, k < 2 ? hidden : width, 4);
        }
    }
    add_linear(b, rh_strdup("mlp.shared_expert_gate"), 1, hidden, 16);
}

void gpu_block_init(struct gpu_block *b, const struct gpu_model *model, enum rh_mixer mixer)
{
    const struct rh_model_config *c = &model->config;
    *b = (struct gpu_block){.model = model};
    b->unit = (struct rh_unit){.kind = RH_UNIT_BLOCK, .mixer = mixer, .prefix = rh_strdup(""),
                               .name = rh_strdup("a made-up block")};
    add_tensor(b, rh_strdup("input_layernorm.weight"), c->hidden_size, 0);
    add_tensor(b, rh_strdup("post_attention_layernorm.weight"), c->hidden_size, 0);
    if (mixer == RH_MIXER_FULL_ATTENTION)
        add_attention(b, c);
    else
        add_delta(b, c);
    add_experts(b, c);
    b->source = (struct rh_tensor_source){"the generator", find_tensor, read_tensor, b};
}

void gpu_block_done(struct gpu_block *b)
{
    for (size_t i = 0; i < b->unit.linear_count; i++) {
        rh_free(b->unit.linears[i].name);
        rh_free(b->unit.linears[i].source);
    }
    for (size_t i = 0; i < b->tensor_count; i++)
        rh_free((void *)(uintptr_t)b->tensors[i].name);
    rh_free(b->unit.linears);
    rh_free(b->unit.name);
    rh_free(b->unit.prefix);
    rh_free(b->tensors);
}

struct gpu_flops gpu_model_flops(const struct rh_model_config *c, enum rh_mixer mixer,
                                 int64_t batch, int64_t seq)
{
    bool full = mixer == RH_MIXER_FULL_ATTENTION;
    double rows = (double)(batch * seq);
    double hidden = (double)c->hidden_size;
    double heads = (double)c->linear_num_value_heads;
    double dk = (double)c->linear_key_head_dim;
    double dv = (double)c->linear_value_head_dim;
    double attention = (double)(c->num_attention_heads * c->head_dim);
    double width = full ? attention : heads * dv;
    double in = full ? 2 * attention + 2 * (double)(c->num_key_value_heads * c->head_dim)
                     : 2 * (double)c->linear_num_key_heads * dk + 2 * heads * dv + 2 * heads;
    /* Causal scores and their product with v; or chunks of 64 of the delta rule. */
    double core = full ? 2 * rows * (double)seq * attention
                       : rows * heads * (6 * dk * dv + 2 * 64 * (3 * dk + 2 * dv));
    double input = 2 * rows * in * hidden;
    double output = 2 * rows * width * hidden;
    double router = 2 * rows * (double)(c->num_experts + 1) * hidden;
    double experts = 6 * rows * hidden *
                     (double)(c->num_experts_per_tok * c->moe_intermediate_size +
                              c->shared_expert_intermediate_size);
    return (struct gpu_flops){
        .forward = input + output + router + experts + core,
        .backward = input + 2 * output + router + 2 * experts + (full ? 2.5 : 2.7) * core,
    };
}
