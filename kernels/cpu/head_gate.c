#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_head_gate *p;
};

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_head_gate *p = job->p;
    const float *o = p->o;
    const float *gate = p->gate;
    float *a = p->a;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            int64_t at = (row * p->heads + h) * p->size;
            job->b->loops->sigmoid_mul(a + at, o + at, gate + row * p->ldg + h * p->head_stride,
                                       p->size);
        }
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_head_gate *p = job->p;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            int64_t at = (row * p->heads + h) * p->size;
            int64_t gate = row * p->ldg + h * p->head_stride;
            job->b->loops->sigmoid_mul_backward(
                (float *)p->d_o + at, (float *)p->dgate + gate, (const float *)p->o + at,
                (const float *)p->gate + gate, (const float *)p->da + at, p->size);
        }
    }
}

void rh_cpu_head_gate(struct rh_backend *b, const struct rh_head_gate *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_head_gate_backward(struct rh_backend *b, const struct rh_head_gate *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
