#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "block_private.h"

/* Bytes read at a time. */
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

static enum rh_rc find(const struct rh_tensor_source *source, const char *name, int64_t count,
                       const struct rh_tensor_info **out, struct rh_error *err)
{
    const struct rh_tensor_info *info = source->find(source->arg, name);
    *out = info;
    if (!info)
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s has no tensor %s", source->what, name);
    if (!readable(info->dtype))
        return rh_fail(err, RH_ERR_DTYPE, "%s: %s is %s; weights must be BF16, F16 or F32",
                       source->what, name, rh_dtype_name(info->dtype));
    if (count > rh_tensor_elements(info))
        return rh_fail(err, RH_ERR_SHAPE, "%s: %s is smaller than the config says", source->what,
                       name);
    return RH_OK;
}

/* What the matrices of one block pass through. */
struct loader {
    struct rh_block *block;
    const struct rh_tensor_source *source;
    void *piece;   /* PIECE bytes that the backend reaches directly */
    float *floats; /* as many elements as a piece has at most */
    int64_t loaded;
};

/* A piece in the source's type becomes one in the backend's. */
static const void *convert(const struct loader *l, enum rh_dtype from, size_t count)
{
    enum rh_dtype to = rh_backend_dtype(l->block->backend);
    if (from == to)
        return l->piece;
    rh_to_f32(from, l->piece, l->floats, count);
    if (to == RH_F32)
        return l->floats;
    rh_from_f32(to, l->floats, l->piece, count); /* no type is narrower than that of a device */
    return l->piece;
}

/* Elements [first, first + count) of a tensor to the block's weights at `at`. */
static enum rh_rc load_matrix(const struct loader *l, const char *name, int64_t first,
                              int64_t count, int64_t at, struct rh_error *err)
{
    const struct rh_block *b = l->block;
    const struct rh_tensor_info *info = NULL;
    enum rh_rc rc = find(l->source, name, first + count, &info, err);
    if (rc != RH_OK)
        return rc;
    uint64_t size = rh_dtype_size(info->dtype);
    for (int64_t done = 0; done < count && rc == RH_OK;) {
        int64_t n = (int64_t)(PIECE / size);
        n = n < count - done ? n : count - done;
        rc = l->source->read(l->source->arg, info, (uint64_t)(first + done) * size,
                             (uint64_t)n * size, l->piece, err);
        if (rc == RH_OK)
            rc = rh_backend_upload(b->backend, rh_at(b, b->weights, at + done),
                                   convert(l, info->dtype, (size_t)n), (size_t)n * b->element, err);
        done += n;
    }
    return rc;
}

/* A whole tensor as float in host memory. */
static enum rh_rc read_floats(const struct rh_tensor_source *source, const char *name,
                              int64_t count, float *out, struct rh_error *err)
{
    const struct rh_tensor_info *info = NULL;
    enum rh_rc rc = find(source, name, count, &info, err);
    if (rc == RH_OK) {
        uint64_t bytes = (uint64_t)count * rh_dtype_size(info->dtype);
        void *raw = rh_alloc((size_t)bytes);
        rc = source->read(source->arg, info, 0, bytes, raw, err);
        if (rc == RH_OK)
            rh_to_f32(info->dtype, raw, out, (size_t)count);
        rh_free(raw);
    }
    return rc;
}

