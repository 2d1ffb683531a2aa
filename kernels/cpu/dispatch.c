#include <string.h>

#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_dispatch *p;
};

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct rh_dispatch *p = ((const struct job *)arg)->p;
    const float *x = p->x;
    float *y = p->y;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t j = 0; j < p->top_k; j++)
            memcpy(y + p->slot[row * p->top_k + j] * p->size, x + row * p->size,
                   (size_t)p->size * sizeof *x);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_dispatch *p = job->p;
    const float *dy = p->dy;
    float *dx = p->dx;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t j = 0; j < p->top_k; j++)
            job->b->loops->add(dx + row * p->size, dy + p->slot[row * p->top_k + j] * p->size,
                               p->size);
    }
}

void rh_cpu_dispatch(struct rh_backend *b, const struct rh_dispatch *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_dispatch_backward(struct rh_backend *b, const struct rh_dispatch *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
