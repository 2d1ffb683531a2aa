#include <string.h>

#include "ops_reference.h"

/* One query of one head. */
struct query {
    int64_t row, head, kv_head, position, first; /* first: row of the sequence's first token */
};

static struct query query_at(const struct rh_attention *p, int64_t row, int64_t head)
{
    int64_t position = row % p->seq;
    return (struct query){row, head, head / (p->heads / p->kv_heads), position, row - position};
}

static int64_t q_at(const struct rh_attention *p, const struct query *t)
{
    return (t->row * p->heads + t->head) * p->size;
}

static int64_t k_at(const struct rh_attention *p, const struct query *t, int64_t j)
{
    return ((t->first + j) * p->kv_heads + t->kv_head) * p->size;
}

static int64_t v_at(const struct query *t, int64_t j, int64_t ld, int64_t size)
{
    return (t->first + j) * ld + t->kv_head * size;
}

static int64_t lse_at(const struct rh_attention *p, const struct query *t)
{
    return (t->first / p->seq * p->heads + t->head) * p->seq + t->position;
}

static double score(const struct rh_attention *p, const struct query *t, int64_t j)
{
    const float *q = p->q;
    const float *k = p->k;
    return (double)p->scale * rh_reference_dot(q + q_at(p, t), 1, k + k_at(p, t, j), p->size);
}

static void forward_query(const struct rh_attention *p, const struct query *t, double *prob)
{
    const float *v = p->v;
    float *o = p->o;
    double max = score(p, t, 0);
    double sum = 0.0;
    for (int64_t j = 0; j <= t->position; j++) {
        prob[j] = score(p, t, j);
        max = prob[j] > max ? prob[j] : max;
    }
    for (int64_t j = 0; j <= t->position; j++)
        sum += prob[j] = exp(prob[j] - max);
    for (int64_t i = 0; i < p->size; i++) {
        double out = 0.0;
        for (int64_t j = 0; j <= t->position; j++)
            out += prob[j] / sum * (double)v[v_at(t, j, p->ldv, p->size) + i];
        o[q_at(p, t) + i] = (float)out;
    }
    p->lse[lse_at(p, t)] = (float)(max + log(sum));
}

void rh_reference_attention(struct rh_backend *backend, const struct rh_attention *p)
{
    double *prob = rh_backend_scratch(backend, 0, (size_t)p->seq * sizeof *prob);
    for (int64_t row = 0; row < p->batch * p->seq; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            struct query t = query_at(p, row, h);
            forward_query(p, &t, prob);
        }
    }
}

/* Adds what one query gives to dq, and to dk and dv of all it sees. */
static void backward_query(const struct rh_attention *p, const struct query *t)
{
    const float *q = p->q;
    const float *k = p->k;
    const float *v = p->v;
    const float *o = p->o;
    const float *d_o = p->d_o;
    float *dq = p->dq;
    float *dk = p->dk;
    float *dv = p->dv;
    int64_t at = q_at(p, t);
    double delta = rh_reference_dot(d_o + at, 1, o + at, p->size);
    for (int64_t j = 0; j <= t->position; j++) {
        int64_t kj = k_at(p, t, j);
        int64_t vj = v_at(t, j, p->ldv, p->size);
        int64_t dvj = v_at(t, j, p->lddv, p->size);
        double prob = exp(score(p, t, j) - (double)p->lse[lse_at(p, t)]);
        double ds =
            (double)p->scale * prob * (rh_reference_dot(d_o + at, 1, v + vj, p->size) - delta);
        for (int64_t i = 0; i < p->size; i++) {
            dq[at + i] = (float)((double)dq[at + i] + ds * (double)k[kj + i]);
            dk[kj + i] = (float)((double)dk[kj + i] + ds * (double)q[at + i]);
            dv[dvj + i] = (float)((double)dv[dvj + i] + prob * (double)d_o[at + i]);
        }
    }
}

void rh_reference_attention_backward(struct rh_backend *backend, const struct rh_attention *p)
{
    (void)backend;
    int64_t rows = p->batch * p->seq;
    float *dq = p->dq;
    float *dk = p->dk;
    float *dv = p->dv;
    memset(dq, 0, (size_t)(rows * p->heads * p->size) * sizeof *dq);
    memset(dk, 0, (size_t)(rows * p->kv_heads * p->size) * sizeof *dk);
    for (int64_t row = 0; row < rows; row++)
        memset(dv + row * p->lddv, 0, (size_t)(p->kv_heads * p->size) * sizeof *dv);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            struct query t = query_at(p, row, h);
            backward_query(p, &t);
        }
    }
}
