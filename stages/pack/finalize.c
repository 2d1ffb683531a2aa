#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"

#include "pack_ops.h"

#define CONFIG           "config.json"
#define QUANTIZATION     "quantization_config.json"
#define QUANTIZATION_KEY "quantization_config"
#define CONFIG_BYTES_MAX (UINT64_C(16) << 20)

/* The shard holds what the plan gives it, nothing else; its tensor data adds to *total. */
static enum rh_rc check_shard(struct rh_task *task, const struct rh_model_plan *plan, size_t shard,
                              uint64_t *total, struct rh_error *err)
{
    struct rh_safetensors *file = NULL;
    const struct rh_output_shard *s = &plan->shards[shard];
    enum rh_rc rc = rh_pack_open(task, "shard", (int64_t)shard, s->name, &file, err);
    for (size_t i = 0; i < plan->output_count && rc == RH_OK; i++) {
        const struct rh_output_tensor *o = &plan->outputs[i];
        const struct rh_tensor_info *info = NULL;
        if (o->shard != shard)
            continue;
        rc = rh_pack_find(file, o->name, o->dtype, o->rank, o->shape, &info, err);
        if (rc == RH_OK)
            *total += info->bytes;
    }
    if (rc == RH_OK && rh_safetensors_count(file) != s->tensor_count)
        rc = rh_fail(err, RH_ERR_FORMAT, "%s has %zu tensors, the plan gives it %zu",
                     rh_safetensors_path(file), rh_safetensors_count(file), s->tensor_count);
    rh_safetensors_close(file);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const struct rh_output_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* {"metadata": {"total_size"}, "weight_map": {tensor: file}}, names sorted. */
static struct rh_json *index_json(const struct rh_model_plan *plan, uint64_t total)
{
    struct rh_json *root = rh_json_new_object(), *metadata = rh_json_new_object();
    struct rh_json *map = rh_json_new_object();
    const struct rh_output_tensor **sorted = rh_alloc_array(plan->output_count + 1, sizeof *sorted);
    for (size_t i = 0; i < plan->output_count; i++)
        sorted[i] = &plan->outputs[i];
    qsort(sorted, plan->output_count, sizeof *sorted, by_name);
    rh_json_set_int(metadata, "total_size", (int64_t)total);
    for (size_t i = 0; i < plan->output_count; i++)
        rh_json_add(map, sorted[i]->name, rh_json_new_string(plan->shards[sorted[i]->shard].name));
    rh_json_set(root, "metadata", metadata);
    rh_json_set(root, "weight_map", map);
    rh_free(sorted);
    return root;
}

static enum rh_rc write_json(struct rh_task *task, const char *name, const struct rh_json *json,
                             struct rh_error *err)
{
    char *path = rh_fs_join(rh_task_staging(task), name);
    enum rh_rc rc = rh_json_write(path, json, err);
    rh_free(path);
    return rc;
}

static enum rh_rc write_index(struct rh_task *task, const struct rh_model_plan *plan,
                              struct rh_error *err)
{
    uint64_t total = 0;
    enum rh_rc rc = RH_OK;
    for (size_t s = 0; s < plan->shard_count && rc == RH_OK; s++) {
        rc = rh_task_check(task, err);
        if (rc == RH_OK)
            rc = check_shard(task, plan, s, &total, err);
        rh_task_progress(task, "checking shards", (double)s + 1, (double)plan->shard_count,
                         "files");
    }
    if (rc != RH_OK)
        return rc;
    struct rh_json *index = index_json(plan, total);
    rc = write_json(task, "model.safetensors.index.json", index, err);
    rh_json_free(index);
    return rc;
}

/* Puts the member at the end of the text of an object, whose other bytes stay: numbers keep their
 * spelling, which strict readers of configs look at (0.0 is no integer). */
static char *insert_member(const char *text, const char *key, const struct rh_json *value)
{
    struct rh_strbuf out = {0};
    char *inner = rh_json_text(value, true);
    size_t size = (size_t)(strrchr(text, '}') - text);
    while (size > 0 && isspace((unsigned char)text[size - 1]))
        size--;
    rh_strbuf_append(&out, text, size);
    rh_strbuf_printf(&out, ",\n  \"%s\": ", key);
    for (const char *c = inner; *c; c++) {
        rh_strbuf_append(&out, c, 1);
        if (*c == '\n' && c[1])
            rh_strbuf_puts(&out, "  ");
    }
    rh_strbuf_puts(&out, "\n}\n");
    rh_free(inner);
    return rh_strbuf_take(&out);
}

static enum rh_rc make_config(const char *path, const struct rh_json *quantization, char **out,
                              struct rh_error *err)
{
    char *text = NULL;
    size_t size = 0;
    struct rh_json *config = NULL, *result = NULL;
    *out = NULL;
    enum rh_rc rc = rh_fs_read(path, CONFIG_BYTES_MAX, &text, &size, err);
    if (rc == RH_OK)
        rc = rh_json_parse(text, size, path, &config, err);
    if (rc == RH_OK && (rh_json_type(config) != RH_JSON_OBJECT || rh_json_count(config) == 0))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s is no config, it describes no model", path);
    if (rc == RH_OK && rh_json_get(config, QUANTIZATION_KEY))
        rc = rh_fail(err, RH_ERR_UNSUPPORTED,
                     "%s has a " QUANTIZATION_KEY ", the model is quantized already; start from "
                     "the 16-bit checkpoint",
                     path);
    if (rc == RH_OK) {
        *out = insert_member(text, QUANTIZATION_KEY, quantization);
        rc = rh_json_parse(*out, strlen(*out), CONFIG, &result, err);
    }
    rh_json_free(result);
    rh_json_free(config);
    rh_free(text);
    return rc;
}

static enum rh_rc write_configs(struct rh_task *task, const struct rh_model_plan *plan,
                                const char *meta, struct rh_error *err)
{
    struct rh_json *quantization = rh_quantization_config(plan, rh_task_recipe(task));
    char *from = rh_fs_join(meta, CONFIG), *to = rh_fs_join(rh_task_staging(task), CONFIG);
    char *text = NULL;
    enum rh_rc rc = make_config(from, quantization, &text, err);
    if (rc == RH_OK)
        rc = rh_fs_write(to, text, strlen(text), err);
    if (rc == RH_OK)
        rc = write_json(task, QUANTIZATION, quantization, err);
    rh_json_free(quantization);
    rh_free(text);
    rh_free(from);
    rh_free(to);
    return rc;
}

static enum rh_rc copy_side_files(struct rh_task *task, const char *meta, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = rh_fs_list(meta, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        if (strcmp(names[i], CONFIG) == 0 || strcmp(names[i], QUANTIZATION) == 0)
            continue;
        char *from = rh_fs_join(meta, names[i]), *to = rh_fs_join(rh_task_staging(task), names[i]);
        rc = rh_task_check(task, err);
        if (rc == RH_OK)
            rc = rh_fs_copy(from, to, NULL, err);
        rh_free(from);
        rh_free(to);
    }
    rh_fs_list_free(names, count);
    return rc;
}

enum rh_rc rh_pack_finalize(struct rh_task *task, struct rh_error *err)
{
    struct rh_model_plan *plan = NULL;
    char *dir = rh_task_artifact(task, "plan", 0);
    char *meta = rh_fs_join(dir, "meta");
    enum rh_rc rc = rh_pack_load_plan(task, &plan, err);
    if (rc == RH_OK && rh_task_index(task) != 0)
        rc = rh_fail(err, RH_ERR_ARGUMENT, "finalize %lld: a job has one, 0",
                     (long long)rh_task_index(task));
    if (rc == RH_OK)
        rc = write_index(task, plan, err);
    if (rc == RH_OK)
        rc = write_configs(task, plan, meta, err);
    if (rc == RH_OK)
        rc = copy_side_files(task, meta, err);
    rh_model_plan_free(plan);
    rh_free(meta);
    rh_free(dir);
    return rc;
}
