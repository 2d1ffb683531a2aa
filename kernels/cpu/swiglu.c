#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_swiglu *p;
};

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_swiglu *p = job->p;
    for (int64_t row = begin; row < end; row++) {
        const float *gate = (const float *)p->x + row * 2 * p->size;
        job->b->loops->silu_mul((float *)p->y + row * p->size, gate, gate + p->size, p->size);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_swiglu *p = job->p;
    for (int64_t row = begin; row < end; row++) {
        const float *gate = (const float *)p->x + row * 2 * p->size;
        float *dgate = (float *)p->dx + row * 2 * p->size;
        job->b->loops->silu_mul_backward(dgate, dgate + p->size, gate, gate + p->size,
                                         (const float *)p->dy + row * p->size, p->size);
    }
}

void rh_cpu_swiglu(struct rh_backend *b, const struct rh_swiglu *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_swiglu_backward(struct rh_backend *b, const struct rh_swiglu *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
