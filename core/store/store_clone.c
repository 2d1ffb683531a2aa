#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "store/store.h"
#include "tree.h"

static enum rh_rc link_file(const char *from, const char *to, const char *name,
                            struct rh_error *err)
{
    char *source = rh_fs_join(from, name);
    char *target = rh_fs_join(to, name);
    char *slash = strrchr(target, '/');
    *slash = '\0';
    enum rh_rc rc = rh_fs_mkdirs(target, err);
    *slash = '/';
    if (rc == RH_OK && link(source, target) != 0)
        rc = rh_fail_errno(err, errno, "could not link %s to %s", source, target);
    rh_free(target);
    rh_free(source);
    return rc;
}

/* Names in new directories are durable once these are synced, the innermost first. */
static enum rh_rc sync_dirs(const char *top, struct rh_error *err)
{
    struct rh_tree tree = {0};
    enum rh_rc rc = rh_tree_walk(top, &tree, err);
    for (size_t i = 0; i < tree.dir_count && rc == RH_OK; i++)
        rc = rh_fs_sync_dir(tree.dirs[i], err);
    rh_tree_done(&tree);
    return rc;
}

enum rh_rc rh_store_clone(const char *artifact, const char *to, struct rh_error *err)
{
    struct rh_tree tree = {0};
    enum rh_rc rc = rh_tree_walk(artifact, &tree, err);
    if (rc == RH_OK)
        rc = rh_fs_mkdirs(to, err);
    for (size_t i = 0; i < tree.file_count && rc == RH_OK; i++)
        rc = link_file(artifact, to, tree.files[i], err);
    if (rc == RH_OK)
        rc = link_file(artifact, to, RH_STORE_MANIFEST, err);
    if (rc == RH_OK)
        rc = sync_dirs(to, err);
    rh_tree_done(&tree);
    return rc;
}

enum rh_rc rh_store_digest(const char *job_dir, const char *op, int64_t index,
                           char out[RH_SHA256_HEX_SIZE], struct rh_error *err)
{
    struct rh_json *root = NULL;
    const struct rh_json *files = NULL;
    char *dir = rh_store_artifact(job_dir, op, index);
    char *manifest = rh_fs_join(dir, RH_STORE_MANIFEST);
    enum rh_rc rc = rh_json_read(manifest, RH_STORE_MANIFEST_BYTES_MAX, &root, err);
    if (rc == RH_OK)
        rc = rh_json_want_array(root, "files", manifest, &files, err);
    if (rc == RH_OK) {
        char *text = rh_json_canonical(files);
        rh_sha256_of(text, strlen(text), out);
        rh_free(text);
    }
    rh_json_free(root);
    rh_free(manifest);
    rh_free(dir);
    return rc;
}
