#define _GNU_SOURCE /* sync_file_range */
#include "checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/fs.h"
#include "base/hash_map.h"
#include "base/mem.h"
#include "base/strbuf.h"

#define HEADER_BYTES_MAX ((size_t)100000000)
#define LENGTH_BYTES     8
#define FLUSH_BYTES      ((uint64_t)64 << 20)

enum writer_state { DECLARING, WRITING, FINISHED };

/* Written bytes [begin, end) of the file. */
struct span {
    uint64_t begin, end;
};

struct rh_safetensors_writer {
    char *path;
    char *temporary; /* NULL until begin() has made it */
    int fd;
    enum writer_state state;
    struct rh_tensor_info *tensors; /* in declared order; names are owned */
    size_t count, capacity;
    size_t *order; /* file order: indices into tensors */
    uint64_t file_size;
    struct span *spans; /* sorted, disjoint, never touching */
    size_t span_count, span_capacity;
    uint64_t unflushed; /* bytes since the disk was last told to begin */
};

struct rh_safetensors_writer *rh_safetensors_writer_new(const char *path)
{
    struct rh_safetensors_writer *w = rh_alloc(sizeof(*w));
    w->path = rh_strdup(path);
    w->fd = -1;
    return w;
}

size_t rh_safetensors_writer_add(struct rh_safetensors_writer *w, const char *name,
                                 enum rh_dtype dtype, int rank, const int64_t *shape)
{
    RH_ASSERT(w->state == DECLARING && !w->order);
    RH_ASSERT(rank >= 0 && rank <= RH_TENSOR_RANK_MAX && rh_dtype_size(dtype) > 0);
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 16;
        w->tensors = rh_realloc_array(w->tensors, w->capacity, sizeof(*w->tensors));
    }
    struct rh_tensor_info *t = &w->tensors[w->count];
    *t = (struct rh_tensor_info){.name = rh_strdup(name), .dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++)
        t->shape[i] = shape[i];
    return w->count++;
}

static enum rh_rc measure(struct rh_safetensors_writer *w, struct rh_error *err)
{
    struct rh_hash_map *names = rh_hash_map_new();
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < w->count && !rc; i++) {
        struct rh_tensor_info *t = &w->tensors[i];
        t->bytes = rh_dtype_size(t->dtype);
        if (strcmp(t->name, "__metadata__") == 0 || !rh_hash_map_add(names, t->name, t))
            rc = rh_fail(err, RH_ERR_ARGUMENT, "%s: tensor name %s is taken, names are unique",
                         w->path, t->name);
        for (int d = 0; d < t->rank && !rc; d++)
            if (t->shape[d] < 0 ||
                __builtin_mul_overflow(t->bytes, (uint64_t)t->shape[d], &t->bytes) ||
                t->bytes > INT64_MAX)
                rc = rh_fail(err, RH_ERR_SHAPE,
                             "%s: tensor %s: dimension %d = %" PRId64 " is negative or too large",
                             w->path, t->name, d, t->shape[d]);
    }
    rh_hash_map_free(names);
    return rc;
}

struct sort_key {
    const struct rh_tensor_info *tensor;
    size_t index;
};

static int compare_layout(const void *a, const void *b)
{
    const struct rh_tensor_info *x = ((const struct sort_key *)a)->tensor;
    const struct rh_tensor_info *y = ((const struct sort_key *)b)->tensor;
    if (x->dtype != y->dtype)
        return x->dtype < y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

static enum rh_rc lay_out(struct rh_safetensors_writer *w, struct rh_error *err)
{
    struct sort_key *keys = rh_alloc_array(w->count, sizeof(*keys));
    uint64_t end = 0;
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < w->count; i++)
        keys[i] = (struct sort_key){&w->tensors[i], i};
    qsort(keys, w->count, sizeof(*keys), compare_layout);
    w->order = rh_alloc_array(w->count, sizeof(*w->order));
    for (size_t i = 0; i < w->count && !rc; i++) {
        struct rh_tensor_info *t = &w->tensors[keys[i].index];
        w->order[i] = keys[i].index;
        t->offset = end;
        /* Larger offsets would not survive a JSON reader that keeps numbers as doubles. */
        if (__builtin_add_overflow(end, t->bytes, &end) || end > UINT64_C(1) << 53)
            rc = rh_fail(err, RH_ERR_SHAPE, "%s: tensor %s ends beyond 2^53 bytes", w->path,
                         t->name);
    }
    rh_free(keys);
    return rc;
}

static void put_json_string(struct rh_strbuf *b, const char *text)
{
    rh_strbuf_puts(b, "\"");
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            rh_strbuf_printf(b, "\\%c", c);
        else if (c < 0x20)
            rh_strbuf_printf(b, "\\u%04x", c);
        else
            rh_strbuf_append(b, p, 1);
    }
    rh_strbuf_puts(b, "\"");
}

