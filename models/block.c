#include "models/block.h"

#include <math.h>

#include "base/mem.h"
#include "block_private.h"

enum rh_rc rh_block_new_from(struct rh_backend *backend, const struct rh_model_config *config,
                             const struct rh_unit *unit, const struct rh_tensor_source *source,
                             struct rh_block **out, struct rh_error *err)
{
    *out = NULL;
    struct rh_block *b = rh_alloc(sizeof *b);
    b->backend = backend;
    b->ops = rh_backend_ops(backend);
    b->element = rh_backend_element_size(backend);
    b->config = config;
    b->mixer = unit->mixer;
    rh_block_measure(b);
    enum rh_rc rc = rh_block_load(b, unit, unit->prefix, source, err);
    if (rc != RH_OK) {
        rh_block_free(b);
        return rh_error_prefix(err, "loading %s", unit->name);
    }
    *out = b;
    return RH_OK;
}

void rh_block_free(struct rh_block *b)
{
    if (!b)
        return;
    rh_backend_release(b->backend, b->weights);
    rh_backend_release(b->backend, b->arenas.weights_q);
    rh_backend_release(b->backend, b->arenas.grads);
    rh_backend_release(b->backend, b->vector_memory);
    rh_backend_release(b->backend, b->activation_memory);
    rh_backend_release(b->backend, b->cos); /* and sin */
    rh_free(b->linears);
    rh_free(b);
}

size_t rh_block_linear_count(const struct rh_block *b)
{
    return b->linear_count;
}

const struct rh_block_linear *rh_block_linear_at(const struct rh_block *b, size_t index)
{
    return &b->linears[index];
}

const struct rh_block_arenas *rh_block_arenas(const struct rh_block *b)
{
    return &b->arenas;
}

int64_t rh_block_experts(const struct rh_block *b)
{
    return b->n.experts;
}

const int64_t *rh_block_offsets(const struct rh_block *b)
{
    return b->act.offsets;
}

/* Angles in fp32, as the reference has them: in fp64 the cosine differs by 1.4e-4 at 4096. */
static void fill_angles(const struct rh_block *b, int64_t seq, float *cosines, float *sines)
{
    int64_t half = b->n.rot / 2;
    for (int64_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)b->n.rot;
        float frequency = 1.0F / (float)pow(b->config->rope_theta, (double)exponent);
        for (int64_t t = 0; t < seq; t++) {
            float angle = (float)t * frequency;
            cosines[t * half + i] = cosf(angle);
            sines[t * half + i] = sinf(angle);
        }
    }
}

static enum rh_rc make_angles(struct rh_block *b, int64_t seq, struct rh_error *err)
{
    size_t count = (size_t)(seq * (b->n.rot / 2));
    float *angles = rh_alloc_array(2 * count + 1, sizeof *angles);
    void *memory = NULL;
    fill_angles(b, seq, angles, angles + count);
    enum rh_rc rc = rh_backend_alloc(b->backend, 2 * count * sizeof *angles + 1, "angles", &memory,
                                     err);
    b->cos = memory;
    b->sin = memory ? b->cos + count : NULL;
    if (rc == RH_OK)
        rc = rh_backend_upload(b->backend, memory, angles, 2 * count * sizeof *angles, err);
    rh_free(angles);
    return rc;
}

#define FLOATS(c, count)   rh_carve((c), (count), sizeof(float))
#define ELEMENTS(c, count) rh_carve((c), (count), b->element)

