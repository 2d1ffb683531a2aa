#ifndef RH_KERNELS_BACKEND_PRIVATE_H
#define RH_KERNELS_BACKEND_PRIVATE_H

#include "cpu/loops.h"
#include "kernels/backend.h"

/* What a backend is made of. The functions are those of kernels/backend.h. */
struct rh_backend_kind {
    const char *name;
    enum rh_dtype dtype;
    int depth;
    const struct rh_ops *ops;
    /* Fills the members of its own; `device` is the number behind the name. close() also after an
     * open() that failed. */
    enum rh_rc (*open)(struct rh_backend *backend, int device, struct rh_error *err);
    void (*close)(struct rh_backend *backend);
    enum rh_rc (*alloc)(struct rh_backend *backend, size_t bytes, const char *what, void **out,
                        struct rh_error *err);
    void (*release)(struct rh_backend *backend, void *memory);
    enum rh_rc (*alloc_host)(struct rh_backend *backend, size_t bytes, const char *what, void **out,
                             struct rh_error *err);
    void (*release_host)(struct rh_backend *backend, void *memory);
    void (*memory)(struct rh_backend *backend, size_t *available, size_t *total);
    enum rh_rc (*upload)(struct rh_backend *backend, void *to, const void *from, size_t bytes,
                         struct rh_error *err);
    enum rh_rc (*download)(struct rh_backend *backend, void *to, const void *from, size_t bytes,
                           struct rh_error *err);
    void (*copy)(struct rh_backend *backend, void *to, const void *from, size_t bytes);
    void (*zero)(struct rh_backend *backend, void *to, size_t bytes);
    enum rh_rc (*sync)(struct rh_backend *backend, struct rh_error *err);
    /* Of a mark: `event` is the backend's, `host` its pinned memory. */
    enum rh_rc (*mark_open)(struct rh_mark *mark, struct rh_error *err);
    void (*mark_close)(struct rh_mark *mark);
    void (*mark_read)(struct rh_mark *mark, const void *from);
    enum rh_rc (*mark_wait)(struct rh_mark *mark, struct rh_error *err);
};

/* What the ops know of the backend. */
struct rh_backend {
    const struct rh_backend_kind *kind;
    const struct rh_ops *ops;
    struct rh_thread_pool *pool;
    char device_name[256];
    /* cpu */
    const struct rh_loops *loops; /* the best this processor has */
    struct rh_scratch {
        void *memory;
        size_t size;
    } * scratch;             /* one per thread */
    struct rh_scratch table; /* of the calling thread, read by all */
    /* cuda */
    struct rh_cuda *cuda;
};

struct rh_mark {
    struct rh_backend *backend;
    size_t bytes;
    void *host;
    void *event;
};

extern const struct rh_backend_kind rh_backend_cpu, rh_backend_reference;
/* There only in programs that link the CUDA backend, or its emulation; NULL address elsewhere. */
extern const struct rh_backend_kind rh_backend_cuda __attribute__((weak));
/* 0 when there is no GPU or no driver. */
int rh_cuda_device_count(void) __attribute__((weak));
/* Both 0 when the device does not answer. */
void rh_cuda_device_memory(int device, size_t *available, size_t *total) __attribute__((weak));

/* cpu: scratch of one thread of the pool, at least `bytes`, kept until the next request of the same
 * thread. Grows; never fails (aborts when memory is gone). */
void *rh_backend_scratch(struct rh_backend *backend, int thread, size_t bytes);
/* cpu: memory that the op's body reads in every thread; kept until the next request. */
void *rh_backend_table(struct rh_backend *backend, size_t bytes);

#endif
