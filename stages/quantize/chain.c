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

void rh_token_rows_done(struct rh_token_rows *rows)
{
    rh_free(rows->ids);
    *rows = (struct rh_token_rows){0};
}

static size_t chain_bytes(const struct rh_chain *chain)
{
    return (size_t)chain->samples * (size_t)chain->seq * (size_t)chain->hidden * sizeof(float);
}

enum rh_rc rh_chain_new(int64_t samples, int64_t seq, int64_t hidden, struct rh_chain *out,
                        struct rh_error *err)
{
    *out = (struct rh_chain){samples, seq, hidden, NULL, NULL};
    size_t count = 0;
    if (__builtin_mul_overflow(samples, seq, &count) ||
        __builtin_mul_overflow(count, (size_t)hidden, &count) || count > SIZE_MAX / 16)
        return rh_fail(err, RH_ERR_NO_MEMORY,
                       "%lld rows of %lld tokens of %lld values do not fit; lower nsamples or "
                       "seqlen",
                       (long long)samples, (long long)seq, (long long)hidden);
    void *memory = NULL;
    enum rh_rc rc = rh_try_alloc(chain_bytes(out), "source activations", &memory, err);
    out->fp = memory;
    if (rc != RH_OK)
        return rc;
    rc = rh_try_alloc(chain_bytes(out), "quantized activations", &memory, err);
    out->quant = rc == RH_OK ? memory : NULL;
    if (rc != RH_OK)
        rh_chain_done(out);
    return rc;
}

void rh_chain_done(struct rh_chain *chain)
{
    rh_free(chain->fp);
    rh_free(chain->quant);
    *chain = (struct rh_chain){0};
}

enum rh_rc rh_chain_embed(struct rh_chain *chain, const struct rh_token_rows *rows,
                          const struct rh_safetensors *head, const char *name,
                          struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(head, name);
    if (!info || info->rank != 2 || info->shape[1] != chain->hidden)
        return rh_fail(err, RH_ERR_SHAPE, "%s: no matrix %s with rows of %lld values",
                       rh_safetensors_path(head), name, (long long)chain->hidden);
    if (info->dtype != RH_BF16 && info->dtype != RH_F16 && info->dtype != RH_F32)
        return rh_fail(err, RH_ERR_DTYPE, "%s: %s is %s; an embedding must be BF16, F16 or F32",
                       rh_safetensors_path(head), name, rh_dtype_name(info->dtype));
    uint64_t row_bytes = (uint64_t)chain->hidden * rh_dtype_size(info->dtype);
    void *row = rh_alloc((size_t)row_bytes);
    enum rh_rc rc = RH_OK;
    for (int64_t i = 0; i < rows->samples * rows->seq && rc == RH_OK; i++) {
        if (rows->ids[i] < 0 || rows->ids[i] >= info->shape[0]) {
            rc = rh_fail(err, RH_ERR_SHAPE, "%s: %s has no row for token %ld",
                         rh_safetensors_path(head), name, (long)rows->ids[i]);
            break;
        }
        rc = rh_safetensors_read(head, info, (uint64_t)rows->ids[i] * row_bytes, row_bytes, row,
                                 err);
        if (rc == RH_OK)
            rh_to_f32(info->dtype, row, chain->fp + i * chain->hidden, (size_t)chain->hidden);
    }
    rh_free(row);
    if (rc == RH_OK)
        memcpy(chain->quant, chain->fp, chain_bytes(chain));
    return rc;
}

static enum rh_rc read_part(const struct rh_chain *chain, const struct rh_safetensors *file,
                            const char *name, float *out, struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(file, name);
    if (!info || info->dtype != RH_F32 || info->rank != 3 || info->shape[0] != chain->samples ||
        info->shape[1] != chain->seq || info->shape[2] != chain->hidden)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: no %s of type F32 and shape [%lld, %lld, %lld]; it belongs to other "
                       "calibration rows",
                       rh_safetensors_path(file), name, (long long)chain->samples,
                       (long long)chain->seq, (long long)chain->hidden);
    return rh_safetensors_read(file, info, 0, info->bytes, out, err);
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

enum rh_rc rh_chain_write(const struct rh_chain *chain, const char *path, struct rh_error *err)
{
    const int64_t shape[3] = {chain->samples, chain->seq, chain->hidden};
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    size_t fp = rh_safetensors_writer_add(w, "fp", RH_F32, 3, shape);
    size_t quant = rh_safetensors_writer_add(w, "quant", RH_F32, 3, shape);
    enum rh_rc rc = rh_safetensors_writer_begin(w, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_put(w, fp, 0, chain->fp, chain_bytes(chain), err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_put(w, quant, 0, chain->quant, chain_bytes(chain), err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(w, NULL, err);
    rh_safetensors_writer_free(w);
    return rc;
}
