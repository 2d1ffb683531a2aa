#include <string.h>

#include "base/mem.h"

#include "family.h"

#define SCHEMA      "roundhouse.plan/1"
#define FILES_MAX   4096
#define TENSORS_MAX (1 << 20)

static struct rh_json *shape_json(int rank, const int64_t *shape)
{
    struct rh_json *array = rh_json_new_array();
    for (int i = 0; i < rank; i++)
        rh_json_append(array, rh_json_new_int(shape[i]));
    return array;
}

static struct rh_json *files_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    for (size_t i = 0; i < plan->file_count; i++) {
        struct rh_json *f = rh_json_new_object();
        rh_json_set_string(f, "name", plan->files[i]);
        rh_json_set_int(f, "bytes", (int64_t)plan->file_bytes[i]);
        rh_json_append(array, f);
    }
    return array;
}

static struct rh_json *tensors_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    for (size_t u = 0; u < plan->unit_count; u++) {
        for (size_t i = 0; i < plan->units[u].tensor_count; i++) {
            const struct rh_source_tensor *s = &plan->units[u].tensors[i];
            struct rh_json *t = rh_json_new_object();
            rh_json_set_string(t, "name", s->info.name);
            rh_json_set_string(t, "dtype", rh_dtype_name(s->info.dtype));
            rh_json_set(t, "shape", shape_json(s->info.rank, s->info.shape));
            rh_json_set_int(t, "file", (int64_t)s->file);
            rh_json_set_int(t, "offset", (int64_t)s->info.offset);
            rh_json_append(array, t);
        }
    }
    return array;
}

static struct rh_json *units_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    for (size_t i = 0; i < plan->unit_count; i++) {
        const struct rh_unit *unit = &plan->units[i];
        int64_t quantized = 0;
        for (size_t l = 0; l < unit->linear_count; l++)
            quantized += unit->linears[l].bits < 16;
        struct rh_json *u = rh_json_new_object();
        rh_json_set_string(u, "kind", rh_unit_kind_name(unit->kind));
        rh_json_set_string(u, "name", unit->name);
        if (unit->step >= 0)
            rh_json_set_int(u, "step", unit->step);
        rh_json_set_int(u, "source_tensors", (int64_t)unit->tensor_count);
        rh_json_set_int(u, "source_bytes", (int64_t)unit->source_bytes);
        rh_json_set_int(u, "quantized_linears", quantized);
        rh_json_set_int(u, "unquantized_linears", (int64_t)unit->linear_count - quantized);
        rh_json_append(array, u);
    }
    return array;
}

static struct rh_json *shards_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    for (size_t i = 0; i < plan->shard_count; i++) {
        struct rh_json *s = rh_json_new_object();
        rh_json_set_string(s, "name", plan->shards[i].name);
        rh_json_set_int(s, "bytes", (int64_t)plan->shards[i].bytes);
        rh_json_set_int(s, "tensors", (int64_t)plan->shards[i].tensor_count);
        rh_json_append(array, s);
    }
    return array;
}

/* Runs of output tensors with the same unit and shard: what the scheduler needs of them. */
static struct rh_json *outputs_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    size_t i = 0;
    while (i < plan->output_count) {
        const struct rh_output_tensor *first = &plan->outputs[i];
        int64_t tensors = 0;
        uint64_t bytes = 0;
        for (; i < plan->output_count && plan->outputs[i].unit == first->unit &&
               plan->outputs[i].shard == first->shard;
             i++) {
            tensors++;
            bytes += plan->outputs[i].bytes;
        }
        struct rh_json *run = rh_json_new_object();
        rh_json_set_int(run, "unit", (int64_t)first->unit);
        rh_json_set_int(run, "shard", (int64_t)first->shard);
        rh_json_set_int(run, "tensors", tensors);
        rh_json_set_int(run, "bytes", (int64_t)bytes);
        rh_json_append(array, run);
    }
    return array;
}

static void set_totals(struct rh_json *object, const char *key, const struct rh_totals *totals)
{
    struct rh_json *t = rh_json_new_object();
    rh_json_set_int(t, "tensors", (int64_t)totals->tensors);
    rh_json_set_int(t, "bytes", (int64_t)totals->bytes);
    rh_json_set(object, key, t);
}