static enum rh_rc read_vector(const struct rh_tensor_source *source, const char *prefix,
                              const char *name, int64_t count, float *out, struct rh_error *err)
{
    char *full = rh_format("%s%s", prefix, name);
    enum rh_rc rc = read_floats(source, full, count, out, err);
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

static enum rh_rc read_linear_vectors(const struct rh_block *b, const char *prefix,
                                      const struct rh_tensor_source *source,
                                      const struct rh_vectors *v, struct rh_error *err)
{
    const struct rh_sizes *n = &b->n;
    float *conv = rh_alloc_array((size_t)(n->qkv * n->taps), sizeof *conv);
    enum rh_rc rc = read_vector(source, prefix, "linear_attn.conv1d.weight", n->qkv * n->taps, conv,
                                err);
    if (rc == RH_OK)
        turn(conv, n->qkv, n->taps, v->conv);
    rh_free(conv);
    if (rc == RH_OK)
        rc = read_vector(source, prefix, "linear_attn.A_log", n->value_heads, v->a_log, err);
    if (rc == RH_OK)
        rc = read_vector(source, prefix, "linear_attn.dt_bias", n->value_heads, v->dt_bias, err);
    if (rc == RH_OK)
        rc = read_vector(source, prefix, "linear_attn.norm.weight", n->value_size, v->norm, err);
    return rc;
}

static enum rh_rc read_vectors(const struct rh_block *b, const char *prefix,
                               const struct rh_tensor_source *source, const struct rh_vectors *v,
                               struct rh_error *err)
{
    const struct rh_sizes *n = &b->n;
    enum rh_rc rc = read_vector(source, prefix, "input_layernorm.weight", n->hidden, v->input_norm,
                                err);
    if (rc == RH_OK)
        rc = read_vector(source, prefix, "post_attention_layernorm.weight", n->hidden,
                         v->post_norm, err);
    if (rc == RH_OK && b->mixer == RH_MIXER_LINEAR_ATTENTION)
        return read_linear_vectors(b, prefix, source, v, err);
    if (rc == RH_OK)
        rc = read_vector(source, prefix, "self_attn.q_norm.weight", n->head_size, v->q_norm, err);
    if (rc == RH_OK)
        rc = read_vector(source, prefix, "self_attn.k_norm.weight", n->head_size, v->k_norm, err);
    return rc;
}

/* Places of the vectors in one array; returns its elements. */
static int64_t place_vectors(const struct rh_sizes *n, float *memory, struct rh_vectors *v)
{
    float *end = memory;
    v->input_norm = carve(&end, n->hidden);
    v->post_norm = carve(&end, n->hidden);
    v->q_norm = carve(&end, n->head_size);
    v->k_norm = carve(&end, n->head_size);
    v->conv = carve(&end, n->qkv * n->taps);
    v->a_log = carve(&end, n->value_heads);
    v->dt_bias = carve(&end, n->value_heads);
    v->norm = carve(&end, n->value_size);
    return end - memory;
}

int64_t rh_block_vector_bytes(const struct rh_sizes *n)
{
    int64_t total = 2 * n->hidden + 2 * n->head_size + n->qkv * n->taps + 2 * n->value_heads +
                    n->value_size + 8 * 16; /* carve() rounds up */
    return total * (int64_t)sizeof(float);
}

static enum rh_rc load_vectors(struct rh_block *b, const char *prefix,
                               const struct rh_tensor_source *source, struct rh_error *err)
{
    size_t bytes = (size_t)rh_block_vector_bytes(&b->n);
    enum rh_rc rc = rh_backend_alloc(b->backend, bytes, "norms of a block", &b->vector_memory, err);
    if (rc != RH_OK)
        return rc;
    struct rh_vectors host;
    float *memory = rh_alloc(bytes);
    place_vectors(&b->n, memory, &host);
    int64_t count = place_vectors(&b->n, b->vector_memory, &b->v);
    rc = read_vectors(b, prefix, source, &host, err);
    if (rc == RH_OK)
        rc = rh_backend_upload(b->backend, b->vector_memory, memory, (size_t)count * sizeof *memory,
                               err);
    rh_free(memory);
    return rc;
}

static enum rh_rc load_linear(struct loader *l, const struct rh_linear *linear, const char *prefix,
                              struct rh_error *err)
{
    struct rh_block *b = l->block;
    size_t skip = strlen(prefix);
    if (strncmp(linear->name, prefix, skip) != 0)
        return RH_OK; /* beside the block, as mtp.fc is */
    int expert;
    int64_t at = place_of(b, linear->name + skip, &expert);
    if (at < 0)
        return rh_fail(err, RH_ERR_INTERNAL, "%s has no place in a block", linear->name);
    int64_t count = linear->out_features * linear->in_features;
    l->loaded += count;
    if (linear->bits < 16)
        b->linears[b->linear_count++] =
            (struct rh_block_linear){.linear = linear, .at = at, .expert = expert};
    return load_matrix(l, linear->source, linear->source_row * linear->in_features, count, at, err);
}

static enum rh_rc load_matrices(struct rh_block *b, const struct rh_unit *unit, const char *prefix,
                                const struct rh_tensor_source *source, struct rh_error *err)
{
    struct loader l = {.block = b, .source = source};
    enum rh_rc rc = rh_backend_alloc_host(b->backend, PIECE, "piece of a tensor", &l.piece, err);
    if (rc != RH_OK)
        return rc;
    l.floats = rh_alloc_array(PIECE / 2, sizeof *l.floats);
    for (size_t i = 0; i < unit->linear_count && rc == RH_OK; i++)
        rc = load_linear(&l, &unit->linears[i], prefix, err);
    if (rc == RH_OK && l.loaded != b->at.total)
        rc = rh_fail(err, RH_ERR_SHAPE, "%s: the linears of %s have %" PRId64
                     " weights, the config says %" PRId64, source->what, unit->name,
                     l.loaded, b->at.total);
    rh_free(l.floats);
    rh_backend_release_host(b->backend, l.piece);
    return rc;
}

enum rh_rc rh_block_load(struct rh_block *b, const struct rh_unit *unit, const char *prefix,
                         const struct rh_tensor_source *source, struct rh_error *err)
{
    b->linears = rh_alloc_array(unit->linear_count, sizeof *b->linears);
    enum rh_rc rc = rh_backend_alloc(b->backend, (size_t)b->at.total * b->element,
                                     "weights of a block", &b->weights, err);
    b->arenas = (struct rh_block_arenas){.elements = b->at.total, .weights = b->weights};
    if (rc == RH_OK)
        rc = load_matrices(b, unit, prefix, source, err);
    return rc == RH_OK ? load_vectors(b, prefix, source, err) : rc;
}

static const struct rh_tensor_info *find_in_file(const void *file, const char *name)
{
    return rh_safetensors_find(file, name);
}

static enum rh_rc read_file(const void *file, const struct rh_tensor_info *tensor, uint64_t begin,
                            uint64_t size, void *buffer, struct rh_error *err)
{
    return rh_safetensors_read(file, tensor, begin, size, buffer, err);
}

static struct rh_tensor_source source_of(const struct rh_safetensors *file)
{
    return (struct rh_tensor_source){rh_safetensors_path(file), find_in_file, read_file, file};
}

enum rh_rc rh_weights_read(const struct rh_safetensors *file, const char *name, int64_t count,
                           float *out, struct rh_error *err)
{
    struct rh_tensor_source source = source_of(file);
    return read_floats(&source, name, count, out, err);
}

enum rh_rc rh_block_new(struct rh_backend *backend, const struct rh_model_config *config,
                        const struct rh_unit *unit, const struct rh_safetensors *weights,
                        struct rh_block **out, struct rh_error *err)
{
    struct rh_tensor_source source = source_of(weights);
    return rh_block_new_from(backend, config, unit, &source, out, err);
}
