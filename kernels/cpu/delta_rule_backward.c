#include <string.h>

#include "delta_chunk.h"

#define C RH_DELTA_CHUNK

struct job {
    struct rh_backend *b;
    const struct rh_delta_rule *p;
};

/* Scratch of one head; names as in docs/numerics.md. */
struct work {
    float *d_state; /* [dk, dv] gradient of the state that leaves the chunk */
    float *dr;      /* [n, dv], then X_v */
    float *dw;      /* [n, dk], then X_k */
    float *kt;      /* [n, dk] K~, later diag(beta) K */
    float *x;       /* [n, dk] dO S^T */
    float *y;       /* [n, dk] R dS^T */
    float *dq, *dk; /* [n, dk] */
    float *a;       /* [n, n] dP * decay, later dL * decay */
    float *m;       /* [n, n] dP * P, later dL * L */
    float *l;       /* [n, n] */
    double dc[C];
    float dbeta[C];
    float ec[C]; /* e^c */
};

static int64_t scratch_size(const struct rh_delta_rule *p)
{
    return p->key_size * p->value_size + C * p->value_size + 6 * C * p->key_size + 3 * C * C;
}

static void carve(const struct rh_delta_rule *p, float *memory, struct work *w)
{
    float **const parts[] = {&w->dw, &w->kt, &w->x, &w->y, &w->dq, &w->dk};
    w->d_state = memory;
    w->dr = w->d_state + p->key_size * p->value_size;
    memory = w->dr + C * p->value_size;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++, memory += C * p->key_size)
        *parts[i] = memory;
    w->a = memory;
    w->m = w->a + C * C;
    w->l = w->m + C * C;
}

/* dR = P^T dO + K~ dS, X = dO S^T, Y = R dS^T, dW = -dR S^T */
static void through_state(const struct rh_loops *loops, const struct rh_delta_rule *p,
                          const struct rh_delta_chunk *k, const float *d_o, struct work *w)
{
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    int64_t ldo = p->value_heads * dv;
    double last = k->c[k->n - 1];
    for (int64_t i = 0; i < k->n; i++) {
        loops->scale(w->kt + i * dk, rh_delta_exp(last - k->c[i]), k->k + i * p->key_heads * dk,
                     dk);
        w->ec[i] = rh_delta_exp(k->c[i]);
    }
    rh_cpu_gemm(RH_TN, k->n, dv, k->n, 1.0F, k->p, k->n, d_o, ldo, 0.0F, w->dr, dv);
    rh_cpu_gemm(RH_NN, k->n, dv, dk, 1.0F, w->kt, dk, w->d_state, dv, 1.0F, w->dr, dv);
    rh_cpu_gemm(RH_NT, k->n, dk, dv, 1.0F, d_o, ldo, k->s, dv, 0.0F, w->x, dk);
    rh_cpu_gemm(RH_NT, k->n, dk, dv, 1.0F, k->r, dv, w->d_state, dv, 0.0F, w->y, dk);
    rh_cpu_gemm(RH_NT, k->n, dk, dv, -1.0F, w->dr, dv, k->s, dv, 0.0F, w->dw, dk);
}

/* dP = tril(dO R^T); a = dP * decay, m = dP * P */
static void through_scores(const struct rh_loops *loops, const struct rh_delta_rule *p,
                           const struct rh_delta_chunk *k, const float *d_o, struct work *w)
{
    int64_t n = k->n;
    rh_cpu_gemm(RH_NT, n, n, p->value_size, 1.0F, d_o, p->value_heads * p->value_size, k->r,
                p->value_size, 0.0F, w->m, n);
    loops->scale(w->a, 1.0F, w->m, n * n);
    loops->mul(w->a, k->decay, n * n); /* zero above the diagonal, and so is P */
    loops->mul(w->m, k->p, n * n);
}

/* dc += rowsum(m) - colsum(m) */
static void add_row_minus_column(const float *m, int64_t n, double *dc)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++) {
            dc[i] += (double)m[i * n + j];
            dc[j] -= (double)m[i * n + j];
        }
    }
}

