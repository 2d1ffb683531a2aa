#include "tuning/block_file.h"

#include "base/mem.h"
#include "checkpoint/safetensors.h"
#include "quant/pack.h"

/* Where a linear's tensors stand in the file. */
struct entry {
    size_t codes, scales, zeros;
};

static size_t declare(struct rh_safetensors_writer *w, const char *linear, const char *part,
                      enum rh_dtype dtype, int64_t rows, int64_t columns)
{
    const int64_t shape[2] = {rows, columns};
    char *name = rh_format("%s.%s", linear, part);
    size_t index = rh_safetensors_writer_add(w, name, dtype, 2, shape);
    rh_free(name);
    return index;
}

static int64_t groups_of(const struct rh_tuned_linear *q)
{
    return rh_scheme_groups(&q->scheme, q->in_features);
}

static int64_t code_bytes(const struct rh_tuned_linear *q)
{
    return q->out_features * rh_codes_row_bytes(q->in_features, q->scheme.bits);
}

static void declare_linear(struct rh_safetensors_writer *w, const struct rh_tuned_linear *q,
                           struct entry *entry)
{
    const char *name = q->linear->name;
    entry->codes = declare(w, name, "codes", RH_U8, q->out_features,
                           rh_codes_row_bytes(q->in_features, q->scheme.bits));
    entry->scales = declare(w, name, "scales", RH_F16, q->out_features, groups_of(q));
    if (!q->scheme.sym)
        entry->zeros = declare(w, name, "zeros", RH_U8, q->out_features, groups_of(q));
}

static enum rh_rc put_linear(struct rh_safetensors_writer *w, const struct rh_tuned_linear *q,
                             const struct entry *entry, uint8_t *stored, struct rh_error *err)
{
    uint64_t groups = (uint64_t)(q->out_features * groups_of(q));
    rh_codes_store(q->codes, q->out_features, q->in_features, q->scheme.bits, stored);
    enum rh_rc rc = rh_safetensors_writer_put(w, entry->codes, 0, stored, (uint64_t)code_bytes(q),
                                              err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_put(w, entry->scales, 0, q->scales, groups * sizeof *q->scales,
                                       err);
    if (rc == RH_OK && !q->scheme.sym)
        rc = rh_safetensors_writer_put(w, entry->zeros, 0, q->zeros, groups, err);
    return rc;
}

enum rh_rc rh_block_file_write(const char *path, const struct rh_tuned *tuned,
                               struct rh_error *err)
{
    const struct rh_tuned_linear *items = tuned->linears;
    size_t count = tuned->count;
    struct entry *entries = rh_alloc_array(count + 1, sizeof *entries);
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    int64_t largest = 1;
    for (size_t i = 0; i < count; i++) {
        declare_linear(w, &items[i], &entries[i]);
        largest = code_bytes(&items[i]) > largest ? code_bytes(&items[i]) : largest;
    }
    void *stored = NULL;
    enum rh_rc rc = rh_try_alloc((size_t)largest, "codes of a linear", &stored, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_begin(w, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++)
        rc = put_linear(w, &items[i], &entries[i], stored, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(w, err);
    rh_free(stored);
    rh_safetensors_writer_free(w);
    rh_free(entries);
    return rc;
}
