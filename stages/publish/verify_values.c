#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/grid.h"
#include "quant/pack.h"

#include "verify_internal.h"

/* Beyond these a linear is broken, whatever made it: healthy 4-bit linears have a relative error of
 * about 0.1 and 2-bit ones of about 0.45. */
#define ERROR_LIMIT          0.5
#define ERROR_LIMIT_2BIT     0.9
#define CORRELATION_MIN      0.85
#define CORRELATION_MIN_2BIT 0.4
/* Room for what other writers round differently (a scale kept in fp32 while dividing). */
#define STEP_SLACK 0.02F
#define ROW_GRAIN  16

/* One quantized linear in memory. All members are owned. */
struct packed {
    const struct rh_linear *linear;
    int64_t groups, group; /* group: length of a full one */
    int32_t *qweight, *qzeros;
    uint16_t *packed_scales;
    uint64_t word_count, zero_count, scale_count;
    /* Against the source only. */
    uint8_t *codes;
    uint16_t *scales, *zeros; /* [out, groups] */
    float *weights;           /* of the source */
    void *raw;                /* as in its file */
};

static void packed_done(struct packed *p)
{
    rh_free(p->qweight);
    rh_free(p->qzeros);
    rh_free(p->packed_scales);
    rh_free(p->codes);
    rh_free(p->scales);
    rh_free(p->zeros);
    rh_free(p->weights);
    rh_free(p->raw);
}

static enum rh_rc read_whole(const struct verify_tensor *t, void **out, struct rh_error *err)
{
    enum rh_rc rc = rh_try_alloc(t->info->bytes, t->info->name, out, err);
    if (rc == RH_OK)
        rc = rh_safetensors_read(t->file, t->info, 0, t->info->bytes, *out, err);
    return rc;
}

/* *usable is false when a part is missing or misshapen, which has been reported already. */
static enum rh_rc read_packed(struct verify *v, const struct rh_linear *l, struct packed *p,
                              bool *usable, struct rh_error *err)
{
    struct rh_output_tensor parts[3];
    const struct verify_tensor *found[3];
    enum rh_rc rc = RH_OK;
    *usable = true;
    *p = (struct packed){.linear = l, .groups = rh_linear_groups(l)};
    p->group = l->group_size < 0 ? l->in_features : l->group_size;
    rh_linear_packed(l, parts);
    for (int i = 0; i < 3; i++) {
        found[i] = verify_set_find(&v->output, parts[i].name);
        *usable = *usable && found[i] && found[i]->info->bytes == parts[i].bytes &&
                  found[i]->info->dtype == parts[i].dtype &&
                  found[i]->info->shape[0] == parts[i].shape[0];
    }
    if (*usable) {
        void *words = NULL, *zeros = NULL, *scales = NULL;
        rc = read_whole(found[0], &words, err);
        p->qweight = words;
        if (rc == RH_OK)
            rc = read_whole(found[1], &zeros, err);
        p->qzeros = zeros;
        if (rc == RH_OK)
            rc = read_whole(found[2], &scales, err);
        p->packed_scales = scales;
        p->word_count = parts[0].bytes / sizeof *p->qweight;
        p->zero_count = parts[1].bytes / sizeof *p->qzeros;
        p->scale_count = parts[2].bytes / sizeof *p->packed_scales;
    }
    for (int i = 0; i < 3; i++)
        rh_free(parts[i].name);
    return rc;
}

static void check_scales(struct verify *v, const struct packed *p)
{
    uint64_t infinite = 0, zero = 0;
    for (uint64_t i = 0; i < p->scale_count; i++) {
        infinite += (p->packed_scales[i] & 0x7C00U) == 0x7C00U;
        zero += (p->packed_scales[i] & 0x7FFFU) == 0;
    }
    if (infinite > 0)
        verify_problem(v, RH_VERIFY_VALUES, "%.200s.scales: %llu of %llu are NaN or infinite",
                       p->linear->name, (unsigned long long)infinite,
                       (unsigned long long)p->scale_count);
    if (zero > 0)
        verify_problem(v, RH_VERIFY_VALUES, "%.200s.scales: %llu of %llu are 0", p->linear->name,
                       (unsigned long long)zero, (unsigned long long)p->scale_count);
}

