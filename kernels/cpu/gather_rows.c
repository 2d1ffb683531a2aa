#include <string.h>

#include "ops_cpu.h"

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct rh_gather_rows *p = arg;
    const float *x = p->x;
    float *y = p->y;
    for (int64_t i = begin; i < end; i++)
        memcpy(y + i * p->size, x + p->rows[i] * p->size, (size_t)p->size * sizeof *y);
}

void rh_cpu_gather_rows(struct rh_backend *b, const struct rh_gather_rows *p)
{
    struct rh_gather_rows copy = *p;
    rh_parallel_for(b->pool, p->count, 1, run, &copy);
}
