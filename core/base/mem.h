#ifndef RH_BASE_MEM_H
#define RH_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

/*
 * Two tiers. Small allocations whose size does not come from input abort when memory is gone.
 * Anything sized by input or recipe goes through rh_try_alloc() and can fail.
 */
void *rh_alloc(size_t size);                     /* zeroed; never NULL */
void *rh_alloc_array(size_t count, size_t size); /* zeroed, overflow checked; never NULL */
void *rh_realloc_array(void *p, size_t count, size_t size); /* new part not zeroed; never NULL */
char *rh_strdup(const char *text);                          /* NULL stays NULL */
char *rh_strndup(const char *text, size_t size);
char *rh_format(const char *format, ...) RH_PRINTF(1, 2); /* owned by caller */

/* 64-byte aligned, not zeroed; `what` names the object in the error. */
RH_MUST_USE enum rh_rc rh_try_alloc(size_t size, const char *what, void **out,
                                    struct rh_error *err);

void rh_free(void *p); /* also for rh_try_alloc(); NULL allowed */

/* Cuts one block of memory into arrays, in two passes over one list: sizes first, then places. */
struct rh_carver {
    char *base; /* of the block, whatever memory it is; NULL: only measure */
    size_t used;
};

/* The next `count` elements of `size` bytes, at a multiple of 256; NULL while only measuring. */
void *rh_carve(struct rh_carver *carver, int64_t count, size_t size);

#endif
