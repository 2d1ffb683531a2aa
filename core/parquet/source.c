#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum rh_rc source_open(struct source *s, const char *path, struct rh_error *err)
{
    struct stat st;
    *s = (struct source){.path = rh_strdup(path), .fd = -1};
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe does not hold it up */
    if (s->fd < 0 || fstat(s->fd, &st) != 0)
        return rh_fail_errno(err, errno, "could not open %s", path);
    if (!S_ISREG(st.st_mode))
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s is not a regular file", path);
    s->size = (uint64_t)st.st_size;
    return RH_OK;
}

void source_bytes(struct source *s, const void *bytes, uint64_t size, const char *what)
{
    *s = (struct source){.path = rh_strdup(what), .fd = -1, .bytes = bytes, .size = size};
}

void source_close(struct source *s)
{
    if (s->fd >= 0)
        close(s->fd);
    rh_free(s->path);
}

enum rh_rc source_read(const struct source *s, uint64_t at, uint64_t size, void *out,
                       struct rh_error *err)
{
    RH_ASSERT(at <= s->size && size <= s->size - at);
    if (s->bytes) {
        memcpy(out, s->bytes + at, size);
        return RH_OK;
    }
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(s->fd, (char *)out + done, size - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not read %s", s->path);
        if (n == 0)
            return rh_fail(err, RH_ERR_IO, "%s became shorter while it was read", s->path);
        done += (uint64_t)n;
    }
    return RH_OK;
}
