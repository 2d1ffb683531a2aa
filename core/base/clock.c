#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t now(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t rh_clock_ns(void)
{
    return now(CLOCK_MONOTONIC);
}

int64_t rh_clock_unix_ns(void)
{
    return now(CLOCK_REALTIME);
}

void rh_clock_format(int64_t unix_ns, char out[32])
{
    time_t seconds = (time_t)(unix_ns / 1000000000);
    struct tm tm = {0};
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 32 - n, ".%03dZ", (int)(unix_ns / 1000000 % 1000));
}
