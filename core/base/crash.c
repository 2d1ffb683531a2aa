#include "base/crash.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t crash_lock = PTHREAD_MUTEX_INITIALIZER;
static long crash_visits;

/* Is this the first process that comes here? */
static bool first_to_create(const char *file)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

void rh_crash_point(const char *point)
{
    const char *wanted = getenv("RH_CRASH_AT");
    if (!wanted)
        return;
    size_t size = strcspn(wanted, ":");
    if (strlen(point) != size || strncmp(point, wanted, size) != 0)
        return;
    char *rest = NULL;
    long visit = wanted[size] == ':' ? strtol(wanted + size + 1, &rest, 10) : 1;
    pthread_mutex_lock(&crash_lock);
    bool now = ++crash_visits == visit;
    pthread_mutex_unlock(&crash_lock);
    if (now && (!rest || *rest != ':' || first_to_create(rest + 1)))
        raise(SIGKILL);
}
