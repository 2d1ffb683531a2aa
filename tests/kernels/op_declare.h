#ifndef RH_TESTS_KERNELS_OP_DECLARE_H
#define RH_TESTS_KERNELS_OP_DECLARE_H

/* For the functions of the ops: op_runs_mixer.c and op_runs_moe.c. */
#include <math.h>
#include <string.h>

#include "op_cases.h"

/*
 * One function per op: it names its tensors, states the work, and calls the op when the case is live.
 * Bounds are relative L2 differences from the CPU, whose values are fp32. Rounding one value to bf16 costs at
 * most 2^-9 = 2e-3 and about 1.1e-3 in the mean square; ONE is for outputs rounded once, MORE for those whose
 * inputs inside the op were rounded too.
 */
#define ONE   2.5e-3
#define MORE  6e-3
#define FP32  1e-4 /* fp32 results of bf16 inputs: the order of sums and the exponential of the hardware */

/* ---- naming tensors ---- */

static inline void *in(struct rh_case *c, const char *name, int64_t count, double scale)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, RH_CASE_ACT, RH_CASE_IN, count);
    t->scale = (float)scale;
    return t->memory;
}

static inline float *in_f32(struct rh_case *c, const char *name, int64_t count, double scale,
                     rh_case_fill *fill)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, RH_CASE_F32, RH_CASE_IN, count);
    t->scale = (float)scale;
    t->fill = fill;
    return t->memory;
}

static inline void *in_whole(struct rh_case *c, const char *name, enum rh_case_type type, int64_t count,
                      rh_case_fill *fill)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, type, RH_CASE_IN, count);
    t->fill = fill;
    return t->memory;
}

static inline void *out_as(struct rh_case *c, const char *name, enum rh_case_type type, int64_t count,
                    double bound)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, type, RH_CASE_OUT, count);
    t->bound = bound;
    return t->memory;
}

static inline void *out(struct rh_case *c, const char *name, int64_t count, double bound)
{
    return out_as(c, name, RH_CASE_ACT, count, bound);
}

static inline float *out_f32(struct rh_case *c, const char *name, int64_t count, double bound)
{
    return out_as(c, name, RH_CASE_F32, count, bound);
}

static inline void *inout(struct rh_case *c, const char *name, int64_t count, double bound)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, RH_CASE_ACT, RH_CASE_INOUT, count);
    t->bound = bound;
    return t->memory;
}

/* Element `at` of an activation tensor. */
static inline void *at(const struct rh_case *c, void *memory, int64_t element)
{
    return memory ? (char *)memory + (size_t)element * rh_backend_element_size(c->backend) : NULL;
}

static inline bool runs(struct rh_case *c, unsigned part)
{
    c->has |= part;
    return c->live && (c->parts & part);
}

/* Bytes are counted for 2-byte activations. */
static inline void work(struct rh_case *c, int part, double flops, double bytes)
{
    c->flops[part] = flops;
    c->bytes[part] = bytes;
}

/* ---- special inputs ---- */

static inline uint64_t random_bits(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static inline double unit(uint64_t *state)
{
    return (double)(random_bits(state) >> 11) / 9007199254740992.0;
}

static inline void fill_unit(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    float *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = (float)unit(&seed);
}

/* d: form, experts, rows. Uneven parts; with few rows some experts get none. */
static inline void fill_offsets(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    int64_t *offsets = host;
    int64_t experts = count - 1;
    memset(offsets, 0, (size_t)count * sizeof *offsets);
    for (int64_t i = 0; i < d[2]; i++) {
        double u = unit(&seed);
        int64_t e = (int64_t)((experts >= 64 ? u : u * u) * (double)experts);
        offsets[(e == 1 && experts > 2 ? 2 : e) + 1]++;
    }
    for (int64_t e = 0; e < experts; e++)
        offsets[e + 1] += offsets[e];
}

/* The function of an op and where it stands in the op table; NULL when it is not in that half of the list. */
typedef void rh_case_op(struct rh_case *c, const int64_t *dims);
rh_case_op *rh_case_mixer_op(const char *name, size_t *entry);
rh_case_op *rh_case_moe_op(const char *name, size_t *entry);

#endif
