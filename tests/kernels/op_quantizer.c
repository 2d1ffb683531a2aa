#include <stdlib.h>
#include <string.h>

#include "op_cases.h"

/*
 * The quantizer of a block (kernels/tune_ops.h). Forward is the start, backward one step that also
 * writes codes when asked to. Everything but weight_q, which is rounded to bf16 on a GPU, is held to
 * the bytes of the CPU. The first items are experts that get no token now and then.
 */
#define EXPERTS 16

/* items, out_features, in_features, group, bits, sym, emit, search */
enum { ITEMS, OUT, IN, GROUP, BITS, SYM, EMIT, SEARCH };

static int64_t stride_of(const int64_t *d)
{
    return (d[OUT] * d[IN] + 15) / 16 * 16;
}

static int64_t groups_of(const int64_t *d)
{
    return (d[IN] + d[GROUP] - 1) / d[GROUP];
}

static void fill_items(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)count;
    (void)seed;
    struct rh_quant_item *items = host;
    for (int64_t i = 0; i < d[ITEMS]; i++)
        items[i] = (struct rh_quant_item){.out_features = d[OUT],
                                          .in_features = d[IN],
                                          .at = i * stride_of(d),
                                          .group_at = i * d[OUT] * groups_of(d),
                                          .row_at = i * d[OUT],
                                          .group = d[GROUP],
                                          .groups = groups_of(d),
                                          .expert = i < EXPERTS ? (int32_t)i : -1,
                                          .bits = (int32_t)d[BITS],
                                          .sym = (int32_t)d[SYM]};
}

static void fill_tokens(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    (void)seed;
    int64_t *tokens = host;
    for (int64_t i = 0; i < count; i++)
        tokens[i] = i % 5 == 3 ? 0 : 100 + i;
}

static void fill_emit(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)count;
    (void)seed;
    *(int32_t *)host = (int32_t)d[EMIT];
}

static void fill_fault(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d;
    (void)seed;
    memset(host, 0xff, (size_t)count * sizeof(uint64_t)); /* RH_FAULT_NONE */
}

static void *filled(struct rh_case *c, const char *name, enum rh_case_type type,
                    enum rh_case_role role, int64_t count, rh_case_fill *fill)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, type, role, count);
    t->fill = fill;
    return t->memory;
}

static void *numbers(struct rh_case *c, const char *name, enum rh_case_type type,
                     enum rh_case_role role, int64_t count, float scale, double bound)
{
    struct rh_case_tensor *t = rh_case_tensor(c, name, type, role, count);
    t->scale = scale;
    t->bound = bound;
    return t->memory;
}

void rh_case_fake_quant(struct rh_case *c, const int64_t *d)
{
    int64_t weights = d[ITEMS] * stride_of(d);
    int64_t groups = d[ITEMS] * d[OUT] * groups_of(d);
    enum rh_case_role code_role = d[EMIT] ? RH_CASE_OUT : RH_CASE_SCRATCH;
    struct rh_quantizer q = {.count = d[ITEMS], .rows = d[ITEMS] * d[OUT], .groups = groups,
                             .rate = 0.125F, .minmax_rate = 0.0625F, .minmax = true, .iter = 3,
                             .search = d[SEARCH] != 0};
    q.items = filled(c, "items", RH_CASE_BYTES, RH_CASE_IN,
                     d[ITEMS] * (int64_t)sizeof *q.items, fill_items);
    q.weight = numbers(c, "weight", RH_CASE_ACT, RH_CASE_IN, weights, 0.02F, 0.0);
    q.grad = numbers(c, "grad", RH_CASE_ACT, RH_CASE_IN, weights, 1e-4F, 0.0);
    q.weight_q = numbers(c, "weight_q", RH_CASE_ACT, RH_CASE_OUT, weights, 0.0F, 2.5e-3);
    q.v = numbers(c, "v", RH_CASE_F32, RH_CASE_OUT, weights, 0.0F, 0.0);
    q.lo = numbers(c, "lo", RH_CASE_F32, RH_CASE_OUT, groups, 0.0F, 0.0);
    q.hi = numbers(c, "hi", RH_CASE_F32, RH_CASE_OUT, groups, 0.0F, 0.0);
    q.alpha = numbers(c, "alpha", RH_CASE_F32, RH_CASE_OUT, groups, 0.0F, 0.0);
    q.beta = numbers(c, "beta", RH_CASE_F32, RH_CASE_OUT, groups, 0.0F, 0.0);
    q.codes = filled(c, "codes", RH_CASE_BYTES, code_role, weights, NULL);
    q.scales = filled(c, "scales", RH_CASE_BYTES, code_role, 2 * groups, NULL);
    q.zeros = filled(c, "zeros", RH_CASE_BYTES, d[SYM] ? RH_CASE_SCRATCH : code_role, groups, NULL);
    q.tokens = filled(c, "tokens", RH_CASE_I64, RH_CASE_IN, EXPERTS, fill_tokens);
    q.emit = filled(c, "emit", RH_CASE_I32, RH_CASE_IN, 1, fill_emit);
    q.fault = filled(c, "fault", RH_CASE_I64, RH_CASE_INOUT, 1, fill_fault);
    c->has = RH_CASE_FORWARD | RH_CASE_BACKWARD;
    c->bytes[0] = 8.0 * (double)weights + 16.0 * (double)groups;
    c->bytes[1] = (d[EMIT] ? 15.0 : 14.0) * (double)weights + 24.0 * (double)groups;
    if (!c->live)
        return;
    if (c->parts & RH_CASE_FORWARD)
        c->ops->fake_quant_start(c->backend, &q);
    if (c->parts & RH_CASE_BACKWARD)
        c->ops->fake_quant_advance(c->backend, &q);
}