static bool all_words_are(const int32_t *words, uint64_t count, uint32_t value)
{
    for (uint64_t i = 0; i < count; i++) {
        if ((uint32_t)words[i] != value)
            return false;
    }
    return true;
}

static enum rh_rc check_zero_points(struct verify *v, const struct packed *p, struct rh_error *err)
{
    const struct rh_linear *l = p->linear;
    void *expected = NULL;
    if (!l->sym)
        return RH_OK;
    size_t bytes = (size_t)p->zero_count * sizeof *p->qzeros;
    enum rh_rc rc = rh_try_alloc(bytes, "zero points", &expected, err);
    if (rc != RH_OK)
        return rc;
    const int32_t *words = expected;
    rh_pack_qzeros(NULL, l->out_features, p->groups, l->bits, expected);
    if (memcmp(expected, p->qzeros, bytes) != 0) {
        uint64_t wrong = 0, first = p->zero_count;
        for (uint64_t i = p->zero_count; i-- > 0;) {
            if (words[i] != p->qzeros[i]) {
                wrong++;
                first = i;
            }
        }
        bool unshifted = l->bits == 4 && all_words_are(p->qzeros, p->zero_count, 0x88888888U);
        verify_problem(
            v, RH_VERIFY_VALUES,
            "%.200s.qzeros: %llu of %llu words are wrong, the first is 0x%08X instead of "
            "0x%08X%s",
            l->name, (unsigned long long)wrong, (unsigned long long)p->zero_count,
            (unsigned)p->qzeros[first], (unsigned)words[first],
            unshifted ? "; the zero point was stored without taking one off, as "
                        "auto-round 0.13 does for MTP"
                      : "");
    }
    rh_free(expected);
    return RH_OK;
}

static void check_codes(struct verify *v, const struct packed *p)
{
    if (all_words_are(p->qweight, p->word_count, 0) ||
        (p->linear->bits == 4 && all_words_are(p->qweight, p->word_count, 0x88888888U)))
        verify_problem(v, RH_VERIFY_VALUES, "%.200s.qweight: all words are 0x%08X", p->linear->name,
                       (unsigned)p->qweight[0]);
}

static enum rh_rc unpack(struct verify *v, struct packed *p, struct rh_error *err)
{
    const struct rh_linear *l = p->linear;
    const struct verify_tensor *source = verify_set_find(&v->source, l->source);
    size_t rows = (size_t)l->out_features, count = rows * (size_t)l->in_features;
    size_t groups = rows * (size_t)p->groups, element = rh_dtype_size(l->dtype);
    void *codes = NULL, *scales = NULL, *zeros = NULL, *weights = NULL;
    if (!source)
        return rh_fail(err, RH_ERR_FORMAT, "source has no tensor %.200s", l->source);
    enum rh_rc rc = rh_try_alloc(count, l->name, &codes, err);
    p->codes = codes;
    if (rc == RH_OK)
        rc = rh_try_alloc(groups * sizeof *p->scales, l->name, &scales, err);
    p->scales = scales;
    if (rc == RH_OK)
        rc = rh_try_alloc(groups * sizeof *p->zeros, l->name, &zeros, err);
    p->zeros = zeros;
    if (rc == RH_OK)
        rc = rh_try_alloc(count * sizeof *p->weights, l->name, &weights, err);
    p->weights = weights;
    if (rc == RH_OK)
        rc = rh_try_alloc(count * element, l->name, &p->raw, err);
    if (rc == RH_OK)
        rc = rh_safetensors_read(source->file, source->info,
                                 (uint64_t)l->source_row * (uint64_t)l->in_features * element,
                                 count * element, p->raw, err);
    if (rc != RH_OK)
        return rc;
    rh_to_f32(l->dtype, p->raw, p->weights, count);
    rh_unpack_qweight(p->qweight, l->out_features, l->in_features, l->bits, p->codes);
    rh_unpack_scales(p->packed_scales, l->out_features, p->groups, p->scales);
    rh_unpack_qzeros(p->qzeros, l->out_features, p->groups, l->bits, p->zeros);
    return RH_OK;
}

