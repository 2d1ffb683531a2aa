#include <math.h>
#include <string.h>

#include "ops_cpu.h"

/* Queries at a time: their scores against all earlier keys stay in the cache. */
#define TILE 64

struct job {
    struct rh_backend *b;
    const struct rh_attention *p;
    int64_t tiles; /* per sequence */
};

/* A tile of queries of one head. */
struct place {
    int64_t sequence, head, kv_head;
    int64_t first, count; /* queries, positions in the sequence */
    int64_t keys;         /* first + count */
    const float *q, *k, *v;
    int64_t q_at; /* of the first query in q and o */
    int64_t k_at; /* of the sequence in k */
    int64_t ldq, ldk;
};

static void put(const struct rh_attention *p, int64_t sequence, int64_t head, int64_t tile,
                struct place *out)
{
    int64_t start = sequence * p->seq;
    out->sequence = sequence;
    out->head = head;
    out->kv_head = head / (p->heads / p->kv_heads);
    out->first = tile * TILE;
    out->count = p->seq - out->first < TILE ? p->seq - out->first : TILE;
    out->keys = out->first + out->count;
    out->ldq = p->heads * p->size;
    out->ldk = p->kv_heads * p->size;
    out->q_at = (start + out->first) * out->ldq + head * p->size;
    out->k_at = start * out->ldk + out->kv_head * p->size;
    out->q = (const float *)p->q + out->q_at;
    out->k = (const float *)p->k + out->k_at;
    out->v = (const float *)p->v + start * p->ldv + out->kv_head * p->size;
}

static void scores(const struct rh_attention *p, const struct place *t, float *s)
{
    rh_cpu_gemm(RH_NT, t->count, t->keys, p->size, p->scale, t->q, t->ldq, t->k, t->ldk, 0.0F, s,
                t->keys);
}

static float *lse_of(const struct rh_attention *p, const struct place *t)
{
    return p->lse + (t->sequence * p->heads + t->head) * p->seq + t->first;
}

static void forward_tile(const struct job *job, const struct place *t, float *s)
{
    const struct rh_attention *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    float *lse = lse_of(p, t);
    scores(p, t, s);
    for (int64_t i = 0; i < t->count; i++) {
        float *row = s + i * t->keys;
        int64_t seen = t->first + i + 1;
        float max = loops->max(row, seen);
        loops->exp_minus(row, row, max, seen);
        float sum = loops->sum(row, seen);
        loops->scale(row, 1.0F / sum, row, seen);
        memset(row + seen, 0, (size_t)(t->keys - seen) * sizeof *row);
        lse[i] = max + logf(sum);
    }
    rh_cpu_gemm(RH_NN, t->count, p->size, t->keys, 1.0F, s, t->keys, t->v, p->ldv, 0.0F,
                (float *)p->o + t->q_at, t->ldq);
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_attention *p = job->p;
    float *s = rh_backend_scratch(job->b, thread, (size_t)(TILE * p->seq) * sizeof *s);
    for (int64_t i = begin; i < end; i++) {
        struct place t;
        put(p, i / (p->heads * job->tiles), i / job->tiles % p->heads, i % job->tiles, &t);
        forward_tile(job, &t, s);
    }
}

static void backward_tile(const struct job *job, const struct place *t, float *s, float *ds,
                          bool first_head)
{
    const struct rh_attention *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *lse = lse_of(p, t);
    const float *o = (const float *)p->o + t->q_at;
    const float *d_o = (const float *)p->d_o + t->q_at;
    scores(p, t, s);
    rh_cpu_gemm(RH_NT, t->count, t->keys, p->size, 1.0F, d_o, t->ldq, t->v, p->ldv, 0.0F, ds,
                t->keys);
    for (int64_t i = 0; i < t->count; i++) {
        float *row = s + i * t->keys;
        int64_t seen = t->first + i + 1;
        size_t hidden = (size_t)(t->keys - seen) * sizeof *row;
        float delta = loops->dot(d_o + i * t->ldq, o + i * t->ldq, p->size);
        loops->exp_minus(row, row, lse[i], seen);
        loops->softmax_backward(ds + i * t->keys, row, delta, p->scale, seen);
        memset(row + seen, 0, hidden);
        memset(ds + i * t->keys + seen, 0, hidden);
    }
    float *dk = (float *)p->dk + t->k_at;
    float *dv = (float *)p->dv + t->sequence * p->seq * p->lddv + t->kv_head * p->size;
    /* The last tile comes first and reaches all keys: it sets, the others add. */
    float beta = first_head && t->keys == p->seq ? 0.0F : 1.0F;
    rh_cpu_gemm(RH_TN, t->keys, p->size, t->count, 1.0F, s, t->keys, d_o, t->ldq, beta, dv,
                p->lddv);
    rh_cpu_gemm(RH_TN, t->keys, p->size, t->count, 1.0F, ds, t->keys, t->q, t->ldq, beta, dk,
                t->ldk);
    rh_cpu_gemm(RH_NN, t->count, p->size, t->keys, 1.0F, ds, t->keys, t->k, t->ldk, 0.0F,
                (float *)p->dq + t->q_at, t->ldq);
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_attention *p = job->p;
    int64_t group = p->heads / p->kv_heads;
    float *s = rh_backend_scratch(job->b, thread, (size_t)(2 * TILE * p->seq) * sizeof *s);
    for (int64_t i = begin; i < end; i++) {
        for (int64_t h = 0; h < group; h++) {
            for (int64_t tile = job->tiles - 1; tile >= 0; tile--) {
                struct place t;
                put(p, i / p->kv_heads, i % p->kv_heads * group + h, tile, &t);
                backward_tile(job, &t, s, s + TILE * p->seq, h == 0);
            }
        }
    }
}

void rh_cpu_attention(struct rh_backend *b, const struct rh_attention *p)
{
    struct job job = {b, p, (p->seq + TILE - 1) / TILE};
    rh_parallel_for(b->pool, p->batch * p->heads * job.tiles, 1, forward, &job);
}

void rh_cpu_attention_backward(struct rh_backend *b, const struct rh_attention *p)
{
    struct job job = {b, p, (p->seq + TILE - 1) / TILE};
    rh_parallel_for(b->pool, p->batch * p->kv_heads, 1, backward, &job);
}