struct rh_json *rh_model_plan_to_json(const struct rh_model_plan *plan)
{
    struct rh_json *root = rh_json_new_object();
    struct rh_json *totals = rh_json_new_object();
    char digest[65];
    rh_plan_digest(plan, digest);
    set_totals(totals, "main", &plan->main);
    set_totals(totals, "mtp", &plan->mtp);
    set_totals(totals, "visual", &plan->visual);
    set_totals(totals, "all", &plan->all);
    rh_json_set_string(root, "schema", SCHEMA);
    rh_json_set_string(root, "digest", digest);
    rh_json_set(root, "totals", totals);
    rh_json_set(root, "recipe", rh_json_copy(plan->recipe));
    rh_json_set(root, "config", rh_json_copy(plan->config.json));
    rh_json_set(root, "files", files_json(plan));
    rh_json_set(root, "units", units_json(plan));
    rh_json_set(root, "shards", shards_json(plan));
    rh_json_set(root, "outputs", outputs_json(plan));
    rh_json_set(root, "tensors", tensors_json(plan));
    return root;
}

static enum rh_rc read_files(const struct rh_json *root, const char *what,
                             struct rh_model_plan *plan, struct rh_error *err)
{
    const struct rh_json *list;
    enum rh_rc rc = rh_json_want_array(root, "files", what, &list, err);
    if (rc != RH_OK)
        return rc;
    size_t count = rh_json_count(list);
    if (count > FILES_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: %zu source files are too many", what, count);
    plan->files = rh_alloc_array(count + 1, sizeof *plan->files);
    plan->file_bytes = rh_alloc_array(count + 1, sizeof *plan->file_bytes);
    for (const struct rh_json *f = rh_json_first(list); f && rc == RH_OK; f = rh_json_next(f)) {
        const char *name = NULL;
        int64_t bytes = 0;
        rc = rh_json_want_string(f, "name", what, &name, err);
        if (rc == RH_OK)
            rc = rh_json_want_int(f, "bytes", what, &bytes, err);
        if (rc == RH_OK && (bytes < 0 || !*name || name[0] == '.' || strchr(name, '/')))
            rc = rh_fail(err, RH_ERR_FORMAT, "%s: %.200s is no source file", what, name);
        if (rc != RH_OK)
            return rc;
        plan->file_bytes[plan->file_count] = (uint64_t)bytes;
        plan->files[plan->file_count++] = rh_strdup(name);
    }
    return rc;
}

static enum rh_rc read_shape(const struct rh_json *node, const char *what, const char *name,
                             struct rh_tensor_info *info, struct rh_error *err)
{
    const struct rh_json *list;
    enum rh_rc rc = rh_json_want_array(node, "shape", what, &list, err);
    if (rc != RH_OK)
        return rc;
    uint64_t elements = 1;
    for (const struct rh_json *d = rh_json_first(list); d; d = rh_json_next(d)) {
        int64_t size;
        if (info->rank == RH_TENSOR_RANK_MAX || !rh_json_int(d, &size) || size < 0 ||
            (size > 0 && elements > (UINT64_C(1) << 56) / (uint64_t)size))
            return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s has an impossible shape", what, name);
        info->shape[info->rank++] = size;
        elements *= (uint64_t)size;
    }
    info->bytes = elements * rh_dtype_size(info->dtype);
    return RH_OK;
}

static enum rh_rc read_tensor(const struct rh_json *node, const char *what,
                              struct rh_model_plan *plan, struct rh_source_tensor *out,
                              struct rh_error *err)
{
    const char *name = NULL, *dtype = NULL;
    int64_t file = 0, offset = 0;
    enum rh_rc rc = rh_json_want_string(node, "name", what, &name, err);
    if (rc == RH_OK)
        rc = rh_json_want_string(node, "dtype", what, &dtype, err);
    if (rc == RH_OK)
        rc = rh_json_want_int(node, "file", what, &file, err);
    if (rc == RH_OK)
        rc = rh_json_want_int(node, "offset", what, &offset, err);
    if (rc != RH_OK)
        return rc;
    out->info.dtype = rh_dtype_parse(dtype);
    if (out->info.dtype == RH_DTYPE_NONE || offset < 0 || file < 0 ||
        (uint64_t)file >= plan->file_count)
        return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s has an impossible type or place", what,
                       name);
    rc = read_shape(node, what, name, &out->info, err);
    if (rc != RH_OK)
        return rc;
    out->file = (size_t)file;
    out->info.offset = (uint64_t)offset;
    if (out->info.offset + out->info.bytes > plan->file_bytes[file])
        return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s ends behind the end of %s", what, name,
                       plan->files[file]);
    out->info.name = plan->names[plan->name_count++] = rh_strdup(name);
    return RH_OK;
}