/* The length and the padded JSON, as the file begins. */
static void print_header(const struct rh_safetensors_writer *w, struct rh_strbuf *b)
{
    char length[LENGTH_BYTES] = {0};
    rh_strbuf_append(b, length, LENGTH_BYTES);
    rh_strbuf_puts(b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < w->count; i++) {
        const struct rh_tensor_info *t = &w->tensors[w->order[i]];
        rh_strbuf_puts(b, ",");
        put_json_string(b, t->name);
        rh_strbuf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", rh_dtype_name(t->dtype));
        for (int d = 0; d < t->rank; d++)
            rh_strbuf_printf(b, "%s%" PRId64, d ? "," : "", t->shape[d]);
        rh_strbuf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->offset,
                         t->offset + t->bytes);
    }
    rh_strbuf_puts(b, "}");
    while (b->size % 8)
        rh_strbuf_puts(b, " ");
    uint64_t size = b->size - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++)
        b->text[i] = (char)(unsigned char)(size >> (8 * i));
}

static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return rh_strdup(".");
    return slash == path ? rh_strdup("/") : rh_strndup(path, (size_t)(slash - path));
}

/* Asks for the room first: a reservation that fails half way would have filled the disk for all. */
static enum rh_rc reserve(const struct rh_safetensors_writer *w, struct rh_error *err)
{
    uint64_t room = 0;
    enum rh_rc rc = rh_fs_free_bytes(w->temporary, &room, err);
    if (rc)
        return rc;
    if (w->file_size > room)
        return rh_fail(err, RH_ERR_NO_SPACE,
                       "could not reserve %" PRIu64 " bytes for %s, only %" PRIu64
                       " are free: make room",
                       w->file_size, w->path, room);
    int failed;
    do
        failed = posix_fallocate(w->fd, 0, (off_t)w->file_size);
    while (failed == EINTR);
    /* A file system that cannot reserve still takes the size. */
    if ((failed == EINVAL || failed == EOPNOTSUPP) && ftruncate(w->fd, (off_t)w->file_size) == 0)
        failed = 0;
    if (failed)
        return rh_fail_errno(err, failed, "could not reserve %" PRIu64 " bytes for %s",
                             w->file_size, w->path);
    return RH_OK;
}

/* ".name.tmp" beside the target: what a writer that died left there is replaced. */
static enum rh_rc make_temporary(struct rh_safetensors_writer *w, struct rh_error *err)
{
    const char *slash = strrchr(w->path, '/');
    const char *leaf = slash ? slash + 1 : w->path;
    char *name = rh_format("%.*s.%s.tmp", (int)(leaf - w->path), w->path, leaf);
    w->fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        enum rh_rc rc = rh_fail_errno(err, errno, "could not create %s", name);
        rh_free(name);
        return rc;
    }
    w->temporary = name;
    return reserve(w, err);
}

/* Without it a file of gigabytes stays in memory until fsync(), and only then meets the disk. It is
 * a hint: its errors come again from fsync(). */
