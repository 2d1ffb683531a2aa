#include "source.h"

#include <string.h>

#include "base/mem.h"

#include "source_scheme.h"

static const struct rh_source_scheme *const schemes[] = {&rh_source_local};

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

enum rh_rc rh_source_open(const char *reference, struct rh_source **out, struct rh_error *err)
{
    const char *rest = NULL;
    const struct rh_source_scheme *scheme = find_scheme(reference, &rest);
    *out = NULL;
    if (!scheme)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "cannot read the model %.300s; only file:/directory is supported, download "
                       "it first and name the directory",
                       reference);
    struct rh_source *source = rh_alloc(sizeof *source);
    source->scheme = scheme;
    enum rh_rc rc = scheme->open(source, rest, err);
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
    rh_free(source->plan_dir);
    rh_free(source);
}

const char *rh_source_plan_dir(const struct rh_source *source)
{
    return source->plan_dir;
}

enum rh_rc rh_source_list(const struct rh_source *source, char ***out_names, size_t *out_count,
                          struct rh_error *err)
{
    return source->scheme->list(source, out_names, out_count, err);
}

enum rh_rc rh_source_file_open(const struct rh_source *source, const char *name,
                               struct rh_source_file **out, struct rh_error *err)
{
    *out = NULL;
    if (!*name || name[0] == '.' || strchr(name, '/'))
        return rh_fail(err, RH_ERR_FORMAT, "%s: \"%.200s\" is no name for a file of a checkpoint",
                       source->plan_dir, name);
    struct rh_source_file *file = rh_alloc(sizeof *file);
    file->source = source;
    file->handle = -1;
    enum rh_rc rc = source->scheme->file_open(file, name, err);
    if (rc != RH_OK)
        rh_source_file_close(file);
    else
        *out = file;
    return rc;
}

void rh_source_file_close(struct rh_source_file *file)
{
    if (!file)
        return;
    file->source->scheme->file_close(file);
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
    if (begin > file->size || size > file->size - begin)
        return rh_fail(err, RH_ERR_IO,
                       "%s: bytes %llu + %zu lie behind its end at %llu, it is not complete",
                       file->path, (unsigned long long)begin, size, (unsigned long long)file->size);
    return file->source->scheme->file_read(file, begin, size, buffer, err);
}
