#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/hash_map.h"
#include "base/json.h"
#include "base/mem.h"
#include "checkpoint/safetensors.h"

#define INDEX_NAME      "model.safetensors.index.json"
#define INDEX_BYTES_MAX (UINT64_C(256) << 20)
#define SUFFIX          ".safetensors"

struct entry {
    const struct rh_tensor_info *info;
    size_t file;
};

struct rh_checkpoint {
    char *dir;
    char **names; /* of the files, sorted */
    struct rh_safetensors **files;
    size_t file_count;
    struct entry *entries; /* values of by_name */
    struct rh_hash_map *by_name;
};

static bool is_weight_file(const char *name)
{
    size_t size = strlen(name);
    size_t suffix = strlen(SUFFIX);
    return name[0] != '.' && size > suffix && strcmp(name + size - suffix, SUFFIX) == 0;
}

/* A file name out of an index must not lead out of the directory. */
static bool is_safe_name(const char *name)
{
    return is_weight_file(name) && !strpbrk(name, "/\\") && !strstr(name, "..");
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum rh_rc names_from_index(struct rh_checkpoint *c, const char *path,
                                   const struct rh_json *index, const struct rh_json **out_map,
                                   struct rh_error *err)
{
    struct rh_hash_map *seen = rh_hash_map_new();
    enum rh_rc rc = rh_json_want_object(index, "weight_map", path, out_map, err);
    if (rc)
        goto out;
    for (const struct rh_json *m = rh_json_first(*out_map); m; m = rh_json_next(m)) {
        const char *name = rh_json_string(m);
        if (!name || !is_safe_name(name)) {
            rc = rh_fail(err, RH_ERR_FORMAT,
                         "%s: tensor %s is said to be in \"%s\", which is no plain %s file name",
                         path, rh_json_key(m), name ? name : "(no string)", SUFFIX);
            goto out;
        }
        rh_hash_map_add(seen, name, seen);
    }
    c->file_count = rh_hash_map_count(seen);
    if (c->file_count == 0) {
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: weight_map is empty", path);
        goto out;
    }
    c->names = rh_alloc_array(c->file_count, sizeof(*c->names));
    for (size_t i = 0; i < c->file_count; i++)
        c->names[i] = rh_strdup(rh_hash_map_key_at(seen, i));
    qsort(c->names, c->file_count, sizeof(*c->names), compare_names);
out:
    rh_hash_map_free(seen);
    return rc;
}

static enum rh_rc names_from_directory(struct rh_checkpoint *c, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = rh_fs_list(c->dir, &names, &count, err);
    if (rc)
        return rc;
    c->names = rh_alloc_array(count, sizeof(*c->names));
    for (size_t i = 0; i < count; i++)
        if (is_weight_file(names[i]))
            c->names[c->file_count++] = rh_strdup(names[i]);
    rh_fs_list_free(names, count);
    if (c->file_count == 0)
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s holds no %s file, is it a checkpoint?", c->dir,
                       SUFFIX);
    return RH_OK;
}

static enum rh_rc open_files(struct rh_checkpoint *c, bool headers_only, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    size_t tensors = 0;
    c->files = rh_alloc_array(c->file_count, sizeof(struct rh_safetensors *));
    for (size_t i = 0; i < c->file_count && !rc; i++) {
        char *path = rh_fs_join(c->dir, c->names[i]);
        rc = headers_only ? rh_safetensors_open_header(path, &c->files[i], err)
                          : rh_safetensors_open(path, &c->files[i], err);
        rh_free(path);
        if (!rc)
            tensors += rh_safetensors_count(c->files[i]);
    }
    if (rc)
        return rc;
    c->by_name = rh_hash_map_new();
    c->entries = rh_alloc_array(tensors, sizeof(*c->entries));
    struct entry *next = c->entries;
    for (size_t i = 0; i < c->file_count; i++)
        for (size_t j = 0; j < rh_safetensors_count(c->files[i]); j++) {
            *next = (struct entry){rh_safetensors_at(c->files[i], j), i};
            if (!rh_hash_map_add(c->by_name, next->info->name, next)) {
                const struct entry *first = rh_hash_map_find(c->by_name, next->info->name);
                return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s is both in %s and in %s", c->dir,
                               next->info->name, c->names[first->file], c->names[i]);
            }
            next++;
        }
    return RH_OK;
}

static enum rh_rc check_index(const struct rh_checkpoint *c, const struct rh_json *map,
                              const char *path, struct rh_error *err)
{
    for (const struct rh_json *m = rh_json_first(map); m; m = rh_json_next(m)) {
        const char *name = rh_json_key(m);
        const char *file = rh_json_string(m);
        const struct entry *e = rh_hash_map_find(c->by_name, name);
        if (!e)
            return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s is not in %s", path, name, file);
        if (strcmp(c->names[e->file], file) != 0)
            return rh_fail(err, RH_ERR_FORMAT, "%s: tensor %s is not in %s but in %s", path, name,
                           file, c->names[e->file]);
    }
    return RH_OK;
}

enum rh_rc rh_checkpoint_open(const char *dir, bool headers_only, struct rh_checkpoint **out,
                              struct rh_error *err)
{
    struct rh_checkpoint *c = rh_alloc(sizeof(*c));
    struct rh_json *index = NULL;
    const struct rh_json *map = NULL;
    char *path = rh_fs_join(dir, INDEX_NAME);
    enum rh_rc rc = RH_OK;
    *out = NULL;
    c->dir = rh_strdup(dir);
    if (rh_fs_exists(path)) {
        rc = rh_json_read(path, INDEX_BYTES_MAX, &index, err);
        if (!rc)
            rc = names_from_index(c, path, index, &map, err);
    } else {
        rc = names_from_directory(c, err);
    }
    if (!rc)
        rc = open_files(c, headers_only, err);
    if (!rc)
        rc = check_index(c, map, path, err);
    rh_json_free(index);
    rh_free(path);
    if (rc)
        rh_checkpoint_close(c);
    else
        *out = c;
    return rc;
}

void rh_checkpoint_close(struct rh_checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->file_count; i++) {
        rh_free(c->names[i]);
        if (c->files)
            rh_safetensors_close(c->files[i]);
    }
    rh_hash_map_free(c->by_name);
    rh_free(c->entries);
    rh_free(c->files);
    rh_free(c->names);
    rh_free(c->dir);
    rh_free(c);
}

size_t rh_checkpoint_file_count(const struct rh_checkpoint *c)
{
    return c->file_count;
}

const struct rh_safetensors *rh_checkpoint_file(const struct rh_checkpoint *c, size_t index)
{
    RH_ASSERT(index < c->file_count);
    return c->files[index];
}

const char *rh_checkpoint_file_name(const struct rh_checkpoint *c, size_t index)
{
    RH_ASSERT(index < c->file_count);
    return c->names[index];
}

const struct rh_tensor_info *rh_checkpoint_find(const struct rh_checkpoint *c, const char *name,
                                                size_t *out_file)
{
    const struct entry *e = rh_hash_map_find(c->by_name, name);
    if (!e)
        return NULL;
    if (out_file)
        *out_file = e->file;
    return e->info;
}

size_t rh_checkpoint_tensor_count(const struct rh_checkpoint *c)
{
    return rh_hash_map_count(c->by_name);
}
