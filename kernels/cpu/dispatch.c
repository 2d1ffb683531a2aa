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
    for (int64_t row = begin; row < end; row++) {
        for (int64_t j = 0; j < p->top_k; j++)
            memcpy(p->y + p->slot[row * p->top_k + j] * p->size, p->x + row * p->size,
                   (size_t)p->size * sizeof *p->x);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_dispatch *p = job->p;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t j = 0; j < p->top_k; j++)
            job->b->loops->add(p->dx + row * p->size,
                               p->dy + p->slot[row * p->top_k + j] * p->size, p->size);
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
