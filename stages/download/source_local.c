#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"

#include "source_scheme.h"

static enum rh_rc local_open(struct rh_source *source, const char *rest, struct rh_error *err)
{
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

static enum rh_rc local_file_open(struct rh_source_file *file, const char *name,
                                  struct rh_error *err)
{
    struct stat st;
    file->path = rh_fs_join(file->source->plan_dir, name);
    file->handle = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->handle < 0 || fstat(file->handle, &st) != 0)
        return rh_fail_errno(err, errno, "could not open %s", file->path);
    if (!S_ISREG(st.st_mode))
        return rh_fail(err, RH_ERR_FORMAT, "%s is not a regular file", file->path);
    file->size = (uint64_t)st.st_size;
    return RH_OK;
}

static enum rh_rc local_file_read(const struct rh_source_file *file, uint64_t begin, size_t size,
                                  void *buffer, struct rh_error *err)
{
    unsigned char *to = buffer;
    while (size > 0) {
        ssize_t n = pread(file->handle, to, size, (off_t)begin);
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

static void local_file_close(struct rh_source_file *file)
{
    if (file->handle >= 0)
        close(file->handle);
}

const struct rh_source_scheme rh_source_local = {
    .name = "file",
    .open = local_open,
    .list = local_list,
    .file_open = local_file_open,
    .file_read = local_file_read,
    .file_close = local_file_close,
};
