#include <inttypes.h>
#include <string.h>

#include "base/fs.h"
#include "base/hash_map.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "store/store.h"
#include "tree.h"

static enum rh_rc check_file(const char *dir, const struct rh_json *entry, const char *name,
                             bool deep, uint64_t *sum, struct rh_error *err)
{
    char actual[RH_SHA256_HEX_SIZE];
    const char *expected = NULL;
    int64_t size = 0;
    uint64_t actual_size = 0;
    char *path = rh_fs_join(dir, name);
    enum rh_rc rc = rh_json_want_int(entry, "size", path, &size, err);
    if (!rc)
        rc = rh_json_want_string(entry, "sha256", path, &expected, err);
    if (!rc)
        rc = rh_fs_size(path, &actual_size, err);
    if (!rc && (size < 0 || (uint64_t)size != actual_size))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s has %" PRIu64 " bytes, its manifest says %" PRId64,
                     path, actual_size, size);
    if (!rc)
        *sum += actual_size;
    if (!rc && deep)
        rc = rh_sha256_file(path, actual, NULL, err);
    if (!rc && deep && strcmp(actual, expected) != 0)
        rc =
            rh_fail(err, RH_ERR_FORMAT, "%s has sha256 %s, its manifest says %.64s: it was damaged",
                    path, actual, expected);
    rh_free(path);
    return rc;
}

/* What the manifest lists, name to entry. */
static enum rh_rc index_files(const char *manifest, const struct rh_json *root,
                              struct rh_hash_map *listed, struct rh_error *err)
{
    const struct rh_json *files = NULL;
    const char *schema = NULL;
    enum rh_rc rc = rh_json_want_string(root, "schema", manifest, &schema, err);
    if (!rc && strcmp(schema, RH_STORE_SCHEMA) != 0)
        rc = rh_fail(err, RH_ERR_UNSUPPORTED, "%s: schema %.40s is not %s", manifest, schema,
                     RH_STORE_SCHEMA);
    if (!rc)
        rc = rh_json_want_array(root, "files", manifest, &files, err);
    for (const struct rh_json *f = rh_json_first(files); f && !rc; f = rh_json_next(f)) {
        const char *name = NULL;
        rc = rh_json_want_string(f, "name", manifest, &name, err);
        if (!rc && !rh_tree_is_safe_name(name))
            rc = rh_fail(err, RH_ERR_FORMAT, "%s: file name \"%.200s\" is not plain and relative",
                         manifest, name);
        /* Entries are only read through this map. */
        if (!rc && !rh_hash_map_add(listed, name, (void *)(uintptr_t)f))
            rc = rh_fail(err, RH_ERR_FORMAT, "%s: file %.200s is listed twice", manifest, name);
    }
    return rc;
}

enum rh_rc rh_store_check(const char *dir, bool deep, struct rh_error *err)
{
    return rh_store_check_except(dir, deep, NULL, NULL, err);
}

enum rh_rc rh_store_check_except(const char *dir, bool deep, const char *may_miss, uint64_t *bytes,
                                 struct rh_error *err)
{
    struct rh_tree tree = {0};
    uint64_t sum = 0;
    struct rh_json *root = NULL;
    struct rh_hash_map *listed = rh_hash_map_new();
    struct rh_hash_map *present = rh_hash_map_new();
    char *manifest = rh_fs_join(dir, RH_STORE_MANIFEST);
    enum rh_rc rc = rh_json_read(manifest, RH_STORE_MANIFEST_BYTES_MAX, &root, err);
    if (!rc)
        rc = index_files(manifest, root, listed, err);
    if (!rc)
        rc = rh_tree_walk(dir, &tree, err);
    for (size_t i = 0; i < tree.file_count && !rc; i++) {
        rh_hash_map_add(present, tree.files[i], &tree);
        if (!rh_hash_map_find(listed, tree.files[i]))
            rc = rh_fail(err, RH_ERR_FORMAT, "%s/%s is not in its manifest", dir, tree.files[i]);
    }
    for (size_t i = 0; i < rh_hash_map_count(listed) && !rc; i++) {
        const char *name = rh_hash_map_key_at(listed, i);
        bool there = rh_hash_map_find(present, name) != NULL;
        if (!there && may_miss && strcmp(name, may_miss) == 0)
            continue;
        if (!there)
            rc = rh_fail(err, RH_ERR_FORMAT, "%s/%s is missing, its manifest lists it", dir, name);
        else
            rc = check_file(dir, rh_hash_map_value_at(listed, i), name, deep, &sum, err);
    }
    if (bytes)
        *bytes = sum;
    rh_json_free(root);
    rh_free(manifest);
    rh_hash_map_free(present);
    rh_hash_map_free(listed);
    rh_tree_done(&tree);
    return rc;
}
