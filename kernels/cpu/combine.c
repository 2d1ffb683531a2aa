#include <string.h>

#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_combine *p;
};

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_combine *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *h = p->h;
    const float *e = p->e;
    const float *s = p->s;
    for (int64_t row = begin; row < end; row++) {
        float *y = (float *)p->y + row * p->size;
        const int64_t *slot = p->slot + row * p->top_k;
        const float *prob = p->p + row * p->top_k;
        loops->scale(y, prob[0], e + slot[0] * p->size, p->size);
        for (int64_t j = 1; j < p->top_k; j++)
            loops->axpy(y, prob[j], e + slot[j] * p->size, p->size);
        loops->axpy(y, p->shared[row], s + row * p->size, p->size);
        loops->add(y, h + row * p->size, p->size);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_combine *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *e = p->e;
    const float *s = p->s;
    float *de = p->de;
    float *ds = p->ds;
    for (int64_t row = begin; row < end; row++) {
        const float *dy = (const float *)p->dy + row * p->size;
        for (int64_t j = 0; j < p->top_k; j++) {
            int64_t at = p->slot[row * p->top_k + j] * p->size;
            p->dp[row * p->top_k + j] = loops->dot(dy, e + at, p->size);
            loops->scale(de + at, p->p[row * p->top_k + j], dy, p->size);
        }
        p->dshared[row] = loops->dot(dy, s + row * p->size, p->size);
        loops->scale(ds + row * p->size, p->shared[row], dy, p->size);
    }
}

void rh_cpu_combine(struct rh_backend *b, const struct rh_combine *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_combine_backward(struct rh_backend *b, const struct rh_combine *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
