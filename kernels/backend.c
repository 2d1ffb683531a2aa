#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>

#include "backend_private.h"
#include "base/mem.h"

/* "cuda" or "cuda:N"; *device is N. */
static bool is_cuda(const char *name, int *device)
{
    *device = 0;
    if (strcmp(name, "cuda") == 0)
        return true;
    if (strncmp(name, "cuda:", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    char *end = NULL;
    long number = strtol(name + 5, &end, 10);
    *device = (int)number;
    return *end == '\0' && number >= 0 && number < 1024;
}

static enum rh_rc choose(const char *name, const struct rh_backend_kind **kind, int *device,
                         struct rh_error *err)
{
    *device = 0;
    *kind = &rh_backend_cpu;
    if (strcmp(name, "cpu") == 0)
        return RH_OK;
    if (strcmp(name, "reference") == 0) {
        *kind = &rh_backend_reference;
        return RH_OK;
    }
    if (strcmp(name, "auto") == 0) {
        if (&rh_backend_cuda && rh_cuda_device_count() > 0)
            *kind = &rh_backend_cuda;
        return RH_OK;
    }
    if (!is_cuda(name, device))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "unknown backend \"%.40s\"; there are auto, cpu, reference, cuda and "
                       "cuda:<number>",
                       name);
    *kind = &rh_backend_cuda;
    if (!*kind)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "this build has no CUDA; configure with -DRH_CUDA=ON, or use backend cpu");
    return RH_OK;
}

enum rh_rc rh_backend_new(const char *name, int threads, struct rh_backend **out,
                          struct rh_error *err)
{
    const struct rh_backend_kind *kind = NULL;
    int device = 0;
    *out = NULL;
    enum rh_rc rc = choose(name, &kind, &device, err);
    if (rc != RH_OK)
        return rc;
    struct rh_backend *b = rh_alloc(sizeof *b);
    b->kind = kind;
    b->ops = kind->ops;
    b->pool = rh_thread_pool_new(threads);
    rc = kind->open(b, device, err);
    if (rc != RH_OK) {
        rh_backend_free(b);
        return rc;
    }
    *out = b;
    return RH_OK;
}

void rh_backend_device_memory(const char *name, size_t *available, size_t *total)
{
    const struct rh_backend_kind *kind = NULL;
    int device = 0;
    *available = *total = 0;
    if (choose(name, &kind, &device, NULL) == RH_OK && kind == &rh_backend_cuda)
        rh_cuda_device_memory(device, available, total);
}

void rh_backend_free(struct rh_backend *backend)
{
    if (!backend)
        return;
    backend->kind->close(backend);
    rh_thread_pool_free(backend->pool);
    rh_free(backend);
}

const char *rh_backend_name(const struct rh_backend *backend)
{
    return backend->kind->name;
}

const char *rh_backend_device(const struct rh_backend *backend)
{
    return backend->device_name;
}

struct rh_thread_pool *rh_backend_pool(struct rh_backend *backend)
{
    return backend->pool;
}

const struct rh_ops *rh_backend_ops(const struct rh_backend *backend)
{
    return backend->ops;
}

void rh_backend_replace_ops(struct rh_backend *backend, const struct rh_ops *ops)
{
    backend->ops = ops;
}

enum rh_dtype rh_backend_dtype(const struct rh_backend *backend)
{
    return backend->kind->dtype;
}

size_t rh_backend_element_size(const struct rh_backend *backend)
{
    return rh_dtype_size(backend->kind->dtype);
}

int rh_backend_depth(const struct rh_backend *backend)
{
    return backend->kind->depth;
}

enum rh_rc rh_backend_alloc(struct rh_backend *backend, size_t bytes, const char *what, void **out,
                            struct rh_error *err)
{
    return backend->kind->alloc(backend, bytes, what, out, err);
}

void rh_backend_release(struct rh_backend *backend, void *memory)
{
    if (memory)
        backend->kind->release(backend, memory);
}

enum rh_rc rh_backend_alloc_host(struct rh_backend *backend, size_t bytes, const char *what,
                                 void **out, struct rh_error *err)
{
    return backend->kind->alloc_host(backend, bytes, what, out, err);
}

void rh_backend_release_host(struct rh_backend *backend, void *memory)
{
    if (memory)
        backend->kind->release_host(backend, memory);
}

void rh_backend_memory(struct rh_backend *backend, size_t *available, size_t *total)
{
    backend->kind->memory(backend, available, total);
}

enum rh_rc rh_backend_upload(struct rh_backend *backend, void *to, const void *from, size_t bytes,
                             struct rh_error *err)
{
    return backend->kind->upload(backend, to, from, bytes, err);
}

enum rh_rc rh_backend_download(struct rh_backend *backend, void *to, const void *from, size_t bytes,
                               struct rh_error *err)
{
    return backend->kind->download(backend, to, from, bytes, err);
}

void rh_backend_copy(struct rh_backend *backend, void *to, const void *from, size_t bytes)
{
    backend->kind->copy(backend, to, from, bytes);
}

void rh_backend_zero(struct rh_backend *backend, void *to, size_t bytes)
{
    backend->kind->zero(backend, to, bytes);
}

enum rh_rc rh_backend_sync(struct rh_backend *backend, struct rh_error *err)
{
    return backend->kind->sync(backend, err);
}

enum rh_rc rh_mark_new(struct rh_backend *backend, size_t bytes, struct rh_mark **out,
                       struct rh_error *err)
{
    struct rh_mark *mark = rh_alloc(sizeof *mark);
    mark->backend = backend;
    mark->bytes = bytes;
    *out = NULL;
    enum rh_rc rc = rh_backend_alloc_host(backend, bytes, "values of an iteration", &mark->host,
                                          err);
    if (rc == RH_OK)
        rc = backend->kind->mark_open(mark, err);
    if (rc != RH_OK) {
        rh_mark_free(mark);
        return rc;
    }
    *out = mark;
    return RH_OK;
}

void rh_mark_free(struct rh_mark *mark)
{
    if (!mark)
        return;
    mark->backend->kind->mark_close(mark);
    rh_backend_release_host(mark->backend, mark->host);
    rh_free(mark);
}

void rh_mark_read(struct rh_mark *mark, const void *from)
{
    mark->backend->kind->mark_read(mark, from);
}

enum rh_rc rh_mark_wait(struct rh_mark *mark, const void **out, struct rh_error *err)
{
    enum rh_rc rc = mark->backend->kind->mark_wait(mark, err);
    *out = mark->host;
    return rc;
}