static enum rh_rc read_tensors(const struct rh_json *root, const char *what,
                               struct rh_model_plan *plan, struct rh_sources *sources,
                               struct rh_error *err)
{
    const struct rh_json *list;
    enum rh_rc rc = rh_json_want_array(root, "tensors", what, &list, err);
    if (rc != RH_OK)
        return rc;
    size_t count = rh_json_count(list);
    if (count > TENSORS_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: %zu tensors are too many", what, count);
    plan->names = rh_alloc_array(count + 1, sizeof *plan->names);
    sources->items = rh_alloc_array(count + 1, sizeof *sources->items);
    for (const struct rh_json *t = rh_json_first(list); t && rc == RH_OK; t = rh_json_next(t))
        rc = read_tensor(t, what, plan, &sources->items[sources->count++], err);
    return rc;
}

static enum rh_rc check_digest(const struct rh_json *root, const char *what,
                               const struct rh_model_plan *plan, struct rh_error *err)
{
    const char *wanted;
    char digest[65];
    enum rh_rc rc = rh_json_want_string(root, "digest", what, &wanted, err);
    if (rc != RH_OK)
        return rc;
    rh_plan_digest(plan, digest);
    if (strcmp(digest, wanted) == 0)
        return RH_OK;
    return rh_fail(err, RH_ERR_FORMAT,
                   "%s: another version of Roundhouse made this plan, or it was changed (digest "
                   "%.12s, expected %.12s); submit the job again",
                   what, digest, wanted);
}

enum rh_rc rh_model_plan_from_json(const struct rh_json *json, const char *what,
                                   struct rh_model_plan **out, struct rh_error *err)
{
    struct rh_model_plan *plan = rh_alloc(sizeof *plan);
    struct rh_recipe *recipe = NULL;
    struct rh_sources sources = {0};
    const struct rh_json *config = NULL, *recipe_json = NULL;
    const char *schema = NULL;
    *out = NULL;
    enum rh_rc rc = rh_json_want_string(json, "schema", what, &schema, err);
    if (rc == RH_OK && strcmp(schema, SCHEMA) != 0)
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: schema is %.60s, expected " SCHEMA, what, schema);
    if (rc == RH_OK)
        rc = rh_json_want_object(json, "config", what, &config, err);
    if (rc == RH_OK)
        rc = rh_json_want_object(json, "recipe", what, &recipe_json, err);
    if (rc == RH_OK)
        rc = rh_recipe_from_json(recipe_json, what, &recipe, err);
    if (rc == RH_OK)
        rc = rh_config_from_json(rh_json_copy(config), what, &plan->config, err);
    if (rc == RH_OK)
        rc = read_files(json, what, plan, err);
    if (rc == RH_OK)
        rc = read_tensors(json, what, plan, &sources, err);
    if (rc != RH_OK)
        goto out;
    plan->recipe = rh_json_copy(recipe->canonical);
    rc = rh_plan_derive(recipe, &sources, what, plan, err);
    if (rc == RH_OK)
        rc = check_digest(json, what, plan, err);
    if (rc != RH_OK)
        goto out;
    *out = plan;
    plan = NULL;
out:
    rh_model_plan_free(plan);
    rh_recipe_free(recipe);
    rh_free(sources.items);
    return rc;
}
