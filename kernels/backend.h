#ifndef RH_KERNELS_BACKEND_H
#define RH_KERNELS_BACKEND_H

#include <stddef.h>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/ops.h"
#include "tensor/dtype.h"

/*
 * Where the numbers are computed: memory, a queue and the op table.
 *   "cpu"        vector loops and matrix products of the processor at hand; f32
 *   "reference"  plain loops that follow the formulas, for tests; slow; f32
 *   "cuda"       one GPU, "cuda:1" the second one; bf16
 *   "auto"       cuda when this build has it and there is a GPU, else cpu
 * Same inputs give the same bytes on one backend, on "cpu" for any number of threads. Ops and
 * queued copies of one backend must not overlap; what says so may be called from other threads.
 */
struct rh_backend;

/* threads (host threads) 0: one per online processor. RH_ERR_ARGUMENT: unknown name.
 * RH_ERR_UNSUPPORTED: not in this build. RH_ERR_DEVICE: no such GPU, or it does not answer. */
RH_MUST_USE enum rh_rc rh_backend_new(const char *name, int threads, struct rh_backend **out,
                                      struct rh_error *err);
void rh_backend_free(struct rh_backend *backend);
const char *rh_backend_name(const struct rh_backend *backend);   /* "cpu", "cuda" */
const char *rh_backend_device(const struct rh_backend *backend); /* "NVIDIA H100 80GB HBM3" */
struct rh_thread_pool *rh_backend_pool(struct rh_backend *backend); /* borrowed */
const struct rh_ops *rh_backend_ops(const struct rh_backend *backend);
/* For measuring: another table (borrowed) whose ops call those of the first. */
void rh_backend_replace_ops(struct rh_backend *backend, const struct rh_ops *ops);

/* Of activations, matrices and their gradients. */
enum rh_dtype rh_backend_dtype(const struct rh_backend *backend);
size_t rh_backend_element_size(const struct rh_backend *backend); /* bytes */

/* Iterations that the host may be ahead of the queue: 1 when ops run at once. */
int rh_backend_depth(const struct rh_backend *backend);

/*
 * Backend memory, 256-byte aligned on a device and 64-byte aligned else, not zeroed; `what` names it
 * in the error. Release (NULL allowed) only what no queued op uses. From any thread.
 */
RH_MUST_USE enum rh_rc rh_backend_alloc(struct rh_backend *backend, size_t bytes, const char *what,
                                        void **out, struct rh_error *err);
void rh_backend_release(struct rh_backend *backend, void *memory);

/* Host memory that copies and rh_ops.gather_rows reach directly (pinned). From any thread. */
RH_MUST_USE enum rh_rc rh_backend_alloc_host(struct rh_backend *backend, size_t bytes,
                                             const char *what, void **out, struct rh_error *err);
void rh_backend_release_host(struct rh_backend *backend, void *memory);

/* Bytes of backend memory that can still be had, and in all; both 0 where nobody knows. */
void rh_backend_memory(struct rh_backend *backend, size_t *available, size_t *total);
/* The same of what rh_backend_new() would open under that name, without opening it; both 0 also where
 * the device does not answer. May wait for the driver. From any thread. */
void rh_backend_device_memory(const char *name, size_t *available, size_t *total);

/* Host to backend memory that no queued op uses; done on return. From any thread. */
RH_MUST_USE enum rh_rc rh_backend_upload(struct rh_backend *backend, void *to, const void *from,
                                         size_t bytes, struct rh_error *err);
/* Backend to host memory, after all that is queued; done on return. */
RH_MUST_USE enum rh_rc rh_backend_download(struct rh_backend *backend, void *to, const void *from,
                                           size_t bytes, struct rh_error *err);

/* Queued, between ops. Either side of the copy may be memory of rh_backend_alloc_host(). */
void rh_backend_copy(struct rh_backend *backend, void *to, const void *from, size_t bytes);
void rh_backend_zero(struct rh_backend *backend, void *to, size_t bytes);

/* Waits for the queue. RH_ERR_DEVICE names the first op or copy that failed since the start. */
RH_MUST_USE enum rh_rc rh_backend_sync(struct rh_backend *backend, struct rh_error *err);

/*
 * Values that leave the queue without stopping it: read() queues a copy of `bytes` of backend memory,
 * wait() returns when it has arrived. A mark is used for one value at a time.
 */
struct rh_mark;
RH_MUST_USE enum rh_rc rh_mark_new(struct rh_backend *backend, size_t bytes, struct rh_mark **out,
                                   struct rh_error *err);
void rh_mark_free(struct rh_mark *mark); /* NULL allowed */
void rh_mark_read(struct rh_mark *mark, const void *from);
/* *out: the value, valid until the next read. */
RH_MUST_USE enum rh_rc rh_mark_wait(struct rh_mark *mark, const void **out, struct rh_error *err);

#endif
