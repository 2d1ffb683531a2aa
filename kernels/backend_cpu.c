/* madvise() */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "backend_private.h"
#include "base/mem.h"
#include "cpu/ops_cpu.h"
#include "reference/ops_reference.h"

/* Spare room, so that threads do not share a cache line and growth is rare. */
#define SCRATCH_STEP ((size_t)1 << 16)
#define LARGE_PAGE   ((size_t)1 << 21)
/* Bytes that one thread copies at a time. */
#define COPY_PART ((size_t)1 << 18)

static enum rh_rc open_cpu(struct rh_backend *b, int device, struct rh_error *err)
{
    (void)device;
    (void)err;
    b->scratch = rh_alloc_array((size_t)rh_thread_pool_size(b->pool), sizeof *b->scratch);
    b->loops = rh_loops_best();
    /* Decays of far tokens and small probabilities come down there; nothing that counts does. */
    rh_thread_pool_flush_subnormals(b->pool, true);
    snprintf(b->device_name, sizeof b->device_name, "%d threads, %s",
             rh_thread_pool_size(b->pool), b->loops->name);
    return RH_OK;
}

static void close_cpu(struct rh_backend *b)
{
    for (int i = 0; i < rh_thread_pool_size(b->pool); i++)
        rh_free(b->scratch[i].memory);
    rh_free(b->scratch);
    rh_free(b->table.memory);
}

/* Loops run through tens of megabytes: with large pages they miss fewer addresses. A wish only. */
static void prefer_large_pages(void *memory, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    uintptr_t begin = ((uintptr_t)memory + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    uintptr_t end = ((uintptr_t)memory + bytes) / LARGE_PAGE * LARGE_PAGE;
    if (end > begin)
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
}

static enum rh_rc alloc_cpu(struct rh_backend *b, size_t bytes, const char *what, void **out,
                            struct rh_error *err)
{
    (void)b;
    enum rh_rc rc = rh_try_alloc(bytes, what, out, err);
    if (rc == RH_OK)
        prefer_large_pages(*out, bytes);
    return rc;
}

static void release_cpu(struct rh_backend *b, void *memory)
{
    (void)b;
    rh_free(memory);
}

static void memory_cpu(struct rh_backend *b, size_t *available, size_t *total)
{
    (void)b;
    *available = *total = 0;
}

static enum rh_rc transfer_cpu(struct rh_backend *b, void *to, const void *from, size_t bytes,
                               struct rh_error *err)
{
    (void)b;
    (void)err;
    memcpy(to, from, bytes);
    return RH_OK;
}

struct copy {
    char *to;
    const char *from;
    size_t bytes;
};

static void copy_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct copy *c = arg;
    for (int64_t i = begin; i < end; i++) {
        size_t at = (size_t)i * COPY_PART;
        memcpy(c->to + at, c->from + at, c->bytes - at < COPY_PART ? c->bytes - at : COPY_PART);
    }
}

static void copy_cpu(struct rh_backend *b, void *to, const void *from, size_t bytes)
{
    struct copy c = {to, from, bytes};
    rh_parallel_for(b->pool, (int64_t)((bytes + COPY_PART - 1) / COPY_PART), 1, copy_parts, &c);
}

static void zero_cpu(struct rh_backend *b, void *to, size_t bytes)
{
    (void)b;
    memset(to, 0, bytes);
}

static enum rh_rc sync_cpu(struct rh_backend *b, struct rh_error *err)
{
    (void)b;
    (void)err;
    return RH_OK;
}

static enum rh_rc mark_open_cpu(struct rh_mark *mark, struct rh_error *err)
{
    (void)mark;
    (void)err;
    return RH_OK;
}

static void mark_close_cpu(struct rh_mark *mark)
{
    (void)mark;
}

static void mark_read_cpu(struct rh_mark *mark, const void *from)
{
    memcpy(mark->host, from, mark->bytes);
}

static enum rh_rc mark_wait_cpu(struct rh_mark *mark, struct rh_error *err)
{
    (void)mark;
    (void)err;
    return RH_OK;
}

/* Host memory, and ops that run at once. */
#define ON_HOST                                                                                    \
    .dtype = RH_F32, .depth = 1, .open = open_cpu, .close = close_cpu, .alloc = alloc_cpu,         \
    .release = release_cpu, .alloc_host = alloc_cpu, .release_host = release_cpu,                  \
    .memory = memory_cpu, .upload = transfer_cpu, .download = transfer_cpu, .copy = copy_cpu,      \
    .zero = zero_cpu, .sync = sync_cpu, .mark_open = mark_open_cpu, .mark_close = mark_close_cpu,  \
    .mark_read = mark_read_cpu, .mark_wait = mark_wait_cpu

const struct rh_backend_kind rh_backend_cpu = {.name = "cpu", .ops = &rh_ops_cpu, ON_HOST};
const struct rh_backend_kind rh_backend_reference = {.name = "reference",
                                                     .ops = &rh_ops_reference, ON_HOST};

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
