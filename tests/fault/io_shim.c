/*
 * Preloaded into the programs under test: every distinct write below RH_SHIM_ROOT fails once with
 * "no space left on device". Distinct means program, call, file name (with numbers of jobs and
 * epochs left out) and how often the call was made on it. What has failed is remembered as a file
 * in RH_SHIM_SEEN, over processes and runs; RH_SHIM_BUDGET bounds the failures of a run, whose
 * markers carry the name RH_SHIM_RUN.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Later calls on the same file count as this one. */
#define TIMES_MAX 3

#define SLOTS 1024
static struct {
    uint64_t key;
    int times;
} visits[SLOTS];
static int lock;

static uint64_t hash(uint64_t h, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        h = (h ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
    return h;
}

/* The size of a component without ".<epoch>" at its end. */
static size_t without_epoch(const char *name, size_t size)
{
    size_t end = size;
    while (end > 0 && isdigit((unsigned char)name[end - 1]))
        end--;
    return end > 0 && end < size && name[end - 1] == '.' ? end - 1 : size;
}

/* The path below the root without the parts that differ from run to run. */
static uint64_t hash_path(uint64_t h, const char *path)
{
    while (*path) {
        size_t size = strcspn(path, "/");
        size_t digits = 0;
        for (size_t i = 0; i < size; i++)
            digits += isdigit((unsigned char)path[i]) != 0;
        bool numbers = size > 0 && strspn(path, "0123456789-") == size; /* a name in the trash */
        if (!numbers && (size < 20 || digits < 4)) /* no job id */
            h = hash(h, path, without_epoch(path, size));
        h = hash(h, "/", 1);
        path += size + (path[size] == '/');
    }
    return h;
}

static int nth_time(uint64_t key)
{
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        ;
    size_t at = key % SLOTS;
    while (visits[at].times && visits[at].key != key)
        at = (at + 1) % SLOTS;
    visits[at].key = key;
    int n = visits[at].times < TIMES_MAX ? ++visits[at].times : TIMES_MAX;
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    return n;
}

/* An empty file, or one that says for which call and path it stands. */
static bool create(const char *dir, const char *name, const char *call, const char *on)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) {
        int size = call ? snprintf(path, sizeof path, "%s %s %s\n", program_invocation_short_name, call, on) : 0;
        syscall(SYS_write, fd, path, (size_t)size);
        syscall(SYS_close, fd);
    }
    return fd >= 0;
}

/* One unit of the run's budget, a file each so that processes share it. */
static bool spend(const char *seen)
{
    const char *run = getenv("RH_SHIM_RUN");
    const char *budget = getenv("RH_SHIM_BUDGET");
    for (int i = 0; run && budget && i < atoi(budget); i++) {
        char name[256];
        snprintf(name, sizeof name, "run-%s-%d", run, i);
        if (create(seen, name, NULL, NULL))
            return true;
    }
    return false;
}

static bool fails(const char *call, const char *path)
{
    const char *root = getenv("RH_SHIM_ROOT");
    const char *seen = getenv("RH_SHIM_SEEN");
    if (!root || !seen || strncmp(path, root, strlen(root)) != 0 || strstr(path, "/log/") ||
        strstr(path, ".log"))
        return false;
    uint64_t key = hash(UINT64_C(14695981039346656037), program_invocation_short_name,
                        strlen(program_invocation_short_name) + 1);
    key = hash(key, call, strlen(call) + 1);
    key = hash_path(key, path + strlen(root));
    int time = nth_time(key | 1);
    char name[64];
    char marker[4300];
    snprintf(name, sizeof name, "w-%016llx-%d", (unsigned long long)key, time);
    snprintf(marker, sizeof marker, "%s/%s", seen, name);
    if (syscall(SYS_faccessat, AT_FDCWD, marker, F_OK) == 0 || !spend(seen))
        return false;
    return create(seen, name, call, path + strlen(root));
}

static bool fd_fails(const char *call, int fd)
{
    char link[64];
    char path[4096];
    int keep = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    bool yes = false;
    if (size > 0) {
        path[size] = '\0';
        yes = fails(call, path);
    }
    errno = yes ? ENOSPC : keep;
    return yes;
}

static bool path_fails(const char *call, const char *path)
{
    int keep = errno;
    bool yes = fails(call, path);
    errno = yes ? ENOSPC : keep;
    return yes;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size)
{
    return fd > 2 && fd_fails("write", fd) ? -1 : NEXT(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    return fd_fails("pwrite", fd) ? -1 : NEXT(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    return fd_fails("pwrite", fd) ? -1 : NEXT(pwrite64)(fd, data, size, at);
}

int posix_fallocate(int fd, off_t at, off_t size)
{
    return fd_fails("fallocate", fd) ? ENOSPC : NEXT(posix_fallocate)(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    return fd_fails("fallocate", fd) ? ENOSPC : NEXT(posix_fallocate64)(fd, at, size);
}

int fsync(int fd)
{
    return fd_fails("fsync", fd) ? -1 : NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
    return fd_fails("fsync", fd) ? -1 : NEXT(fdatasync)(fd);
}

int rename(const char *from, const char *to)
{
    return path_fails("rename", to) ? -1 : NEXT(rename)(from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return path_fails("rename", to) ? -1 : NEXT(renameat2)(from_dir, from, to_dir, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    return path_fails("mkdir", path) ? -1 : NEXT(mkdir)(path, mode);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(rest, unsigned) : 0;
    va_end(rest);
    if ((flags & O_CREAT) && access(path, F_OK) != 0 && path_fails("create", path))
        return -1;
    return NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(rest, unsigned) : 0;
    va_end(rest);
    if ((flags & O_CREAT) && access(path, F_OK) != 0 && path_fails("create", path))
        return -1;
    return NEXT(open64)(path, flags, mode);
}
