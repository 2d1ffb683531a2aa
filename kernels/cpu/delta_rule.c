#include <string.h>

#include "delta_chunk.h"

#define C RH_DELTA_CHUNK

struct job {
    struct rh_backend *b;
    const struct rh_delta_rule *p;
};

/* Scratch of one thread. */
struct work {
    float *kk, *qk; /* [n, n] K K^T, Q K^T */
    float *k;       /* [n, key_size] keys times a factor */
};

int64_t rh_delta_chunks(const struct rh_delta_rule *p)
{
    return (p->seq + C - 1) / C;
}

int64_t rh_delta_chunk_size(const struct rh_delta_rule *p)
{
    int64_t size = 2 * C + 3 * C * C + C * p->key_size + (p->key_size + 2 * C) * p->value_size;
    return (size + 15) / 16 * 16; /* every chunk begins with a cache line */
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
    out->grown = carve(&memory, C);
    out->left = carve(&memory, C);
    out->decay = carve(&memory, C * C);
    out->g = carve(&memory, C * C);
    out->qp = carve(&memory, C * (p->key_size + C));
    out->s = carve(&memory, p->key_size * p->value_size);
    out->r = carve(&memory, C * p->value_size);
    out->y = carve(&memory, C * p->value_size);
}

/* The gate is cumulated in fp64, and so are the differences that enter the exponential. */
static void decays(const struct rh_loops *loops, const struct rh_delta_rule *p,
                   const struct rh_delta_chunk *k)
{
    const float *g = p->g + (k->beta - p->beta);
    double c[C];
    double total = 0.0;
    for (int64_t i = 0; i < k->n; i++)
        c[i] = total += (double)g[i * p->value_heads];
    for (int64_t i = 0; i < k->n; i++) {
        k->grown[i] = (float)c[i];
        k->left[i] = (float)(total - c[i]);
    }
    loops->exp_minus(k->grown, k->grown, 0.0F, k->n);
    loops->exp_minus(k->left, k->left, 0.0F, k->n);
    loops->decay(k->decay, c, k->n);
}

/* Q K^T and K K^T times the decay, and diag(e^c) Q. */
static void scores(const struct rh_loops *loops, const struct rh_delta_rule *p,
                   const struct rh_delta_chunk *k, const struct work *w)
{
    int64_t ld = p->key_size + C;
    loops->scale_rows(k->qp, ld, k->q, p->key_heads * p->key_size, k->grown, k->n, p->key_size);
    loops->mul_rows(k->qp + p->key_size, ld, w->qk, k->decay, k->n, k->n);
    loops->mul_rows(k->g, k->n, w->kk, k->decay, k->n, k->n);
    for (int64_t i = 0; i < k->n; i++)
        k->g[i * k->n + i] = 0.0F;
}

/* Y and R. */
static void solve(const struct rh_loops *loops, const struct rh_delta_rule *p,
                  const struct rh_delta_chunk *k, const struct work *w)
{
    int64_t dv = p->value_size;
    for (int64_t i = 0; i < k->n; i++)
        memcpy(k->y + i * dv, k->v + i * p->ldv, (size_t)dv * sizeof *k->y);
    loops->scale_rows(w->k, p->key_size, k->k, p->key_heads * p->key_size, k->grown, k->n,
                      p->key_size);
    rh_cpu_gemm(RH_NN, k->n, dv, p->key_size, -1.0F, w->k, p->key_size, k->s, dv, 1.0F, k->y, dv);
    loops->solve(&(struct rh_solve){.n = k->n,
                                    .width = dv,
                                    .l = k->g,
                                    .factor = k->beta,
                                    .step = p->value_heads,
                                    .x = k->y,
                                    .y = k->r});
}

static void carry(const struct rh_loops *loops, const struct rh_delta_rule *p,
                  const struct rh_delta_chunk *k, float *next, const struct work *w)
{
    loops->scale_rows(w->k, p->key_size, k->k, p->key_heads * p->key_size, k->left, k->n,
                      p->key_size);
    loops->scale(next, k->grown[k->n - 1], k->s, p->key_size * p->value_size);
    rh_cpu_gemm(RH_TN, p->key_size, p->value_size, k->n, 1.0F, w->k, p->key_size, k->r,
                p->value_size, 1.0F, next, p->value_size);
}

static void forward_chunk(const struct job *job, const struct rh_delta_chunk *k, int64_t head,
                          float *next, const struct work *w)
{
    const struct rh_delta_rule *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    int64_t dv = p->value_size;
    decays(loops, p, k);
    scores(loops, p, k, w);
    solve(loops, p, k, w);
    rh_cpu_gemm(RH_NN, k->n, dv, p->key_size + k->n, 1.0F, k->qp, p->key_size + C, k->s, dv, 0.0F,
                (float *)p->o + (k->first * p->value_heads + head) * dv, p->value_heads * dv);
    if (next)
        carry(loops, p, k, next, w);
}

/* memory: of the chunks of the key head's value heads, one after the other; without anything to
 * keep two chunks of a head take turns. */
static void forward_heads(const struct job *job, int64_t sequence, int64_t key_head, float *memory,
                          const struct work *w)
{
    const struct rh_delta_rule *p = job->p;
    int64_t group = p->value_heads / p->key_heads;
    int64_t chunks = rh_delta_chunks(p);
    int64_t size = rh_delta_chunk_size(p);
    int64_t kept = p->saved ? chunks : 2;
    int64_t ldk = p->key_heads * p->key_size;
    for (int64_t i = 0; i < chunks; i++) {
        for (int64_t h = 0; h < group; h++) {
            float *mine = memory + (h * kept + i % kept) * size;
            float *other = memory + (h * kept + (i + 1) % kept) * size;
            int64_t head = key_head * group + h;
            struct rh_delta_chunk k;
            struct rh_delta_chunk next = {0};
            rh_delta_chunk_at(p, mine, sequence, head, i, &k);
            if (i == 0)
                memset(k.s, 0, (size_t)(p->key_size * p->value_size) * sizeof *k.s);
            if (i + 1 < chunks)
                rh_delta_chunk_at(p, other, sequence, head, i + 1, &next);
            if (h == 0) {
                rh_cpu_gemm(RH_NT, k.n, k.n, p->key_size, 1.0F, k.k, ldk, k.k, ldk, 0.0F, w->kk,
                            k.n);
                rh_cpu_gemm(RH_NT, k.n, k.n, p->key_size, 1.0F, k.q, ldk, k.k, ldk, 0.0F, w->qk,
                            k.n);
            }
            forward_chunk(job, &k, head, next.s, w);
        }
    }
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_delta_rule *p = job->p;
    int64_t group = p->value_heads / p->key_heads;
    int64_t size = rh_delta_chunk_size(p);
    int64_t own = p->saved ? 0 : 2 * group * size;
    float *scratch = rh_backend_scratch(
        job->b, thread, (size_t)(2 * C * C + C * p->key_size + own) * sizeof *scratch);
    struct work w;
    w.kk = carve(&scratch, C * C);
    w.qk = carve(&scratch, C * C);
    w.k = carve(&scratch, C * p->key_size);
    for (int64_t i = begin; i < end; i++) {
        float *saved = (float *)p->saved + i * group * rh_delta_chunks(p) * size;
        forward_heads(job, i / p->key_heads, i % p->key_heads, p->saved ? saved : scratch, &w);
    }
}

void rh_cpu_delta_rule(struct rh_backend *b, const struct rh_delta_rule *p)
{
    rh_parallel_for(b->pool, p->batch * p->key_heads, 1, forward, &(struct job){b, p});
}
