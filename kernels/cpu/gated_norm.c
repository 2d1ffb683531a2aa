#include <math.h>

#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_gated_norm *p;
};

static float rate(const struct job *job, const float *o)
{
    const struct rh_gated_norm *p = job->p;
    return 1.0F / sqrtf(job->b->loops->dot(o, o, p->size) / (float)p->size + p->eps);
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_gated_norm *p = job->p;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            int64_t at = (row * p->heads + h) * p->size;
            const float *o = (const float *)p->o + at;
            const float *z = (const float *)p->z + row * p->ldz + h * p->size;
            job->b->loops->gated_norm((float *)p->y + at, o, z, p->w, rate(job, o), p->size);
        }
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_gated_norm *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            int64_t at = (row * p->heads + h) * p->size;
            int64_t z = row * p->ldz + h * p->size;
            const float *o = (const float *)p->o + at;
            const float *dy = (const float *)p->dy + at;
            float r = rate(job, o);
            float *d_o = (float *)p->d_o + at;
            float dot = loops->gated_norm_backward(d_o, (float *)p->dz + z, o,
                                                   (const float *)p->z + z, p->w, dy, r, p->size);
            loops->norm_backward(d_o, d_o, o, r, dot * r * r / (float)p->size, p->size);
        }
    }
}

void rh_cpu_gated_norm(struct rh_backend *b, const struct rh_gated_norm *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_gated_norm_backward(struct rh_backend *b, const struct rh_gated_norm *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