static void carve_forward(struct rh_block *b, struct rh_carver *c, int64_t rows)
{
    const struct rh_sizes *n = &b->n;
    struct rh_activations *a = &b->act;
    int64_t slots = rows * n->top_k;
    a->xn = ELEMENTS(c, rows * n->hidden);
    a->u = ELEMENTS(c, rows * n->mixer_in);
    a->core = ELEMENTS(c, rows * n->mixer_width);
    a->mixed = ELEMENTS(c, rows * n->mixer_width);
    a->h = ELEMENTS(c, rows * n->hidden);
    a->hn = ELEMENTS(c, rows * n->hidden);
    a->logits = ELEMENTS(c, rows * (n->experts + 1));
    a->p = FLOATS(c, slots);
    a->shared = FLOATS(c, rows);
    a->expert = rh_carve(c, slots, sizeof *a->expert);
    a->slot = rh_carve(c, slots, sizeof *a->slot);
    a->offsets = rh_carve(c, n->experts + 1, sizeof *a->offsets);
    a->dispatched = ELEMENTS(c, slots * n->hidden);
    a->gate_up = ELEMENTS(c, slots * 2 * n->width);
    a->act = ELEMENTS(c, slots * n->width);
    a->expert_out = ELEMENTS(c, slots * n->hidden);
    a->shared_gate_up = ELEMENTS(c, rows * 2 * n->shared_width);
    a->shared_act = ELEMENTS(c, rows * n->shared_width);
    a->shared_out = ELEMENTS(c, rows * n->hidden);
}

static void carve_mixer(struct rh_block *b, struct rh_carver *c, int64_t rows, int64_t seq,
                        bool with_backward)
{
    const struct rh_sizes *n = &b->n;
    struct rh_activations *a = &b->act;
    if (b->mixer == RH_MIXER_FULL_ATTENTION) {
        a->q = ELEMENTS(c, rows * n->heads * n->head_size);
        a->k = ELEMENTS(c, rows * n->kv);
        a->lse = FLOATS(c, rows * n->heads);
        if (with_backward) {
            a->dq = ELEMENTS(c, rows * n->heads * n->head_size);
            a->dk = ELEMENTS(c, rows * n->kv);
        }
        return;
    }
    a->conv_pre = ELEMENTS(c, rows * n->qkv);
    a->conv = ELEMENTS(c, rows * n->qkv);
    a->qn = ELEMENTS(c, rows * n->key_heads * n->key_size);
    a->kn = ELEMENTS(c, rows * n->key_heads * n->key_size);
    a->rq = FLOATS(c, rows * n->key_heads);
    a->rk = FLOATS(c, rows * n->key_heads);
    a->beta = FLOATS(c, rows * n->value_heads);
    a->g = FLOATS(c, rows * n->value_heads);
    if (!with_backward)
        return;
    struct rh_delta_rule shape = {.batch = rows / seq, .seq = seq, .value_heads = n->value_heads,
                                  .key_size = n->key_size, .value_size = n->value_size};
    a->saved = rh_carve(c, b->ops->delta_rule_saved(&shape), 1);
    a->dq = ELEMENTS(c, rows * n->key_heads * n->key_size);
    a->dk = ELEMENTS(c, rows * n->key_heads * n->key_size);
    a->dconv = ELEMENTS(c, rows * n->qkv);
    a->dbeta = FLOATS(c, rows * n->value_heads);
    a->dg = FLOATS(c, rows * n->value_heads);
}

static void carve_backward(struct rh_block *b, struct rh_carver *c, int64_t rows)
{
    const struct rh_sizes *n = &b->n;
    struct rh_activations *a = &b->act;
    int64_t slots = rows * n->top_k;
    a->d_expert_out = ELEMENTS(c, slots * n->hidden);
    bool parts = b->ops->mlp_backward == NULL; /* else what lies between them is not kept */
    a->d_act = ELEMENTS(c, parts ? slots * n->width : 0);
    a->d_gate_up = ELEMENTS(c, slots * 2 * n->width);
    a->dp = FLOATS(c, slots);
    a->dshared = FLOATS(c, rows);
    a->d_shared_out = ELEMENTS(c, rows * n->hidden);
    a->d_shared_act = ELEMENTS(c, parts ? rows * n->shared_width : 0);
    a->d_shared_gate_up = ELEMENTS(c, rows * 2 * n->shared_width);
    a->dlogits = ELEMENTS(c, rows * (n->experts + 1));
    a->dhn = ELEMENTS(c, rows * n->hidden);
    a->dh = ELEMENTS(c, rows * n->hidden);
    a->dmixed = ELEMENTS(c, rows * n->mixer_width);
    a->dcore = ELEMENTS(c, rows * n->mixer_width);
    a->du = ELEMENTS(c, rows * n->mixer_in);
}