/* Sums over a row or a whole linear. */
struct sums {
    double source, output, product, error; /* squares of w and w', w * w', (w - w')^2 */
    uint64_t off;                          /* weights further off than the bound */
};

/* w' = scale * d with d = code - zero came from d = clamp(round(w / scale + v), low, high), so d is
 * within 1/2 + |v| of w / scale unless it was clamped on the side where w lies. */
static void add_group(const struct packed *p, int64_t row, int64_t g, float bound, struct sums *s)
{
    const struct rh_linear *l = p->linear;
    int64_t begin = g * p->group, end = begin + p->group;
    end = end < l->in_features ? end : l->in_features;
    float scale = rh_f16_to_f32(p->scales[row * p->groups + g]);
    int levels = 1 << l->bits;
    /* A zero point of 0 is stored as all ones, which reads as 2^bits. */
    int zero = p->zeros[row * p->groups + g] % levels;
    int low = -zero, high = levels - 1 - zero;
    for (int64_t i = begin; i < end; i++) {
        float w = p->weights[row * l->in_features + i];
        int d = (int)p->codes[row * l->in_features + i] - zero;
        float r = w / scale, out = scale * (float)d;
        bool fits = fabsf(r - (float)d) <= bound || (d == low && r <= (float)low + bound) ||
                    (d == high && r >= (float)high - bound);
        s->off += !fits;
        s->source += (double)w * (double)w;
        s->output += (double)out * (double)out;
        s->product += (double)w * (double)out;
        s->error += ((double)w - (double)out) * ((double)w - (double)out);
    }
}

struct row_job {
    const struct packed *packed;
    struct sums *rows;
    float bound;
};

static void add_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct row_job *job = arg;
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        for (int64_t g = 0; g < job->packed->groups; g++)
            add_group(job->packed, row, g, job->bound, &job->rows[row]);
}

/* Row by row in parallel, then added up in order: the same sums for any number of threads. */
static enum rh_rc compare_rows(struct verify *v, const struct packed *p, float bound,
                               struct sums *s, struct rh_error *err)
{
    void *memory = NULL;
    int64_t count = p->linear->out_features;
    enum rh_rc rc = rh_try_alloc((size_t)count * sizeof *s, "sums of rows", &memory, err);
    if (rc != RH_OK)
        return rc;
    struct sums *rows = memory;
    memset(rows, 0, (size_t)count * sizeof *rows);
    rh_parallel_for(v->pool, count, ROW_GRAIN, add_rows, &(struct row_job){p, rows, bound});
    for (int64_t i = 0; i < count; i++) {
        s->source += rows[i].source;
        s->output += rows[i].output;
        s->product += rows[i].product;
        s->error += rows[i].error;
        s->off += rows[i].off;
    }
    rh_free(memory);
    return RH_OK;
}

/* How far an offset can get: the steps lr_t = lr * (1 - t/T) add up to lr * (T + 1) / 2. */
static float step_bound(const struct rh_json *quantization)
{
    int64_t iters = 0;
    double offset = 0.5;
    if (rh_json_int(rh_json_get(quantization, "iters"), &iters) && iters > 0) {
        double lr = rh_json_number(rh_json_get(quantization, "lr"), 1.0 / (double)iters);
        offset = fmax(offset, lr * (double)(iters + 1) / 2);
    }
    return (float)(0.5 + offset) + STEP_SLACK;
}

