#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sha256.h"
#include "base/strbuf.h"

#include "family.h"

#define EXTRAS_NAME "model_extra_tensors.safetensors"
#define GIB         (UINT64_C(1) << 30)

int64_t rh_linear_groups(const struct rh_linear *linear)
{
    if (linear->group_size < 0)
        return 1;
    return (linear->in_features + linear->group_size - 1) / linear->group_size;
}

static struct rh_output_tensor packed_tensor(const struct rh_linear *linear, const char *suffix,
                                             enum rh_dtype dtype, int64_t rows, int64_t columns)
{
    return (struct rh_output_tensor){
        .name = rh_format("%s.%s", linear->name, suffix),
        .dtype = dtype,
        .rank = 2,
        .shape = {rows, columns},
        .bytes = (uint64_t)rows * (uint64_t)columns * rh_dtype_size(dtype),
    };
}

void rh_linear_packed(const struct rh_linear *linear, struct rh_output_tensor out[3])
{
    int64_t groups = rh_linear_groups(linear);
    int64_t rows = linear->in_features / 32 * linear->bits;
    int64_t words = linear->out_features / 32 * linear->bits;
    out[0] = packed_tensor(linear, "qweight", RH_I32, rows, linear->out_features);
    out[1] = packed_tensor(linear, "qzeros", RH_I32, groups, words);
    out[2] = packed_tensor(linear, "scales", RH_F16, groups, linear->out_features);
}

static bool is_extra(enum rh_unit_kind kind)
{
    return kind == RH_UNIT_MTP || kind == RH_UNIT_VISUAL;
}

/* From unit order to the order of the output files: blocks, embedding, norm and head, extras. */
static void order_outputs(struct rh_model_plan *plan)
{
    static const enum rh_unit_kind kinds[] = {RH_UNIT_BLOCK, RH_UNIT_HEAD, RH_UNIT_TAIL,
                                              RH_UNIT_MTP, RH_UNIT_VISUAL};
    struct rh_output_tensor *sorted = rh_alloc_array(plan->output_count + 1, sizeof *sorted);
    size_t used = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        for (size_t i = 0; i < plan->output_count; i++) {
            if (plan->units[plan->outputs[i].unit].kind == kinds[k])
                sorted[used++] = plan->outputs[i];
        }
    }
    RH_ASSERT(used == plan->output_count);
    rh_free(plan->outputs);
    plan->outputs = sorted;
}

/* AutoRound's shard size: a tenth of the quantized model in GB, rounded as it does, in 1..5 GiB. */
static uint64_t shard_limit(const struct rh_model_plan *plan, const struct rh_recipe *recipe)
{
    if (recipe->max_shard_bytes > 0)
        return (uint64_t)recipe->max_shard_bytes;
    uint64_t elements = 0;
    for (size_t u = 0; u < plan->unit_count; u++) {
        if (is_extra(plan->units[u].kind))
            continue;
        for (size_t t = 0; t < plan->units[u].tensor_count; t++)
            elements += (uint64_t)rh_tensor_elements(&plan->units[u].tensors[t].info);
    }
    uint64_t gigabytes = elements * (uint64_t)recipe->bits / 8 / UINT64_C(1000000000);
    uint64_t size = (gigabytes + 9) / 10;
    size = size < 1 ? 1 : size > 5 ? 5 : size;
    return size * GIB;
}

static struct rh_output_shard *new_shard(struct rh_model_plan *plan)
{
    plan->shards = rh_realloc_array(plan->shards, plan->shard_count + 1, sizeof *plan->shards);
    struct rh_output_shard *s = &plan->shards[plan->shard_count++];
    memset(s, 0, sizeof *s);
    return s;
}

/* transformers takes a file "model.safetensors" for the whole model and never looks at the index:
 * only what is alone may have that name. */
static void name_shards(struct rh_model_plan *plan, size_t count, bool alone)
{
    if (count == 1 && alone) {
        plan->shards[0].name = rh_strdup("model.safetensors");
        return;
    }
    for (size_t i = 0; i < count; i++)
        plan->shards[i].name = rh_format("model-%05zu-of-%05zu.safetensors", i + 1, count);
}