static void query_and_key(const struct rh_loops *loops, const struct rh_delta_rule *p,
                          const struct rh_delta_chunk *k, struct work *w)
{
    int64_t n = k->n;
    int64_t dk = p->key_size;
    int64_t ldk = p->key_heads * dk;
    double last = k->c[n - 1];
    double leaving = 0.0;
    memset(w->dc, 0, sizeof w->dc);
    add_row_minus_column(w->m, n, w->dc);
    for (int64_t i = 0; i < n; i++) {
        double e = (double)loops->dot(w->kt + i * dk, w->y + i * dk, dk);
        w->dc[i] += (double)w->ec[i] * (double)loops->dot(k->q + i * ldk, w->x + i * dk, dk) - e;
        leaving += e;
        loops->scale(w->dq + i * dk, w->ec[i], w->x + i * dk, dk);
        loops->scale(w->dk + i * dk, rh_delta_exp(last - k->c[i]), w->y + i * dk, dk);
    }
    w->dc[n - 1] += leaving + (double)rh_delta_exp(last) *
                                  (double)loops->dot(k->s, w->d_state, dk * p->value_size);
    rh_cpu_gemm(RH_NN, n, dk, n, 1.0F, w->a, n, k->k, ldk, 1.0F, w->dq, dk);
    rh_cpu_gemm(RH_TN, n, dk, n, 1.0F, w->a, n, k->q, ldk, 1.0F, w->dk, dk);
}

/* dS <- e^c_last dS + (diag(e^c) Q)^T dO - W^T dR, before dR becomes X_v */
static void state_backward(const struct rh_loops *loops, const struct rh_delta_rule *p,
                           const struct rh_delta_chunk *k, const float *d_o, struct work *w)
{
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    for (int64_t i = 0; i < k->n; i++)
        loops->scale(w->kt + i * dk, w->ec[i], k->q + i * p->key_heads * dk, dk);
    loops->scale(w->d_state, rh_delta_exp(k->c[k->n - 1]), w->d_state, dk * dv);
    rh_cpu_gemm(RH_TN, dk, dv, k->n, 1.0F, w->kt, dk, d_o, p->value_heads * dv, 1.0F, w->d_state,
                dv);
    rh_cpu_gemm(RH_TN, dk, dv, k->n, -1.0F, k->w, dk, w->dr, dv, 1.0F, w->d_state, dv);
}

/* X_v = (I + L)^-T dU, X_k = (I + L)^-T dW and what follows row by row. */
static void solve(const struct rh_loops *loops, const struct rh_delta_rule *p,
                  const struct rh_delta_chunk *k, float *dv_out, struct work *w)
{
    int64_t n = k->n;
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    rh_delta_chunk_lower(loops, p, k, w->l);
    loops->solve_lower_transposed(w->l, n, w->dr, dv);
    loops->solve_lower_transposed(w->l, n, w->dw, dk);
    for (int64_t i = 0; i < n; i++) {
        const float *key = k->k + i * p->key_heads * dk;
        float beta = k->beta[i * p->value_heads];
        float along = loops->dot(w->dw + i * dk, key, dk);
        loops->scale(dv_out + i * p->lddv, beta, w->dr + i * dv, dv);
        w->dbeta[i] = loops->dot(w->dr + i * dv, k->v + i * p->ldv, dv) + w->ec[i] * along;
        loops->axpy(w->dk + i * dk, beta * w->ec[i], w->dw + i * dk, dk);
        w->dc[i] += (double)beta * (double)w->ec[i] * (double)along;
        loops->scale(w->kt + i * dk, beta, key, dk);
    }
}

