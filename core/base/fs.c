#define _GNU_SOURCE /* renameat2 */
#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/mem.h"

#define COPY_CHUNK (1U << 20)

bool rh_fs_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool rh_fs_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

enum rh_rc rh_fs_size(const char *path, uint64_t *out, struct rh_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return rh_fail_errno(err, errno, "could not look at %s", path);
    *out = (uint64_t)st.st_size;
    return RH_OK;
}

enum rh_rc rh_fs_disk_bytes(const char *path, uint64_t *out, struct rh_error *err)
{
    struct statvfs st;
    if (statvfs(path, &st) != 0)
        return rh_fail_errno(err, errno, "could not ask for the size of the disk at %s", path);
    *out = (uint64_t)st.f_blocks * (uint64_t)st.f_frsize;
    return RH_OK;
}

enum rh_rc rh_fs_free_bytes(const char *path, uint64_t *out, struct rh_error *err)
{
    struct statvfs st;
    if (statvfs(path, &st) != 0)
        return rh_fail_errno(err, errno, "could not ask for the free space at %s", path);
    *out = (uint64_t)st.f_bavail * (uint64_t)st.f_frsize;
    return RH_OK;
}

char *rh_fs_join(const char *dir, const char *name)
{
    size_t size = strlen(dir);
    return rh_format(size > 0 && dir[size - 1] == '/' ? "%s%s" : "%s/%s", dir, name);
}

static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return rh_strdup(".");
    return slash == path ? rh_strdup("/") : rh_strndup(path, (size_t)(slash - path));
}

static enum rh_rc read_all(int fd, const char *path, char *buffer, size_t size,
                           struct rh_error *err)
{
    size_t at = 0;
    while (at < size) {
        ssize_t n = read(fd, buffer + at, size - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not read %s", path);
        if (n == 0)
            return rh_fail(err, RH_ERR_IO, "%s became shorter while it was read", path);
        at += (size_t)n;
    }
    return RH_OK;
}

enum rh_rc rh_fs_read(const char *path, uint64_t max_bytes, char **out, size_t *out_size,
                      struct rh_error *err)
{
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not open %s", path);
    enum rh_rc rc;
    struct stat st;
    void *buffer = NULL;
    if (fstat(fd, &st) != 0) {
        rc = rh_fail_errno(err, errno, "could not look at %s", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = rh_fail(err, RH_ERR_ARGUMENT, "%s is not a regular file", path);
        goto out;
    }
    if ((uint64_t)st.st_size > max_bytes) {
        rc = rh_fail(err, RH_ERR_FORMAT, "%s has %lld bytes, more than the %llu allowed here", path,
                     (long long)st.st_size, (unsigned long long)max_bytes);
        goto out;
    }
    size_t size = (size_t)st.st_size;
    rc = rh_try_alloc(size + 1, path, &buffer, err);
    if (rc == RH_OK)
        rc = read_all(fd, path, buffer, size, err);
    if (rc == RH_OK) {
        ((char *)buffer)[size] = '\0';
        *out = buffer;
        buffer = NULL;
        if (out_size)
            *out_size = size;
    }
out:
    rh_free(buffer);
    close(fd);
    return rc;
}

enum rh_rc rh_fs_write(const char *path, const void *data, size_t size, struct rh_error *err)
{
    struct rh_out *o = NULL;
    enum rh_rc rc = rh_out_open(path, size, &o, err);
    if (rc != RH_OK)
        return rc;
    rc = rh_out_write(o, data, size, err);
    if (rc != RH_OK) {
        rh_out_abort(o);
        return rc;
    }
    return rh_out_commit(o, NULL, err);
}

enum rh_rc rh_fs_sync_dir(const char *path, struct rh_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not open directory %s", path);
    enum rh_rc rc = RH_OK;
    if (fsync(fd) != 0)
        rc = rh_fail_errno(err, errno, "could not sync directory %s", path);
    close(fd);
    return rc;
}

static enum rh_rc make_one(const char *path, struct rh_error *err)
{
    if (mkdir(path, 0777) == 0) {
        char *parent = parent_of(path);
        enum rh_rc rc = rh_fs_sync_dir(parent, err);
        rh_free(parent);
        return rc;
    }
    if (errno == EEXIST && rh_fs_is_dir(path))
        return RH_OK;
    return rh_fail_errno(err, errno == EEXIST ? ENOTDIR : errno, "could not make directory %s",
                         path);
}

enum rh_rc rh_fs_mkdirs(const char *path, struct rh_error *err)
{
    char *work = rh_strdup(path);
    enum rh_rc rc = RH_OK;
    for (char *p = work + 1; work[0] && *p && rc == RH_OK; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (!rh_fs_is_dir(work))
            rc = make_one(work, err);
        *p = '/';
    }
    if (rc == RH_OK && !rh_fs_is_dir(path))
        rc = make_one(path, err);
    rh_free(work);
    return rc;
}

enum rh_rc rh_fs_rename_new(const char *from, const char *to, struct rh_error *err)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) != 0) {
        if (errno == EEXIST || errno == ENOTEMPTY)
            return rh_fail(err, RH_ERR_EXISTS, "%s is there already", to);
        return rh_fail_errno(err, errno, "could not rename %s to %s", from, to);
    }
    rh_crash_point("directory_before_sync");
    char *to_parent = parent_of(to);
    char *from_parent = parent_of(from);
    enum rh_rc rc = rh_fs_sync_dir(to_parent, err);
    if (rc == RH_OK && strcmp(to_parent, from_parent) != 0)
        rc = rh_fs_sync_dir(from_parent, err);
    rh_free(to_parent);
    rh_free(from_parent);
    return rc;
}

