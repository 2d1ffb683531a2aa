#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"

#include "download_ops.h"

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

/* Nothing of a file without tensors is ever fetched, so nobody else looks at it. */
static bool is_fetched(const struct rh_model_plan *plan, size_t file)
{
    for (size_t u = 0; u < plan->unit_count; u++) {
        for (size_t i = 0; i < plan->units[u].tensor_count; i++) {
            if (plan->units[u].tensors[i].file == file)
                return true;
        }
    }
    return false;
}

static enum rh_rc compute(struct rh_task *task, const struct rh_source *source, const char *name,
                          uint64_t planned, struct rh_error *err)
{
    struct rh_source_file *file = NULL;
    char sha256[RH_SHA256_HEX_SIZE];
    enum rh_rc rc = rh_source_file_open(source, name, &file, err);
    if (rc == RH_OK && planned > 0 && rh_source_file_size(file) != planned)
        rc = rh_fail(err, RH_ERR_FORMAT,
                     "%s has %llu bytes instead of %llu; it changed since the job was planned; "
                     "restore it or submit the job again",
                     rh_source_file_path(file), (unsigned long long)rh_source_file_size(file),
                     (unsigned long long)planned);
    if (rc == RH_OK)
        rc = digest_file(task, file, name, sha256, err);
    if (rc == RH_OK)
        rc = write_digest(task, name, rh_source_file_size(file), sha256, err);
    rh_source_file_close(file);
    return rc;
}

static enum rh_rc find_digest(struct rh_task *task, const struct rh_source *source,
                              const struct rh_model_plan *plan, size_t index, struct rh_error *err)
{
    const char *name = plan->files[index], *known = rh_source_sha256(source, name);
    uint64_t size = 0;
    if (!known || !is_fetched(plan, index))
        return compute(task, source, name, plan->file_bytes[index], err);
    enum rh_rc rc = rh_source_size(source, name, &size, err);
    return rc == RH_OK ? write_digest(task, name, size, known, err) : rc;
}

enum rh_rc rh_download_digest(struct rh_task *task, struct rh_error *err)
{
    struct rh_model_plan *plan = NULL;
    struct rh_source *source = NULL;
    int64_t index = rh_task_index(task);
    enum rh_rc rc = rh_download_load_plan(task, &plan, err);
    if (rc == RH_OK && (index < 0 || (uint64_t)index >= plan->file_count))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "digest %lld: the plan has %zu source files",
                     (long long)index, plan->file_count);
    if (rc == RH_OK)
        rc = rh_download_open_source(task, &source, err);
    if (rc == RH_OK)
        rc = find_digest(task, source, plan, (size_t)index, err);
    rh_source_close(source);
    rh_model_plan_free(plan);
    return rc;
}
