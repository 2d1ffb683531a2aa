#include <stddef.h>

#include "op_declare.h"

/* Logarithms of decays: mostly mild, one in sixteen strong. */
static void fill_decay(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    float *f = host;
    for (int64_t i = 0; i < count; i++)
        f[i] = -(float)((i % 16 == 7 ? 4.0 : 0.1) * unit(&seed));
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

/* ---- the list ---- */

static const struct {
    const char *name;
    rh_case_op *run;
    size_t entry;
} ops[] = {
    {"matmul", do_matmul, offsetof(struct rh_ops, matmul)},
    {"rms_norm", do_rms_norm, offsetof(struct rh_ops, rms_norm)},
    {"head_norm", do_head_norm, offsetof(struct rh_ops, head_norm)},
    {"attention", do_attention, offsetof(struct rh_ops, attention)},
    {"head_gate", do_head_gate, offsetof(struct rh_ops, head_gate)},
    {"conv_silu", do_conv_silu, offsetof(struct rh_ops, conv_silu)},
    {"delta_inputs", do_delta_inputs, offsetof(struct rh_ops, delta_inputs)},
    {"delta_rule", do_delta_rule, offsetof(struct rh_ops, delta_rule)},
    {"gated_norm", do_gated_norm, offsetof(struct rh_ops, gated_norm)},
};

rh_case_op *rh_case_mixer_op(const char *name, size_t *entry)
{
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (strcmp(ops[i].name, name) == 0) {
            *entry = ops[i].entry;
            return ops[i].run;
        }
    }
    return NULL;
}
