#include <string.h>

#include "delta_chunk.h"

#define C RH_DELTA_CHUNK

struct job {
    struct rh_backend *b;
    const struct rh_delta_rule *p;
};

/*
 * Scratch of one key head; names as in delta_chunk.h, d of a gradient. With dS' the gradient of the
 * state that leaves the chunk, Kt = diag(left) K and Ke = diag(grown) K:
 *   dR = P^T dO + Kt dS',  X = dR - G^T Z, Z = diag(beta) X
 *   [dQe | dP] = dO [S; R]^T, [dKe | dG] = -Z [S; R]^T, dKt = R dS'^T
 *   dS = e^c_last dS' + Qe^T dO - Ke^T Z
 */
struct work {
    float *ke, *kt; /* [n, key_size] */
    float *oz;      /* [2 n, value_size] dO, Z */
    float *d_qp,
        *m;      /* [2 n, key_size + n] dQe | dP over -dKe | -dG; m [n, n]: what the decay gets */
    float *d_sr; /* [key_size + n, value_size] of this chunk: its part of dS, then dR, then X */
    float *d_kt; /* [n, key_size] */
    float *d_qk; /* [n, n] gradient of Q K^T, summed over the value heads */
    float *d_kk; /* [n, n] the same of K K^T, below the diagonal; then with its transpose */
    float *d_state; /* [value heads of the key head, key_size, value_size] */
    double dc[C];
    float dbeta[C];
};

static int64_t carve(const struct rh_delta_rule *p, float *memory, struct work *w)
{
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    const struct {
        float **to;
        int64_t size;
    } parts[] = {
        {&w->ke, C * dk},     {&w->kt, C * dk},
        {&w->oz, 2 * C * dv}, {&w->d_qp, 2 * C * (dk + C)},
        {&w->m, C * C},       {&w->d_sr, (dk + C) * dv},
        {&w->d_kt, C * dk},   {&w->d_qk, C * C},
        {&w->d_kk, C * C},    {&w->d_state, p->value_heads / p->key_heads * dk * dv},
    };
    int64_t used = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].to = memory ? memory + used : NULL;
        used += (parts[i].size + 15) / 16 * 16;
    }
    return used;
}

/* dR, X, Z and what comes of them; d_state becomes dS. */
static void through_state(const struct rh_loops *loops, const struct rh_delta_rule *p,
                          const struct rh_delta_chunk *k, float *d_state, struct work *w)
{
    int64_t n = k->n;
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    int64_t ldk = p->key_heads * dk;
    int64_t ld = dk + C;
    float *dr = w->d_sr + dk * dv;
    float *z = w->oz + n * dv;
    loops->scale_rows(w->ke, dk, k->k, ldk, k->grown, n, dk);
    loops->scale_rows(w->kt, dk, k->k, ldk, k->left, n, dk);
    rh_cpu_gemm(RH_TN, dk + n, dv, n, 1.0F, k->qp, ld, w->oz, dv, 0.0F, w->d_sr, dv);
    rh_cpu_gemm(RH_NN, n, dv, dk, 1.0F, w->kt, dk, d_state, dv, 1.0F, dr, dv);
    loops->solve(&(struct rh_solve){.n = n,
                                    .width = dv,
                                    .l = k->g,
                                    .factor = k->beta,
                                    .step = p->value_heads,
                                    .transposed = true,
                                    .x = dr,
                                    .y = z});
    rh_cpu_gemm(RH_NT, 2 * n, dk + n, dv, 1.0F, w->oz, dv, k->s, dv, 0.0F, w->d_qp, ld);
    rh_cpu_gemm(RH_NT, n, dk, dv, 1.0F, k->r, dv, d_state, dv, 0.0F, w->d_kt, dk);
    /* What the state's own decay gets, before the state's gradient changes. */
    w->dc[n - 1] += (double)k->grown[n - 1] * (double)loops->dot(k->s, d_state, dk * dv);
    loops->scale(d_state, k->grown[n - 1], d_state, dk * dv);
    loops->add(d_state, w->d_sr, dk * dv);
    rh_cpu_gemm(RH_TN, dk, dv, n, -1.0F, w->ke, dk, z, dv, 1.0F, d_state, dv);
}

/* dq, dk, dc and dbeta as far as they go row by row. */
static void through_rows(const struct rh_loops *loops, const struct rh_delta_rule *p,
                         const struct rh_delta_chunk *k, bool first, struct work *w)
{
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    int64_t ldk = p->key_heads * dk;
    int64_t ld = dk + C;
    double leaving = 0.0;
    for (int64_t i = 0; i < k->n; i++) {
        const float *d_qe = w->d_qp + i * ld;
        const float *minus_d_ke = w->d_qp + (k->n + i) * ld;
        const float *d_kt = w->d_kt + i * dk;
        float kt = loops->dot(d_kt, w->kt + i * dk, dk);
        float qe = loops->dot(d_qe, k->qp + i * ld, dk);
        float ke = loops->dot(minus_d_ke, w->ke + i * dk, dk);
        w->dc[i] += (double)qe - (double)ke - (double)kt;
        leaving += (double)kt;
        w->dbeta[i] = loops->dot(w->d_sr + (dk + i) * dv, k->y + i * dv, dv);
        loops->two_sums((float *)p->dq + k->k_at + i * ldk, (float *)p->dk + k->k_at + i * ldk,
                        d_qe, minus_d_ke, d_kt, k->grown[i], k->left[i], !first, dk);
    }
    w->dc[k->n - 1] += leaving;
}

