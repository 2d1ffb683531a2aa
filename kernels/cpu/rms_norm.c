#include <math.h>

#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_rms_norm *p;
};

static float rate(const struct job *job, const float *x)
{
    const struct rh_rms_norm *p = job->p;
    return 1.0F / sqrtf(job->b->loops->dot(x, x, p->size) / (float)p->size + p->eps);
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_rms_norm *p = job->p;
    for (int64_t i = begin; i < end; i++) {
        const float *x = (const float *)p->x + i * p->size;
        job->b->loops->offset_scale((float *)p->y + i * p->size, x, p->w, rate(job, x), p->size);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_rms_norm *p = job->p;
    for (int64_t i = begin; i < end; i++) {
        const float *x = (const float *)p->x + i * p->size;
        const float *dy = (const float *)p->dy + i * p->size;
        float r = rate(job, x);
        float mean = job->b->loops->offset_dot(x, p->w, dy, p->size) * r / (float)p->size;
        job->b->loops->offset_norm_backward((float *)p->dx + i * p->size, x, p->w, dy, r, mean,
                                            p->accumulate, p->size);
    }
}

void rh_cpu_rms_norm(struct rh_backend *b, const struct rh_rms_norm *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_rms_norm_backward(struct rh_backend *b, const struct rh_rms_norm *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
