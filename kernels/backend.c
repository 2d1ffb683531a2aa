#include "kernels/backend.h"

#include <string.h>

#include "base/mem.h"
#include "backend_private.h"

/* Spare room, so that threads do not share a cache line and growth is rare. */
#define SCRATCH_STEP ((size_t)1 << 16)

static const struct kind {
    const char *name;
    const struct rh_ops *ops;
} kinds[] = {{"cpu", &rh_ops_cpu}, {"reference", &rh_ops_reference}};

enum rh_rc rh_backend_new(const char *name, int threads, struct rh_backend **out,
                          struct rh_error *err)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, name) != 0)
            continue;
        struct rh_backend *b = rh_alloc(sizeof *b);
        b->name = kinds[i].name;
        b->ops = kinds[i].ops;
        b->pool = rh_thread_pool_new(threads);
        b->scratch = rh_alloc_array((size_t)rh_thread_pool_size(b->pool), sizeof *b->scratch);
        rh_cpu_start(b);
        *out = b;
        return RH_OK;
    }
    return rh_fail(err, RH_ERR_ARGUMENT, "unknown backend \"%s\"; there are cpu and reference",
                   name);
}

void rh_backend_free(struct rh_backend *backend)
{
    if (!backend)
        return;
    for (int i = 0; i < rh_thread_pool_size(backend->pool); i++)
        rh_free(backend->scratch[i].memory);
    rh_free(backend->scratch);
    rh_free(backend->table.memory);
    rh_thread_pool_free(backend->pool);
    rh_free(backend);
}

const char *rh_backend_name(const struct rh_backend *backend)
{
    return backend->name;
}

struct rh_thread_pool *rh_backend_pool(struct rh_backend *backend)
{
    return backend->pool;
}

const struct rh_ops *rh_backend_ops(const struct rh_backend *backend)
{
    return backend->ops;
}

enum rh_rc rh_backend_alloc(struct rh_backend *backend, size_t bytes, const char *what, void **out,
                            struct rh_error *err)
{
    (void)backend; /* host memory in both kinds */
    return rh_try_alloc(bytes, what, out, err);
}

void rh_backend_release(struct rh_backend *backend, void *memory)
{
    (void)backend;
    rh_free(memory);
}

static void *grow(struct rh_scratch *s, size_t bytes)
{
    if (bytes > s->size) {
        size_t size = (bytes / SCRATCH_STEP + 1) * SCRATCH_STEP;
        rh_free(s->memory);
        s->memory = NULL;
        struct rh_error err;
        if (rh_try_alloc(size, "scratch memory of a kernel", &s->memory, &err) != RH_OK)
            rh_assert_failed(err.message, __FILE__, __LINE__);
        s->size = size;
    }
    return s->memory;
}

void *rh_backend_scratch(struct rh_backend *backend, int thread, size_t bytes)
{
    return grow(&backend->scratch[thread], bytes);
}

void *rh_backend_table(struct rh_backend *backend, size_t bytes)
{
    return grow(&backend->table, bytes);
}
