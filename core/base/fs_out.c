#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"

#define BUFFER_SIZE (1U << 18)

struct rh_out {
    char *path;
    char *temporary;
    int fd;
    struct rh_sha256 *hash;
    uint64_t reserved;
    uint64_t written;
    size_t buffered;
    char buffer[BUFFER_SIZE];
};

static void free_out(struct rh_out *o)
{
    rh_sha256_free(o->hash);
    rh_free(o->path);
    rh_free(o->temporary);
    rh_free(o);
}

/* ".name.tmp" beside the target: a writer that died is replaced by the next one. */
static char *temporary_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return rh_format(".%s.tmp", path);
    return rh_format("%.*s/.%s.tmp", (int)(slash - path), path, slash + 1);
}

static enum rh_rc reserve(struct rh_out *o, uint64_t size, struct rh_error *err)
{
    uint64_t room = 0;
    if (size == 0)
        return RH_OK;
    /* First, because a file system may take all that is left before it finds out that it is too little,
     * and others would meet a full disk. */
    if (rh_fs_free_bytes(o->temporary, &room, NULL) == RH_OK && room < size)
        return rh_fail(err, RH_ERR_NO_SPACE,
                       "could not reserve %llu bytes for %s: %llu are free; make room",
                       (unsigned long long)size, o->path, (unsigned long long)room);
    int failed = posix_fallocate(o->fd, 0, (off_t)size);
    /* A file system without reservations finds out while writing. */
    if (failed != 0 && failed != EOPNOTSUPP && failed != EINVAL && failed != ENOSYS)
        return rh_fail_errno(err, failed, "could not reserve %llu bytes for %s",
                             (unsigned long long)size, o->path);
    o->reserved = failed == 0 ? size : 0;
    return RH_OK;
}

enum rh_rc rh_out_open(const char *path, uint64_t size_hint, struct rh_out **out,
                       struct rh_error *err)
{
    *out = NULL;
    struct rh_out *o = rh_alloc(sizeof *o);
    o->path = rh_strdup(path);
    o->temporary = temporary_name(path);
    o->fd = open(o->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (o->fd < 0) {
        enum rh_rc rc = rh_fail_errno(err, errno, "could not create %s", path);
        free_out(o);
        return rc;
    }
    o->hash = rh_sha256_new();
    enum rh_rc rc = reserve(o, size_hint, err);
    if (rc != RH_OK) {
        rh_out_abort(o);
        return rc;
    }
    *out = o;
    return RH_OK;
}

static enum rh_rc write_fully(struct rh_out *o, const char *data, size_t size, struct rh_error *err)
{
    rh_sha256_update(o->hash, data, size);
    while (size > 0) {
        ssize_t n = write(o->fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not write %s", o->path);
        data += n;
        size -= (size_t)n;
        o->written += (uint64_t)n;
    }
    return RH_OK;
}

static enum rh_rc flush_buffer(struct rh_out *o, struct rh_error *err)
{
    size_t size = o->buffered;
    o->buffered = 0;
    return write_fully(o, o->buffer, size, err);
}

enum rh_rc rh_out_write(struct rh_out *o, const void *data, size_t size, struct rh_error *err)
{
    if (size > BUFFER_SIZE - o->buffered) {
        enum rh_rc rc = flush_buffer(o, err);
        if (rc != RH_OK)
            return rc;
    }
    if (size > BUFFER_SIZE)
        return write_fully(o, data, size, err);
    if (size > 0)
        memcpy(o->buffer + o->buffered, data, size);
    o->buffered += size;
    return RH_OK;
}

static enum rh_rc make_durable(struct rh_out *o, struct rh_error *err)
{
    if (o->reserved > o->written && ftruncate(o->fd, (off_t)o->written) != 0)
        return rh_fail_errno(err, errno, "could not set the size of %s", o->path);
    rh_crash_point("file_before_sync");
    if (fsync(o->fd) != 0)
        return rh_fail_errno(err, errno, "could not sync %s", o->path);
    return RH_OK;
}

static enum rh_rc appear(struct rh_out *o, struct rh_error *err)
{
    if (rename(o->temporary, o->path) != 0)
        return rh_fail_errno(err, errno, "could not rename %s to %s", o->temporary, o->path);
    rh_crash_point("file_after_rename");
    char *slash = strrchr(o->path, '/');
    if (!slash)
        return rh_fs_sync_dir(".", err);
    if (slash == o->path)
        return rh_fs_sync_dir("/", err);
    *slash = '\0';
    enum rh_rc rc = rh_fs_sync_dir(o->path, err);
    *slash = '/';
    return rc;
}

enum rh_rc rh_out_commit(struct rh_out *o, char *out_sha256_hex, struct rh_error *err)
{
    enum rh_rc rc = flush_buffer(o, err);
    if (rc == RH_OK)
        rc = make_durable(o, err);
    if (rc == RH_OK)
        rc = appear(o, err);
    if (rc != RH_OK) {
        rh_out_abort(o);
        return rc;
    }
    if (out_sha256_hex) {
        uint8_t digest[32];
        rh_sha256_finish(o->hash, digest);
        rh_sha256_hex(digest, out_sha256_hex);
    }
    close(o->fd);
    free_out(o);
    return RH_OK;
}

void rh_out_abort(struct rh_out *o)
{
    if (!o)
        return;
    close(o->fd);
    unlink(o->temporary);
    free_out(o);
}
