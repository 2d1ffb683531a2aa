#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"

#include "download_ops.h"
#include "source.h"

static enum rh_rc digest_file(struct rh_task *task, const struct rh_source_file *file,
                              const char *name, char out[RH_SHA256_HEX_SIZE], struct rh_error *err)
{
    struct rh_sha256 *h = rh_sha256_new();
    uint64_t size = rh_source_file_size(file);
    uint8_t digest[32];
    void *buffer = NULL;
    enum rh_rc rc = rh_try_alloc(DOWNLOAD_CHUNK, "a read buffer", &buffer, err);
    for (uint64_t at = 0; at < size && rc == RH_OK;) {
        size_t step = size - at < DOWNLOAD_CHUNK ? (size_t)(size - at) : DOWNLOAD_CHUNK;
        rc = rh_task_check(task, err);
        if (rc == RH_OK)
            rc = rh_source_file_read(file, at, step, buffer, err);
        if (rc == RH_OK)
            rh_sha256_update(h, buffer, step);
        at += step;
        rh_task_progress(task, name, (double)at, (double)size, "bytes");
    }
    if (rc == RH_OK) {
        rh_sha256_finish(h, digest);
        rh_sha256_hex(digest, out);
    }
    rh_sha256_free(h);
    rh_free(buffer);
    return rc;
}

static enum rh_rc write_digest(struct rh_task *task, const char *name, uint64_t size,
                               const char *sha256, struct rh_error *err)
{
    char *path = rh_fs_join(rh_task_staging(task), "digest.json");
    struct rh_json *json = rh_json_new_object();
    rh_json_set_string(json, "file", name);
    rh_json_set_int(json, "size", (int64_t)size);
    rh_json_set_string(json, "sha256", sha256);
    enum rh_rc rc = rh_json_write(path, json, err);
    rh_json_free(json);
    rh_free(path);
    return rc;
}

enum rh_rc rh_download_digest(struct rh_task *task, struct rh_error *err)
{
    struct rh_model_plan *plan = NULL;
    struct rh_source *source = NULL;
    struct rh_source_file *file = NULL;
    char sha256[RH_SHA256_HEX_SIZE];
    int64_t index = rh_task_index(task);
    enum rh_rc rc = rh_download_load_plan(task, &plan, err);
    if (rc == RH_OK && (index < 0 || (uint64_t)index >= plan->file_count))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "digest %lld: the plan has %zu source files",
                     (long long)index, plan->file_count);
    if (rc == RH_OK)
        rc = rh_source_open(rh_task_model(task), &source, err);
    if (rc == RH_OK)
        rc = rh_source_file_open(source, plan->files[index], &file, err);
    if (rc == RH_OK && plan->file_bytes[index] > 0 &&
        rh_source_file_size(file) != plan->file_bytes[index])
        rc = rh_fail(err, RH_ERR_FORMAT,
                     "%s has %llu bytes instead of %llu; it changed since the job was planned; "
                     "restore it or submit the job again",
                     rh_source_file_path(file), (unsigned long long)rh_source_file_size(file),
                     (unsigned long long)plan->file_bytes[index]);
    if (rc == RH_OK)
        rc = digest_file(task, file, plan->files[index], sha256, err);
    if (rc == RH_OK)
        rc = write_digest(task, plan->files[index], rh_source_file_size(file), sha256, err);
    rh_source_file_close(file);
    rh_source_close(source);
    rh_model_plan_free(plan);
    return rc;
}
