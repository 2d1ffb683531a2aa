#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#include "source_scheme.h"

static const struct rh_source_scheme *const schemes[] = {&rh_source_local, &rh_source_hub};

static const struct rh_source_scheme *find_scheme(const char *reference, const char **rest)
{
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        size_t size = strlen(schemes[i]->name);
        if (strncmp(reference, schemes[i]->name, size) == 0 && reference[size] == ':') {
            *rest = reference + size + 1;
            return schemes[i];
        }
    }
    return NULL;
}

enum rh_rc rh_source_open(const char *reference, const struct rh_source_use *use,
                          struct rh_source **out, struct rh_error *err)
{
    const struct rh_source_use nothing = {0};
    const char *rest = NULL;
    const struct rh_source_scheme *scheme = find_scheme(reference, &rest);
    *out = NULL;
    if (!scheme)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "cannot read the model %.300s; only file:/directory and "
                       "hf:owner/name@revision are supported, download it first and name the "
                       "directory",
                       reference);
    struct rh_source *source = rh_alloc(sizeof *source);
    source->scheme = scheme;
    source->reference = rh_strdup(reference);
    enum rh_rc rc = scheme->open(source, rest, use ? use : &nothing, err);
    if (rc != RH_OK)
        rh_source_close(source);
    else
        *out = source;
    return rc;
}

void rh_source_close(struct rh_source *source)
{
    if (!source)
        return;
    if (source->scheme->close)
        source->scheme->close(source);
    rh_free(source->plan_dir);
    rh_free(source->reference);
    rh_free(source);
}

enum rh_rc rh_source_plan_dir(struct rh_source *source, const char **out, struct rh_error *err)
{
    enum rh_rc rc = source->plan_dir ? RH_OK : source->scheme->prepare(source, err);
    *out = source->plan_dir;
    return rc;
}

struct rh_json *rh_source_pin(const struct rh_source *source)
{
    return source->scheme->pin ? source->scheme->pin(source) : NULL;
}

enum rh_rc rh_source_list(const struct rh_source *source, char ***out_names, size_t *out_count,
                          struct rh_error *err)
{
    return source->scheme->list(source, out_names, out_count, err);
}

static enum rh_rc check_name(const struct rh_source *source, const char *name, struct rh_error *err)
{
    if (*name && name[0] != '.' && !strchr(name, '/'))
        return RH_OK;
    return rh_fail(err, RH_ERR_FORMAT, "%s: \"%.200s\" is no name for a file of a checkpoint",
                   source->reference, name);
}

enum rh_rc rh_source_size(const struct rh_source *source, const char *name, uint64_t *out,
                          struct rh_error *err)
{
    enum rh_rc rc = check_name(source, name, err);
    return rc == RH_OK ? source->scheme->size(source, name, out, err) : rc;
}

const char *rh_source_sha256(const struct rh_source *source, const char *name)
{
    return source->scheme->sha256 ? source->scheme->sha256(source, name) : NULL;
}

void rh_source_drop(const struct rh_source *source, const char *name)
{
    if (source->scheme->drop)
        source->scheme->drop(source, name);
}

/* The path is adopted. */
static enum rh_rc open_path(char *path, struct rh_source_file **out, struct rh_error *err)
{
    struct stat st;
    enum rh_rc rc = RH_OK;
    struct rh_source_file *file = rh_alloc(sizeof *file);
    file->path = path;
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0 || fstat(file->fd, &st) != 0)
        rc = rh_fail_errno(err, errno, "could not open %s", path);
    else if (!S_ISREG(st.st_mode))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s is not a regular file", path);
    else
        file->size = (uint64_t)st.st_size;
    if (rc != RH_OK)
        rh_source_file_close(file);
    else
        *out = file;
    return rc;
}

enum rh_rc rh_source_open_path(const char *path, struct rh_source_file **out, struct rh_error *err)
{
    *out = NULL;
    return open_path(rh_strdup(path), out, err);
}

enum rh_rc rh_source_file_open(const struct rh_source *source, const char *name,
                               struct rh_source_file **out, struct rh_error *err)
{
    char *path = NULL;
    *out = NULL;
    enum rh_rc rc = check_name(source, name, err);
    if (rc == RH_OK)
        rc = source->scheme->locate(source, name, &path, err);
    return rc == RH_OK ? open_path(path, out, err) : rc;
}

void rh_source_file_close(struct rh_source_file *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    rh_free(file->path);
    rh_free(file);
}

const char *rh_source_file_path(const struct rh_source_file *file)
{
    return file->path;
}

uint64_t rh_source_file_size(const struct rh_source_file *file)
{
    return file->size;
}

enum rh_rc rh_source_file_read(const struct rh_source_file *file, uint64_t begin, size_t size,
                               void *buffer, struct rh_error *err)
{
    unsigned char *to = buffer;
    if (begin > file->size || size > file->size - begin)
        return rh_fail(err, RH_ERR_IO,
                       "%s: bytes %llu + %zu lie behind its end at %llu, it is not complete",
                       file->path, (unsigned long long)begin, size, (unsigned long long)file->size);
    while (size > 0) {
        ssize_t n = pread(file->fd, to, size, (off_t)begin);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not read %s at byte %llu", file->path,
                                 (unsigned long long)begin);
        if (n == 0)
            return rh_fail(err, RH_ERR_IO, "%s ends at byte %llu, it shrank while it was read",
                           file->path, (unsigned long long)begin);
        to += n;
        begin += (uint64_t)n;
        size -= (size_t)n;
    }
    return RH_OK;
}
