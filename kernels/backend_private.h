#ifndef RH_KERNELS_BACKEND_PRIVATE_H
#define RH_KERNELS_BACKEND_PRIVATE_H

#include "cpu/loops.h"
#include "kernels/backend.h"

/* What the ops know of the backend. */
struct rh_backend {
    const char *name;
    const struct rh_ops *ops;
    struct rh_thread_pool *pool;
    const struct rh_loops *loops; /* the best this processor has */
    struct rh_scratch {
        void *memory;
        size_t size;
    } * scratch;             /* one per thread */
    struct rh_scratch table; /* of the calling thread, read by all */
};

/* Memory that the op's body reads in every thread; kept until the next request. */
void *rh_backend_table(struct rh_backend *backend, size_t bytes);

/* Chooses the loops and keeps OpenBLAS to the calling thread. */
void rh_cpu_start(struct rh_backend *backend);

#endif
