#include <math.h>

#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_head_norm *p;
};

/* Rotates the pairs (i, i + rot/2); sign -1 turns back. */
static void rotate(const struct rh_head_norm *p, int64_t row, float *y, float sign)
{
    int64_t half = p->rot / 2;
    const float *c = p->cos + row % p->seq * half;
    const float *s = p->sin + row % p->seq * half;
    for (int64_t i = 0; i < half; i++) {
        float a = y[i];
        float b = y[i + half];
        float turn = sign * s[i];
        y[i] = a * c[i] - b * turn;
        y[i + half] = b * c[i] + a * turn;
    }
}

static float rate(const struct job *job, const float *x)
{
    const struct rh_head_norm *p = job->p;
    return 1.0F / sqrtf(job->b->loops->dot(x, x, p->size) / (float)p->size + p->eps);
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_head_norm *p = job->p;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            const float *x = (const float *)p->x + row * p->ldx + h * p->head_stride;
            float *y = (float *)p->y + (row * p->heads + h) * p->size;
            job->b->loops->offset_scale(y, x, p->w, rate(job, x), p->size);
            rotate(p, row, y, 1.0F);
        }
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_head_norm *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    float *turned = rh_backend_scratch(job->b, thread, (size_t)p->size * sizeof *turned);
    for (int64_t row = begin; row < end; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            int64_t at = row * p->ldx + h * p->head_stride;
            const float *x = (const float *)p->x + at;
            const float *dy = (const float *)p->dy + (row * p->heads + h) * p->size;
            loops->scale(turned, 1.0F, dy, p->size);
            rotate(p, row, turned, -1.0F);
            float r = rate(job, x);
            float mean = loops->offset_dot(x, p->w, turned, p->size) * r / (float)p->size;
            loops->offset_norm_backward((float *)p->dx + at, x, p->w, turned, r, mean, 0,
                                        p->size);
        }
    }
}

void rh_cpu_head_norm(struct rh_backend *b, const struct rh_head_norm *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_head_norm_backward(struct rh_backend *b, const struct rh_head_norm *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
