#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

static void *in(struct rh_case *c, const char *name, int64_t count, double scale)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, RH_CASE_ACT, RH_CASE_IN, count);
    t->scale = (float)scale;
    return t->memory;
}

static float *in_f32(struct rh_case *c, const char *name, int64_t count, double scale,
                     rh_case_fill *fill)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, RH_CASE_F32, RH_CASE_IN, count);
    t->scale = (float)scale;
    t->fill = fill;
    return t->memory;
}

static void *in_whole(struct rh_case *c, const char *name, enum rh_case_type type, int64_t count,
                      rh_case_fill *fill)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, type, RH_CASE_IN, count);
    t->fill = fill;
    return t->memory;
}

static void *out_as(struct rh_case *c, const char *name, enum rh_case_type type, int64_t count,
                    double bound)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, type, RH_CASE_OUT, count);
    t->bound = bound;
    return t->memory;
}

static void *out(struct rh_case *c, const char *name, int64_t count, double bound)
{
    return out_as(c, name, RH_CASE_ACT, count, bound);
}

static float *out_f32(struct rh_case *c, const char *name, int64_t count, double bound)
{
    return out_as(c, name, RH_CASE_F32, count, bound);
}

static void *inout(struct rh_case *c, const char *name, int64_t count, double bound)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, RH_CASE_ACT, RH_CASE_INOUT, count);
    t->bound = bound;
    return t->memory;
}

/* Element `at` of an activation tensor. */
static void *at(const struct rh_case *c, void *memory, int64_t element)
{
    return memory ? (char *)memory + (size_t)element * rh_backend_element_size(c->backend) : NULL;
}

static bool runs(struct rh_case *c, unsigned part)
{
    c->has |= part;
    return c->live && (c->parts & part);
}

/* Bytes are counted for 2-byte activations. */
static void work(struct rh_case *c, int part, double flops, double bytes)
{
    c->flops[part] = flops;
    c->bytes[part] = bytes;
}

/* ---- special inputs ---- */

