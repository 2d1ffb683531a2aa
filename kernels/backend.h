#ifndef RH_KERNELS_BACKEND_H
#define RH_KERNELS_BACKEND_H

#include <stddef.h>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"

/*
 * Where the numbers are computed: memory and the op table.
 *   "cpu"        OpenBLAS over a fixed tiling and own vector loops; the one to use
 *   "reference"  plain loops that follow the formulas, for tests; slow
 * Results of "cpu" are the same bytes for any number of threads. Calls on one backend must not
 * overlap.
 */
struct rh_backend;

/* threads 0: one per online processor. RH_ERR_ARGUMENT: unknown name. */
RH_MUST_USE enum rh_rc rh_backend_new(const char *name, int threads, struct rh_backend **out,
                                      struct rh_error *err);
void rh_backend_free(struct rh_backend *backend);
const char *rh_backend_name(const struct rh_backend *backend);
struct rh_thread_pool *rh_backend_pool(struct rh_backend *backend); /* borrowed */
const struct rh_ops *rh_backend_ops(const struct rh_backend *backend);

/* Backend memory, not zeroed; `what` names it in the error. release: NULL allowed. */
RH_MUST_USE enum rh_rc rh_backend_alloc(struct rh_backend *backend, size_t bytes, const char *what,
                                        void **out, struct rh_error *err);
void rh_backend_release(struct rh_backend *backend, void *memory);

/* For the ops: scratch of one thread of the pool, at least `bytes`, kept until the next request of
 * the same thread. Grows; never fails (aborts when memory is gone). */
void *rh_backend_scratch(struct rh_backend *backend, int thread, size_t bytes);

#endif
