#include "checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash_map.h"
#include "base/json.h"
#include "base/mem.h"

/* The reference implementation's own limit on the header, in bytes. */
#define HEADER_BYTES_MAX UINT64_C(100000000)
#define LENGTH_BYTES     8

struct rh_safetensors {
    char *path;
    int fd;           /* -1: parsed from memory */
    bool data_absent; /* the file ends after its header; file_size is what it would be */
    uint64_t file_size;
    uint64_t data_begin;            /* 8 + header length */
    struct rh_tensor_info *tensors; /* by offset; names belong to by_name */
    size_t count;
    struct rh_hash_map *by_name; /* name to struct rh_tensor_info */
};

int64_t rh_tensor_elements(const struct rh_tensor_info *info)
{
    int64_t elements = 1;
    for (int i = 0; i < info->rank; i++)
        elements *= info->shape[i];
    return elements;
}

static enum rh_rc parse_shape(const char *what, const char *name, const struct rh_json *entry,
                              struct rh_tensor_info *info, struct rh_error *err)
{
    const struct rh_json *shape = rh_json_get(entry, "shape");
    if (!shape || rh_json_type(shape) != RH_JSON_ARRAY)
        return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s: shape is no array", what, name);
    if (rh_json_count(shape) > RH_TENSOR_RANK_MAX)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: tensor %s: rank %zu, at most %d is supported",
                       what, name, rh_json_count(shape), RH_TENSOR_RANK_MAX);
    uint64_t bytes = rh_dtype_size(info->dtype);
    for (const struct rh_json *d = rh_json_first(shape); d; d = rh_json_next(d)) {
        int64_t size = 0;
        if (!rh_json_int(d, &size) || size < 0)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: tensor %s: dimension %d is no integer from 0 to 2^53", what, name,
                           info->rank);
        if (__builtin_mul_overflow(bytes, (uint64_t)size, &bytes) || bytes > INT64_MAX)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: tensor %s: dimension %d = %" PRId64 " makes the shape overflow",
                           what, name, info->rank, size);
        info->shape[info->rank++] = size;
    }
    info->bytes = bytes;
    return RH_OK;
}

static enum rh_rc parse_offsets(const struct rh_safetensors *file, const char *name,
                                const struct rh_json *entry, struct rh_tensor_info *info,
                                struct rh_error *err)
{
    const struct rh_json *offsets = rh_json_get(entry, "data_offsets");
    const struct rh_json *first = rh_json_first(offsets);
    const struct rh_json *second = first ? rh_json_next(first) : NULL;
    int64_t begin = 0;
    int64_t end = 0;
    if (!offsets || rh_json_type(offsets) != RH_JSON_ARRAY || rh_json_count(offsets) != 2 ||
        !rh_json_int(first, &begin) || !rh_json_int(second, &end))
        return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s: data_offsets is no pair of integers",
                       file->path, name);
    uint64_t data = file->data_absent ? INT64_MAX : file->file_size - file->data_begin;
    if (begin < 0 || end < begin || (uint64_t)end > data)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: tensor %s: data_offsets [%" PRId64 ", %" PRId64
                       "] lie outside of the %" PRIu64 " bytes of data",
                       file->path, name, begin, end, data);
    if ((uint64_t)(end - begin) != info->bytes)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: tensor %s: data_offsets span %" PRId64
                       " bytes, its dtype and shape need %" PRIu64,
                       file->path, name, end - begin, info->bytes);
    info->offset = file->data_begin + (uint64_t)begin;
    return RH_OK;
}

static enum rh_rc parse_tensor(struct rh_safetensors *file, const struct rh_json *entry,
                               struct rh_error *err)
{
    const char *name = rh_json_key(entry);
    struct rh_tensor_info *info = &file->tensors[file->count];
    if (rh_json_type(entry) != RH_JSON_OBJECT)
        return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s: its entry is no object", file->path,
                       name);
    const char *dtype = rh_json_string(rh_json_get(entry, "dtype"));
    if (!dtype)
        return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s: dtype is no string", file->path, name);
    info->dtype = rh_dtype_parse(dtype);
    if (info->dtype == RH_DTYPE_NONE)
        return rh_fail(err, RH_ERR_DTYPE, "%s: tensor %s: dtype %.32s is not known", file->path,
                       name, dtype);
    enum rh_rc rc = parse_shape(file->path, name, entry, info, err);
    if (!rc)
        rc = parse_offsets(file, name, entry, info, err);
    info->name = name;
    file->count++;
    return rc;
}

