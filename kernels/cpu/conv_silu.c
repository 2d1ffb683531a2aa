#include "ops_cpu.h"

struct job {
    struct rh_backend *b;
    const struct rh_conv_silu *p;
};

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_conv_silu *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    for (int64_t row = begin; row < end; row++) {
        int64_t t = row % p->seq;
        const float *u = (const float *)p->u + row * p->ldu;
        float *c = (float *)p->c + row * p->channels;
        const float *last = p->w + (p->taps - 1) * p->channels;
        loops->scale(c, 1.0F, u, p->channels);
        loops->mul(c, last, p->channels);
        for (int64_t back = 1; back < p->taps && back <= t; back++)
            loops->mul_add(c, u - back * p->ldu, last - back * p->channels, p->channels);
        loops->silu((float *)p->y + row * p->channels, c, p->channels);
    }
}

/* dc of the rows is kept beside: du_t needs those of the next taps - 1 rows. */
static void backward_sequence(const struct job *job, int64_t sequence, float *dc)
{
    const struct rh_conv_silu *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *last = p->w + (p->taps - 1) * p->channels;
    const float *c = p->c;
    const float *dy = p->dy;
    for (int64_t t = p->seq - 1; t >= 0; t--) {
        int64_t row = sequence * p->seq + t;
        float *mine = dc + t % p->taps * p->channels;
        loops->silu_backward(mine, c + row * p->channels, dy + row * p->channels, p->channels);
        float *du = (float *)p->du + row * p->ldu;
        loops->scale(du, 1.0F, mine, p->channels);
        loops->mul(du, last, p->channels);
        for (int64_t ahead = 1; ahead < p->taps && t + ahead < p->seq; ahead++)
            loops->mul_add(du, dc + (t + ahead) % p->taps * p->channels,
                           last - ahead * p->channels, p->channels);
    }
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_conv_silu *p = job->p;
    float *dc = rh_backend_scratch(job->b, thread, (size_t)(p->taps * p->channels) * sizeof *dc);
    for (int64_t sequence = begin; sequence < end; sequence++)
        backward_sequence(job, sequence, dc);
}

void rh_cpu_conv_silu(struct rh_backend *b, const struct rh_conv_silu *p)
{
    rh_parallel_for(b->pool, p->batch * p->seq, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_conv_silu_backward(struct rh_backend *b, const struct rh_conv_silu *p)
{
    rh_parallel_for(b->pool, p->batch, 1, backward, &(struct job){b, p});
}