static size_t carve_all(struct rh_block *b, void *base, int64_t rows, int64_t seq,
                        bool with_backward)
{
    struct rh_carver c = {base, 0};
    carve_forward(b, &c, rows);
    carve_mixer(b, &c, rows, seq, with_backward);
    if (with_backward)
        carve_backward(b, &c, rows);
    return c.used;
}

static enum rh_rc make_arenas(struct rh_block *b, bool with_backward, struct rh_error *err)
{
    size_t bytes = (size_t)b->at.total * b->element;
    enum rh_rc rc = rh_backend_alloc(b->backend, bytes, "quantized weights of a block",
                                     &b->arenas.weights_q, err);
    if (rc == RH_OK)
        rh_backend_copy(b->backend, b->arenas.weights_q, b->weights, bytes);
    if (rc == RH_OK && with_backward) {
        rc = rh_backend_alloc(b->backend, bytes, "gradients of a block", &b->arenas.grads, err);
        if (rc == RH_OK) /* of experts that no token ever reaches */
            rh_backend_zero(b->backend, b->arenas.grads, bytes);
    }
    return rc;
}

enum rh_rc rh_block_reserve(struct rh_block *b, int64_t batch_size, int64_t seq_len,
                            bool with_backward, struct rh_error *err)
{
    RH_ASSERT(!b->activation_memory && batch_size > 0 && seq_len > 0);
    int64_t rows = batch_size * seq_len;
    void *memory = NULL;
    enum rh_rc rc = rh_backend_alloc(b->backend, carve_all(b, NULL, rows, seq_len, with_backward),
                                     "activations of a block", &memory, err);
    if (rc != RH_OK)
        return rc;
    b->activation_memory = memory;
    carve_all(b, memory, rows, seq_len, with_backward);
    b->rows_max = rows;
    b->seq_max = seq_len;
    b->with_backward = with_backward;
    rc = make_angles(b, seq_len, err);
    return rc == RH_OK ? make_arenas(b, with_backward, err) : rc;
}

void rh_block_needs(struct rh_backend *backend, const struct rh_model_config *config,
                    enum rh_mixer mixer, int64_t batch_size, int64_t seq_len, bool with_backward,
                    struct rh_block_needs *out)
{
    struct rh_block b = {.backend = backend, .ops = rh_backend_ops(backend),
                         .element = rh_backend_element_size(backend), .config = config,
                         .mixer = mixer};
    rh_block_measure(&b);
    size_t arena = (size_t)b.at.total * b.element;
    size_t angles = (size_t)(seq_len * b.n.rot) * sizeof(float);
    *out = (struct rh_block_needs){
        .elements = b.at.total,
        .weights = arena + (size_t)rh_block_vector_bytes(&b.n),
        .weights_q = arena,
        .grads = with_backward ? arena : 0,
        .activations =
            carve_all(&b, NULL, batch_size * seq_len, seq_len, with_backward) + angles,
    };
}

void rh_apply(struct rh_block *b, const void *x, int64_t in, int64_t at, int64_t out, void *y,
              bool accumulate)
{
    b->ops->matmul(b->backend, &(struct rh_matmul){.form = RH_NT, .m = b->rows, .n = out, .k = in,
                                                   .a = x, .lda = in, .b = rh_at(b, b->w, at),
                                                   .ldb = in,
                                                   .c = y, .ldc = out, .accumulate = accumulate});
}

void rh_apply_backward(struct rh_block *b, const void *dy, int64_t out, int64_t at, int64_t in,
                       void *dx, bool accumulate)
{
    b->ops->matmul(b->backend, &(struct rh_matmul){.form = RH_NN, .m = b->rows, .n = in, .k = out,
                                                   .a = dy, .lda = out, .b = rh_at(b, b->w, at),
                                                   .ldb = in,
                                                   .c = dx, .ldc = in, .accumulate = accumulate});
}

