#include <math.h>

#include "block_private.h"

/* u rows: per head query and gate side by side, then k, then v. */

static struct rh_head_norm query_norm(const struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    return (struct rh_head_norm){.rows = b->rows, .seq = b->seq, .heads = n->heads,
                                 .size = n->head_size, .ldx = n->mixer_in,
                                 .head_stride = 2 * n->head_size, .rot = n->rot, .cos = b->cos,
                                 .sin = b->sin, .eps = (float)b->config->rms_norm_eps,
                                 .x = b->act.u, .w = b->v.q_norm, .y = b->act.q};
}

static struct rh_head_norm key_norm(const struct rh_block *b)
{
    struct rh_head_norm p = query_norm(b);
    p.heads = b->n.kv_heads;
    p.head_stride = b->n.head_size;
    p.x = rh_at(b, b->act.u, b->n.q_gate);
    p.w = b->v.k_norm;
    p.y = b->act.k;
    return p;
}

static struct rh_attention attention(const struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    return (struct rh_attention){.batch = b->batch, .seq = b->seq, .heads = n->heads,
                                 .kv_heads = n->kv_heads, .size = n->head_size,
                                 .scale = 1.0F / sqrtf((float)n->head_size), .q = b->act.q,
                                 .k = b->act.k,
                                 .v = rh_at(b, b->act.u, n->q_gate + n->kv),
                                 .ldv = n->mixer_in, .o = b->act.core, .lse = b->act.lse};
}

static struct rh_head_gate gate(const struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    return (struct rh_head_gate){.rows = b->rows, .heads = n->heads, .size = n->head_size,
                                 .ldg = n->mixer_in, .head_stride = 2 * n->head_size,
                                 .o = b->act.core, .gate = rh_at(b, b->act.u, n->head_size),
                                 .a = b->act.mixed};
}

void rh_full_attention_forward(struct rh_block *b)
{
    struct rh_head_norm q = query_norm(b);
    struct rh_head_norm k = key_norm(b);
    struct rh_attention core = attention(b);
    struct rh_head_gate out = gate(b);
    b->ops->head_norm(b->backend, &q);
    b->ops->head_norm(b->backend, &k);
    b->ops->attention(b->backend, &core);
    b->ops->head_gate(b->backend, &out);
}

void rh_full_attention_backward(struct rh_block *b)
{
    const struct rh_activations *a = &b->act;
    struct rh_head_gate out = gate(b);
    out.da = a->dmixed;
    out.d_o = a->dcore;
    out.dgate = rh_at(b, a->du, b->n.head_size);
    b->ops->head_gate_backward(b->backend, &out);
    struct rh_attention core = attention(b);
    core.d_o = a->dcore;
    core.dq = a->dq;
    core.dk = a->dk;
    core.dv = rh_at(b, a->du, b->n.q_gate + b->n.kv);
    core.lddv = b->n.mixer_in;
    b->ops->attention_backward(b->backend, &core);
    struct rh_head_norm q = query_norm(b);
    q.dy = a->dq;
    q.dx = a->du;
    b->ops->head_norm_backward(b->backend, &q);
    struct rh_head_norm k = key_norm(b);
    k.dy = a->dk;
    k.dx = rh_at(b, a->du, b->n.q_gate);
    b->ops->head_norm_backward(b->backend, &k);
}
