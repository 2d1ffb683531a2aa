#include "op_declare.h"

#include <stdio.h>
#include <stdlib.h>

#include "tensor/dtype.h"

/* Big tensors repeat their first elements: making gigabytes of random numbers takes too long. */
#define FRESH ((int64_t)1 << 22)

static void *must(void *memory)
{
    if (!memory) {
        fprintf(stderr, "out of host memory\n");
        exit(2);
    }
    return memory;
}

static void must_rc(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK) {
        fprintf(stderr, "%s\n", err->message);
        exit(2);
    }
}

size_t rh_case_width(enum rh_case_type type)
{
    static const size_t widths[] = {4, 4, 8, 4, 8, 1};
    return widths[type];
}

static size_t width_there(const struct rh_case *c, enum rh_case_type type)
{
    return type == RH_CASE_ACT ? rh_backend_element_size(c->backend) : rh_case_width(type);
}

struct rh_case_tensor *rh_case_tensor(struct rh_case *c, const char *name, enum rh_case_type type,
                                      enum rh_case_role role, int64_t count)
{
    for (int i = 0; i < c->count; i++) {
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    }
    if (c->count == RH_CASE_TENSORS || c->live) {
        fprintf(stderr, "%s: no room for tensor %s\n", c->shape->op, name);
        exit(2);
    }
    struct rh_case_tensor *t = &c->tensors[c->count++];
    *t = (struct rh_case_tensor){
        .name = name, .type = type, .role = role, .count = count, .scale = 1.0F};
    return t;
}

static uint64_t next_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

/* About normal: the sum of four uniform numbers, variance 1. */
static float about_normal(uint64_t *state)
{
    uint64_t bits = next_random(state);
    float sum = 0.0F;
    for (int i = 0; i < 4; i++)
        sum += (float)(bits >> (16 * i) & 0xffffU);
    return (sum / 65536.0F - 2.0F) * 1.7320508F;
}

static uint64_t seed_of(const struct rh_case *c, const char *name)
{
    uint64_t seed = c->seed;
    for (; *name; name++)
        seed = seed * 0x100000001b3U + (unsigned char)*name;
    return seed;
}

/* Host values of the first `count` elements. */
static void *make_values(const struct rh_case *c, const struct rh_case_tensor *t, int64_t count)
{
    void *host = must(malloc((size_t)count * rh_case_width(t->type) + 1));
    uint64_t seed = seed_of(c, t->name);
    if (t->fill) {
        t->fill(host, count, c->shape->dims, seed);
    } else {
        float *f = host;
        for (int64_t i = 0; i < count; i++)
            f[i] = t->scale * about_normal(&seed);
    }
    if (t->type == RH_CASE_ACT) {
        float *f = host;
        for (int64_t i = 0; i < count; i++)
            f[i] = rh_bf16_to_f32(rh_f32_to_bf16(f[i]));
    }
    return host;
}

static void upload(struct rh_case *c, struct rh_case_tensor *t)
{
    struct rh_error err;
    int64_t fresh = t->fill || t->count < FRESH ? t->count : FRESH;
    void *host = make_values(c, t, fresh);
    size_t width = width_there(c, t->type);
    void *there = host;
    if (t->type == RH_CASE_ACT && rh_backend_dtype(c->backend) != RH_F32) {
        there = must(malloc((size_t)fresh * width + 1));
        rh_from_f32(rh_backend_dtype(c->backend), host, there, (size_t)fresh);
    }
    must_rc(rh_backend_upload(c->backend, t->memory, there, (size_t)fresh * width, &err), &err);
    for (int64_t done = fresh; done < t->count; done *= 2) {
        int64_t more = t->count - done < done ? t->count - done : done;
        rh_backend_copy(c->backend, (char *)t->memory + (size_t)done * width, t->memory,
                        (size_t)more * width);
    }
    if (there != host)
        free(there);
    free(host);
}

