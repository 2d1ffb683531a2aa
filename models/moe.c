#include "block_private.h"

static struct rh_route route(const struct rh_block *b)
{
    const struct rh_activations *a = &b->act;
    return (struct rh_route){.rows = b->rows, .experts = b->n.experts, .top_k = b->n.top_k,
                             .logits = a->logits, .ldl = b->n.experts + 1, .p = a->p,
                             .expert = a->expert, .slot = a->slot, .offsets = a->offsets,
                             .shared = a->shared};
}

static struct rh_combine combine(const struct rh_block *b)
{
    const struct rh_activations *a = &b->act;
    return (struct rh_combine){.rows = b->rows, .top_k = b->n.top_k, .size = b->n.hidden,
                               .h = a->h, .e = a->expert_out, .s = a->shared_out, .p = a->p,
                               .shared = a->shared, .slot = a->slot};
}

/* w: one of the arenas at gate_up or down; n rows of k. */
static void experts(struct rh_block *b, enum rh_form form, void *x, void *y, void *w, int64_t n,
                    int64_t k)
{
    bool forward = form == RH_NT;
    bool weight = form == RH_TN;
    b->ops->expert_matmul(
        b->backend, &(struct rh_expert_matmul){.form = form, .experts = b->n.experts,
                                               .n = forward || weight ? n : k,
                                               .k = forward || weight ? k : n,
                                               .rows = b->rows * b->n.top_k,
                                               .offsets = b->act.offsets, .x = x,
                                               .ldx = forward || weight ? k : n, .y = y,
                                               .ldy = forward || weight ? n : k, .w = w,
                                               .w_stride = n * k});
}

/* The ops read weights through a pointer that is not const, since one of them writes gradients. */
static void *weights_at(const struct rh_block *b, int64_t at)
{
    return rh_at(b, b->w, at);
}

static void *grads_at(const struct rh_block *b, int64_t at)
{
    return rh_at(b, b->arenas.grads, at);
}

static void swiglu(struct rh_block *b, int64_t rows, int64_t size, const void *x, void *y)
{
    b->ops->swiglu(b->backend, &(struct rh_swiglu){.rows = rows, .size = size, .x = x, .y = y});
}

static void swiglu_backward(struct rh_block *b, int64_t rows, int64_t size, const void *x,
                            const void *dy, void *dx)
{
    b->ops->swiglu_backward(
        b->backend, &(struct rh_swiglu){.rows = rows, .size = size, .x = x, .dy = dy, .dx = dx});
}

static struct rh_dispatch dispatch(const struct rh_block *b)
{
    return (struct rh_dispatch){.rows = b->rows, .top_k = b->n.top_k, .size = b->n.hidden,
                                .slot = b->act.slot};
}

/* The routed experts, or the shared one as the only expert of all rows. */
static struct rh_mlp routed_mlp(const struct rh_block *b)
{
    const struct rh_activations *a = &b->act;
    return (struct rh_mlp){.experts = b->n.experts, .hidden = b->n.hidden, .width = b->n.width,
                           .offsets = a->offsets, .gate_up = weights_at(b, b->at.gate_up),
                           .down = weights_at(b, b->at.down), .x = a->dispatched, .u = a->gate_up,
                           .act = a->act, .y = a->expert_out, .dy = a->d_expert_out,
                           .du = a->d_gate_up, .dx = a->d_expert_out};
}

static struct rh_mlp shared_mlp(const struct rh_block *b, const int64_t offsets[2])
{
    const struct rh_activations *a = &b->act;
    return (struct rh_mlp){.experts = 1, .hidden = b->n.hidden, .width = b->n.shared_width,
                           .offsets = offsets, .gate_up = weights_at(b, b->at.shared_gate_up),
                           .down = weights_at(b, b->at.shared_down), .x = a->hn,
                           .u = a->shared_gate_up, .act = a->shared_act, .y = a->shared_out,
                           .dy = a->d_shared_out, .du = a->d_shared_gate_up, .dx = a->dhn,
                           .accumulate = true};
}

