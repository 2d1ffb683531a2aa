#include "linear.h"

#include <math.h>

#include "base/mem.h"
#include "quant/group.h"
#include "quant/pack.h"

#include "pack_ops.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

enum rh_rc pack_linear_init(struct pack_linear *p, const struct rh_unit *unit, struct rh_error *err)
{
    size_t elements = 0, groups = 0, raw = 0;
    *p = (struct pack_linear){0};
    for (size_t i = 0; i < unit->linear_count; i++) {
        const struct rh_linear *l = &unit->linears[i];
        if (l->bits >= 16)
            continue;
        size_t count = (size_t)l->out_features * (size_t)l->in_features;
        elements = larger(elements, count);
        raw = larger(raw, count * rh_dtype_size(l->dtype));
        groups = larger(groups, (size_t)l->out_features * (size_t)rh_linear_groups(l));
    }
    if (elements == 0)
        return RH_OK;
    struct {
        size_t size;
        void *memory;
    } parts[] = {
        {raw, NULL},        {elements * sizeof *p->weight, NULL},
        {elements, NULL},   {groups * 2, NULL},
        {groups, NULL},     {elements + groups, NULL},
        {groups * 2, NULL},
    };
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && rc == RH_OK; i++)
        rc = rh_try_alloc(parts[i].size, "the largest linear", &parts[i].memory, err);
    p->raw = parts[0].memory;
    p->weight = parts[1].memory;
    p->codes = parts[2].memory;
    p->scales = parts[3].memory;
    p->zeros = parts[4].memory;
    p->words = parts[5].memory;
    p->packed_scales = parts[6].memory;
    return rc;
}

void pack_linear_done(struct pack_linear *p)
{
    rh_free(p->raw);
    rh_free(p->weight);
    rh_free(p->codes);
    rh_free(p->scales);
    rh_free(p->zeros);
    rh_free(p->words);
    rh_free(p->packed_scales);
}

/* The tensor "<linear>.<part>", all of it. */
static enum rh_rc read_part(const struct rh_safetensors *file, const struct rh_linear *linear,
                            const char *part, enum rh_dtype dtype, int64_t columns, void *buffer,
                            struct rh_error *err)
{
    const struct rh_tensor_info *info = NULL;
    int64_t shape[] = {linear->out_features, columns};
    char *name = rh_format("%s.%s", linear->name, part);
    enum rh_rc rc = rh_pack_find(file, name, dtype, 2, shape, &info, err);
    if (rc == RH_OK)
        rc = rh_safetensors_read(file, info, 0, info->bytes, buffer, err);
    rh_free(name);
    return rc;
}

/* What does not fit its field would spill over into the neighbour's. */
static enum rh_rc check_fields(const uint8_t *fields, int64_t count, int bits, const char *what,
                               const struct rh_linear *linear, struct rh_error *err)
{
    for (int64_t i = 0; i < count; i++) {
        if (fields[i] >> bits)
            return rh_fail(err, RH_ERR_FORMAT, "%s: %s %lld is %d, more than %d bits hold",
                           linear->name, what, (long long)i, fields[i], bits);
    }
    return RH_OK;
}

static enum rh_rc check_scales(const uint16_t *scales, int64_t count,
                               const struct rh_linear *linear, struct rh_error *err)
{
    for (int64_t i = 0; i < count; i++) {
        float scale = rh_f16_to_f32(scales[i]);
        if (!isfinite(scale))
            return rh_fail(err, RH_ERR_NUMERIC, "%s: scale %lld is %f", linear->name, (long long)i,
                           (double)scale);
    }
    return RH_OK;
}

enum rh_rc pack_linear_load(struct pack_linear *p, const struct rh_linear *linear,
                            const struct rh_safetensors *block, struct rh_error *err)
{
    int64_t out = linear->out_features, in = linear->in_features;
    int64_t groups = rh_linear_groups(linear);
    /* Stored codes never exceed one byte each, and the source's type has at least two. */
    enum rh_rc rc =
        read_part(block, linear, "codes", RH_U8, rh_codes_row_bytes(in, linear->bits), p->raw, err);
    if (rc == RH_OK)
        rc = read_part(block, linear, "scales", RH_F16, groups, p->scales, err);
    if (rc == RH_OK && !linear->sym)
        rc = read_part(block, linear, "zeros", RH_U8, groups, p->zeros, err);
    if (rc != RH_OK)
        return rc;
    rh_codes_load(p->raw, out, in, linear->bits, p->codes);
    rc = check_fields(p->codes, out * in, linear->bits, "code", linear, err);
    if (rc == RH_OK && !linear->sym)
        rc = check_fields(p->zeros, out * groups, linear->bits, "zero point", linear, err);
    if (rc == RH_OK)
        rc = check_scales(p->scales, out * groups, linear, err);
    return rc == RH_OK ? RH_OK : rh_error_prefix(err, "%s", rh_safetensors_path(block));
}

enum rh_rc pack_linear_round(struct pack_linear *p, const struct rh_linear *linear,
                             const struct rh_safetensors *source, enum rh_observer observer,
                             struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(source, linear->source);
    struct rh_scheme scheme = {linear->bits, linear->sym, linear->group_size};
    uint64_t row = (uint64_t)linear->in_features * rh_dtype_size(linear->dtype);
    size_t count = (size_t)linear->out_features * (size_t)linear->in_features;
    if (!info || info->dtype != linear->dtype)
        return rh_fail(err, RH_ERR_FORMAT, "%s has not the tensor %.300s that the plan names",
                       rh_safetensors_path(source), linear->source);
    enum rh_rc rc = rh_safetensors_read(source, info, (uint64_t)linear->source_row * row,
                                        (uint64_t)linear->out_features * row, p->raw, err);
    if (rc != RH_OK)
        return rc;
    rh_to_f32(linear->dtype, p->raw, p->weight, count);
    rc = rh_round_to_nearest(&scheme, p->weight, linear->out_features, linear->in_features,
                             observer == RH_OBSERVER_MSE, p->codes, p->scales,
                             linear->sym ? NULL : p->zeros, err);
    return rc == RH_OK ? RH_OK : rh_error_prefix(err, "%s", linear->name);
}

enum rh_rc pack_linear_put(struct pack_linear *p, const struct rh_linear *linear,
                           struct rh_safetensors_writer *writer, const size_t to[3],
                           struct rh_error *err)
{
    int64_t out = linear->out_features, in = linear->in_features;
    int64_t groups = rh_linear_groups(linear);
    size_t weight_words = (size_t)(rh_pack_words(in, linear->bits) * out);
    size_t zero_words = (size_t)(rh_pack_words(out, linear->bits) * groups);
    rh_pack_qweight(p->codes, out, in, linear->bits, p->words);
    enum rh_rc rc =
        rh_safetensors_writer_put(writer, to[0], 0, p->words, weight_words * sizeof *p->words, err);
    if (rc != RH_OK)
        return rc;
    rh_pack_qzeros(linear->sym ? NULL : p->zeros, out, groups, linear->bits, p->words);
    rc = rh_safetensors_writer_put(writer, to[1], 0, p->words, zero_words * sizeof *p->words, err);
    if (rc != RH_OK)
        return rc;
    rh_pack_scales(p->scales, out, groups, p->packed_scales);
    return rh_safetensors_writer_put(writer, to[2], 0, p->packed_scales,
                                     (uint64_t)(out * groups) * sizeof *p->packed_scales, err);
}