/* Greedy in output order; a tensor above the limit has a file of its own. */
static void cut_shards(struct rh_model_plan *plan, uint64_t limit)
{
    struct rh_output_shard *s = NULL;
    size_t i = 0;
    for (; i < plan->output_count && !is_extra(plan->units[plan->outputs[i].unit].kind); i++) {
        struct rh_output_tensor *o = &plan->outputs[i];
        if (!s || (s->tensor_count > 0 && s->bytes + o->bytes > limit))
            s = new_shard(plan);
        s->bytes += o->bytes;
        s->tensor_count++;
        o->shard = plan->shard_count - 1;
    }
    name_shards(plan, plan->shard_count, i == plan->output_count);
    if (i == plan->output_count)
        return;
    s = new_shard(plan);
    s->name = rh_strdup(EXTRAS_NAME);
    for (; i < plan->output_count; i++) {
        s->bytes += plan->outputs[i].bytes;
        s->tensor_count++;
        plan->outputs[i].shard = plan->shard_count - 1;
    }
}

static void add_totals(struct rh_model_plan *plan)
{
    for (size_t i = 0; i < plan->output_count; i++) {
        enum rh_unit_kind kind = plan->units[plan->outputs[i].unit].kind;
        struct rh_totals *t = kind == RH_UNIT_MTP      ? &plan->mtp
                              : kind == RH_UNIT_VISUAL ? &plan->visual
                                                       : &plan->main;
        t->tensors++;
        t->bytes += plan->outputs[i].bytes;
        plan->all.tensors++;
        plan->all.bytes += plan->outputs[i].bytes;
    }
    for (size_t u = 0; u < plan->unit_count; u++) {
        const struct rh_unit *unit = &plan->units[u];
        for (size_t i = 0; unit->kind == RH_UNIT_BLOCK && i < unit->linear_count; i++) {
            if (unit->linears[i].bits < 16)
                plan->quantized_linears++;
            else
                plan->unquantized_linears++;
        }
    }
}

enum rh_rc rh_plan_derive(const struct rh_recipe *recipe, const struct rh_sources *sources,
                          const char *what, struct rh_model_plan *plan, struct rh_error *err)
{
    const struct rh_family *family = rh_family_find(plan->config.architecture);
    RH_ASSERT(family != NULL);
    enum rh_rc rc = rh_layout_apply(family, recipe, sources, what, plan, err);
    if (rc != RH_OK)
        return rc;
    order_outputs(plan);
    cut_shards(plan, shard_limit(plan, recipe));
    add_totals(plan);
    enum { SHARDS_MAX = 4096 };
    if (plan->shard_count > SHARDS_MAX)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: output.max_shard_bytes %lld makes %zu files, at most %d are allowed; "
                       "raise it",
                       what, (long long)recipe->max_shard_bytes, plan->shard_count, SHARDS_MAX);
    return RH_OK;
}

void rh_plan_digest(const struct rh_model_plan *plan, char out[65])
{
    struct rh_sha256 *h = rh_sha256_new();
    struct rh_strbuf line = {0};
    for (size_t u = 0; u < plan->unit_count; u++) {
        const struct rh_unit *unit = &plan->units[u];
        for (size_t i = 0; i < unit->linear_count; i++) {
            const struct rh_linear *l = &unit->linears[i];
            rh_strbuf_printf(&line, "%zu %s %s %lld %d %lld\n", u, l->name, l->source,
                             (long long)l->source_row, l->bits, (long long)l->group_size);
            rh_sha256_update(h, line.text, line.size);
            rh_strbuf_done(&line);
        }
    }
    for (size_t i = 0; i < plan->output_count; i++) {
        const struct rh_output_tensor *o = &plan->outputs[i];
        rh_strbuf_printf(&line, "%s %s %zu %s", o->name, rh_dtype_name(o->dtype), o->unit,
                         plan->shards[o->shard].name);
        for (int d = 0; d < o->rank; d++)
            rh_strbuf_printf(&line, " %lld", (long long)o->shape[d]);
        rh_strbuf_puts(&line, "\n");
        rh_sha256_update(h, line.text, line.size);
        rh_strbuf_done(&line);
    }
    uint8_t digest[32];
    rh_sha256_finish(h, digest);
    rh_sha256_free(h);
    rh_sha256_hex(digest, out);
}
