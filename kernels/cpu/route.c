#include <math.h>
#include <string.h>

#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_route *p;
};

/* Inserts into the list of the best, which is sorted downwards; equals stay behind. */
static void insert(const float *logits, int32_t *best, int64_t filled, int64_t top_k, int32_t e)
{
    int64_t at = filled;
    while (at > 0 && logits[e] > logits[best[at - 1]])
        at--;
    if (at >= top_k)
        return;
    int64_t moved = (filled < top_k ? filled : top_k - 1) - at;
    memmove(best + at + 1, best + at, (size_t)moved * sizeof *best);
    best[at] = e;
}

static void choose(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct rh_route *p = ((const struct job *)arg)->p;
    for (int64_t row = begin; row < end; row++) {
        const float *logits = (const float *)p->logits + row * p->ldl;
        int32_t *best = p->expert + row * p->top_k;
        float *prob = p->p + row * p->top_k;
        for (int32_t e = 0; e < (int32_t)p->experts; e++)
            insert(logits, best, e < p->top_k ? e : p->top_k, p->top_k, e);
        float total = 0.0F;
        for (int64_t j = 0; j < p->top_k; j++) {
            prob[j] = expf(logits[best[j]] - logits[best[0]]);
            total += prob[j];
        }
        for (int64_t j = 0; j < p->top_k; j++)
            prob[j] /= total;
        p->shared[row] = 1.0F / (1.0F + expf(-logits[p->experts]));
    }
}

/* A stable sort by counting: rows of an expert stay in their order. */
static void place_slots(struct rh_backend *b, const struct rh_route *p)
{
    int64_t count = p->rows * p->top_k;
    memset(p->offsets, 0, (size_t)(p->experts + 1) * sizeof *p->offsets);
    for (int64_t i = 0; i < count; i++)
        p->offsets[p->expert[i] + 1]++;
    for (int64_t e = 0; e < p->experts; e++)
        p->offsets[e + 1] += p->offsets[e];
    int64_t *next = rh_backend_table(b, (size_t)p->experts * sizeof *next);
    memcpy(next, p->offsets, (size_t)p->experts * sizeof *next);
    for (int64_t i = 0; i < count; i++)
        p->slot[i] = next[p->expert[i]]++;
}

void rh_cpu_route(struct rh_backend *b, const struct rh_route *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, choose, &(struct job){b, p});
    place_slots(b, p);
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct rh_route *p = ((const struct job *)arg)->p;
    for (int64_t row = begin; row < end; row++) {
        float *dlogits = (float *)p->dlogits + row * p->ldl;
        const float *prob = p->p + row * p->top_k;
        const float *dp = p->dp + row * p->top_k;
        memset(dlogits, 0, (size_t)p->experts * sizeof *dlogits);
        float mean = 0.0F;
        for (int64_t j = 0; j < p->top_k; j++)
            mean += prob[j] * dp[j];
        for (int64_t j = 0; j < p->top_k; j++)
            dlogits[p->expert[row * p->top_k + j]] = prob[j] * (dp[j] - mean);
        float s = p->shared[row];
        dlogits[p->experts] = s * (1.0F - s) * p->dshared[row];
    }
}

void rh_cpu_route_backward(struct rh_backend *b, const struct rh_route *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