static uint64_t random_bits(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static double unit(uint64_t *state)
{
    return (double)(random_bits(state) >> 11) / 9007199254740992.0;
}

static void fill_unit(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    float *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = (float)unit(&seed);
}

/* Logarithms of decays: mostly mild, one in sixteen strong. */
static void fill_decay(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    float *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = -(float)((i % 16 == 7 ? 4.0 : 0.1) * unit(&seed));
}

/* d: rows, top_k. Picks land anywhere: a permutation. */
static void fill_slots(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    int64_t *slot = host;
    for (int64_t i = 0; i < count; i++)
        slot[i] = i;
    for (int64_t i = count; i > 1; i--) {
        int64_t j = (int64_t)(random_bits(&seed) % (uint64_t)i);
        int64_t other = slot[i - 1];
        slot[i - 1] = slot[j];
        slot[j] = other;
    }
}

/* d: form, experts, rows. Uneven parts; with few rows some experts get none. */
static void fill_offsets(void *host, int64_t count, const int64_t *d, uint64_t seed)
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

/* d: count, size, sequences there are */
static void fill_rows(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    int64_t *rows = host;
    for (int64_t i = 0; i < count; i++)
        rows[i] = (int64_t)(random_bits(&seed) % (uint64_t)d[2]);
}

/* Angles like those of rotary embeddings, of any frequency. */
static void fill_cos(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d, (void)seed;
    float *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = (float)cos(0.37 * (double)(i % 1009));
}

static void fill_sin(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d, (void)seed;
    float *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = (float)sin(0.37 * (double)(i % 1009));
}

/* ---- products ---- */

/* form, m, n, k, accumulate */
static void do_matmul(struct rh_case *c, const int64_t *d)
{
    int64_t m = d[1], n = d[2], k = d[3];
    bool nt = d[0] == RH_NT, tn = d[0] == RH_TN;
    int64_t pad = n < 1024 ? 8 : 0;
    struct rh_matmul p = {.form = (enum rh_form)d[0], .m = m, .n = n, .k = k, .accumulate = d[4]};
    p.lda = (tn ? m : k) + pad;
    p.ldb = (nt ? k : n) + pad;
    p.ldc = n + pad;
    p.a = in(c, "a", (tn ? k : m) * p.lda, 1.0);
    p.b = in(c, "b", (nt ? n : k) * p.ldb, 1.0 / sqrt((double)k));
    p.c = d[4] ? inout(c, "c", m * p.ldc, ONE) : out(c, "c", m * p.ldc, ONE);
    double elements = (double)m * (double)n;
    work(c, 0, 2.0 * elements * (double)k,
         2.0 * ((double)(m + n) * (double)k + elements * (d[4] ? 2.0 : 1.0)));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->matmul(c->backend, &p);
}

/* form, experts, rows, n, k */
static void do_expert_matmul(struct rh_case *c, const int64_t *d)
{
    int64_t experts = d[1], rows = d[2], n = d[3], k = d[4];
    int64_t w_count = experts * (n * k + 16);
    struct rh_expert_matmul p = {.form = (enum rh_form)d[0],
                                 .experts = experts,
                                 .n = n,
                                 .k = k,
                                 .rows = rows,
                                 .ldx = k,
                                 .ldy = n,
                                 .w_stride = n * k + 16};
    p.offsets = in_whole(c, "offsets", RH_CASE_I64, experts + 1, fill_offsets);
    p.x = in(c, "x", rows * k, 1.0);
    if (d[0] == RH_TN) {
        p.y = in(c, "y", rows * n, 1.0);
        p.w = out(c, "w", w_count, ONE);
    } else {
        p.w = in(c, "w", w_count, 1.0 / sqrt((double)k));
        p.y = out(c, "y", rows * n, ONE);
    }
    work(c, 0, 2.0 * (double)rows * (double)n * (double)k,
         2.0 * ((double)rows * (double)(n + k) + (double)(experts * n * k)));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->expert_matmul(c->backend, &p);
}

/* ---- norms and gates ---- */

/* rows, size, accumulate */
static void do_rms_norm(struct rh_case *c, const int64_t *d)
{
    int64_t count = d[0] * d[1];
    struct rh_rms_norm p = {.rows = d[0], .size = d[1], .eps = 1e-6F, .accumulate = d[2]};
    p.x = in(c, "x", count, 1.5);
    p.w = in_f32(c, "w", d[1], 0.3, NULL);
    p.y = out(c, "y", count, ONE);
    p.dy = in(c, "dy", count, 1.0);
    p.dx = d[2] ? inout(c, "dx", count, ONE) : out(c, "dx", count, ONE);
    work(c, 0, 0.0, 4.0 * (double)count);
    work(c, 1, 0.0, (d[2] ? 8.0 : 6.0) * (double)count);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->rms_norm(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->rms_norm_backward(c->backend, &p);
}

/* rows, seq, heads, size, rot, columns between heads */
static void do_head_norm(struct rh_case *c, const int64_t *d)
{
    int64_t heads = d[2], size = d[3], count = d[0] * heads * size;
    struct rh_head_norm p = {.rows = d[0],
                             .seq = d[1],
                             .heads = heads,
                             .size = size,
                             .rot = d[4],
                             .eps = 1e-6F,
                             .head_stride = size + d[5]};
    p.ldx = heads * p.head_stride + 8;
    p.cos = in_f32(c, "cos", d[1] * d[4] / 2, 1.0, fill_cos);
    p.sin = in_f32(c, "sin", d[1] * d[4] / 2, 1.0, fill_sin);
    p.x = in(c, "x", d[0] * p.ldx, 2.0);
    p.w = in_f32(c, "w", size, 0.3, NULL);
    p.y = out(c, "y", count, MORE);
    p.dy = in(c, "dy", count, 1.0);
    p.dx = out(c, "dx", d[0] * p.ldx, ONE);
    work(c, 0, 0.0, 4.0 * (double)count);
    work(c, 1, 0.0, 6.0 * (double)count);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->head_norm(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->head_norm_backward(c->backend, &p);
}

/* rows, heads, size */
static void do_head_gate(struct rh_case *c, const int64_t *d)
{
    int64_t count = d[0] * d[1] * d[2];
    struct rh_head_gate p = {.rows = d[0], .heads = d[1], .size = d[2], .head_stride = 2 * d[2]};
    p.ldg = d[1] * p.head_stride + 16;
    p.o = in(c, "o", count, 1.0);
    p.gate = at(c, in(c, "gate", d[0] * p.ldg, 2.0), d[2]);
    p.a = out(c, "a", count, MORE);
    p.da = in(c, "da", count, 1.0);
    p.d_o = out(c, "d_o", count, MORE);
    p.dgate = at(c, out(c, "dgate", d[0] * p.ldg, ONE), d[2]);
    work(c, 0, 0.0, 6.0 * (double)count);
    work(c, 1, 0.0, 10.0 * (double)count);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->head_gate(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->head_gate_backward(c->backend, &p);
}

/* rows, heads, size */
static void do_gated_norm(struct rh_case *c, const int64_t *d)
{
    int64_t width = d[1] * d[2], count = d[0] * width;
    struct rh_gated_norm p = {
        .rows = d[0], .heads = d[1], .size = d[2], .eps = 1e-6F, .ldz = width + 16};
    p.o = in(c, "o", count, 0.5);
    p.z = in(c, "z", d[0] * p.ldz, 1.5);
    p.w = in_f32(c, "w", d[2], 1.0, NULL);
    p.y = out(c, "y", count, MORE);
    p.dy = in(c, "dy", count, 1.0);
    p.d_o = out(c, "d_o", count, ONE);
    p.dz = out(c, "dz", d[0] * p.ldz, ONE);
    work(c, 0, 0.0, 6.0 * (double)count);
    work(c, 1, 0.0, 10.0 * (double)count);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->gated_norm(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->gated_norm_backward(c->backend, &p);
}

/* rows, size */
static void do_swiglu(struct rh_case *c, const int64_t *d)
{
    int64_t count = d[0] * d[1];
    struct rh_swiglu p = {.rows = d[0], .size = d[1]};
    p.x = in(c, "x", 2 * count, 2.0);
    p.y = out(c, "y", count, MORE);
    p.dy = in(c, "dy", count, 1.0);
    p.dx = out(c, "dx", 2 * count, MORE);
    work(c, 0, 0.0, 6.0 * (double)count);
    work(c, 1, 0.0, 10.0 * (double)count);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->swiglu(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->swiglu_backward(c->backend, &p);
}

/* ---- attention ---- */

/* batch, seq, heads, kv_heads, size */
static void do_attention(struct rh_case *c, const int64_t *d)
{
    int64_t rows = d[0] * d[1], q = rows * d[2] * d[4], k = rows * d[3] * d[4];
    struct rh_attention p = {.batch = d[0],
                             .seq = d[1],
                             .heads = d[2],
                             .kv_heads = d[3],
                             .size = d[4],
                             .scale = (float)(1.0 / sqrt((double)d[4])),
                             .ldv = d[3] * d[4] + 16,
                             .lddv = d[3] * d[4] + 32};
    p.q = in(c, "q", q, 1.0);
    p.k = in(c, "k", k, 1.0);
    p.v = in(c, "v", rows * p.ldv, 1.0);
    p.o = out(c, "o", q, MORE);
    p.lse = out_f32(c, "lse", d[0] * d[2] * d[1], FP32);
    p.d_o = in(c, "d_o", q, 1.0);
    p.dq = out(c, "dq", q, 1e-2);
    p.dk = out(c, "dk", k, 1e-2);
    p.dv = out(c, "dv", rows * p.lddv, 1e-2);
    double pairs = (double)rows * (double)(d[1] + 1) / 2.0 * (double)(d[2] * d[4]);
    work(c, 0, 4.0 * pairs, 2.0 * (2.0 * (double)q + 2.0 * (double)k));
    work(c, 1, 10.0 * pairs, 2.0 * (4.0 * (double)q + 4.0 * (double)k));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->attention(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->attention_backward(c->backend, &p);
}

/* ---- the gated delta rule ---- */

/* batch, seq, channels, taps */
static void do_conv_silu(struct rh_case *c, const int64_t *d)
{
    int64_t rows = d[0] * d[1], count = rows * d[2];
    struct rh_conv_silu p = {
        .batch = d[0], .seq = d[1], .channels = d[2], .taps = d[3], .ldu = d[2] + 64};
    p.u = in(c, "u", rows * p.ldu, 1.0);
    p.w = in_f32(c, "w", d[3] * d[2], 0.5, NULL);
    p.c = rh_case_tensor(c, "c", RH_CASE_ACT, RH_CASE_SCRATCH, count)->memory;
    p.y = out(c, "y", count, MORE);
    p.dy = in(c, "dy", count, 1.0);
    p.du = out(c, "du", rows * p.ldu, MORE);
    work(c, 0, 0.0, 4.0 * (double)count);
    work(c, 1, 0.0, 6.0 * (double)count);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->conv_silu(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->conv_silu_backward(c->backend, &p);
}

/* rows, key_heads, value_heads, key_size, value_size */
static void do_delta_inputs(struct rh_case *c, const int64_t *d)
{
    int64_t rows = d[0], keys = d[1] * d[3], heads = d[2];
    struct rh_delta_inputs p = {.rows = rows,
                                .key_heads = d[1],
                                .value_heads = heads,
                                .key_size = d[3],
                                .ldm = 2 * keys + heads * d[4],
                                .ldb = 2 * heads + 8};
    p.m = in(c, "m", rows * p.ldm, 1.0);
    void *ba = in(c, "ba", rows * p.ldb, 1.0), *dba = out(c, "dba", rows * p.ldb, MORE);
    p.b = ba;
    p.a = at(c, ba, heads);
    p.a_log = in_f32(c, "a_log", heads, 0.7, NULL);
    p.dt_bias = in_f32(c, "dt_bias", heads, 1.0, NULL);
    p.qn = out(c, "qn", rows * keys, ONE);
    p.kn = out(c, "kn", rows * keys, ONE);
    p.rq = out_f32(c, "rq", rows * d[1], FP32);
    p.rk = out_f32(c, "rk", rows * d[1], FP32);
    p.beta = out_f32(c, "beta", rows * heads, ONE);
    p.g = out_f32(c, "g", rows * heads, FP32);
    p.dq = in(c, "dq", rows * keys, 1.0);
    p.dk = in(c, "dk", rows * keys, 1.0);
    p.dbeta = in_f32(c, "dbeta", rows * heads, 1.0, NULL);
    p.dg = in_f32(c, "dg", rows * heads, 1.0, NULL);
    p.dm = out(c, "dm", rows * p.ldm, MORE);
    p.db = dba;
    p.da = at(c, dba, heads);
    work(c, 0, 0.0, 8.0 * (double)(rows * keys) + 12.0 * (double)(rows * heads));
    work(c, 1, 0.0, 12.0 * (double)(rows * keys) + 16.0 * (double)(rows * heads));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->delta_inputs(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->delta_inputs_backward(c->backend, &p);
}

/* batch, seq, key_heads, value_heads, key_size, value_size */
static void do_delta_rule(struct rh_case *c, const int64_t *d)
{
    int64_t rows = d[0] * d[1], keys = d[2] * d[4], values = d[3] * d[5];
    struct rh_delta_rule p = {.batch = d[0],
                              .seq = d[1],
                              .key_heads = d[2],
                              .value_heads = d[3],
                              .key_size = d[4],
                              .value_size = d[5],
                              .ldv = 2 * keys + values,
                              .lddv = 2 * keys + values};
    p.q = in(c, "q", rows * keys, 1.0 / (double)d[4]);
    p.k = in(c, "k", rows * keys, 1.0 / sqrt((double)d[4]));
    p.v = at(c, in(c, "v", rows * p.ldv, 1.0), 2 * keys);
    p.beta = in_f32(c, "beta", rows * d[3], 1.0, fill_unit);
    p.g = in_f32(c, "g", rows * d[3], 1.0, fill_decay);
    p.o = out(c, "o", rows * values, 1e-2);
    int64_t bytes = c->ops->delta_rule_saved ? c->ops->delta_rule_saved(&p) : 0;
    p.saved = rh_case_tensor(c, "saved", RH_CASE_BYTES, RH_CASE_SCRATCH, bytes)->memory;
    p.d_o = in(c, "d_o", rows * values, 1.0);
    p.dq = out(c, "dq", rows * keys, 1e-2);
    p.dk = out(c, "dk", rows * keys, 1e-2);
    p.dv = at(c, out(c, "dv", rows * p.lddv, 1e-2), 2 * keys);
    p.dbeta = out_f32(c, "dbeta", rows * d[3], 1e-2);
    p.dg = out_f32(c, "dg", rows * d[3], 1e-2);
    /* Per token and value head: 2 products with the state, 64-wide ones within the chunk. */
    double each = (double)(rows * d[3]);
    double forward = each * (6.0 * (double)(d[4] * d[5]) + 64.0 * 4.0 * (double)(d[4] + d[5]));
    work(c, 0, forward, 2.0 * (double)rows * (double)(2 * keys + 2 * values));
    work(c, 1, 2.5 * forward, 2.0 * (double)rows * (double)(4 * keys + 3 * values));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->delta_rule(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->delta_rule_backward(c->backend, &p);
}

/* ---- experts ---- */

/* rows, experts, top_k */
static void do_route(struct rh_case *c, const int64_t *d)
{
    int64_t rows = d[0], experts = d[1], picks = rows * d[2];
    struct rh_route p = {.rows = rows, .experts = experts, .top_k = d[2], .ldl = experts + 7};
    p.logits = in(c, "logits", rows * p.ldl, 1.0);
    p.p = out_f32(c, "p", picks, FP32);
    p.expert = out_as(c, "expert", RH_CASE_I32, picks, 0.0);
    p.slot = out_as(c, "slot", RH_CASE_I64, picks, 0.0);
    p.offsets = out_as(c, "offsets", RH_CASE_I64, experts + 1, 0.0);
    p.shared = out_f32(c, "shared", rows, FP32);
    p.dp = in_f32(c, "dp", picks, 1.0, NULL);
    p.dshared = in_f32(c, "dshared", rows, 1.0, NULL);
    p.dlogits = out(c, "dlogits", rows * p.ldl, ONE);
    work(c, 0, 0.0, 2.0 * (double)(rows * experts) + 16.0 * (double)picks);
    work(c, 1, 0.0, 2.0 * (double)(rows * experts) + 12.0 * (double)picks);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->route(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->route_backward(c->backend, &p);
}

/* rows, top_k, size */
static void do_dispatch(struct rh_case *c, const int64_t *d)
{
    int64_t count = d[0] * d[2], routed = d[1] * count;
    struct rh_dispatch p = {.rows = d[0], .top_k = d[1], .size = d[2]};
    p.slot = in_whole(c, "slot", RH_CASE_I64, d[0] * d[1], fill_slots);
    p.x = in(c, "x", count, 1.0);
    p.y = out(c, "y", routed, 0.0);
    p.dy = in(c, "dy", routed, 1.0);
    p.dx = inout(c, "dx", count, ONE);
    work(c, 0, 0.0, 2.0 * (double)(count + routed));
    work(c, 1, 0.0, 2.0 * (double)(2 * count + routed));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->dispatch(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->dispatch_backward(c->backend, &p);
}

/* rows, top_k, size */
static void do_combine(struct rh_case *c, const int64_t *d)
{
    int64_t count = d[0] * d[2], routed = d[1] * count;
    struct rh_combine p = {.rows = d[0], .top_k = d[1], .size = d[2]};
    p.slot = in_whole(c, "slot", RH_CASE_I64, d[0] * d[1], fill_slots);
    p.h = in(c, "h", count, 1.0);
    p.e = in(c, "e", routed, 1.0);
    p.s = in(c, "s", count, 1.0);
    p.p = in_f32(c, "p", d[0] * d[1], 1.0, fill_unit);
    p.shared = in_f32(c, "shared", d[0], 1.0, fill_unit);
    p.y = out(c, "y", count, ONE);
    p.dy = in(c, "dy", count, 1.0);
    p.de = out(c, "de", routed, ONE);
    p.ds = out(c, "ds", count, ONE);
    p.dp = out_f32(c, "dp", d[0] * d[1], FP32);
    p.dshared = out_f32(c, "dshared", d[0], FP32);
    work(c, 0, 0.0, 2.0 * (double)(3 * count + routed));
    work(c, 1, 0.0, 2.0 * (double)(3 * count + 2 * routed));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->combine(c->backend, &p);
    if (runs(c, RH_CASE_BACKWARD))
        c->ops->combine_backward(c->backend, &p);
}

/* ---- the loop ---- */

static void fill_loss(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    double *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = unit(&seed);
}

/* count, accumulate */
static void do_mse(struct rh_case *c, const int64_t *d)
{
    struct rh_mse p = {.count = d[0], .factor = 1000.0F, .share = 0.25, .accumulate = d[1]};
    p.pred = in(c, "pred", d[0], 1.0);
    p.target = in(c, "target", d[0], 1.0);
    p.grad = out(c, "grad", d[0], ONE);
    struct rh_case_tensor *loss = rh_case_tensor(c, "loss", RH_CASE_F64, RH_CASE_INOUT, 1);
    loss->fill = fill_loss;
    loss->bound = 1e-6;
    p.loss = loss->memory;
    work(c, 0, 0.0, 6.0 * (double)d[0]);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->mse(c->backend, &p);
}

/* count, size, sequences there are */
static void do_gather_rows(struct rh_case *c, const int64_t *d)
{
    struct rh_gather_rows p = {.count = d[0], .size = d[1]};
    p.rows = in_whole(c, "rows", RH_CASE_I64, d[0], fill_rows);
    p.x = in(c, "x", d[1] * d[2], 1.0);
    p.y = out(c, "y", d[0] * d[1], 0.0);
    work(c, 0, 0.0, 4.0 * (double)(d[0] * d[1]));
    if (runs(c, RH_CASE_FORWARD))
        c->ops->gather_rows(c->backend, &p);
}

static void fill_counts(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    int64_t *n = host;
    for (int64_t i = 0; i < count; i++)
        n[i] = (int64_t)(random_bits(&seed) % 1000);
}

/* (unused), experts, rows */
static void do_count_tokens(struct rh_case *c, const int64_t *d)
{
    struct rh_count_tokens p = {.experts = d[1]};
    p.offsets = in_whole(c, "offsets", RH_CASE_I64, d[1] + 1, fill_offsets);
    struct rh_case_tensor *counts = rh_case_tensor(c, "counts", RH_CASE_I64, RH_CASE_INOUT, d[1]);
    struct rh_case_tensor *more = rh_case_tensor(c, "more", RH_CASE_I64, RH_CASE_INOUT, d[1]);
    counts->fill = more->fill = fill_counts;
    p.counts = counts->memory;
    p.more_counts = more->memory;
    work(c, 0, 0.0, 40.0 * (double)d[1]);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->count_tokens(c->backend, &p);
}

/* ---- the lists ---- */

static const struct {
    const char *name;
    void (*run)(struct rh_case *c, const int64_t *dims);
} ops[] = {
    {"matmul", do_matmul},
    {"expert_matmul", do_expert_matmul},
    {"rms_norm", do_rms_norm},
    {"head_norm", do_head_norm},
    {"attention", do_attention},
    {"head_gate", do_head_gate},
    {"conv_silu", do_conv_silu},
    {"delta_inputs", do_delta_inputs},
    {"delta_rule", do_delta_rule},
    {"gated_norm", do_gated_norm},
    {"route", do_route},
    {"dispatch", do_dispatch},
    {"swiglu", do_swiglu},
    {"combine", do_combine},
    {"mse", do_mse},
    {"gather_rows", do_gather_rows},
    {"count_tokens", do_count_tokens},
    {"fake_quant", rh_case_fake_quant},
};

void rh_case_do(struct rh_case *c)
{
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (strcmp(ops[i].name, c->shape->op) == 0) {
            ops[i].run(c, c->shape->dims);
            return;
        }
    }
    fprintf(stderr, "no op \"%s\"\n", c->shape->op);
    exit(2);
}
