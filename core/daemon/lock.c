#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "daemon/daemon.h"

/* The pid that the holder wrote; 0 when it has not yet. */
static long holder_of(int fd)
{
    char text[32] = {0};
    if (pread(fd, text, sizeof text - 1, 0) <= 0)
        return 0;
    return strtol(text, NULL, 10);
}

static enum rh_rc sign_lock(int fd, const char *path, struct rh_error *err)
{
    char text[32];
    int size = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)size, 0) != size)
        return rh_fail_errno(err, errno, "%s: could not write the process number", path);
    return RH_OK;
}

enum rh_rc rh_lock_dir(const char *dir, int *out_fd, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    char *path = rh_fs_join(dir, "lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = rh_fail_errno(err, errno, "could not open %s", path);
        goto out;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            rc = rh_fail(err, RH_ERR_EXISTS,
                         "%s: process %ld works on this directory; stop it or use another one", dir,
                         holder_of(fd));
        else
            rc = rh_fail_errno(err, errno, "could not lock %s", path);
        goto out;
    }
    rc = sign_lock(fd, path, err);
out:
    if (rc == RH_OK)
        *out_fd = fd;
    else if (fd >= 0)
        close(fd);
    rh_free(path);
    return rc;
}
