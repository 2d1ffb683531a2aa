#include <stddef.h>

#include "ops_cpu.h"

/* Elements summed in fp32 before they go into the fp64 total. */
#define CHUNK 2048

struct job {
    struct rh_backend *b;
    const struct rh_mse *p;
    double *sums; /* one per chunk */
};

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_mse *p = job->p;
    float factor = (float)(2.0 * (double)p->factor / (double)p->count);
    for (int64_t i = begin; i < end; i++) {
        int64_t at = i * CHUNK;
        int64_t n = p->count - at < CHUNK ? p->count - at : CHUNK;
        float *grad = p->grad ? (float *)p->grad + at : NULL;
        job->sums[i] = (double)job->b->loops->square_error(
            grad, (const float *)p->pred + at, (const float *)p->target + at, factor, n);
    }
}

void rh_cpu_mse(struct rh_backend *b, const struct rh_mse *p)
{
    int64_t chunks = (p->count + CHUNK - 1) / CHUNK;
    struct job job = {b, p, rh_backend_table(b, (size_t)chunks * sizeof(double))};
    rh_parallel_for(b->pool, chunks, 8, run, &job);
    double total = 0.0;
    for (int64_t i = 0; i < chunks; i++)
        total += job.sums[i];
    double mean = total / (double)p->count * p->share;
    *p->loss = p->accumulate ? *p->loss + mean : mean;
}
