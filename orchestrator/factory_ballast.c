#define _GNU_SOURCE /* fallocate */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"

/* A file that only takes up room. When the disk is full it goes, so that what has happened can still be
 * stored, and once there is room again it comes back. */

#define BALLAST_MAX (INT64_C(256) << 20)

static char *ballast_path(const struct rh_factory *f)
{
    return rh_fs_join(f->state_dir, "ballast");
}

/* False when the file system cannot do that at all; what else goes wrong passes, and the next tick
 * tries again. */
static bool fill(const char *path, int64_t bytes)
{
    /* Not posix_fallocate(): where the file system cannot set room aside it would write it all. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return true;
    bool filled = fallocate(fd, 0, 0, (off_t)bytes) == 0;
    bool impossible = !filled && (errno == EOPNOTSUPP || errno == ENOSYS);
    close(fd);
    if (!filled)
        unlink(path);
    return !impossible;
}

/* A crash while it was made leaves one that takes up nothing. */
static bool is_there(const char *path)
{
    uint64_t size = 0;
    return rh_fs_size(path, &size, NULL) == RH_OK && size > 0;
}

/* What jobs were promised they will write: none of it is to spare. */
static int64_t promised(const struct rh_factory *f)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++) {
        const struct rh_sched_job *job = rh_sched_job_at(f->sched, i);
        bytes += job->reserved ? rh_sched_unwritten(job) : 0;
    }
    return bytes;
}

void rh_factory_keep_ballast(struct rh_factory *f)
{
    uint64_t disk = 0;
    uint64_t available = 0;
    if (f->stuck || f->stopping || f->without_ballast ||
        rh_fs_disk_bytes(f->state_dir, &disk, NULL) != RH_OK ||
        rh_fs_free_bytes(f->state_dir, &available, NULL) != RH_OK)
        return;
    int64_t headroom =
        f->config.headroom >= 0 ? f->config.headroom : rh_sched_headroom_for(disk);
    int64_t bytes = headroom / 4 < BALLAST_MAX ? headroom / 4 : BALLAST_MAX;
    char *path = ballast_path(f);
    if (bytes > 0 && !is_there(path) &&
        available >= (uint64_t)(headroom + bytes + promised(f)) && !fill(path, bytes)) {
        rh_log(RH_LOG_WARN, "space.no_ballast",
               "path=%s why=\"the file system sets no room aside\"", path);
        f->without_ballast = true;
    }
    rh_free(path);
}

bool rh_factory_drop_ballast(struct rh_factory *f)
{
    char *path = ballast_path(f);
    bool dropped = unlink(path) == 0;
    if (dropped)
        rh_log(RH_LOG_WARN, "space.ballast_dropped", "path=%s", path);
    rh_free(path);
    return dropped;
}
