#include <math.h>
#include <string.h>

#include "delta_chunk.h"

#define C RH_DELTA_CHUNK

struct job {
    struct rh_backend *b;
    const struct rh_delta_rule *p;
};

int64_t rh_delta_chunks(const struct rh_delta_rule *p)
{
    return (p->seq + C - 1) / C;
}

int64_t rh_delta_chunk_size(const struct rh_delta_rule *p)
{
    int64_t size =
        2 * C + 3 * C * C + C * (2 * p->value_size + p->key_size) + p->key_size * p->value_size;
    return (size + 15) / 16 * 16; /* every chunk begins where a double may */
}

int64_t rh_cpu_delta_rule_saved(const struct rh_delta_rule *p)
{
    return p->batch * p->value_heads * rh_delta_chunks(p) * rh_delta_chunk_size(p) *
           (int64_t)sizeof(float);
}

static float *carve(float **memory, int64_t size)
{
    float *mine = *memory;
    *memory += size;
    return mine;
}

void rh_delta_chunk_at(const struct rh_delta_rule *p, float *memory, int64_t sequence,
                       int64_t value_head, int64_t index, struct rh_delta_chunk *out)
{
    int64_t key_head = value_head / (p->value_heads / p->key_heads);
    int64_t start = index * C;
    out->n = p->seq - start < C ? p->seq - start : C;
    out->first = sequence * p->seq + start;
    out->k_at = (out->first * p->key_heads + key_head) * p->key_size;
    out->q = (const float *)p->q + out->k_at;
    out->k = (const float *)p->k + out->k_at;
    out->v = (const float *)p->v + out->first * p->ldv + value_head * p->value_size;
    out->beta = p->beta + out->first * p->value_heads + value_head;
    out->c = (double *)(void *)carve(&memory, 2 * C);
    out->decay = carve(&memory, C * C);
    out->kk = carve(&memory, C * C);
    out->p = carve(&memory, C * C);
    out->u = carve(&memory, C * p->value_size);
    out->w = carve(&memory, C * p->key_size);
    out->r = carve(&memory, C * p->value_size);
    out->s = carve(&memory, p->key_size * p->value_size);
}

float rh_delta_exp(double difference)
{
    return expf((float)difference);
}

static void decays(const struct rh_loops *loops, const struct rh_delta_rule *p,
                   const struct rh_delta_chunk *k)
{
    const float *g = p->g + (k->beta - p->beta);
    double total = 0.0;
    for (int64_t i = 0; i < k->n; i++) {
        total += (double)g[i * p->value_heads];
        k->c[i] = total;
        float *row = k->decay + i * k->n;
        for (int64_t j = 0; j <= i; j++)
            row[j] = (float)(k->c[i] - k->c[j]);
        loops->exp_minus(row, row, 0.0F, i + 1);
        memset(row + i + 1, 0, (size_t)(k->n - i - 1) * sizeof *row);
    }
}

void rh_delta_chunk_lower(const struct rh_loops *loops, const struct rh_delta_rule *p,
                          const struct rh_delta_chunk *chunk, float *l)
{
    int64_t n = chunk->n;
    for (int64_t i = 0; i < n; i++) {
        float *row = l + i * n;
        loops->scale(row, chunk->beta[i * p->value_heads], chunk->kk + i * n, i);
        loops->mul(row, chunk->decay + i * n, i);
        memset(row + i, 0, (size_t)(n - i) * sizeof *row);
    }
}

/* U = (I + L)^-1 diag(beta) V, W = (I + L)^-1 diag(beta e^c) K */
static void solve(const struct rh_loops *loops, const struct rh_delta_rule *p,
                  const struct rh_delta_chunk *k, float *l)
{
    int64_t ldk = p->key_heads * p->key_size;
    rh_delta_chunk_lower(loops, p, k, l);
    for (int64_t i = 0; i < k->n; i++) {
        float beta = k->beta[i * p->value_heads];
        loops->scale(k->u + i * p->value_size, beta, k->v + i * p->ldv, p->value_size);
        loops->scale(k->w + i * p->key_size, beta * rh_delta_exp(k->c[i]), k->k + i * ldk,
                     p->key_size);
    }
    loops->solve_lower(l, k->n, k->u, p->value_size);
    loops->solve_lower(l, k->n, k->w, p->key_size);
}

