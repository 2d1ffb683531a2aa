#include "hub_cache.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"

#define REF_MAX 256

/* "<cache>/models--owner--name/<what>" */
static char *place(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                   const char *what)
{
    const char *slash = strchr(name->repo, '/');
    return rh_format("%s/models--%.*s--%s/%s", settings->cache, (int)(slash - name->repo),
                     name->repo, slash + 1, what);
}

char *rh_hub_cache_path(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                        const char *commit, const char *file)
{
    char *what = rh_format("snapshots/%s/%s", commit, file);
    char *path = place(settings, name, what);
    rh_free(what);
    return path;
}

static bool find_commit(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                        char out[RH_HUB_COMMIT_SIZE])
{
    if (rh_hub_is_hex(name->revision, RH_HUB_COMMIT_SIZE - 1)) {
        memcpy(out, name->revision, RH_HUB_COMMIT_SIZE);
        return true;
    }
    char *what = rh_format("refs/%s", name->revision);
    char *path = place(settings, name, what), *text = NULL;
    bool found = rh_fs_exists(path) && rh_fs_read(path, REF_MAX, &text, NULL, NULL) == RH_OK;
    if (found)
        text[strcspn(text, " \r\n")] = '\0';
    found = found && rh_hub_is_hex(text, RH_HUB_COMMIT_SIZE - 1);
    if (found)
        memcpy(out, text, RH_HUB_COMMIT_SIZE);
    rh_free(text);
    rh_free(path);
    rh_free(what);
    return found;
}

static enum rh_rc take(struct rh_hub_tree *tree, const char *dir, const char *name,
                       struct rh_error *err)
{
    char target[PATH_MAX] = "";
    struct stat st;
    enum rh_rc rc = RH_OK;
    char *path = rh_fs_join(dir, name);
    if (name[0] != '.' && stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        ssize_t size = readlink(path, target, sizeof target - 1);
        const char *slash = size > 0 ? strrchr(target, '/') : NULL;
        const char *digest = slash ? slash + 1 : "";
        if (rh_hub_is_hex(digest, 40) || rh_hub_is_hex(digest, 64))
            rh_hub_tree_take(tree, name, (uint64_t)st.st_size, digest);
        else
            rc = rh_fail(err, RH_ERR_UNSUPPORTED,
                         "%s is no link to a file named by its digest, so it cannot be checked "
                         "without the Hub; name the directory %s instead",
                         path, dir);
    }
    rh_free(path);
    return rc;
}

enum rh_rc rh_hub_cache_look(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                             struct rh_hub_tree *out, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    *out = (struct rh_hub_tree){0};
    bool known = find_commit(settings, name, out->commit);
    char *dir = known ? rh_hub_cache_path(settings, name, out->commit, "") : NULL;
    enum rh_rc rc = RH_OK;
    if (!dir || !rh_fs_is_dir(dir))
        rc = rh_fail(err, RH_ERR_NOT_FOUND,
                     "HF_HUB_OFFLINE is set, and the cache %s does not have %s at %s; download it "
                     "there, or unset HF_HUB_OFFLINE",
                     settings->cache, name->repo, name->revision);
    if (rc == RH_OK)
        rc = rh_fs_list(dir, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++)
        rc = take(out, dir, names[i], err);
    if (rc == RH_OK)
        rc = rh_hub_tree_finish(out, dir, err);
    rh_fs_list_free(names, count);
    rh_free(dir);
    return rc;
}