static enum rh_rc check_metadata(const char *what, const struct rh_json *metadata,
                                 struct rh_error *err)
{
    if (rh_json_type(metadata) != RH_JSON_OBJECT)
        return rh_fail(err, RH_ERR_FORMAT, "%s: __metadata__ is no object", what);
    for (const struct rh_json *m = rh_json_first(metadata); m; m = rh_json_next(m))
        if (!rh_json_string(m))
            return rh_fail(err, RH_ERR_FORMAT, "%s: __metadata__ value of %s is no string", what,
                           rh_json_key(m));
    return RH_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct rh_tensor_info *x = a;
    const struct rh_tensor_info *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Sorts the tensors by offset, demands that they tile the data without hole or overlap, and takes
 * their names, which belonged to the parsed text until now, into the map. */
static enum rh_rc check_layout(struct rh_safetensors *file, struct rh_error *err)
{
    uint64_t expected = file->data_begin;
    file->by_name = rh_hash_map_new();
    if (file->count)
        qsort(file->tensors, file->count, sizeof(*file->tensors), compare_offsets);
    for (size_t i = 0; i < file->count; i++) {
        struct rh_tensor_info *t = &file->tensors[i];
        if (t->offset != expected)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: tensor %s starts at byte %" PRIu64 " of the data, %s byte %" PRIu64
                           " where the one before it ends",
                           file->path, t->name, t->offset - file->data_begin,
                           t->offset > expected ? "beyond" : "before", expected - file->data_begin);
        expected = t->offset + t->bytes;
        if (!rh_hash_map_add(file->by_name, t->name, t))
            return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s occurs twice", file->path, t->name);
        t->name = rh_hash_map_key_at(file->by_name, i);
    }
    if (file->data_absent)
        file->file_size = expected;
    if (expected != file->file_size)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: the tensors end at byte %" PRIu64 ", the file at byte %" PRIu64,
                       file->path, expected, file->file_size);
    return RH_OK;
}

/* text: the header without its length. */
static enum rh_rc parse_header(struct rh_safetensors *file, const char *text, size_t size,
                               struct rh_error *err)
{
    struct rh_json *root = NULL;
    if (size == 0 || text[0] != '{')
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: the header does not start with '{', this is no safetensors file",
                       file->path);
    while (text[size - 1] == ' ')
        size--;
    enum rh_rc rc = rh_json_parse(text, size, file->path, &root, err);
    if (rc)
        return rc;
    void *tensors = NULL;
    size_t entries = rh_json_count(root);
    rc = rh_try_alloc(entries * sizeof(*file->tensors), file->path, &tensors, err);
    if (rc)
        goto out;
    file->tensors = memset(tensors, 0, entries * sizeof(*file->tensors));
    for (const struct rh_json *e = rh_json_first(root); e && !rc; e = rh_json_next(e)) {
        if (strcmp(rh_json_key(e), "__metadata__") == 0)
            rc = check_metadata(file->path, e, err);
        else
            rc = parse_tensor(file, e, err);
    }
    if (!rc)
        rc = check_layout(file, err);
out:
    rh_json_free(root);
    return rc;
}

static uint64_t load_length(const void *data)
{
    const unsigned char *p = data;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | p[i];
    return length;
}

static enum rh_rc check_length(uint64_t length, uint64_t file_size, const char *what,
                               struct rh_error *err)
{
    if (length > HEADER_BYTES_MAX)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: header length %" PRIu64 " exceeds %" PRIu64
                       ", this is no safetensors file",
                       what, length, HEADER_BYTES_MAX);
    if (length > file_size - LENGTH_BYTES)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: header length %" PRIu64 " exceeds the file's %" PRIu64
                       " bytes, download it again",
                       what, length, file_size);
    return RH_OK;
}

static struct rh_safetensors *new_file(const char *path)
{
    struct rh_safetensors *file = rh_alloc(sizeof(*file));
    file->path = rh_strdup(path);
    file->fd = -1;
    return file;
}

enum rh_rc rh_safetensors_parse(const void *data, size_t size, uint64_t file_size, const char *what,
                                struct rh_safetensors **out, struct rh_error *err)
{
    *out = NULL;
    if (size < LENGTH_BYTES || file_size < size)
        return rh_fail(err, RH_ERR_FORMAT, "%s: %zu bytes of a file of %" PRIu64 " hold no header",
                       what, size, file_size);
    uint64_t length = load_length(data);
    enum rh_rc rc = check_length(length, file_size, what, err);
    if (rc)
        return rc;
    if (length > size - LENGTH_BYTES)
        return rh_fail(err, RH_ERR_FORMAT, "%s: only %zu of %" PRIu64 " header bytes are there",
                       what, size - LENGTH_BYTES, length);
    struct rh_safetensors *file = new_file(what);
    file->file_size = file_size;
    file->data_begin = LENGTH_BYTES + length;
    rc = parse_header(file, (const char *)data + LENGTH_BYTES, (size_t)length, err);
    if (rc)
        rh_safetensors_close(file);
    else
        *out = file;
    return rc;
}

