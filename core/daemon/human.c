#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/daemon.h"

char *rh_human_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    if (!isfinite(bytes) || bytes < 0)
        return rh_strdup("?");
    /* 1023.95 would be printed as 1024.0. */
    while (bytes >= (unit == 0 ? 1023.5 : 1023.95) && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    return rh_format("%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
}

char *rh_human_seconds(double seconds)
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e12)
        return rh_strdup("?");
    if (seconds < 9.95)
        return rh_format("%.1fs", seconds);
    long long total = llround(seconds);
    if (total < 60)
        return rh_format("%llds", total);
    if (total < 3600)
        return rh_format("%lldm %llds", total / 60, total % 60);
    if (total < 86400)
        return rh_format("%lldh %lldm", total / 3600, total / 60 % 60);
    return rh_format("%lldd %lldh", total / 86400, total / 3600 % 24);
}

char *rh_human_count(long long count)
{
    char digits[32];
    char out[48];
    size_t used = 0;
    snprintf(digits, sizeof digits, "%lld", count);
    size_t sign = digits[0] == '-' ? 1 : 0;
    size_t size = strlen(digits);
    for (size_t i = 0; i < size; i++) {
        if (i > sign && (size - i) % 3 == 0)
            out[used++] = ',';
        out[used++] = digits[i];
    }
    return rh_strndup(out, used);
}
