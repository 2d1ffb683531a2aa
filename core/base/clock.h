#ifndef RH_BASE_CLOCK_H
#define RH_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t rh_clock_ns(void);      /* monotonic; for every duration and deadline */
int64_t rh_clock_unix_ns(void); /* wall clock; for display only */
/* "2026-11-24T14:03:22.123Z" */
void rh_clock_format(int64_t unix_ns, char out[32]);

#endif
