#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

static pthread_mutex_t crash_lock = PTHREAD_MUTEX_INITIALIZER;
static long crash_visits;

void rh_crash_point(const char *point)
{
    const char *wanted = getenv("RH_CRASH_AT");
    if (!wanted)
        return;
    size_t size = strcspn(wanted, ":");
    if (strlen(point) != size || strncmp(point, wanted, size) != 0)
        return;
    long visit = wanted[size] == ':' ? strtol(wanted + size + 1, NULL, 10) : 1;
    pthread_mutex_lock(&crash_lock);
    bool now = ++crash_visits == visit;
    pthread_mutex_unlock(&crash_lock);
    if (now)
        raise(SIGKILL);
}
