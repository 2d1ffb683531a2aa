#include <math.h>

#include "ops_cpu.h"

/* Inside the root of the length of q and k. */
#define LENGTH_EPS 1e-6F
/* Above it softplus is the identity to the last bit that PyTorch keeps. */
#define SOFTPLUS_LINEAR 20.0F

struct job {
    struct rh_backend *b;
    const struct rh_delta_inputs *p;
};

static float sigmoid(float x)
{
    return 1.0F / (1.0F + expf(-x));
}

static void forward_row(const struct job *job, int64_t row)
{
    const struct rh_delta_inputs *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *a = (const float *)p->a + row * p->ldb;
    const float *b = (const float *)p->b + row * p->ldb;
    float *qn = p->qn;
    float *kn = p->kn;
    float q_scale = 1.0F / sqrtf((float)p->key_size);
    for (int64_t h = 0; h < p->key_heads; h++) {
        const float *q = (const float *)p->m + row * p->ldm + h * p->key_size;
        const float *k = q + p->key_heads * p->key_size;
        int64_t at = row * p->key_heads + h;
        p->rq[at] = 1.0F / sqrtf(loops->dot(q, q, p->key_size) + LENGTH_EPS);
        p->rk[at] = 1.0F / sqrtf(loops->dot(k, k, p->key_size) + LENGTH_EPS);
        loops->scale(qn + at * p->key_size, p->rq[at] * q_scale, q, p->key_size);
        loops->scale(kn + at * p->key_size, p->rk[at], k, p->key_size);
    }
    for (int64_t j = 0; j < p->value_heads; j++) {
        float x = a[j] + p->dt_bias[j];
        float softplus = x > SOFTPLUS_LINEAR ? x : log1pf(expf(x));
        p->beta[row * p->value_heads + j] = sigmoid(b[j]);
        p->g[row * p->value_heads + j] = -expf(p->a_log[j]) * softplus;
    }
}

/* dx = r (dy - y (y . dy)) for y = x r; here unit = factor * y. */
static void length_backward(const struct rh_loops *loops, float *dx, const float *unit,
                            const float *dy, float r, float factor, int64_t n)
{
    float along = loops->dot(unit, dy, n);
    loops->scale(dx, r * factor, dy, n);
    loops->axpy(dx, -along * r / factor, unit, n);
}

static void backward_row(const struct job *job, int64_t row)
{
    const struct rh_delta_inputs *p = job->p;
    const float *a = (const float *)p->a + row * p->ldb;
    float *da = (float *)p->da + row * p->ldb;
    float *db = (float *)p->db + row * p->ldb;
    float q_scale = 1.0F / sqrtf((float)p->key_size);
    for (int64_t h = 0; h < p->key_heads; h++) {
        int64_t at = row * p->key_heads + h;
        int64_t unit = at * p->key_size;
        float *dq = (float *)p->dm + row * p->ldm + h * p->key_size;
        float *dk = dq + p->key_heads * p->key_size;
        length_backward(job->b->loops, dq, (const float *)p->qn + unit,
                        (const float *)p->dq + unit, p->rq[at], q_scale, p->key_size);
        length_backward(job->b->loops, dk, (const float *)p->kn + unit,
                        (const float *)p->dk + unit, p->rk[at], 1.0F, p->key_size);
    }
    for (int64_t j = 0; j < p->value_heads; j++) {
        int64_t at = row * p->value_heads + j;
        float beta = p->beta[at];
        float x = a[j] + p->dt_bias[j];
        db[j] = p->dbeta[at] * beta * (1.0F - beta);
        da[j] = p->dg[at] * -expf(p->a_log[j]) * sigmoid(x);
    }
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        forward_row(arg, row);
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        backward_row(arg, row);
}

void rh_cpu_delta_inputs(struct rh_backend *b, const struct rh_delta_inputs *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_delta_inputs_backward(struct rh_backend *b, const struct rh_delta_inputs *p)
{
    rh_parallel_for(b->pool, p->rows, RH_ROW_GRAIN, backward, &(struct job){b, p});
}
