#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"

#include "verify_internal.h"

#define SUFFIX ".safetensors"

static bool is_weight_file(const char *name)
{
    return name[0] != '.' && verify_ends_with(name, SUFFIX) && strlen(name) > strlen(SUFFIX);
}

/* Relative, and stays below the directory. */
static bool is_safe_name(const char *name)
{
    return *name && name[0] != '/' && name[0] != '.' && !strstr(name, "..") && !strchr(name, '\\');
}

static enum rh_rc check_manifest_file(struct verify *v, const struct rh_json *entry,
                                      struct rh_error *err)
{
    const char *name = rh_json_string(rh_json_get(entry, "name"));
    const char *wanted = rh_json_string(rh_json_get(entry, "sha256"));
    int64_t wanted_size = -1;
    if (!name || !wanted || !rh_json_int(rh_json_get(entry, "size"), &wanted_size) ||
        wanted_size < 0 || !is_safe_name(name)) {
        verify_problem(v, RH_VERIFY_MANIFEST,
                       VERIFY_MANIFEST_NAME ": an entry of \"files\" lacks a usable name, size or "
                                            "sha256 (%.100s)",
                       name ? name : "no name");
        return RH_OK;
    }
    char *path = rh_fs_join(v->dir, name);
    uint64_t size = 0;
    char hex[RH_SHA256_HEX_SIZE];
    enum rh_rc rc = RH_OK;
    struct rh_error why = {0};
    if (rh_fs_size(path, &size, &why) != RH_OK) {
        verify_problem(v, RH_VERIFY_MANIFEST, "%s is missing (%s)", name, why.message);
    } else if (size != (uint64_t)wanted_size) {
        verify_problem(v, RH_VERIFY_MANIFEST,
                       "%s has %llu bytes, " VERIFY_MANIFEST_NAME " says %lld", name,
                       (unsigned long long)size, (long long)wanted_size);
    } else if (!v->options.quick) {
        if (rh_sha256_file(path, hex, &size, &why) != RH_OK)
            verify_problem(v, RH_VERIFY_MANIFEST, "%s", why.message);
        else if (strcmp(hex, wanted) != 0)
            verify_problem(v, RH_VERIFY_MANIFEST,
                           "%s has sha256 %.16s..., " VERIFY_MANIFEST_NAME " says %.16s...", name,
                           hex, wanted);
        rc = verify_step(v, "digests", size, err);
    }
    rh_free(path);
    return rc;
}

enum rh_rc verify_manifest(struct verify *v, struct rh_error *err)
{
    char *path = rh_fs_join(v->dir, VERIFY_MANIFEST_NAME);
    struct rh_error why = {0};
    enum rh_rc rc = RH_OK;
    if (!rh_fs_exists(path)) {
        verify_detail(v, RH_VERIFY_MANIFEST, "there is no " VERIFY_MANIFEST_NAME);
        goto out;
    }
    verify_ran(v, RH_VERIFY_MANIFEST, 0);
    const struct rh_json *files = NULL;
    if (rh_json_read(path, VERIFY_JSON_MAX, &v->manifest, &why) != RH_OK ||
        rh_json_want_array(v->manifest, "files", path, &files, &why) != RH_OK) {
        verify_problem(v, RH_VERIFY_MANIFEST, "%s", why.message);
        goto out;
    }
    v->done = v->total = 0;
    for (const struct rh_json *f = rh_json_first(files); f; f = rh_json_next(f)) {
        int64_t size = 0;
        if (rh_json_int(rh_json_get(f, "size"), &size) && size > 0)
            v->total += (uint64_t)size;
    }
    for (const struct rh_json *f = rh_json_first(files); f && rc == RH_OK; f = rh_json_next(f))
        rc = check_manifest_file(v, f, err);
    verify_ran(v, RH_VERIFY_MANIFEST, rh_json_count(files));
    verify_detail(v, RH_VERIFY_MANIFEST, "%zu files have their size%s", rh_json_count(files),
                  v->options.quick ? "" : " and digest");
out:
    rh_free(path);
    return rc;
}