/* O = diag(e^c) Q S + P R */
static void output(const struct rh_loops *loops, const struct rh_delta_rule *p,
                   const struct rh_delta_chunk *k, float *o)
{
    int64_t ldo = p->value_heads * p->value_size;
    rh_cpu_gemm(RH_NN, k->n, p->value_size, p->key_size, 1.0F, k->q, p->key_heads * p->key_size,
                k->s, p->value_size, 0.0F, o, ldo);
    for (int64_t i = 0; i < k->n; i++)
        loops->scale(o + i * ldo, rh_delta_exp(k->c[i]), o + i * ldo, p->value_size);
    rh_cpu_gemm(RH_NN, k->n, p->value_size, k->n, 1.0F, k->p, k->n, k->r, p->value_size, 1.0F, o,
                ldo);
}

/* next = e^c_last S + K~^T R with K~ = diag(e^(c_last - c)) K */
static void carry(const struct rh_loops *loops, const struct rh_delta_rule *p,
                  const struct rh_delta_chunk *k, float *next, float *kt)
{
    double last = k->c[k->n - 1];
    for (int64_t i = 0; i < k->n; i++)
        loops->scale(kt + i * p->key_size, rh_delta_exp(last - k->c[i]),
                     k->k + i * p->key_heads * p->key_size, p->key_size);
    loops->scale(next, rh_delta_exp(last), k->s, p->key_size * p->value_size);
    rh_cpu_gemm(RH_TN, p->key_size, p->value_size, k->n, 1.0F, kt, p->key_size, k->r,
                p->value_size, 1.0F, next, p->value_size);
}

static void forward_chunk(const struct job *job, const struct rh_delta_chunk *k, int64_t head,
                          float *next, float *scratch)
{
    const struct rh_delta_rule *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    int64_t ldk = p->key_heads * p->key_size;
    decays(loops, p, k);
    rh_cpu_gemm(RH_NT, k->n, k->n, p->key_size, 1.0F, k->k, ldk, k->k, ldk, 0.0F, k->kk, k->n);
    rh_cpu_gemm(RH_NT, k->n, k->n, p->key_size, 1.0F, k->q, ldk, k->k, ldk, 0.0F, k->p, k->n);
    loops->mul(k->p, k->decay, k->n * k->n);
    solve(loops, p, k, scratch);
    loops->scale(k->r, 1.0F, k->u, k->n * p->value_size);
    rh_cpu_gemm(RH_NN, k->n, p->value_size, p->key_size, -1.0F, k->w, p->key_size, k->s,
                p->value_size, 1.0F, k->r, p->value_size);
    output(loops, p, k, (float *)p->o + (k->first * p->value_heads + head) * p->value_size);
    if (next)
        carry(loops, p, k, next, scratch);
}

static void forward_head(const struct job *job, int64_t sequence, int64_t head, float *saved,
                         float *scratch)
{
    const struct rh_delta_rule *p = job->p;
    int64_t chunks = rh_delta_chunks(p);
    int64_t size = rh_delta_chunk_size(p);
    float *work = scratch + C * C + C * p->key_size;
    for (int64_t i = 0; i < chunks; i++) {
        /* Without anything to keep, two chunks take turns. */
        float *mine = saved ? saved + i * size : work + i % 2 * size;
        float *other = saved ? mine + size : work + (i + 1) % 2 * size;
        struct rh_delta_chunk chunk;
        struct rh_delta_chunk next;
        rh_delta_chunk_at(p, mine, sequence, head, i, &chunk);
        if (i == 0)
            memset(chunk.s, 0, (size_t)(p->key_size * p->value_size) * sizeof *chunk.s);
        if (i + 1 < chunks)
            rh_delta_chunk_at(p, other, sequence, head, i + 1, &next);
        forward_chunk(job, &chunk, head, i + 1 < chunks ? next.s : NULL, scratch);
    }
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_delta_rule *p = job->p;
    int64_t size = rh_delta_chunk_size(p);
    int64_t need = C * C + C * p->key_size + 2 * size;
    float *scratch = rh_backend_scratch(job->b, thread, (size_t)need * sizeof *scratch);
    for (int64_t i = begin; i < end; i++) {
        float *saved = p->saved ? (float *)p->saved + i * rh_delta_chunks(p) * size : NULL;
        forward_head(job, i / p->value_heads, i % p->value_heads, saved, scratch);
    }
}

void rh_cpu_delta_rule(struct rh_backend *b, const struct rh_delta_rule *p)
{
    rh_parallel_for(b->pool, p->batch * p->value_heads, 1, forward, &(struct job){b, p});
}
