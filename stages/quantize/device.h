#ifndef RH_QUANTIZE_DEVICE_H
#define RH_QUANTIZE_DEVICE_H

#include <stdint.h>

/*
 * What the worker's device has and what of it is free, for the control thread, which must not wait for
 * a driver: a thread of its own asks every two seconds, and what hangs is that thread. Nothing is known
 * before rh_device_watch(), and of a backend that computes in main memory.
 */

/* Asks once and starts the thread. name: a backend (kernels/backend.h); copied. Once a process. */
void rh_device_watch(const char *name);
/* Asks now, on the calling thread: after memory was given back. Returns what is free. */
uint64_t rh_device_look(void);
/* The last answer, in bytes; both 0: not known. Thread safe. */
void rh_device_memory(uint64_t *total, uint64_t *free);

#endif
