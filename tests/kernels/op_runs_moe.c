#include <stddef.h>
#include <stdlib.h>

#include "op_declare.h"

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

/* d: count, size, sequences there are */
static void fill_rows(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    int64_t *rows = host;
    for (int64_t i = 0; i < count; i++)
        rows[i] = (int64_t)(random_bits(&seed) % (uint64_t)d[2]);
}

/* ---- experts ---- */

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

/* ---- sums of gradients ---- */

/* d: experts, width, hidden, group. Per expert gate, up and down, then a linear that every token reaches. */
static const struct rh_quant_item *layout(const int64_t *d, struct rh_quant_item *total)
{
    static struct rh_quant_item *items;
    int64_t count = 3 * d[0] + 1;
    free(items);
    items = calloc((size_t)count, sizeof *items);
    *total = (struct rh_quant_item){0};
    for (int64_t i = 0; items && i < count; i++) {
        struct rh_quant_item *item = &items[i];
        bool last = i == count - 1, down = i % 3 == 2;
        item->out_features = down || last ? d[2] : d[1];
        item->in_features = down ? d[1] : d[2];
        item->at = total->at;
        item->group_at = total->group_at;
        item->row_at = total->row_at;
        item->group = d[3];
        item->groups = (item->in_features + d[3] - 1) / d[3];
        item->expert = last ? -1 : (int32_t)(i / 3);
        item->bits = 4;
        item->sym = 1;
        total->at += (item->out_features * item->in_features + 15) / 16 * 16;
        total->group_at += item->out_features * item->groups;
        total->row_at += item->out_features;
    }
    return items;
}

static void fill_items(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)seed;
    struct rh_quant_item total;
    memcpy(host, layout(d, &total), (size_t)count);
}

/* Every third expert saw no token. */
static void fill_tokens(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d, (void)seed;
    int64_t *tokens = host;
    for (int64_t i = 0; i < count; i++)
        tokens[i] = i % 3 == 1 ? 0 : 7;
}

/* experts, width, hidden, group, rows; tokens stand for the batches before */
static void do_sum_gradients(struct rh_case *c, const int64_t *d)
{
    struct rh_quant_item total;
    struct rh_sum_gradients p = {.count = 3 * d[0] + 1, .host_items = layout(d, &total)};
    p.rows = total.row_at;
    p.items = in_whole(c, "items", RH_CASE_BYTES, p.count * (int64_t)sizeof *p.items, fill_items);
    p.grad = in(c, "grad", total.at, 1.0);
    p.tokens = in_whole(c, "tokens", RH_CASE_I64, d[0], fill_tokens);
    p.offsets = in_whole(c, "offsets", RH_CASE_I64, d[0] + 1, fill_offsets);
    struct rh_case_tensor *sums = rh_case_tensor(c, "sums", RH_CASE_F32, RH_CASE_INOUT, total.at);
    sums->bound = 0.0;
    p.sums = sums->memory;
    work(c, 0, 0.0, 10.0 * (double)total.at);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->sum_gradients(c->backend, &p);
}

/* A best loss that half of all losses beat; d: iteration, kind: 1 a loss that is not finite. */
static void fill_state(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    (void)d, (void)seed;
    struct rh_tune_state state = {.best_loss = 0.5, .best_iter = 1, .fault = RH_FAULT_NONE};
    memcpy(host, &state, (size_t)count);
}

static void fill_judged(void *host, int64_t count, const int64_t *d, uint64_t seed)
{
    fill_loss(host, count, d, seed);
    if (d[1])
        *(double *)host = d[1] == 1 ? INFINITY : NAN;
}

/* iteration, 1: the loss is infinite, 2: it is NaN */
static void do_judge(struct rh_case *c, const int64_t *d)
{
    struct rh_judge p = {.iter = d[0]};
    struct rh_case_tensor *loss = rh_case_tensor(c, "loss", RH_CASE_F64, RH_CASE_IN, 1);
    struct rh_case_tensor *state =
        rh_case_tensor(c, "state", RH_CASE_BYTES, RH_CASE_INOUT, sizeof(struct rh_tune_state));
    loss->fill = fill_judged;
    state->fill = fill_state;
    p.loss = loss->memory;
    p.state = state->memory;
    work(c, 0, 0.0, 48.0);
    if (runs(c, RH_CASE_FORWARD))
        c->ops->judge(c->backend, &p);
}

/* ---- the list ---- */

static const struct {
    const char *name;
    rh_case_op *run;
    size_t entry;
} ops[] = {
    {"expert_matmul", do_expert_matmul, offsetof(struct rh_ops, expert_matmul)},
    {"route", do_route, offsetof(struct rh_ops, route)},
    {"dispatch", do_dispatch, offsetof(struct rh_ops, dispatch)},
    {"swiglu", do_swiglu, offsetof(struct rh_ops, swiglu)},
    {"combine", do_combine, offsetof(struct rh_ops, combine)},
    {"mse", do_mse, offsetof(struct rh_ops, mse)},
    {"gather_rows", do_gather_rows, offsetof(struct rh_ops, gather_rows)},
    {"count_tokens", do_count_tokens, offsetof(struct rh_ops, count_tokens)},
    {"fake_quant", rh_case_fake_quant, offsetof(struct rh_ops, fake_quant_advance)},
    {"sum_gradients", do_sum_gradients, offsetof(struct rh_ops, sum_gradients)},
    {"judge", do_judge, offsetof(struct rh_ops, judge)},
};

rh_case_op *rh_case_moe_op(const char *name, size_t *entry)
{
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (strcmp(ops[i].name, name) == 0) {
            *entry = ops[i].entry;
            return ops[i].run;
        }
    }
    return NULL;
}
