#include "tuning/chain.h"

#include <string.h>

#include "base/mem.h"
#include "tensor/dtype.h"

/* More than any calibration set; keeps products of sizes far from overflow. */
#define ROWS_MAX ((int64_t)1 << 24)

static enum rh_rc check_ids(const struct rh_token_rows *rows, int64_t vocab_size, const char *path,
                            struct rh_error *err)
{
    for (int64_t i = 0; i < rows->samples * rows->seq; i++) {
        if (rows->ids[i] < 0 || rows->ids[i] >= vocab_size)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: row %lld holds token %ld, the vocabulary has %lld entries; "
                           "the tokenizer is not this model's",
                           path, (long long)(i / rows->seq), (long)rows->ids[i],
                           (long long)vocab_size);
    }
    return RH_OK;
}

static enum rh_rc read_ids(const struct rh_safetensors *file, const char *path,
                           struct rh_token_rows *out, struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(file, "input_ids");
    if (!info || info->dtype != RH_I32 || info->rank != 2 || info->shape[0] < 1 ||
        info->shape[1] < 1 || info->shape[0] > ROWS_MAX || info->shape[1] > ROWS_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: no input_ids of type I32 and shape [rows, tokens]",
                       path);
    void *memory = NULL;
    enum rh_rc rc = rh_try_alloc((size_t)info->bytes, "calibration rows", &memory, err);
    if (rc != RH_OK)
        return rc;
    *out = (struct rh_token_rows){info->shape[0], info->shape[1], memory};
    return rh_safetensors_read(file, info, 0, info->bytes, memory, err);
}

enum rh_rc rh_token_rows_read(const char *path, int64_t vocab_size, struct rh_token_rows *out,
                              struct rh_error *err)
{
    *out = (struct rh_token_rows){0};
    struct rh_safetensors *file = NULL;
    enum rh_rc rc = rh_safetensors_open(path, &file, err);
    if (rc != RH_OK)
        return rc;
    rc = read_ids(file, path, out, err);
    if (rc == RH_OK)
        rc = check_ids(out, vocab_size, path, err);
    if (rc != RH_OK)
        rh_token_rows_done(out);
    rh_safetensors_close(file);
    return rc;
}