static void judge(struct verify *v, const struct packed *p, const struct sums *s, float bound)
{
    const struct rh_linear *l = p->linear;
    double count = (double)l->out_features * (double)l->in_features;
    double limit = l->bits == 2 ? ERROR_LIMIT_2BIT : ERROR_LIMIT;
    double least = l->bits == 2 ? CORRELATION_MIN_2BIT : CORRELATION_MIN;
    double relative = s->source > 0 ? sqrt(s->error / s->source) : 0;
    double norms = sqrt(s->source) * sqrt(s->output);
    double correlation = norms > 0 ? s->product / norms : s->source > 0 ? 0 : 1;
    /* Weights below the smallest scale cannot be held; the bound on steps still binds them. */
    bool tiny = sqrt(s->source / count) < 4 * (double)RH_SCALE_MIN;
    if (s->off > 0)
        verify_problem(v, RH_VERIFY_WEIGHTS,
                       "%.200s: %llu of %.0f weights are more than %.2f steps off the source",
                       l->name, (unsigned long long)s->off, count, (double)bound);
    if (!tiny && !(relative <= limit))
        verify_problem(v, RH_VERIFY_WEIGHTS,
                       "%.200s: relative error %.3f against the source, at most %.1f is plausible",
                       l->name, relative, limit);
    if (!tiny && !(correlation >= least))
        verify_problem(v, RH_VERIFY_WEIGHTS,
                       "%.200s: correlation %.3f with the source, at least %.2f is plausible; rows "
                       "or columns may be out of order",
                       l->name, correlation, least);
    struct rh_verify_report *r = v->report;
    v->compared++;
    r->error_mean += relative;
    if (!r->error_max_name || relative > r->error_max) {
        rh_free(r->error_max_name);
        r->error_max_name = rh_strdup(l->name);
        r->error_max = relative;
    }
}

static enum rh_rc check_linear(struct verify *v, const struct rh_linear *l, struct rh_error *err)
{
    struct packed p;
    bool usable;
    enum rh_rc rc = read_packed(v, l, &p, &usable, err);
    if (rc != RH_OK || !usable)
        goto out;
    check_scales(v, &p);
    rc = check_zero_points(v, &p, err);
    if (rc != RH_OK)
        goto out;
    verify_ran(v, RH_VERIFY_VALUES, 3);
    if (!v->plan_is_of_source) {
        check_codes(v, &p);
    } else {
        float bound = step_bound(v->quantization);
        struct sums s = {0};
        rc = unpack(v, &p, err);
        if (rc != RH_OK)
            goto out;
        rc = compare_rows(v, &p, bound, &s, err);
        if (rc != RH_OK)
            goto out;
        judge(v, &p, &s, bound);
        verify_ran(v, RH_VERIFY_WEIGHTS, 1);
    }
    rc = verify_step(v, "values", 4 * (p.word_count + p.zero_count) + 2 * p.scale_count, err);
out:
    packed_done(&p);
    return rc;
}

/* Elements whose exponent is all ones. */
static uint64_t count_not_finite(enum rh_dtype dtype, const void *data, size_t bytes)
{
    uint64_t count = 0;
    if (dtype == RH_BF16 || dtype == RH_F16) {
        const uint16_t *x = data;
        uint16_t mask = dtype == RH_BF16 ? 0x7F80U : 0x7C00U;
        for (size_t i = 0; i < bytes / sizeof *x; i++)
            count += (x[i] & mask) == mask;
    } else if (dtype == RH_F32) {
        const uint32_t *x = data;
        for (size_t i = 0; i < bytes / sizeof *x; i++)
            count += (x[i] & 0x7F800000U) == 0x7F800000U;
    }
    return count;
}

/* Where the source has the bytes of a 16-bit tensor: under the same name, or as rows of a fused
 * tensor. NULL: it has none of that name and size. */
static const struct verify_tensor *origin(const struct verify *v, const struct rh_hash_map *linears,
                                          const struct verify_tensor *t, uint64_t *out_begin)
{
    const struct verify_tensor *source = verify_set_find(&v->source, t->info->name);
    *out_begin = 0;
    if (!source && verify_ends_with(t->info->name, ".weight")) {
        char *name = rh_strndup(t->info->name, strlen(t->info->name) - strlen(".weight"));
        const struct rh_linear *l = rh_hash_map_find(linears, name);
        rh_free(name);
        if (l) {
            source = verify_set_find(&v->source, l->source);
            *out_begin =
                (uint64_t)l->source_row * (uint64_t)l->in_features * rh_dtype_size(l->dtype);
        }
    }
    if (!source || source->info->dtype != t->info->dtype || source->info->bytes < t->info->bytes ||
        *out_begin > source->info->bytes - t->info->bytes)
        return NULL;
    return source;
}