/* Gradients of the scores: of the decay, and sums over the value heads of those of the products. */
static void through_scores(const struct rh_loops *loops, const struct rh_delta_rule *p,
                           const struct rh_delta_chunk *k, bool first, struct work *w)
{
    int64_t n = k->n;
    int64_t dk = p->key_size;
    int64_t ld = dk + C;
    for (int64_t i = 0; i < n; i++) {
        const float *dp = w->d_qp + i * ld + dk;
        const float *minus_dg = w->d_qp + (n + i) * ld + dk;
        loops->decay_backward(w->d_qk + i * n, w->d_kk + i * n, w->m + i * n, dp, minus_dg,
                              k->decay + i * n, k->qp + i * ld + dk, k->g + i * n, !first, n);
    }
    loops->balance(w->dc, w->m, n);
}

/* dQ += d(QK^T) K, dK += d(QK^T)^T Q + (d(KK^T) + d(KK^T)^T) K */
static void through_products(const struct rh_delta_rule *p, const struct rh_delta_chunk *k,
                             struct work *w)
{
    int64_t n = k->n;
    int64_t dk = p->key_size;
    int64_t ldk = p->key_heads * dk;
    float *dq = (float *)p->dq + k->k_at;
    float *dkey = (float *)p->dk + k->k_at;
    for (int64_t i = 0; i < n; i++) {
        w->d_kk[i * n + i] = 0.0F;
        for (int64_t j = 0; j < i; j++)
            w->d_kk[j * n + i] = w->d_kk[i * n + j];
    }
    rh_cpu_gemm(RH_NN, n, dk, n, 1.0F, w->d_qk, n, k->k, ldk, 1.0F, dq, ldk);
    rh_cpu_gemm(RH_TN, n, dk, n, 1.0F, w->d_qk, n, k->q, ldk, 1.0F, dkey, ldk);
    rh_cpu_gemm(RH_NN, n, dk, n, 1.0F, w->d_kk, n, k->k, ldk, 1.0F, dkey, ldk);
}

static void backward_chunk(const struct job *job, const struct rh_delta_chunk *k, int64_t head,
                           bool first, float *d_state, struct work *w)
{
    const struct rh_delta_rule *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    int64_t dv = p->value_size;
    int64_t n = k->n;
    const float *d_o = (const float *)p->d_o + (k->first * p->value_heads + head) * dv;
    float *dv_out = (float *)p->dv + k->first * p->lddv + head * dv;
    for (int64_t i = 0; i < n; i++)
        memcpy(w->oz + i * dv, d_o + i * p->value_heads * dv, (size_t)dv * sizeof *d_o);
    memset(w->dc, 0, sizeof w->dc);
    through_state(loops, p, k, d_state, w);
    through_rows(loops, p, k, first, w);
    through_scores(loops, p, k, first, w);
    double dg = 0.0;
    for (int64_t i = n - 1; i >= 0; i--) {
        memcpy(dv_out + i * p->lddv, w->oz + (n + i) * dv, (size_t)dv * sizeof *dv_out);
        dg += w->dc[i];
        p->dg[(k->first + i) * p->value_heads + head] = (float)dg;
        p->dbeta[(k->first + i) * p->value_heads + head] = w->dbeta[i];
    }
}

static void backward_heads(const struct job *job, int64_t sequence, int64_t key_head,
                           struct work *w)
{
    const struct rh_delta_rule *p = job->p;
    int64_t group = p->value_heads / p->key_heads;
    int64_t chunks = rh_delta_chunks(p);
    int64_t size = rh_delta_chunk_size(p);
    int64_t state = p->key_size * p->value_size;
    float *saved =
        (float *)p->saved + (sequence * p->value_heads + key_head * group) * chunks * size;
    memset(w->d_state, 0, (size_t)(group * state) * sizeof *w->d_state);
    for (int64_t i = chunks - 1; i >= 0; i--) {
        struct rh_delta_chunk k;
        for (int64_t h = 0; h < group; h++) {
            int64_t head = key_head * group + h;
            rh_delta_chunk_at(p, saved + (h * chunks + i) * size, sequence, head, i, &k);
            backward_chunk(job, &k, head, h == 0, w->d_state + h * state, w);
        }
        through_products(p, &k, w);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_delta_rule *p = job->p;
    struct work w;
    size_t size = (size_t)carve(p, NULL, &w) * sizeof(float);
    carve(p, rh_backend_scratch(job->b, thread, size), &w);
    for (int64_t i = begin; i < end; i++)
        backward_heads(job, i / p->key_heads, i % p->key_heads, &w);
}

void rh_cpu_delta_rule_backward(struct rh_backend *b, const struct rh_delta_rule *p)
{
    rh_parallel_for(b->pool, p->batch * p->key_heads, 1, backward, &(struct job){b, p});
}
