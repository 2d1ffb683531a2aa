#include <sys/stat.h>

#include "base/fs.h"
#include "base/mem.h"

#include "source_scheme.h"

static enum rh_rc local_open(struct rh_source *source, const char *rest,
                             const struct rh_source_use *use, struct rh_error *err)
{
    (void)use;
    if (!*rest)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "the model \"file:\" names no directory; write file:/directory");
    if (!rh_fs_exists(rest))
        return rh_fail(err, RH_ERR_NOT_FOUND,
                       "there is no model at %.500s; name the directory that holds config.json",
                       rest);
    if (!rh_fs_is_dir(rest))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "the model %.500s is no directory; name the directory that holds "
                       "config.json",
                       rest);
    source->plan_dir = rh_strdup(rest);
    return RH_OK;
}

static bool is_regular(const char *dir, const char *name)
{
    struct stat st;
    char *path = rh_fs_join(dir, name);
    bool regular = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    rh_free(path);
    return regular;
}

static enum rh_rc local_list(const struct rh_source *source, char ***out_names, size_t *out_count,
                             struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0, kept = 0;
    *out_names = NULL;
    *out_count = 0;
    enum rh_rc rc = rh_fs_list(source->plan_dir, &names, &count, err);
    if (rc != RH_OK)
        return rc;
    for (size_t i = 0; i < count; i++) {
        if (names[i][0] != '.' && is_regular(source->plan_dir, names[i])) {
            names[kept++] = names[i];
        } else {
            rh_free(names[i]);
        }
    }
    *out_names = names;
    *out_count = kept;
    return RH_OK;
}

static enum rh_rc local_locate(const struct rh_source *source, const char *name, char **out,
                               struct rh_error *err)
{
    (void)err;
    *out = rh_fs_join(source->plan_dir, name);
    return RH_OK;
}

static enum rh_rc local_size(const struct rh_source *source, const char *name, uint64_t *out,
                             struct rh_error *err)
{
    char *path = rh_fs_join(source->plan_dir, name);
    enum rh_rc rc = rh_fs_size(path, out, err);
    rh_free(path);
    return rc;
}

const struct rh_source_scheme rh_source_local = {
    .name = "file",
    .open = local_open,
    .list = local_list,
    .size = local_size,
    .locate = local_locate,
};