static enum rh_rc remove_below(const char *path, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = rh_fs_list(path, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        char *child = rh_fs_join(path, names[i]);
        rc = rh_fs_remove_tree(child, err);
        rh_free(child);
    }
    rh_fs_list_free(names, count);
    return rc;
}

enum rh_rc rh_fs_remove_tree(const char *path, struct rh_error *err)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? RH_OK : rh_fail_errno(err, errno, "could not look at %s", path);
    if (S_ISDIR(st.st_mode)) {
        enum rh_rc rc = remove_below(path, err);
        if (rc != RH_OK)
            return rc;
    }
    if (remove(path) != 0 && errno != ENOENT)
        return rh_fail_errno(err, errno, "could not remove %s", path);
    return RH_OK;
}

enum rh_rc rh_fs_copy(const char *from, const char *to, char *out_sha256_hex, struct rh_error *err)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not open %s", from);
    struct rh_out *o = NULL;
    struct stat st;
    char *buffer = rh_alloc(COPY_CHUNK);
    enum rh_rc rc = RH_OK;
    if (fstat(fd, &st) != 0)
        rc = rh_fail_errno(err, errno, "could not look at %s", from);
    if (rc == RH_OK)
        rc = rh_out_open(to, (uint64_t)st.st_size, &o, err);
    while (rc == RH_OK) {
        ssize_t n = read(fd, buffer, COPY_CHUNK);
        if (n == 0)
            break;
        if (n > 0)
            rc = rh_out_write(o, buffer, (size_t)n, err);
        else if (errno != EINTR)
            rc = rh_fail_errno(err, errno, "could not read %s", from);
    }
    rh_free(buffer);
    close(fd);
    if (rc != RH_OK) {
        rh_out_abort(o);
        return rc;
    }
    return rh_out_commit(o, out_sha256_hex, err);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

enum rh_rc rh_fs_list(const char *path, char ***out_names, size_t *out_count, struct rh_error *err)
{
    *out_names = NULL;
    *out_count = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return rh_fail_errno(err, errno, "could not open directory %s", path);
    char **names = NULL;
    size_t count = 0;
    size_t capacity = 0;
    errno = 0;
    for (struct dirent *e = readdir(dir); e; errno = 0, e = readdir(dir)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            names = rh_realloc_array(names, capacity, sizeof *names);
        }
        names[count++] = rh_strdup(e->d_name);
    }
    int failed = errno;
    closedir(dir);
    if (failed) {
        rh_fs_list_free(names, count);
        return rh_fail_errno(err, failed, "could not read directory %s", path);
    }
    if (count > 0)
        qsort(names, count, sizeof *names, by_bytes);
    *out_names = names;
    *out_count = count;
    return RH_OK;
}

void rh_fs_list_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        rh_free(names[i]);
    rh_free(names);
}
