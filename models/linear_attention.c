#include "block_private.h"

/* u rows: q, k, v (through the convolution), then z, b, a. */

static struct rh_conv_silu conv(const struct rh_block *b)
{
    return (struct rh_conv_silu){.batch = b->batch, .seq = b->seq, .channels = b->n.qkv,
                                 .taps = b->n.taps, .u = b->act.u, .w = b->v.conv,
                                 .ldu = b->n.mixer_in, .c = b->act.conv_pre, .y = b->act.conv};
}

static struct rh_delta_inputs inputs(const struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    const void *gates = rh_at(b, a->u, n->qkv + n->z);
    return (struct rh_delta_inputs){.rows = b->rows, .key_heads = n->key_heads,
                                    .value_heads = n->value_heads, .key_size = n->key_size,
                                    .m = a->conv, .ldm = n->qkv, .b = gates,
                                    .a = rh_at(b, gates, n->value_heads), .ldb = n->mixer_in,
                                    .a_log = b->v.a_log, .dt_bias = b->v.dt_bias, .qn = a->qn,
                                    .kn = a->kn, .rq = a->rq, .rk = a->rk, .beta = a->beta,
                                    .g = a->g};
}

static struct rh_delta_rule rule(const struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    return (struct rh_delta_rule){.batch = b->batch, .seq = b->seq, .key_heads = n->key_heads,
                                  .value_heads = n->value_heads, .key_size = n->key_size,
                                  .value_size = n->value_size, .q = a->qn, .k = a->kn,
                                  .v = rh_at(b, a->conv, 2 * n->key_heads * n->key_size),
                                  .beta = a->beta, .g = a->g, .ldv = n->qkv, .o = a->core};
}

static struct rh_gated_norm norm(const struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    return (struct rh_gated_norm){.rows = b->rows, .heads = n->value_heads, .size = n->value_size,
                                  .eps = (float)b->config->rms_norm_eps, .o = b->act.core,
                                  .z = rh_at(b, b->act.u, n->qkv), .w = b->v.norm, .ldz = n->mixer_in,
                                  .y = b->act.mixed};
}

void rh_linear_attention_forward(struct rh_block *b, bool for_backward)
{
    struct rh_conv_silu c = conv(b);
    struct rh_delta_inputs in = inputs(b);
    struct rh_delta_rule core = rule(b);
    struct rh_gated_norm out = norm(b);
    core.saved = for_backward ? b->act.saved : NULL;
    b->ops->conv_silu(b->backend, &c);
    b->ops->delta_inputs(b->backend, &in);
    b->ops->delta_rule(b->backend, &core);
    b->ops->gated_norm(b->backend, &out);
}

void rh_linear_attention_backward(struct rh_block *b)
{
    const struct rh_sizes *n = &b->n;
    const struct rh_activations *a = &b->act;
    struct rh_gated_norm out = norm(b);
    out.dy = a->dmixed;
    out.d_o = a->dcore;
    out.dz = rh_at(b, a->du, n->qkv);
    b->ops->gated_norm_backward(b->backend, &out);
    struct rh_delta_rule core = rule(b);
    core.saved = a->saved;
    core.d_o = a->dcore;
    core.dq = a->dq;
    core.dk = a->dk;
    core.dv = rh_at(b, a->dconv, 2 * n->key_heads * n->key_size);
    core.lddv = n->qkv;
    core.dbeta = a->dbeta;
    core.dg = a->dg;
    b->ops->delta_rule_backward(b->backend, &core);
    struct rh_delta_inputs in = inputs(b);
    in.dq = a->dq;
    in.dk = a->dk;
    in.dbeta = a->dbeta;
    in.dg = a->dg;
    in.dm = a->dconv;
    in.db = rh_at(b, a->du, n->qkv + n->z);
    in.da = rh_at(b, in.db, n->value_heads);
    b->ops->delta_inputs_backward(b->backend, &in);
    struct rh_conv_silu c = conv(b);
    c.dy = a->dconv;
    c.du = a->du;
    b->ops->conv_silu_backward(b->backend, &c);
}