static enum rh_rc check_plain(struct verify *v, const struct rh_hash_map *linears,
                              const struct verify_tensor *t, uint8_t *buffers, struct rh_error *err)
{
    uint64_t begin = 0, bad = 0;
    bool same = true;
    enum rh_rc rc = RH_OK;
    const struct verify_tensor *source =
        v->plan_is_of_source ? origin(v, linears, t, &begin) : NULL;
    for (uint64_t at = 0; at < t->info->bytes && rc == RH_OK; at += VERIFY_CHUNK) {
        uint64_t left = t->info->bytes - at, size = left < VERIFY_CHUNK ? left : VERIFY_CHUNK;
        rc = rh_safetensors_read(t->file, t->info, at, size, buffers, err);
        if (rc == RH_OK && source)
            rc = rh_safetensors_read(source->file, source->info, begin + at, size,
                                     buffers + VERIFY_CHUNK, err);
        if (rc != RH_OK)
            return rc;
        bad += count_not_finite(t->info->dtype, buffers, size);
        same = same && source && memcmp(buffers, buffers + VERIFY_CHUNK, size) == 0;
        rc = verify_step(v, "values", size, err);
    }
    verify_ran(v, RH_VERIFY_VALUES, 1);
    if (bad > 0)
        verify_problem(v, RH_VERIFY_VALUES, "%.200s: %llu elements are NaN or infinite",
                       t->info->name, (unsigned long long)bad);
    if (!v->plan_is_of_source)
        return rc;
    verify_ran(v, RH_VERIFY_PASS_THROUGH, 1);
    if (!source)
        verify_problem(v, RH_VERIFY_PASS_THROUGH,
                       "%.200s: the source has no tensor of that name, type and size",
                       t->info->name);
    else if (!same)
        verify_problem(v, RH_VERIFY_PASS_THROUGH, "%.200s differs from the source", t->info->name);
    return rc;
}

static bool is_packed_part(const char *name)
{
    return verify_ends_with(name, ".qweight") || verify_ends_with(name, ".qzeros") ||
           verify_ends_with(name, ".scales") || verify_ends_with(name, ".g_idx");
}

static void describe(struct verify *v)
{
    struct rh_verify_report *r = v->report;
    verify_detail(v, RH_VERIFY_VALUES, "%llu tensors are finite, zero points as expected",
                  (unsigned long long)r->checks[RH_VERIFY_VALUES].count);
    if (!v->plan_is_of_source)
        return;
    verify_detail(v, RH_VERIFY_PASS_THROUGH, "%llu tensors compared with the source's bytes",
                  (unsigned long long)r->checks[RH_VERIFY_PASS_THROUGH].count);
    if (v->compared > 0)
        r->error_mean /= (double)v->compared;
    verify_detail(v, RH_VERIFY_WEIGHTS,
                  "%llu linears, relative error %.4f on average, %.4f at most",
                  (unsigned long long)v->compared, r->error_mean, r->error_max);
}

enum rh_rc verify_values(struct verify *v, struct rh_error *err)
{
    struct rh_hash_map *linears = rh_hash_map_new();
    void *buffers = NULL;
    enum rh_rc rc = rh_try_alloc(2 * VERIFY_CHUNK, "comparison buffers", &buffers, err);
    v->done = 0;
    v->total = v->report->bytes;
    v->pool = rh_thread_pool_new(v->options.threads);
    for (size_t u = 0; u < v->plan->unit_count && rc == RH_OK; u++) {
        const struct rh_unit *unit = &v->plan->units[u];
        for (size_t i = 0; i < unit->linear_count && rc == RH_OK; i++) {
            struct rh_linear *l = &v->plan->units[u].linears[i];
            rh_hash_map_add(linears, l->name, l);
            if (l->bits < 16)
                rc = check_linear(v, l, err);
        }
    }
    for (size_t i = 0; i < verify_set_count(&v->output) && rc == RH_OK; i++) {
        const struct verify_tensor *t = verify_set_at(&v->output, i);
        if (!is_packed_part(t->info->name))
            rc = check_plain(v, linears, t, buffers, err);
    }
    describe(v);
    rh_thread_pool_free(v->pool);
    v->pool = NULL;
    rh_free(buffers);
    rh_hash_map_free(linears);
    return rc;
}
