#include "base/crash.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WANTED_MAX 32

static pthread_mutex_t crash_lock = PTHREAD_MUTEX_INITIALIZER;
static long crash_visits[WANTED_MAX];

/* Is this the first process that comes here? */
static bool first_to_create(const char *file, size_t size)
{
    char path[4096];
    if (size >= sizeof path)
        return false;
    memcpy(path, file, size);
    path[size] = '\0';
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* `wanted` begins with one "<point>[:n[:file]]" of `size` bytes. */
static void visit(const char *point, const char *wanted, size_t size, long *visits)
{
    size_t name = strcspn(wanted, ":,");
    if (strlen(point) != name || strncmp(point, wanted, name) != 0)
        return;
    char *rest = NULL;
    long wanted_visit = wanted[name] == ':' ? strtol(wanted + name + 1, &rest, 10) : 1;
    pthread_mutex_lock(&crash_lock);
    bool now = ++*visits == wanted_visit;
    pthread_mutex_unlock(&crash_lock);
    const char *end = wanted + size;
    if (now && (!rest || *rest != ':' || first_to_create(rest + 1, (size_t)(end - rest - 1))))
        raise(SIGKILL);
}

void rh_crash_point(const char *point)
{
    const char *wanted = getenv("RH_CRASH_AT");
    for (size_t i = 0; wanted && *wanted && i < WANTED_MAX; i++) {
        size_t size = strcspn(wanted, ",");
        visit(point, wanted, size, &crash_visits[i]);
        wanted += size + (wanted[size] == ',');
    }
}
