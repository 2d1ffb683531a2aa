#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "download_ops.h"
#include "store/store.h"

#define LENGTH_BYTES     8
#define HEADER_BYTES_MAX UINT64_C(100000000) /* safetensors' own limit */
#define CHANGED          "it changed since the job was planned; restore it or submit the job again"

struct fetch {
    struct rh_task *task;
    const struct rh_model_plan *plan;
    const struct rh_unit *unit;
    struct rh_safetensors_writer *writer;
    unsigned char *buffer; /* [DOWNLOAD_CHUNK] */
    uint64_t done;
};

static uint64_t load_length(const unsigned char bytes[LENGTH_BYTES])
{
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | bytes[i];
    return length;
}

/* The header as it is now. */
static enum rh_rc read_header(const struct rh_source_file *file, struct rh_safetensors **out,
                              struct rh_error *err)
{
    unsigned char prefix[LENGTH_BYTES];
    const char *path = rh_source_file_path(file);
    uint64_t size = rh_source_file_size(file);
    void *text = NULL;
    *out = NULL;
    enum rh_rc rc = rh_source_file_read(file, 0, LENGTH_BYTES, prefix, err);
    if (rc != RH_OK)
        return rc;
    uint64_t length = load_length(prefix);
    /* The parser words the error of an impossible length. */
    if (length > HEADER_BYTES_MAX || length > size - LENGTH_BYTES)
        return rh_safetensors_parse(prefix, LENGTH_BYTES, size, path, out, err);
    size_t bytes = LENGTH_BYTES + (size_t)length;
    rc = rh_try_alloc(bytes, path, &text, err);
    if (rc == RH_OK)
        rc = rh_source_file_read(file, 0, bytes, text, err);
    if (rc == RH_OK)
        rc = rh_safetensors_parse(text, bytes, size, path, out, err);
    rh_free(text);
    return rc;
}

static enum rh_rc check_tensor(const struct rh_safetensors *header,
                               const struct rh_tensor_info *planned, struct rh_error *err)
{
    const struct rh_tensor_info *now = rh_safetensors_find(header, planned->name);
    if (now && now->dtype == planned->dtype && now->rank == planned->rank &&
        memcmp(now->shape, planned->shape, sizeof *now->shape * (size_t)now->rank) == 0 &&
        now->offset == planned->offset && now->bytes == planned->bytes)
        return RH_OK;
    return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %.200s %s; " CHANGED,
                   rh_safetensors_path(header), planned->name,
                   now ? "has another type, shape or place" : "is gone");
}

static enum rh_rc copy_tensor(struct fetch *f, const struct rh_source_file *file, size_t index,
                              struct rh_error *err)
{
    const struct rh_tensor_info *info = &f->unit->tensors[index].info;
    enum rh_rc rc = RH_OK;
    for (uint64_t at = 0; at < info->bytes && rc == RH_OK;) {
        uint64_t left = info->bytes - at;
        size_t step = left < DOWNLOAD_CHUNK ? (size_t)left : DOWNLOAD_CHUNK;
        rc = rh_task_check(f->task, err);
        if (rc == RH_OK)
            rc = rh_source_file_read(file, info->offset + at, step, f->buffer, err);
        if (rc == RH_OK)
            rc = rh_safetensors_writer_put(f->writer, index, at, f->buffer, step, err);
        at += step;
        f->done += step;
        rh_task_progress(f->task, f->unit->name, (double)f->done, (double)f->unit->source_bytes,
                         "bytes");
    }
    return rc;
}