static void poison(struct rh_case *c, const struct rh_case_tensor *t)
{
    struct rh_error err;
    size_t bytes = (size_t)t->count * width_there(c, t->type);
    size_t piece = bytes < (size_t)FRESH ? bytes : (size_t)FRESH;
    void *ones = must(malloc(piece + 1));
    memset(ones, 0xff, piece);
    must_rc(rh_backend_upload(c->backend, t->memory, ones, piece, &err), &err);
    for (size_t done = piece; done < bytes; done *= 2)
        rh_backend_copy(c->backend, (char *)t->memory + done, t->memory,
                        bytes - done < done ? bytes - done : done);
    free(ones);
}

void rh_case_reset(struct rh_case *c)
{
    for (int i = 0; i < c->count; i++) {
        struct rh_case_tensor *t = &c->tensors[i];
        if (t->count == 0)
            continue;
        if (t->role == RH_CASE_IN || t->role == RH_CASE_INOUT)
            upload(c, t);
        else
            poison(c, t);
    }
}

static rh_case_op *op_of(const char *name, size_t *entry)
{
    rh_case_op *op = rh_case_mixer_op(name, entry);
    if (!op)
        op = rh_case_moe_op(name, entry);
    if (!op) {
        fprintf(stderr, "no op \"%s\"\n", name);
        exit(2);
    }
    return op;
}

static void declare_or_run(struct rh_case *c)
{
    size_t entry;
    op_of(c->shape->op, &entry)(c, c->shape->dims);
}

static bool is_written(const struct rh_case *c)
{
    static const char nothing[sizeof(void (*)(void))];
    size_t entry;
    op_of(c->shape->op, &entry);
    return memcmp((const char *)c->ops + entry, nothing, sizeof nothing) != 0;
}

bool rh_case_open(struct rh_case *c, struct rh_backend *backend, const struct rh_op_shape *shape,
                  uint64_t seed)
{
    struct rh_error err;
    *c = (struct rh_case){
        .backend = backend, .ops = rh_backend_ops(backend), .shape = shape, .seed = seed};
    if (!is_written(c)) {
        fprintf(stderr, "%s: not written for backend %s\n", shape->op, rh_backend_name(backend));
        return false;
    }
    declare_or_run(c);
    for (int i = 0; i < c->count; i++) {
        struct rh_case_tensor *t = &c->tensors[i];
        size_t bytes = (size_t)t->count * width_there(c, t->type);
        if (rh_backend_alloc(backend, bytes + 16, t->name, &t->memory, &err) != RH_OK) {
            fprintf(stderr, "%s: %s\n", shape->op, err.message);
            rh_case_close(c);
            return false;
        }
    }
    rh_case_reset(c);
    c->live = true;
    return true;
}

void rh_case_close(struct rh_case *c)
{
    for (int i = 0; i < c->count; i++)
        rh_backend_release(c->backend, c->tensors[i].memory);
    c->count = 0;
}

void rh_case_run(struct rh_case *c, unsigned parts)
{
    c->parts = parts & c->has;
    declare_or_run(c);
}

void *rh_case_read(struct rh_case *c, const struct rh_case_tensor *t)
{
    struct rh_error err;
    size_t count = (size_t)t->count;
    size_t width = width_there(c, t->type);
    void *there = must(malloc(count * width + 1));
    must_rc(rh_backend_download(c->backend, there, t->memory, count * width, &err), &err);
    if (t->type != RH_CASE_ACT || rh_backend_dtype(c->backend) == RH_F32)
        return there;
    float *host = must(malloc(count * sizeof *host + 1));
    rh_to_f32(rh_backend_dtype(c->backend), there, host, count);
    free(there);
    return host;
}

void rh_case_label(const struct rh_op_shape *shape, char *out, size_t size)
{
    int last = RH_CASE_DIMS;
    while (last > 1 && shape->dims[last - 1] == 0)
        last--;
    size_t used = (size_t)snprintf(out, size, "%s", shape->op);
    for (int i = 0; i < last && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, " %lld", (long long)shape->dims[i]);
}
