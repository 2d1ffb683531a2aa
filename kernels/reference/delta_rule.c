#include <string.h>

#include "ops_reference.h"

/* Token after token, as the recurrence is written in kernels/ops.h; no chunks. Every entering state
 * is kept for backward in fp64, which only small shapes can afford. */

struct head {
    const struct rh_delta_rule *p;
    int64_t sequence, value_head, key_head;
    double *states; /* [seq + 1, key_size, value_size]: before each token, and after the last */
};

/* One token of a head. */
struct token {
    int64_t qk, v, dv, o, gate; /* where its q and k, v, dv, o, and beta and g are */
    double decay, beta;
    const double *before;
    double *after;
};

static int64_t state_size(const struct rh_delta_rule *p)
{
    return p->key_size * p->value_size;
}

int64_t rh_reference_delta_rule_saved(const struct rh_delta_rule *p)
{
    return p->batch * p->value_heads * (p->seq + 1) * state_size(p) * (int64_t)sizeof(double);
}

static struct head head_at(const struct rh_delta_rule *p, int64_t index, double *states)
{
    int64_t value_head = index % p->value_heads;
    return (struct head){p, index / p->value_heads, value_head,
                         value_head / (p->value_heads / p->key_heads), states};
}

static struct token token_at(const struct head *h, int64_t t)
{
    const struct rh_delta_rule *p = h->p;
    int64_t row = h->sequence * p->seq + t;
    int64_t gate = row * p->value_heads + h->value_head;
    return (struct token){.qk = (row * p->key_heads + h->key_head) * p->key_size,
                          .v = row * p->ldv + h->value_head * p->value_size,
                          .dv = row * p->lddv + h->value_head * p->value_size,
                          .o = gate * p->value_size,
                          .gate = gate,
                          .decay = exp((double)p->g[gate]),
                          .beta = (double)p->beta[gate],
                          .before = h->states + t * state_size(p),
                          .after = h->states + (t + 1) * state_size(p)};
}

/* e_j = v_j - decayed S^T k */
static double surprise(const struct rh_delta_rule *p, const struct token *t, int64_t j)
{
    const float *k = p->k;
    const float *v = p->v;
    double seen = 0.0;
    for (int64_t i = 0; i < p->key_size; i++)
        seen += t->decay * t->before[i * p->value_size + j] * (double)k[t->qk + i];
    return (double)v[t->v + j] - seen;
}

static void forward_token(const struct rh_delta_rule *p, const struct token *t)
{
    const float *q = p->q;
    const float *k = p->k;
    float *o = p->o;
    for (int64_t j = 0; j < p->value_size; j++) {
        double change = t->beta * surprise(p, t, j);
        double out = 0.0;
        for (int64_t i = 0; i < p->key_size; i++) {
            int64_t at = i * p->value_size + j;
            t->after[at] = t->decay * t->before[at] + (double)k[t->qk + i] * change;
            out += t->after[at] * (double)q[t->qk + i];
        }
        o[t->o + j] = (float)out;
    }
}

static double *states_of(struct rh_backend *backend, const struct rh_delta_rule *p, int64_t index)
{
    int64_t size = (p->seq + 1) * state_size(p);
    if (p->saved)
        return (double *)(void *)p->saved + index * size;
    return rh_backend_scratch(backend, 0, (size_t)size * sizeof(double));
}

void rh_reference_delta_rule(struct rh_backend *backend, const struct rh_delta_rule *p)
{
    for (int64_t i = 0; i < p->batch * p->value_heads; i++) {
        struct head h = head_at(p, i, states_of(backend, p, i));
        memset(h.states, 0, (size_t)state_size(p) * sizeof *h.states);
        for (int64_t t = 0; t < p->seq; t++) {
            struct token token = token_at(&h, t);
            forward_token(p, &token);
        }
    }
}

/* Gradients on the way back through one head. */
struct grads {
    double *state;   /* of the state after the token, then of the one before it */
    double *dq, *dk; /* of the token */
    double dbeta, dg;
};

static void backward_column(const struct rh_delta_rule *p, const struct token *t, int64_t j,
                            struct grads *g)
{
    const float *q = p->q;
    const float *k = p->k;
    const float *d_o = p->d_o;
    float *dv = p->dv;
    double e = surprise(p, t, j);
    double dchange = 0.0;
    for (int64_t i = 0; i < p->key_size; i++) {
        double *d = g->state + i * p->value_size + j;
        g->dq[i] += t->after[i * p->value_size + j] * (double)d_o[t->o + j];
        *d += (double)q[t->qk + i] * (double)d_o[t->o + j];
        g->dk[i] += *d * t->beta * e;
        dchange += *d * (double)k[t->qk + i];
    }
    double de = t->beta * dchange;
    for (int64_t i = 0; i < p->key_size; i++) {
        double *d = g->state + i * p->value_size + j;
        double decayed = t->decay * t->before[i * p->value_size + j];
        g->dk[i] -= decayed * de;
        *d -= (double)k[t->qk + i] * de;
        g->dg += *d * decayed;
        *d *= t->decay;
    }
    dv[t->dv + j] = (float)de;
    g->dbeta += dchange * e;
}

static void backward_token(const struct rh_delta_rule *p, const struct token *t, struct grads *g,
                           bool first)
{
    float *dq = p->dq;
    float *dk = p->dk;
    memset(g->dq, 0, (size_t)p->key_size * sizeof *g->dq);
    memset(g->dk, 0, (size_t)p->key_size * sizeof *g->dk);
    g->dbeta = 0.0;
    g->dg = 0.0;
    for (int64_t j = 0; j < p->value_size; j++)
        backward_column(p, t, j, g);
    /* The value heads of one key head follow each other: the first sets, the others add. */
    for (int64_t i = 0; i < p->key_size; i++) {
        dq[t->qk + i] = (float)(g->dq[i] + (first ? 0.0 : (double)dq[t->qk + i]));
        dk[t->qk + i] = (float)(g->dk[i] + (first ? 0.0 : (double)dk[t->qk + i]));
    }
    p->dbeta[t->gate] = (float)g->dbeta;
    p->dg[t->gate] = (float)g->dg;
}

void rh_reference_delta_rule_backward(struct rh_backend *backend, const struct rh_delta_rule *p)
{
    size_t size = (size_t)(state_size(p) + 2 * p->key_size) * sizeof(double);
    struct grads g = {.state = rh_backend_scratch(backend, 0, size)};
    g.dq = g.state + state_size(p);
    g.dk = g.dq + p->key_size;
    for (int64_t i = 0; i < p->batch * p->value_heads; i++) {
        struct head h = head_at(p, i, states_of(backend, p, i));
        bool first = h.value_head % (p->value_heads / p->key_heads) == 0;
        memset(g.state, 0, (size_t)state_size(p) * sizeof *g.state);
        for (int64_t t = p->seq - 1; t >= 0; t--) {
            struct token token = token_at(&h, t);
            backward_token(p, &token, &g, first);
        }
    }
}