/* dL = -tril_-1(X_v U^T + X_k W^T) and what it gives to K, beta and c. */
static void through_lower(const struct rh_loops *loops, const struct rh_delta_rule *p,
                          const struct rh_delta_chunk *k, struct work *w)
{
    int64_t n = k->n;
    int64_t dk = p->key_size;
    int64_t dv = p->value_size;
    rh_cpu_gemm(RH_NT, n, n, dv, -1.0F, w->dr, dv, k->u, dv, 0.0F, w->a, n);
    rh_cpu_gemm(RH_NT, n, n, dk, -1.0F, w->dw, dk, k->w, dk, 1.0F, w->a, n);
    loops->scale(w->m, 1.0F, w->a, n * n);
    loops->mul(w->m, w->l, n * n); /* L has no diagonal */
    add_row_minus_column(w->m, n, w->dc);
    loops->mul(w->a, k->decay, n * n);
    for (int64_t i = 0; i < n; i++) {
        w->a[i * n + i] = 0.0F;
        w->dbeta[i] += loops->dot(w->a + i * n, k->kk + i * n, i);
    }
    /* Gamma^T (diag(beta) K), then diag(beta) Gamma K */
    rh_cpu_gemm(RH_TN, n, dk, n, 1.0F, w->a, n, w->kt, dk, 1.0F, w->dk, dk);
    for (int64_t i = 0; i < n; i++)
        loops->scale(w->a + i * n, k->beta[i * p->value_heads], w->a + i * n, n);
    rh_cpu_gemm(RH_NN, n, dk, n, 1.0F, w->a, n, k->k, p->key_heads * dk, 1.0F, w->dk, dk);
}

/* Value heads of one key head follow each other: the first sets dq and dk, the others add. */
static void store(const struct rh_loops *loops, const struct rh_delta_rule *p,
                  const struct rh_delta_chunk *k, int64_t head, bool first, const struct work *w)
{
    int64_t dk = p->key_size;
    int64_t ldk = p->key_heads * dk;
    float *dq = (float *)p->dq + k->k_at;
    float *dkey = (float *)p->dk + k->k_at;
    double dg = 0.0;
    for (int64_t i = k->n - 1; i >= 0; i--) {
        if (first) {
            loops->scale(dq + i * ldk, 1.0F, w->dq + i * dk, dk);
            loops->scale(dkey + i * ldk, 1.0F, w->dk + i * dk, dk);
        } else {
            loops->add(dq + i * ldk, w->dq + i * dk, dk);
            loops->add(dkey + i * ldk, w->dk + i * dk, dk);
        }
        dg += w->dc[i];
        p->dg[(k->first + i) * p->value_heads + head] = (float)dg;
        p->dbeta[(k->first + i) * p->value_heads + head] = w->dbeta[i];
    }
}

static void backward_head(const struct job *job, int64_t sequence, int64_t head, bool first,
                          struct work *w)
{
    const struct rh_delta_rule *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    int64_t chunks = rh_delta_chunks(p);
    int64_t size = rh_delta_chunk_size(p);
    float *saved = (float *)p->saved + (sequence * p->value_heads + head) * chunks * size;
    memset(w->d_state, 0, (size_t)(p->key_size * p->value_size) * sizeof *w->d_state);
    for (int64_t i = chunks - 1; i >= 0; i--) {
        struct rh_delta_chunk k;
        rh_delta_chunk_at(p, saved + i * size, sequence, head, i, &k);
        const float *d_o =
            (const float *)p->d_o + (k.first * p->value_heads + head) * p->value_size;
        through_state(loops, p, &k, d_o, w);
        through_scores(loops, p, &k, d_o, w);
        query_and_key(loops, p, &k, w);
        state_backward(loops, p, &k, d_o, w);
        solve(loops, p, &k, (float *)p->dv + k.first * p->lddv + head * p->value_size, w);
        through_lower(loops, p, &k, w);
        store(loops, p, &k, head, first, w);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_delta_rule *p = job->p;
    int64_t group = p->value_heads / p->key_heads;
    struct work w;
    carve(p, rh_backend_scratch(job->b, thread, (size_t)scratch_size(p) * sizeof(float)), &w);
    for (int64_t i = begin; i < end; i++) {
        for (int64_t h = 0; h < group; h++)
            backward_head(job, i / p->key_heads, i % p->key_heads * group + h, h == 0, &w);
    }
}

void rh_cpu_delta_rule_backward(struct rh_backend *b, const struct rh_delta_rule *p)
{
    rh_parallel_for(b->pool, p->batch * p->key_heads, 1, backward, &(struct job){b, p});
}