static void experts_forward(struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    if (b->ops->mlp) {
        struct rh_mlp routed = routed_mlp(b);
        struct rh_mlp shared = shared_mlp(b, (int64_t[]){0, b->rows});
        b->ops->mlp(b->backend, &routed);
        b->ops->mlp(b->backend, &shared);
        return;
    }
    experts(b, RH_NT, a->dispatched, a->gate_up, weights_at(b, b->at.gate_up), 2 * n->width,
            n->hidden);
    swiglu(b, b->rows * n->top_k, n->width, a->gate_up, a->act);
    experts(b, RH_NT, a->act, a->expert_out, weights_at(b, b->at.down), n->hidden, n->width);
    rh_apply(b, a->hn, n->hidden, b->at.shared_gate_up, 2 * n->shared_width, a->shared_gate_up,
             false);
    swiglu(b, b->rows, n->shared_width, a->shared_gate_up, a->shared_act);
    rh_apply(b, a->shared_act, n->shared_width, b->at.shared_down, n->hidden, a->shared_out, false);
}

void rh_moe_forward(struct rh_block *b, void *y)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    rh_apply(b, a->hn, n->hidden, b->at.router, n->experts + 1, a->logits, false);
    struct rh_route choice = route(b);
    b->ops->route(b->backend, &choice);
    struct rh_dispatch rows = dispatch(b);
    rows.x = a->hn;
    rows.y = a->dispatched;
    b->ops->dispatch(b->backend, &rows);
    experts_forward(b);
    struct rh_combine sum = combine(b);
    sum.y = y;
    b->ops->combine(b->backend, &sum);
}

static void routed_backward(struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    experts(b, RH_TN, a->act, a->d_expert_out, grads_at(b, b->at.down), n->hidden, n->width);
    /* The rows' own gradients are no longer needed: their place takes those of the inputs. */
    if (b->ops->mlp_backward) {
        struct rh_mlp routed = routed_mlp(b);
        b->ops->mlp_backward(b->backend, &routed);
    } else {
        experts(b, RH_NN, a->d_expert_out, a->d_act, weights_at(b, b->at.down), n->hidden,
                n->width);
        swiglu_backward(b, b->rows * n->top_k, n->width, a->gate_up, a->d_act, a->d_gate_up);
        experts(b, RH_NN, a->d_gate_up, a->d_expert_out, weights_at(b, b->at.gate_up),
                2 * n->width, n->hidden);
    }
    experts(b, RH_TN, a->dispatched, a->d_gate_up, grads_at(b, b->at.gate_up), 2 * n->width,
            n->hidden);
    struct rh_dispatch rows = dispatch(b);
    rows.dy = a->d_expert_out;
    rows.dx = a->dhn;
    b->ops->dispatch_backward(b->backend, &rows);
}

static void shared_backward(struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    rh_weight_gradient(b, a->d_shared_out, n->hidden, a->shared_act, n->shared_width,
                       b->at.shared_down);
    if (b->ops->mlp_backward) {
        struct rh_mlp shared = shared_mlp(b, (int64_t[]){0, b->rows});
        b->ops->mlp_backward(b->backend, &shared);
    } else {
        rh_apply_backward(b, a->d_shared_out, n->hidden, b->at.shared_down, n->shared_width,
                          a->d_shared_act, false);
        swiglu_backward(b, b->rows, n->shared_width, a->shared_gate_up, a->d_shared_act,
                        a->d_shared_gate_up);
        rh_apply_backward(b, a->d_shared_gate_up, 2 * n->shared_width, b->at.shared_gate_up,
                          n->hidden, a->dhn, true);
    }
    rh_weight_gradient(b, a->d_shared_gate_up, 2 * n->shared_width, a->hn, n->hidden,
                       b->at.shared_gate_up);
}

void rh_moe_backward(struct rh_block *b, const void *dy)
{
    const struct rh_activations *a = &b->act;
    struct rh_combine sum = combine(b);
    sum.dy = dy;
    sum.de = a->d_expert_out;
    sum.dp = a->dp;
    sum.ds = a->d_shared_out;
    sum.dshared = a->dshared;
    b->ops->combine_backward(b->backend, &sum);
    struct rh_route choice = route(b);
    choice.dp = a->dp;
    choice.dshared = a->dshared;
    choice.dlogits = a->dlogits;
    b->ops->route_backward(b->backend, &choice);
    rh_apply_backward(b, a->dlogits, b->n.experts + 1, b->at.router, b->n.hidden, a->dhn, false);
    shared_backward(b);
    routed_backward(b);
}