/* What a file repeats of the files before it. */
struct repeats {
    size_t count;
    const char *first, *elsewhere; /* a tensor and the other file that has it */
};

static void found_twice(void *arg, const struct verify_tensor *first,
                        const struct verify_tensor *second)
{
    struct repeats *r = arg;
    if (r->count++ > 0)
        return;
    r->first = second->info->name;
    r->elsewhere = first->file_name;
}

/* Loaders read every tensor of every file that the index names, whatever it says of the tensor. */
static void add_file(struct verify *v, const char *name, struct rh_safetensors *file)
{
    struct repeats r = {0};
    verify_set_add(&v->output, name, file, found_twice, &r);
    if (r.count > 0)
        verify_problem(v, RH_VERIFY_INDEX,
                       "tensor %.200s is both in %s and in %s, and so are %zu others", r.first,
                       r.elsewhere, name, r.count - 1);
}

enum rh_rc verify_files(struct verify *v, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0, weight_files = 0;
    enum rh_rc rc = rh_fs_list(v->dir, &names, &count, err);
    if (rc != RH_OK)
        return rc;
    for (size_t i = 0; i < count; i++) {
        if (!is_weight_file(names[i]))
            continue;
        weight_files++;
        char *path = rh_fs_join(v->dir, names[i]);
        struct rh_safetensors *file = NULL;
        struct rh_error why = {0};
        if (rh_safetensors_open(path, &file, &why) != RH_OK)
            verify_problem(v, RH_VERIFY_FILES, "%s", why.message);
        else
            add_file(v, names[i], file);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    verify_ran(v, RH_VERIFY_FILES, weight_files);
    if (weight_files == 0)
        verify_problem(v, RH_VERIFY_FILES, "%s holds no %s file", v->dir, SUFFIX);
    for (size_t f = 0; f < v->output.file_count; f++) {
        const struct rh_safetensors *file = v->output.files[f];
        v->report->tensors += rh_safetensors_count(file);
        for (size_t i = 0; i < rh_safetensors_count(file); i++)
            v->report->bytes += rh_safetensors_at(file, i)->bytes;
    }
    verify_detail(v, RH_VERIFY_FILES, "%zu %s files, %llu tensors, %llu bytes of data",
                  weight_files, SUFFIX, (unsigned long long)v->report->tensors,
                  (unsigned long long)v->report->bytes);
    return RH_OK;
}

static void check_total_size(struct verify *v, const struct rh_json *index)
{
    int64_t total = 0;
    const struct rh_json *metadata = rh_json_get(index, "metadata");
    if (rh_json_type(metadata) != RH_JSON_OBJECT ||
        !rh_json_int(rh_json_get(metadata, "total_size"), &total)) {
        verify_problem(v, RH_VERIFY_INDEX, VERIFY_INDEX_NAME ": metadata.total_size is missing");
        return;
    }
    if (total < 0 || (uint64_t)total != v->report->bytes)
        verify_problem(v, RH_VERIFY_INDEX,
                       VERIFY_INDEX_NAME ": metadata.total_size is %lld, the tensors have %llu "
                                         "bytes",
                       (long long)total, (unsigned long long)v->report->bytes);
}

/* Index against files: every entry is where it should be. Adds the entries to `listed`. */
static void check_entries(struct verify *v, const struct rh_json *map, struct rh_hash_map *listed,
                          struct rh_hash_map *files)
{
    for (const struct rh_json *m = rh_json_first(map); m; m = rh_json_next(m)) {
        const char *name = rh_json_key(m), *file = rh_json_string(m);
        rh_hash_map_add(listed, name, listed);
        if (!file || !is_weight_file(file) || !is_safe_name(file)) {
            verify_problem(v, RH_VERIFY_INDEX,
                           VERIFY_INDEX_NAME ": tensor %.200s is said to be in \"%.100s\", which "
                                             "is no %s file",
                           name, file ? file : "(no text)", SUFFIX);
            continue;
        }
        if (rh_hash_map_add(files, file, files)) {
            char *path = rh_fs_join(v->dir, file);
            if (!rh_fs_exists(path))
                verify_problem(v, RH_VERIFY_INDEX, VERIFY_INDEX_NAME ": file %s is missing", file);
            rh_free(path);
        }
        const struct verify_tensor *t = verify_set_find(&v->output, name);
        if (!t)
            verify_problem(v, RH_VERIFY_INDEX,
                           VERIFY_INDEX_NAME ": tensor %.200s is not in %s nor anywhere else", name,
                           file);
        else if (strcmp(t->file_name, file) != 0)
            verify_problem(v, RH_VERIFY_INDEX,
                           VERIFY_INDEX_NAME ": tensor %.200s is not in %s but in %s", name, file,
                           t->file_name);
    }
}

/* A file that the index does not know is one problem, not one for each of its tensors. */
static void check_unlisted(struct verify *v, const struct rh_hash_map *listed,
                           const struct rh_hash_map *files)
{
    for (size_t i = 0; i < v->output.file_count; i++) {
        if (!rh_hash_map_find(files, v->output.names[i]))
            verify_problem(v, RH_VERIFY_INDEX,
                           "%s is not named in " VERIFY_INDEX_NAME "; remove it or list its "
                           "tensors",
                           v->output.names[i]);
    }
    for (size_t i = 0; i < verify_set_count(&v->output); i++) {
        const struct verify_tensor *t = verify_set_at(&v->output, i);
        if (rh_hash_map_find(files, t->file_name) && !rh_hash_map_find(listed, t->info->name))
            verify_problem(v, RH_VERIFY_INDEX, "tensor %.200s of %s is not in " VERIFY_INDEX_NAME,
                           t->info->name, t->file_name);
    }
}

/* transformers takes a file of this name for the whole model and never looks at the index. */
static void check_lone_name(struct verify *v)
{
    for (size_t i = 0; i < v->output.file_count && v->output.file_count > 1; i++) {
        if (strcmp(v->output.names[i], "model.safetensors") == 0)
            verify_problem(v, RH_VERIFY_INDEX,
                           "model.safetensors stands beside other weight files; loaders would read "
                           "nothing else, name it model-00001-of-00001.safetensors");
    }
}

enum rh_rc verify_index(struct verify *v, struct rh_error *err)
{
    (void)err;
    char *path = rh_fs_join(v->dir, VERIFY_INDEX_NAME);
    struct rh_json *index = NULL;
    const struct rh_json *map = NULL;
    struct rh_hash_map *listed = rh_hash_map_new(), *files = rh_hash_map_new();
    struct rh_error why = {0};
    verify_ran(v, RH_VERIFY_INDEX, verify_set_count(&v->output));
    if (!rh_fs_exists(path)) {
        /* Loaders take a lone model.safetensors without one. */
        if (v->output.file_count != 1 || strcmp(v->output.names[0], "model.safetensors") != 0)
            verify_problem(v, RH_VERIFY_INDEX, VERIFY_INDEX_NAME " is missing");
        goto out;
    }
    if (rh_json_read(path, VERIFY_JSON_MAX, &index, &why) != RH_OK ||
        rh_json_want_object(index, "weight_map", path, &map, &why) != RH_OK) {
        verify_problem(v, RH_VERIFY_INDEX, "%s", why.message);
        goto out;
    }
    check_entries(v, map, listed, files);
    check_unlisted(v, listed, files);
    check_total_size(v, index);
    check_lone_name(v);
    verify_detail(v, RH_VERIFY_INDEX, "%zu tensors listed in %zu files", rh_hash_map_count(listed),
                  rh_hash_map_count(files));
out:
    rh_json_free(index);
    rh_hash_map_free(listed);
    rh_hash_map_free(files);
    rh_free(path);
    return RH_OK;
}
