#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "tree.h"

char *rh_store_artifact(const char *job_dir, const char *op, int64_t index)
{
    return rh_format("%s/artifacts/%s-%05" PRId64, job_dir, op, index);
}

char *rh_store_staging(const char *job_dir, const char *op, int64_t index, int64_t epoch)
{
    return rh_format("%s/staging/%s-%05" PRId64 ".%" PRId64, job_dir, op, index, epoch);
}

bool rh_store_has(const char *job_dir, const char *op, int64_t index)
{
    char *dir = rh_store_artifact(job_dir, op, index);
    char *manifest = rh_fs_join(dir, RH_STORE_MANIFEST);
    bool has = rh_fs_exists(manifest);
    rh_free(manifest);
    rh_free(dir);
    return has;
}

static enum rh_rc sync_file(const char *path, struct rh_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not open %s", path);
    enum rh_rc rc = RH_OK;
    if (fsync(fd) != 0)
        rc = rh_fail_errno(err, errno, "could not sync %s", path);
    close(fd);
    return rc;
}

static enum rh_rc seal_file(const char *dir, const char *name, struct rh_json *files,
                            struct rh_error *err)
{
    char sha256[RH_SHA256_HEX_SIZE];
    uint64_t size = 0;
    char *path = rh_fs_join(dir, name);
    enum rh_rc rc = rh_sha256_file(path, sha256, &size, err);
    if (!rc)
        rc = sync_file(path, err);
    if (!rc) {
        struct rh_json *entry = rh_json_new_object();
        rh_json_set_string(entry, "name", name);
        rh_json_set_int(entry, "size", (int64_t)size);
        rh_json_set_string(entry, "sha256", sha256);
        rh_json_append(files, entry);
    }
    rh_free(path);
    return rc;
}

enum rh_rc rh_store_seal(const char *dir, const char *op, int64_t index, const char *recipe_digest,
                         const struct rh_json *meta, struct rh_error *err)
{
    struct rh_tree tree = {0};
    struct rh_json *root = rh_json_new_object();
    struct rh_json *files = rh_json_new_array();
    char *manifest = rh_fs_join(dir, RH_STORE_MANIFEST);
    char *remains = rh_fs_join(dir, "." RH_STORE_MANIFEST ".tmp");
    rh_json_set_string(root, "schema", RH_STORE_SCHEMA);
    rh_json_set_string(root, "op", op);
    rh_json_set_int(root, "index", index);
    rh_json_set_string(root, "recipe", recipe_digest);
    rh_json_set(root, "files", files);
    rh_json_set(root, "meta", meta ? rh_json_copy(meta) : rh_json_new_object());
    enum rh_rc rc = RH_OK;
    if (!rh_tree_is_op(op) || index < 0) {
        rc = rh_fail(err, RH_ERR_ARGUMENT, "%s: %.40s-%" PRId64 " names no artifact", dir, op,
                     index);
        goto out;
    }
    /* An earlier seal that died while writing its manifest must not become content. */
    rc = rh_fs_remove_tree(remains, err);
    if (!rc)
        rc = rh_tree_walk(dir, &tree, err);
    for (size_t i = 0; i < tree.file_count && !rc; i++)
        rc = seal_file(dir, tree.files[i], files, err);
    for (size_t i = 0; i < tree.dir_count && !rc; i++)
        rc = rh_fs_sync_dir(tree.dirs[i], err);
    if (!rc)
        rc = rh_json_write(manifest, root, err);
out:
    rh_json_free(root);
    rh_free(remains);
    rh_free(manifest);
    rh_tree_done(&tree);
    return rc;
}

/* A manifest of another task must not get this task's name. */
static enum rh_rc check_identity(const char *manifest, const char *op, int64_t index,
                                 struct rh_error *err)
{
    struct rh_json *root = NULL;
    const char *sealed_op = NULL;
    int64_t sealed_index = 0;
    enum rh_rc rc = rh_json_read(manifest, RH_STORE_MANIFEST_BYTES_MAX, &root, err);
    if (!rc)
        rc = rh_json_want_string(root, "op", manifest, &sealed_op, err);
    if (!rc)
        rc = rh_json_want_int(root, "index", manifest, &sealed_index, err);
    if (!rc && (strcmp(sealed_op, op) != 0 || sealed_index != index))
        rc = rh_fail(err, RH_ERR_ARGUMENT,
                     "%s: sealed as %.40s-%" PRId64 ", cannot be committed as %s-%" PRId64,
                     manifest, sealed_op, sealed_index, op, index);
    rh_json_free(root);
    return rc;
}

enum rh_rc rh_store_commit(const char *sealed_dir, const char *job_dir, const char *op,
                           int64_t index, struct rh_error *err)
{
    if (!rh_tree_is_op(op) || index < 0)
        return rh_fail(err, RH_ERR_ARGUMENT, "%s: %.40s-%" PRId64 " names no artifact", sealed_dir,
                       op, index);
    char *manifest = rh_fs_join(sealed_dir, RH_STORE_MANIFEST);
    char *parent = rh_fs_join(job_dir, "artifacts");
    char *target = rh_store_artifact(job_dir, op, index);
    enum rh_rc rc = RH_OK;
    if (!rh_fs_exists(manifest))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "%s is not sealed, it has no %s", sealed_dir,
                     RH_STORE_MANIFEST);
    if (!rc)
        rc = check_identity(manifest, op, index, err);
    if (!rc)
        rc = rh_fs_mkdirs(parent, err);
    if (!rc)
        rc = rh_fs_rename_new(sealed_dir, target, err);
    rh_free(target);
    rh_free(parent);
    rh_free(manifest);
    return rc;
}