static enum rh_rc read_at(const struct rh_safetensors *file, uint64_t offset, void *buffer,
                          uint64_t size, struct rh_error *err)
{
    unsigned char *to = buffer;
    while (size) {
        size_t step = size > (UINT64_C(1) << 30) ? (size_t)1 << 30 : (size_t)size;
        ssize_t n = pread(file->fd, to, step, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not read %s at byte %" PRIu64, file->path,
                                 offset);
        if (n == 0)
            return rh_fail(err, RH_ERR_IO, "%s ends at byte %" PRIu64 ", it shrank while in use",
                           file->path, offset);
        to += n;
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return RH_OK;
}

static enum rh_rc open_file(const char *path, bool header_only, struct rh_safetensors **out,
                            struct rh_error *err)
{
    unsigned char prefix[LENGTH_BYTES];
    struct stat st;
    void *text = NULL;
    uint64_t length = 0;
    enum rh_rc rc = RH_OK;
    struct rh_safetensors *file = new_file(path);
    *out = NULL;
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0 || fstat(file->fd, &st) != 0) {
        rc = rh_fail_errno(err, errno, "could not open %s", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode) || st.st_size < LENGTH_BYTES) {
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: no regular file of at least %d bytes", path,
                     LENGTH_BYTES);
        goto out;
    }
    file->file_size = (uint64_t)st.st_size;
    rc = read_at(file, 0, prefix, LENGTH_BYTES, err);
    if (rc)
        goto out;
    length = load_length(prefix);
    rc = check_length(length, file->file_size, path, err);
    if (!rc)
        rc = rh_try_alloc((size_t)length, path, &text, err);
    if (!rc)
        rc = read_at(file, LENGTH_BYTES, text, length, err);
    if (rc)
        goto out;
    file->data_begin = LENGTH_BYTES + length;
    file->data_absent = header_only && file->file_size == file->data_begin;
    rc = parse_header(file, text, (size_t)length, err);
out:
    rh_free(text);
    if (rc)
        rh_safetensors_close(file);
    else
        *out = file;
    return rc;
}

enum rh_rc rh_safetensors_open(const char *path, struct rh_safetensors **out, struct rh_error *err)
{
    return open_file(path, false, out, err);
}

enum rh_rc rh_safetensors_open_header(const char *path, struct rh_safetensors **out,
                                      struct rh_error *err)
{
    return open_file(path, true, out, err);
}

void rh_safetensors_close(struct rh_safetensors *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    rh_hash_map_free(file->by_name);
    rh_free(file->tensors);
    rh_free(file->path);
    rh_free(file);
}

const char *rh_safetensors_path(const struct rh_safetensors *file)
{
    return file->path;
}

size_t rh_safetensors_count(const struct rh_safetensors *file)
{
    return file->count;
}

const struct rh_tensor_info *rh_safetensors_at(const struct rh_safetensors *file, size_t index)
{
    RH_ASSERT(index < file->count);
    return &file->tensors[index];
}

const struct rh_tensor_info *rh_safetensors_find(const struct rh_safetensors *file,
                                                 const char *name)
{
    return rh_hash_map_find(file->by_name, name);
}

enum rh_rc rh_safetensors_read(const struct rh_safetensors *file,
                               const struct rh_tensor_info *tensor, uint64_t begin, uint64_t size,
                               void *buffer, struct rh_error *err)
{
    if (begin > tensor->bytes || size > tensor->bytes - begin)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: tensor %s: bytes %" PRIu64 " + %" PRIu64 " exceed its %" PRIu64,
                       file->path, tensor->name, begin, size, tensor->bytes);
    if (file->fd < 0 || file->data_absent)
        return rh_fail(err, RH_ERR_IO, "%s: tensor %s: only the header is here, not the data",
                       file->path, tensor->name);
    enum rh_rc rc = read_at(file, tensor->offset + begin, buffer, size, err);
    return rc ? rh_error_prefix(err, "tensor %s", tensor->name) : RH_OK;
}