static void begin_flush(struct rh_safetensors_writer *w, uint64_t size)
{
    w->unflushed += size;
    if (w->unflushed < FLUSH_BYTES)
        return;
    w->unflushed = 0;
    (void)sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

static enum rh_rc write_at(const struct rh_safetensors_writer *w, uint64_t offset, const void *data,
                           uint64_t size, struct rh_error *err)
{
    const unsigned char *from = data;
    while (size) {
        size_t step = size > (UINT64_C(1) << 30) ? (size_t)1 << 30 : (size_t)size;
        ssize_t n = pwrite(w->fd, from, step, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not write %s at byte %" PRIu64, w->path,
                                 offset);
        from += n;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return RH_OK;
}

/* Index of the first span that ends at or after the position. */
static size_t span_at(const struct rh_safetensors_writer *w, uint64_t position)
{
    size_t low = 0;
    size_t high = w->span_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->spans[middle].end < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* False when a byte of [begin, end) was written before. */
static bool mark_written(struct rh_safetensors_writer *w, uint64_t begin, uint64_t end)
{
    if (begin == end)
        return true;
    size_t i = span_at(w, begin);
    bool joins_left = i < w->span_count && w->spans[i].end == begin;
    size_t right = joins_left ? i + 1 : i;
    if (right < w->span_count && w->spans[right].begin < end)
        return false;
    bool joins_right = right < w->span_count && w->spans[right].begin == end;
    if (joins_left && joins_right) {
        w->spans[i].end = w->spans[right].end;
        memmove(&w->spans[right], &w->spans[right + 1],
                (w->span_count - right - 1) * sizeof(*w->spans));
        w->span_count--;
    } else if (joins_left) {
        w->spans[i].end = end;
    } else if (joins_right) {
        w->spans[right].begin = begin;
    } else {
        if (w->span_count == w->span_capacity) {
            w->span_capacity = w->span_capacity ? 2 * w->span_capacity : 16;
            w->spans = rh_realloc_array(w->spans, w->span_capacity, sizeof(*w->spans));
        }
        memmove(&w->spans[i + 1], &w->spans[i], (w->span_count - i) * sizeof(*w->spans));
        w->spans[i] = (struct span){begin, end};
        w->span_count++;
    }
    return true;
}

static enum rh_rc write_marked(struct rh_safetensors_writer *w, uint64_t offset, const void *data,
                               uint64_t size, struct rh_error *err)
{
    if (!mark_written(w, offset, offset + size))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: bytes %" PRIu64 " to %" PRIu64 " are written a second time", w->path,
                       offset, offset + size);
    enum rh_rc rc = write_at(w, offset, data, size, err);
    begin_flush(w, size);
    return rc;
}

enum rh_rc rh_safetensors_writer_begin(struct rh_safetensors_writer *w, struct rh_error *err)
{
    RH_ASSERT(w->state == DECLARING && !w->order);
    struct rh_strbuf header = {0};
    enum rh_rc rc = measure(w, err);
    if (!rc)
        rc = lay_out(w, err);
    if (rc)
        return rc;
    print_header(w, &header);
    if (header.size - LENGTH_BYTES > HEADER_BYTES_MAX) {
        rc = rh_fail(err, RH_ERR_UNSUPPORTED,
                     "%s: %zu tensors need a header of %zu bytes, above the format's %zu", w->path,
                     w->count, header.size - LENGTH_BYTES, HEADER_BYTES_MAX);
        goto out;
    }
    w->file_size = header.size;
    for (size_t i = 0; i < w->count; i++) {
        w->tensors[i].offset += header.size;
        w->file_size += w->tensors[i].bytes;
    }
    rc = make_temporary(w, err);
    if (!rc)
        rc = write_marked(w, 0, header.text, header.size, err);
    if (!rc)
        w->state = WRITING;
out:
    rh_strbuf_done(&header);
    return rc;
}

enum rh_rc rh_safetensors_writer_put(struct rh_safetensors_writer *w, size_t index, uint64_t begin,
                                     const void *data, uint64_t size, struct rh_error *err)
{
    RH_ASSERT(w->state == WRITING && index < w->count);
    const struct rh_tensor_info *t = &w->tensors[index];
    if (begin > t->bytes || size > t->bytes - begin)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: tensor %s: bytes %" PRIu64 " + %" PRIu64 " exceed its %" PRIu64,
                       w->path, t->name, begin, size, t->bytes);
    enum rh_rc rc = write_marked(w, t->offset + begin, data, size, err);
    return rc ? rh_error_prefix(err, "tensor %s", t->name) : RH_OK;
}

static enum rh_rc check_complete(const struct rh_safetensors_writer *w, struct rh_error *err)
{
    uint64_t reached = w->spans[0].end; /* the header begins the first span */
    if (reached == w->file_size)
        return RH_OK;
    for (size_t i = 0; i < w->count; i++) {
        const struct rh_tensor_info *t = &w->tensors[w->order[i]];
        if (reached < t->offset + t->bytes)
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "%s: tensor %s: byte %" PRIu64 " of %" PRIu64 " was never written",
                           w->path, t->name, reached - t->offset, t->bytes);
    }
    return rh_fail(err, RH_ERR_INTERNAL, "%s: byte %" PRIu64 " belongs to no tensor", w->path,
                   reached);
}

enum rh_rc rh_safetensors_writer_finish(struct rh_safetensors_writer *w, struct rh_error *err)
{
    RH_ASSERT(w->state == WRITING);
    enum rh_rc rc = check_complete(w, err);
    if (rc)
        return rc;
    rh_crash_point("tensors_before_sync");
    if (fsync(w->fd) != 0)
        return rh_fail_errno(err, errno, "could not sync %s", w->path);
    int closed = close(w->fd);
    w->fd = -1;
    if (closed != 0 || rename(w->temporary, w->path) != 0)
        return rh_fail_errno(err, errno, "could not put %s in place", w->path);
    rh_free(w->temporary);
    w->temporary = NULL;
    w->state = FINISHED;
    char *directory = directory_of(w->path);
    rc = rh_fs_sync_dir(directory, err);
    rh_free(directory);
    return rc;
}

void rh_safetensors_writer_free(struct rh_safetensors_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->temporary)
        unlink(w->temporary);
    for (size_t i = 0; i < w->count; i++)
        rh_free((char *)(uintptr_t)w->tensors[i].name);
    rh_free(w->temporary);
    rh_free(w->tensors);
    rh_free(w->order);
    rh_free(w->spans);
    rh_free(w->path);
    rh_free(w);
}
