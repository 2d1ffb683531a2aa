#include <string.h>

#include "ops_reference.h"

/* Is expert a taken before expert b? */
static bool before(const float *logits, int64_t a, int64_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* How many experts are taken before e. */
static int64_t place_of(const float *logits, int64_t experts, int64_t e)
{
    int64_t place = 0;
    for (int64_t other = 0; other < experts; other++)
        place += before(logits, other, e);
    return place;
}

static void choose(const struct rh_route *p, int64_t row)
{
    const float *all = p->logits;
    const float *logits = all + row * p->ldl;
    int32_t *expert = p->expert + row * p->top_k;
    for (int64_t e = 0; e < p->experts; e++) {
        int64_t place = place_of(logits, p->experts, e);
        if (place < p->top_k)
            expert[place] = (int32_t)e;
    }
    double total = 0.0;
    for (int64_t j = 0; j < p->top_k; j++)
        total += exp((double)logits[expert[j]] - (double)logits[expert[0]]);
    for (int64_t j = 0; j < p->top_k; j++)
        p->p[row * p->top_k + j] =
            (float)(exp((double)logits[expert[j]] - (double)logits[expert[0]]) / total);
    p->shared[row] = (float)rh_reference_sigmoid((double)logits[p->experts]);
}

void rh_reference_route(struct rh_backend *backend, const struct rh_route *p)
{
    (void)backend;
    int64_t slot = 0;
    for (int64_t row = 0; row < p->rows; row++)
        choose(p, row);
    for (int64_t e = 0; e < p->experts; e++) {
        p->offsets[e] = slot;
        for (int64_t i = 0; i < p->rows * p->top_k; i++) {
            if (p->expert[i] == e)
                p->slot[i] = slot++;
        }
    }
    p->offsets[p->experts] = slot;
}

/* p = softmax over the chosen logits only, since the rest cancels when they are renormalised. */
void rh_reference_route_backward(struct rh_backend *backend, const struct rh_route *p)
{
    (void)backend;
    float *all = p->dlogits;
    for (int64_t row = 0; row < p->rows; row++) {
        float *dlogits = all + row * p->ldl;
        const float *prob = p->p + row * p->top_k;
        const float *dp = p->dp + row * p->top_k;
        double mean = rh_reference_dot(prob, 1, dp, p->top_k);
        double s = (double)p->shared[row];
        memset(dlogits, 0, (size_t)p->experts * sizeof *dlogits);
        for (int64_t j = 0; j < p->top_k; j++)
            dlogits[p->expert[row * p->top_k + j]] =
                (float)((double)prob[j] * ((double)dp[j] - mean));
        dlogits[p->experts] = (float)(s * (1.0 - s) * (double)p->dshared[row]);
    }
}
