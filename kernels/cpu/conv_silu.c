#include "base/error.h"
#include "ops_cpu.h"

/* What configurations allow. */
#define TAPS_MAX 64

struct job {
    struct rh_backend *b;
    const struct rh_conv_silu *p;
};

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_conv_silu *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *x[TAPS_MAX];
    const float *w[TAPS_MAX];
    for (int64_t row = begin; row < end; row++) {
        int64_t seen = smaller(p->taps, row % p->seq + 1);
        for (int64_t back = 0; back < seen; back++) {
            x[seen - 1 - back] = (const float *)p->u + (row - back) * p->ldu;
            w[seen - 1 - back] = p->w + (p->taps - 1 - back) * p->channels;
        }
        float *c = (float *)p->c + row * p->channels;
        loops->sum_products(c, x, w, seen, p->channels);
        loops->silu((float *)p->y + row * p->channels, c, p->channels);
    }
}

/* dc of the rows at hand is kept beside: du_t needs those of the next taps - 1 rows too. */
static void backward_sequence(const struct job *job, int64_t sequence, float *dc)
{
    const struct rh_conv_silu *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    const float *x[TAPS_MAX];
    const float *w[TAPS_MAX];
    int64_t known = 0;
    for (int64_t t = 0; t < p->seq; t++) {
        int64_t seen = smaller(p->taps, p->seq - t);
        for (; known < t + seen; known++) {
            int64_t at = (sequence * p->seq + known) * p->channels;
            loops->silu_backward(dc + known % p->taps * p->channels, (const float *)p->c + at,
                                 (const float *)p->dy + at, p->channels);
        }
        for (int64_t ahead = 0; ahead < seen; ahead++) {
            x[ahead] = dc + (t + ahead) % p->taps * p->channels;
            w[ahead] = p->w + (p->taps - 1 - ahead) * p->channels;
        }
        loops->sum_products((float *)p->du + (sequence * p->seq + t) * p->ldu, x, w, seen,
                            p->channels);
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
    RH_ASSERT(p->taps <= TAPS_MAX);
    rh_parallel_for(b->pool, p->batch * p->seq, RH_ROW_GRAIN, forward, &(struct job){b, p});
}

void rh_cpu_conv_silu_backward(struct rh_backend *b, const struct rh_conv_silu *p)
{
    RH_ASSERT(p->taps <= TAPS_MAX);
    rh_parallel_for(b->pool, p->batch, 1, backward, &(struct job){b, p});
}
