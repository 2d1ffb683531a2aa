#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "download_ops.h"
#include "estimate.h"

/* Endings of files that hold weights, and of the lists that belong to them. */
static const char *const weight_endings[] = {
    ".safetensors", ".safetensors.index.json",
    ".bin",         ".bin.index.json",
    ".pt",          ".pth",
    ".ckpt",        ".gguf",
    ".h5",          ".msgpack",
    ".onnx",
};

static bool ends_with(const char *name, const char *ending)
{
    size_t size = strlen(name), tail = strlen(ending);
    return size >= tail && strcmp(name + size - tail, ending) == 0;
}

static bool is_side_file(const char *name)
{
    for (size_t i = 0; i < sizeof weight_endings / sizeof weight_endings[0]; i++) {
        if (ends_with(name, weight_endings[i]))
            return false;
    }
    return true;
}

/* A plan needs headers only; a job needs all of the bytes, so what is cut off is refused here. */
static enum rh_rc check_complete(const struct rh_source *source, const struct rh_model_plan *plan,
                                 const char *where, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < plan->file_count && rc == RH_OK; i++) {
        uint64_t size = 0;
        rc = rh_source_size(source, plan->files[i], &size, err);
        /* A file without tensors ends after its header, whose size the plan does not keep. */
        if (rc == RH_OK && plan->file_bytes[i] > 0 && size != plan->file_bytes[i])
            rc = rh_fail(err, RH_ERR_FORMAT,
                         "%s/%s has %llu bytes, its header announces %llu; it is not complete, "
                         "download it again",
                         where, plan->files[i], (unsigned long long)size,
                         (unsigned long long)plan->file_bytes[i]);
    }
    return rc;
}

static enum rh_rc copy_into(struct rh_task *task, const struct rh_source_file *file,
                            struct rh_out *out, void *buffer, struct rh_error *err)
{
    uint64_t size = rh_source_file_size(file);
    enum rh_rc rc = RH_OK;
    for (uint64_t at = 0; at < size && rc == RH_OK;) {
        size_t step = size - at < DOWNLOAD_CHUNK ? (size_t)(size - at) : DOWNLOAD_CHUNK;
        rc = rh_task_check(task, err);
        if (rc == RH_OK)
            rc = rh_source_file_read(file, at, step, buffer, err);
        if (rc == RH_OK)
            rc = rh_out_write(out, buffer, step, err);
        at += step;
    }
    return rc;
}

static enum rh_rc copy_side_file(struct rh_task *task, const struct rh_source *source,
                                 const char *name, const char *dir, void *buffer,
                                 struct rh_error *err)
{
    struct rh_source_file *file = NULL;
    struct rh_out *out = NULL;
    char *path = rh_fs_join(dir, name);
    enum rh_rc rc = RH_OK;
    if (strcmp(name, "MANIFEST.json") == 0)
        rc = rh_fail(err, RH_ERR_UNSUPPORTED,
                     "%s has a file MANIFEST.json, a name that the published checkpoint needs for "
                     "itself; move it away",
                     rh_task_model(task));
    if (rc == RH_OK)
        rc = rh_source_file_open(source, name, &file, err);
    if (rc == RH_OK)
        rc = rh_out_open(path, rh_source_file_size(file), &out, err);
    if (rc == RH_OK)
        rc = copy_into(task, file, out, buffer, err);
    if (rc == RH_OK) {
        rc = rh_out_commit(out, NULL, err);
        out = NULL;
    }
    rh_out_abort(out);
    rh_source_file_close(file);
    rh_free(path);
    return rc;
}

static enum rh_rc copy_side_files(struct rh_task *task, const struct rh_source *source,
                                  struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    void *buffer = NULL;
    char *dir = rh_fs_join(rh_task_staging(task), "meta");
    enum rh_rc rc = rh_fs_mkdirs(dir, err);
    if (rc == RH_OK)
        rc = rh_try_alloc(DOWNLOAD_CHUNK, "a copy buffer", &buffer, err);
    if (rc == RH_OK)
        rc = rh_source_list(source, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        if (is_side_file(names[i]))
            rc = copy_side_file(task, source, names[i], dir, buffer, err);
        rh_task_progress(task, "side files", (double)i + 1, (double)count, "files");
    }
    rh_fs_list_free(names, count);
    rh_free(buffer);
    rh_free(dir);
    return rc;
}

static enum rh_rc write_json(struct rh_task *task, const char *name, const struct rh_json *json,
                             struct rh_error *err)
{
    char *path = rh_fs_join(rh_task_staging(task), name);
    enum rh_rc rc = rh_json_write(path, json, err);
    rh_free(path);
    return rc;
}

static enum rh_rc write_plan(struct rh_task *task, const struct rh_source *source,
                             const struct rh_model_plan *plan, struct rh_error *err)
{
    struct rh_json *json = rh_model_plan_to_json(plan), *pin = rh_source_pin(source);
    /* Source files are kept for a while when they are not on this machine. */
    if (pin)
        rh_json_set_int(json, "download_bytes", (int64_t)rh_estimate_files(plan));
    enum rh_rc rc = write_json(task, "plan.json", json, err);
    if (rc == RH_OK && pin)
        rc = write_json(task, SOURCE_PIN, pin, err);
    rh_json_free(pin);
    rh_json_free(json);
    return rc;
}

enum rh_rc rh_download_plan(struct rh_task *task, struct rh_error *err)
{
    struct rh_source *source = NULL;
    struct rh_model_plan *plan = NULL;
    const char *dir = NULL;
    enum rh_rc rc = rh_download_open_source(task, &source, err);
    if (rc == RH_OK)
        rc = rh_source_plan_dir(source, &dir, err);
    if (rc == RH_OK)
        rc = rh_model_plan_new(dir, rh_task_recipe(task), &plan, err);
    if (rc == RH_OK)
        rc = check_complete(source, plan, dir, err);
    if (rc == RH_OK)
        rc = write_plan(task, source, plan, err);
    if (rc == RH_OK)
        rc = copy_side_files(task, source, err);
    if (rc == RH_OK) {
        struct rh_json *meta = rh_json_new_object();
        rh_json_set_string(meta, "architecture", plan->config.architecture);
        rh_json_set_int(meta, "units", (int64_t)plan->unit_count);
        rh_json_set_int(meta, "tensors", (int64_t)plan->all.tensors);
        rh_json_set_int(meta, "bytes", (int64_t)plan->all.bytes);
        rh_task_set_meta(task, meta);
    }
    rh_model_plan_free(plan);
    rh_source_close(source);
    return rc;
}