/* Tensors [begin, end) of the unit, which lie in one source file. */
static enum rh_rc fetch_from(struct fetch *f, const struct rh_source *source, size_t begin,
                             size_t end, struct rh_error *err)
{
    size_t number = f->unit->tensors[begin].file;
    struct rh_source_file *file = NULL;
    struct rh_safetensors *header = NULL;
    enum rh_rc rc = rh_source_file_open(source, f->plan->files[number], &file, err);
    if (rc == RH_OK && rh_source_file_size(file) != f->plan->file_bytes[number])
        rc = rh_fail(err, RH_ERR_FORMAT, "%s has %llu bytes instead of %llu; " CHANGED,
                     rh_source_file_path(file), (unsigned long long)rh_source_file_size(file),
                     (unsigned long long)f->plan->file_bytes[number]);
    if (rc == RH_OK)
        rc = read_header(file, &header, err);
    for (size_t i = begin; i < end && rc == RH_OK; i++)
        rc = check_tensor(header, &f->unit->tensors[i].info, err);
    for (size_t i = begin; i < end && rc == RH_OK; i++)
        rc = copy_tensor(f, file, i, err);
    rh_safetensors_close(header);
    rh_source_file_close(file);
    return rc;
}

static bool has_tensors_of(const struct rh_unit *unit, size_t file)
{
    for (size_t i = 0; i < unit->tensor_count; i++) {
        if (unit->tensors[i].file == file)
            return true;
    }
    return false;
}

/* What was downloaded and has been cut to its end goes. Only committed units count, so that a crash
 * never makes a file come twice. */
static void drop_used(const struct fetch *f, const struct rh_source *source)
{
    bool *fetched = rh_alloc_array(f->plan->unit_count + 1, sizeof *fetched);
    for (size_t u = 0; u < f->plan->unit_count; u++)
        fetched[u] = rh_store_has(rh_task_job_dir(f->task), "fetch", (int64_t)u);
    for (size_t file = 0; file < f->plan->file_count; file++) {
        bool used = true;
        for (size_t u = 0; u < f->plan->unit_count && used; u++)
            used = fetched[u] || !has_tensors_of(&f->plan->units[u], file);
        if (used)
            rh_source_drop(source, f->plan->files[file]);
    }
    rh_free(fetched);
}

static enum rh_rc fetch_unit(struct fetch *f, const struct rh_source *source, struct rh_error *err)
{
    const struct rh_unit *unit = f->unit;
    for (size_t i = 0; i < unit->tensor_count; i++) {
        const struct rh_tensor_info *t = &unit->tensors[i].info;
        (void)rh_safetensors_writer_add(f->writer, t->name, t->dtype, t->rank, t->shape);
    }
    enum rh_rc rc = rh_safetensors_writer_begin(f->writer, err);
    /* Checkpoint order: the tensors of one file stand together. */
    for (size_t begin = 0, end; begin < unit->tensor_count && rc == RH_OK; begin = end) {
        end = begin + 1;
        while (end < unit->tensor_count && unit->tensors[end].file == unit->tensors[begin].file)
            end++;
        rc = fetch_from(f, source, begin, end, err);
    }
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(f->writer, err);
    return rc;
}

enum rh_rc rh_download_fetch(struct rh_task *task, struct rh_error *err)
{
    struct fetch f = {.task = task};
    struct rh_model_plan *plan = NULL;
    struct rh_source *source = NULL;
    void *buffer = NULL;
    char *path = rh_fs_join(rh_task_staging(task), "tensors.safetensors");
    int64_t index = rh_task_index(task);
    enum rh_rc rc = rh_download_load_plan(task, &plan, err);
    if (rc == RH_OK && (index < 0 || (uint64_t)index >= plan->unit_count))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "fetch %lld: the plan has %zu units", (long long)index,
                     plan->unit_count);
    if (rc == RH_OK)
        rc = rh_download_open_source(task, &source, err);
    if (rc == RH_OK)
        rc = rh_try_alloc(DOWNLOAD_CHUNK, "a copy buffer", &buffer, err);
    if (rc != RH_OK)
        goto out;
    f.plan = plan;
    f.unit = &plan->units[index];
    f.buffer = buffer;
    drop_used(&f, source);
    f.writer = rh_safetensors_writer_new(path);
    rc = fetch_unit(&f, source, err);
out:
    rh_safetensors_writer_free(f.writer);
    rh_free(buffer);
    rh_source_close(source);
    rh_model_plan_free(plan);
    rh_free(path);
    return rc;
}
