#include "models/mtp_input.h"

#include "base/mem.h"
#include "block_private.h"

/* Rows of one gather: a device has a bound on them. */
#define GATHER_MAX ((int64_t)1 << 15)

struct rh_mtp_input {
    struct rh_backend *backend;
    const struct rh_ops *ops;
    int64_t hidden, rows, seq;
    float eps;
    /* Backend memory. */
    void *memory;
    float *final_norm, *hidden_norm, *embedding_norm;
    void *fc;       /* [hidden, 2 hidden], embedding first */
    int64_t *order; /* of the rows of `normed` in `pairs` */
    void *final;    /* [rows, seq, hidden]: h */
    void *normed;   /* [rows, seq, hidden] of h, then [rows, seq - 1, hidden] of the embeddings */
    void *pairs;    /* [rows, seq - 1, 2 hidden] */
};

static int64_t pair_count(const struct rh_mtp_input *m)
{
    return m->rows * (m->seq - 1);
}

static size_t carve_all(struct rh_mtp_input *m, void *base)
{
    struct rh_carver c = {base, 0};
    size_t element = rh_backend_element_size(m->backend);
    m->final_norm = rh_carve(&c, m->hidden, sizeof *m->final_norm);
    m->hidden_norm = rh_carve(&c, m->hidden, sizeof *m->hidden_norm);
    m->embedding_norm = rh_carve(&c, m->hidden, sizeof *m->embedding_norm);
    m->fc = rh_carve(&c, 2 * m->hidden * m->hidden, element);
    m->order = rh_carve(&c, 2 * pair_count(m), sizeof *m->order);
    m->final = rh_carve(&c, m->rows * m->seq * m->hidden, element);
    m->normed = rh_carve(&c, (m->rows * m->seq + pair_count(m)) * m->hidden, element);
    m->pairs = rh_carve(&c, 2 * pair_count(m) * m->hidden, element);
    return c.used;
}

static struct rh_mtp_input shape(struct rh_backend *backend, const struct rh_model_config *config,
                                 int64_t batch_size, int64_t seq)
{
    return (struct rh_mtp_input){.backend = backend,
                                 .ops = rh_backend_ops(backend),
                                 .hidden = config->hidden_size,
                                 .rows = batch_size,
                                 .seq = seq,
                                 .eps = (float)config->rms_norm_eps};
}

size_t rh_mtp_input_needs(struct rh_backend *backend, const struct rh_model_config *config,
                          int64_t batch_size, int64_t seq)
{
    struct rh_mtp_input m = shape(backend, config, batch_size, seq);
    return carve_all(&m, NULL);
}

static enum rh_rc load_norm(const struct rh_mtp_input *m, const struct rh_safetensors *file,
                            const char *name, float *to, struct rh_error *err)
{
    float *values = rh_alloc_array((size_t)m->hidden, sizeof *values);
    enum rh_rc rc = rh_weights_read(file, name, m->hidden, values, err);
    if (rc == RH_OK)
        rc = rh_backend_upload(m->backend, to, values, (size_t)m->hidden * sizeof *values, err);
    rh_free(values);
    return rc;
}

static enum rh_rc load_fc(const struct rh_mtp_input *m, const struct rh_safetensors *head,
                          struct rh_error *err)
{
    int64_t count = 2 * m->hidden * m->hidden;
    enum rh_dtype dtype = rh_backend_dtype(m->backend);
    float *values = rh_alloc_array((size_t)count, sizeof *values);
    enum rh_rc rc = rh_weights_read(head, "mtp.fc.weight", count, values, err);
    if (rc == RH_OK) {
        /* No activation type is wider than float. */
        void *converted = rh_alloc_array((size_t)count, sizeof *values);
        rh_from_f32(dtype, values, converted, (size_t)count);
        rc = rh_backend_upload(m->backend, m->fc, converted, (size_t)count * rh_dtype_size(dtype),
                               err);
        rh_free(converted);
    }
    rh_free(values);
    return rc;
}

/* A pair is the embedding of a position and, behind it, its hidden state; the last position of a
 * row has none. */