void rh_weight_gradient(struct rh_block *b, const void *dy, int64_t out, const void *x, int64_t in,
                        int64_t at)
{
    b->ops->matmul(b->backend, &(struct rh_matmul){.form = RH_TN, .m = out, .n = in, .k = b->rows,
                                                   .a = dy, .lda = out, .b = x, .ldb = in,
                                                   .c = rh_at(b, b->arenas.grads, at),
                                                   .ldc = in});
}

static struct rh_rms_norm post_norm(const struct rh_block *b)
{
    return (struct rh_rms_norm){.rows = b->rows, .size = b->n.hidden,
                                .eps = (float)b->config->rms_norm_eps, .x = b->act.h,
                                .w = b->v.post_norm, .y = b->act.hn};
}

enum rh_rc rh_block_forward(struct rh_block *b, enum rh_weights which, const void *x, void *y,
                            int64_t batch_size, int64_t seq_len, bool for_backward,
                            int64_t *expert_tokens, struct rh_error *err)
{
    if (batch_size * seq_len > b->rows_max || seq_len > b->seq_max ||
        (for_backward && !b->with_backward))
        return rh_fail(err, RH_ERR_SHAPE, "a batch of %lld x %lld tokens was not reserved",
                       (long long)batch_size, (long long)seq_len);
    b->x = x;
    b->w = which == RH_WEIGHTS_SOURCE ? b->weights : b->arenas.weights_q;
    b->batch = batch_size;
    b->seq = seq_len;
    b->rows = batch_size * seq_len;
    const struct rh_sizes *n = &b->n;
    b->ops->rms_norm(b->backend,
                     &(struct rh_rms_norm){.rows = b->rows, .size = n->hidden,
                                           .eps = (float)b->config->rms_norm_eps, .x = x,
                                           .w = b->v.input_norm, .y = b->act.xn});
    rh_apply(b, b->act.xn, n->hidden, b->at.mixer_in, n->mixer_in, b->act.u, false);
    if (b->mixer == RH_MIXER_FULL_ATTENTION)
        rh_full_attention_forward(b);
    else
        rh_linear_attention_forward(b, for_backward);
    rh_backend_copy(b->backend, b->act.h, x, (size_t)(b->rows * n->hidden) * b->element);
    rh_apply(b, b->act.mixed, n->mixer_width, b->at.mixer_out, n->hidden, b->act.h, true);
    struct rh_rms_norm post = post_norm(b);
    b->ops->rms_norm(b->backend, &post);
    rh_moe_forward(b, y);
    if (expert_tokens)
        b->ops->count_tokens(b->backend, &(struct rh_count_tokens){.experts = n->experts,
                                                                   .offsets = b->act.offsets,
                                                                   .counts = expert_tokens});
    return RH_OK;
}

enum rh_rc rh_block_backward(struct rh_block *b, const void *dy, struct rh_error *err)
{
    if (!b->with_backward || b->w != b->arenas.weights_q)
        return rh_fail(err, RH_ERR_INTERNAL, "backward without a forward of quantized weights");
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    rh_moe_backward(b, dy);
    rh_backend_copy(b->backend, a->dh, dy, (size_t)(b->rows * n->hidden) * b->element);
    struct rh_rms_norm post = post_norm(b);
    post.dy = a->dhn;
    post.dx = a->dh;
    post.accumulate = true;
    b->ops->rms_norm_backward(b->backend, &post);
    rh_weight_gradient(b, a->dh, n->hidden, a->mixed, n->mixer_width, b->at.mixer_out);
    rh_apply_backward(b, a->dh, n->hidden, b->at.mixer_out, n->mixer_width, a->dmixed, false);
    if (b->mixer == RH_MIXER_FULL_ATTENTION)
        rh_full_attention_backward(b);
    else
        rh_linear_attention_backward(b);
    rh_weight_gradient(b, a->du, n->mixer_in, a->xn, n->hidden, b->at.mixer_in);
    return RH_OK;
}