enum rh_rc rh_token_rows_write(const char *path, const struct rh_token_rows *rows,
                               struct rh_error *err)
{
    const int64_t shape[2] = {rows->samples, rows->seq};
    uint64_t bytes = (uint64_t)(rows->samples * rows->seq) * sizeof *rows->ids;
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    size_t index = rh_safetensors_writer_add(w, "input_ids", RH_I32, 2, shape);
    enum rh_rc rc = rh_safetensors_writer_begin(w, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_put(w, index, 0, rows->ids, bytes, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(w, err);
    rh_safetensors_writer_free(w);
    return rc;
}

void rh_token_rows_done(struct rh_token_rows *rows)
{
    rh_free(rows->ids);
    *rows = (struct rh_token_rows){0};
}

size_t rh_chain_bytes(const struct rh_chain *chain)
{
    return (size_t)chain->samples * (size_t)chain->seq * (size_t)chain->hidden *
           rh_backend_element_size(chain->backend);
}

void *rh_chain_rows(const struct rh_chain *chain, void *part, int64_t first)
{
    return (char *)part + (size_t)(first * chain->seq * chain->hidden) *
                              rh_backend_element_size(chain->backend);
}

static enum rh_rc alloc_part(struct rh_chain *chain, const char *what, void **out,
                             struct rh_error *err)
{
    size_t bytes = rh_chain_bytes(chain);
    return chain->on_host ? rh_backend_alloc_host(chain->backend, bytes, what, out, err)
                          : rh_backend_alloc(chain->backend, bytes, what, out, err);
}

enum rh_rc rh_chain_new_source(struct rh_backend *backend, bool on_host, int64_t samples,
                               int64_t seq, int64_t hidden, struct rh_chain *out,
                               struct rh_error *err)
{
    *out = (struct rh_chain){backend, samples, seq, hidden, on_host, NULL, NULL};
    size_t count = 0;
    if (__builtin_mul_overflow(samples, seq, &count) ||
        __builtin_mul_overflow(count, (size_t)hidden, &count) || count > SIZE_MAX / 16)
        return rh_fail(err, RH_ERR_NO_MEMORY,
                       "%lld rows of %lld tokens of %lld values do not fit; lower nsamples or "
                       "seqlen",
                       (long long)samples, (long long)seq, (long long)hidden);
    return alloc_part(out, "source activations", &out->fp, err);
}

enum rh_rc rh_chain_new(struct rh_backend *backend, bool on_host, int64_t samples, int64_t seq,
                        int64_t hidden, struct rh_chain *out, struct rh_error *err)
{
    enum rh_rc rc = rh_chain_new_source(backend, on_host, samples, seq, hidden, out, err);
    if (rc == RH_OK)
        rc = alloc_part(out, "quantized activations", &out->quant, err);
    if (rc != RH_OK)
        rh_chain_done(out);
    return rc;
}

void rh_chain_done(struct rh_chain *chain)
{
    void (*release)(struct rh_backend *, void *) =
        chain->on_host ? rh_backend_release_host : rh_backend_release;
    if (chain->backend) {
        release(chain->backend, chain->fp);
        release(chain->backend, chain->quant);
    }
    *chain = (struct rh_chain){0};
}

/* A window of host memory that values pass through on their way to or from a chain. */
struct window {
    enum rh_dtype dtype; /* of what is read or written; the chain's own type for writing */
    int64_t elements;    /* at a time */
    void *raw;           /* in `dtype` */
    float *floats;
    void *own; /* in the chain's type; may be raw or floats */
};

static void window_init(struct window *w, const struct rh_chain *chain, enum rh_dtype dtype,
                        int64_t elements)
{
    enum rh_dtype own = rh_backend_dtype(chain->backend);
    *w = (struct window){.dtype = dtype, .elements = elements};
    w->raw = rh_alloc_array((size_t)elements, rh_dtype_size(dtype));
    w->floats = rh_alloc_array((size_t)elements, sizeof *w->floats);
    w->own = own == dtype    ? w->raw
             : own == RH_F32 ? w->floats
                             : rh_alloc_array((size_t)elements, rh_dtype_size(own));
}

static void window_done(struct window *w)
{
    if (w->own != w->raw && w->own != w->floats)
        rh_free(w->own);
    rh_free(w->raw);
    rh_free(w->floats);
}

/* raw -> the chain, `count` elements from `at`. */
static enum rh_rc put(const struct rh_chain *chain, const struct window *w, void *part, int64_t at,
                      int64_t count, struct rh_error *err)
{
    enum rh_dtype own = rh_backend_dtype(chain->backend);
    size_t bytes = (size_t)count * rh_dtype_size(own);
    void *to = (char *)part + (size_t)at * rh_dtype_size(own);
    if (own != w->dtype) {
        rh_to_f32(w->dtype, w->raw, w->floats, (size_t)count);
        if (own != RH_F32)
            rh_from_f32(own, w->floats, w->own, (size_t)count);
    }
    if (!chain->on_host)
        return rh_backend_upload(chain->backend, to, w->own, bytes, err);
    memcpy(to, w->own, bytes);
    return RH_OK;
}

static enum rh_rc check_embedding(const struct rh_chain *chain, const struct rh_safetensors *head,
                                  const char *name, const struct rh_tensor_info **out,
                                  struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(head, name);
    *out = info;
    if (!info || info->rank != 2 || info->shape[1] != chain->hidden)
        return rh_fail(err, RH_ERR_SHAPE, "%s: no matrix %s with rows of %lld values",
                       rh_safetensors_path(head), name, (long long)chain->hidden);
    if (info->dtype != RH_BF16 && info->dtype != RH_F16 && info->dtype != RH_F32)
        return rh_fail(err, RH_ERR_DTYPE, "%s: %s is %s; an embedding must be BF16, F16 or F32",
                       rh_safetensors_path(head), name, rh_dtype_name(info->dtype));
    return RH_OK;
}

/* The embeddings of one calibration row into w->raw. */
static enum rh_rc read_row(const struct rh_safetensors *head, const struct rh_tensor_info *info,
                           const int32_t *ids, int64_t seq, const struct window *w,
                           struct rh_error *err)
{
    uint64_t bytes = (uint64_t)info->shape[1] * rh_dtype_size(info->dtype);
    enum rh_rc rc = RH_OK;
    for (int64_t t = 0; t < seq && rc == RH_OK; t++) {
        if (ids[t] < 0 || ids[t] >= info->shape[0])
            return rh_fail(err, RH_ERR_SHAPE, "%s: %s has no row for token %ld",
                           rh_safetensors_path(head), info->name, (long)ids[t]);
        rc = rh_safetensors_read(head, info, (uint64_t)ids[t] * bytes, bytes,
                                 (char *)w->raw + (uint64_t)t * bytes, err);
    }
    return rc;
}

enum rh_rc rh_chain_embed(struct rh_chain *chain, const struct rh_token_rows *rows,
                          const struct rh_safetensors *head, const char *name,
                          struct rh_error *err)
{
    const struct rh_tensor_info *info = NULL;
    enum rh_rc rc = check_embedding(chain, head, name, &info, err);
    if (rc != RH_OK)
        return rc;
    struct window w;
    int64_t row = chain->seq * chain->hidden;
    window_init(&w, chain, info->dtype, row);
    for (int64_t i = 0; i < rows->samples && rc == RH_OK; i++) {
        rc = read_row(head, info, rows->ids + i * rows->seq, rows->seq, &w, err);
        if (rc == RH_OK)
            rc = put(chain, &w, chain->fp, i * row, row, err);
    }
    window_done(&w);
    if (rc == RH_OK && chain->quant)
        rh_backend_copy(chain->backend, chain->quant, chain->fp, rh_chain_bytes(chain));
    return rc == RH_OK ? rh_backend_sync(chain->backend, err) : rc;
}

static enum rh_rc read_part(const struct rh_chain *chain, const struct rh_safetensors *file,
                            const char *name, void *part, struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(file, name);
    if (!info || (info->dtype != RH_F32 && info->dtype != RH_BF16) || info->rank != 3 ||
        info->shape[0] != chain->samples || info->shape[1] != chain->seq ||
        info->shape[2] != chain->hidden)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: no %s of type F32 or BF16 and shape [%lld, %lld, %lld]; it belongs to "
                       "other calibration rows",
                       rh_safetensors_path(file), name, (long long)chain->samples,
                       (long long)chain->seq, (long long)chain->hidden);
    enum rh_rc rc = RH_OK;
    struct window w;
    int64_t row = chain->seq * chain->hidden;
    uint64_t bytes = (uint64_t)row * rh_dtype_size(info->dtype);
    window_init(&w, chain, info->dtype, row);
    for (int64_t i = 0; i < chain->samples && rc == RH_OK; i++) {
        rc = rh_safetensors_read(file, info, (uint64_t)i * bytes, bytes, w.raw, err);
        if (rc == RH_OK)
            rc = put(chain, &w, part, i * row, row, err);
    }
    window_done(&w);
    return rc;
}

enum rh_rc rh_chain_read(struct rh_chain *chain, const char *path, struct rh_error *err)
{
    struct rh_safetensors *file = NULL;
    enum rh_rc rc = rh_safetensors_open(path, &file, err);
    if (rc == RH_OK)
        rc = read_part(chain, file, "fp", chain->fp, err);
    if (rc == RH_OK)
        rc = read_part(chain, file, "quant", chain->quant, err);
    rh_safetensors_close(file);
    return rc;
}

static enum rh_rc write_part(const struct rh_chain *chain, struct rh_safetensors_writer *w,
                             size_t index, void *part, void *window, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    size_t bytes = rh_chain_bytes(chain) / (size_t)chain->samples;
    for (int64_t i = 0; i < chain->samples && rc == RH_OK; i++) {
        const void *row = rh_chain_rows(chain, part, i);
        if (!chain->on_host) {
            rc = rh_backend_download(chain->backend, window, row, bytes, err);
            row = window;
        }
        if (rc == RH_OK)
            rc = rh_safetensors_writer_put(w, index, (uint64_t)i * bytes, row, bytes, err);
    }
    return rc;
}

enum rh_rc rh_chain_write(const struct rh_chain *chain, const char *path, struct rh_error *err)
{
    const int64_t shape[3] = {chain->samples, chain->seq, chain->hidden};
    enum rh_dtype dtype = rh_backend_dtype(chain->backend);
    void *window = rh_alloc(rh_chain_bytes(chain) / (size_t)chain->samples);
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    size_t fp = rh_safetensors_writer_add(w, "fp", dtype, 3, shape);
    size_t quant = rh_safetensors_writer_add(w, "quant", dtype, 3, shape);
    enum rh_rc rc = rh_safetensors_writer_begin(w, err);
    if (rc == RH_OK)
        rc = write_part(chain, w, fp, chain->fp, window, err);
    if (rc == RH_OK)
        rc = write_part(chain, w, quant, chain->quant, window, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(w, err);
    rh_safetensors_writer_free(w);
    rh_free(window);
    return rc;
}
