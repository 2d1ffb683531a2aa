#include "device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "kernels/backend.h"

#define PERIOD_S 2

static char *watched; /* set before the thread starts, for the life of the process */
static _Atomic uint64_t last_total, last_free;

uint64_t rh_device_look(void)
{
    size_t available = 0;
    size_t total = 0;
    if (watched)
        rh_backend_device_memory(watched, &available, &total);
    if (total == 0)
        return atomic_load(&last_free); /* a device that does not answer has not shrunk */
    atomic_store(&last_total, total);
    atomic_store(&last_free, available);
    return available;
}

static void *watch(void *unused)
{
    const struct timespec pause = {.tv_sec = PERIOD_S};
    (void)unused;
    for (;;) {
        nanosleep(&pause, NULL);
        rh_device_look();
    }
    return NULL;
}

void rh_device_watch(const char *name)
{
    pthread_t thread;
    watched = rh_strdup(name);
    rh_device_look();
    if (atomic_load(&last_total) == 0)
        return; /* main memory, or no device */
    if (pthread_create(&thread, NULL, watch, NULL) != 0) {
        rh_log(RH_LOG_WARN, "device.unwatched", "why=\"no thread to be had\"");
        return;
    }
    pthread_detach(thread);
}

void rh_device_memory(uint64_t *total, uint64_t *free)
{
    *total = atomic_load(&last_total);
    *free = atomic_load(&last_free);
}