static enum rh_rc make_order(const struct rh_mtp_input *m, struct rh_error *err)
{
    int64_t pairs = pair_count(m);
    int64_t *order = rh_alloc_array((size_t)(2 * pairs) + 1, sizeof *order);
    for (int64_t i = 0; i < pairs; i++) {
        order[2 * i] = m->rows * m->seq + i;
        order[2 * i + 1] = i / (m->seq - 1) * m->seq + i % (m->seq - 1);
    }
    enum rh_rc rc =
        rh_backend_upload(m->backend, m->order, order, (size_t)(2 * pairs) * sizeof *order, err);
    rh_free(order);
    return rc;
}

enum rh_rc rh_mtp_input_new(struct rh_backend *backend, const struct rh_model_config *config,
                            const struct rh_safetensors *head, const struct rh_safetensors *tail,
                            const char *norm, int64_t batch_size, int64_t seq,
                            struct rh_mtp_input **out, struct rh_error *err)
{
    *out = NULL;
    RH_ASSERT(batch_size > 0 && seq > 1);
    struct rh_mtp_input *m = rh_alloc(sizeof *m);
    *m = shape(backend, config, batch_size, seq);
    enum rh_rc rc =
        rh_backend_alloc(backend, carve_all(m, NULL), "inputs of the MTP head", &m->memory, err);
    if (rc == RH_OK) {
        carve_all(m, m->memory);
        rc = load_norm(m, tail, norm, m->final_norm, err);
    }
    if (rc == RH_OK)
        rc = load_norm(m, head, "mtp.pre_fc_norm_hidden.weight", m->hidden_norm, err);
    if (rc == RH_OK)
        rc = load_norm(m, head, "mtp.pre_fc_norm_embedding.weight", m->embedding_norm, err);
    if (rc == RH_OK)
        rc = load_fc(m, head, err);
    if (rc == RH_OK)
        rc = make_order(m, err);
    if (rc != RH_OK) {
        rh_mtp_input_free(m);
        return rc;
    }
    *out = m;
    return RH_OK;
}

void rh_mtp_input_free(struct rh_mtp_input *m)
{
    if (!m)
        return;
    rh_backend_release(m->backend, m->memory);
    rh_free(m);
}

static void norm(const struct rh_mtp_input *m, int64_t rows, const void *x, const float *w, void *y)
{
    m->ops->rms_norm(m->backend,
                     &(struct rh_rms_norm){
                         .rows = rows, .size = m->hidden, .eps = m->eps, .x = x, .w = w, .y = y});
}

/* Element `count` after `base`, in the activation type. */
static void *at(const struct rh_mtp_input *m, void *base, int64_t count)
{
    return (char *)base + (size_t)count * rh_backend_element_size(m->backend);
}

void rh_mtp_input_forward(struct rh_mtp_input *m, const void *hidden, const void *embeddings,
                          void *u, int64_t rows)
{
    RH_ASSERT(rows > 0 && rows <= m->rows);
    int64_t pairs = rows * (m->seq - 1);
    norm(m, rows * m->seq, hidden, m->final_norm, m->final);
    norm(m, rows * m->seq, m->final, m->hidden_norm, m->normed);
    norm(m, pairs, embeddings, m->embedding_norm, at(m, m->normed, m->rows * m->seq * m->hidden));
    for (int64_t i = 0; i < 2 * pairs; i += GATHER_MAX) {
        int64_t left = 2 * pairs - i;
        m->ops->gather_rows(m->backend,
                            &(struct rh_gather_rows){.count = left < GATHER_MAX ? left : GATHER_MAX,
                                                     .size = m->hidden,
                                                     .rows = m->order + i,
                                                     .x = m->normed,
                                                     .y = at(m, m->pairs, i * m->hidden)});
    }
    m->ops->matmul(m->backend, &(struct rh_matmul){.form = RH_NT,
                                                   .m = pairs,
                                                   .n = m->hidden,
                                                   .k = 2 * m->hidden,
                                                   .a = m->pairs,
                                                   .lda = 2 * m->hidden,
                                                   .b = m->fc,
                                                   .ldb = 2 * m->hidden,
                                                   .c = u,
                                                   .ldc = m->hidden});
}
