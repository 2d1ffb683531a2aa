#include "ops_cpu.h"

#define TILE_N 512

void rh_cpu_gemm(enum rh_form form, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    const struct rh_gemm g = {form, m, n, k, alpha, a, b, lda, ldb, c, ldc,
                              beta != 0.0F, NULL};
    rh_loops_best()->gemm(&g);
}

struct job {
    const struct rh_matmul *p;
    int64_t tile_m, tiles_n;
};

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct rh_matmul *p = job->p;
    for (int64_t t = begin; t < end; t++) {
        int64_t i = t / job->tiles_n * job->tile_m;
        int64_t j = t % job->tiles_n * TILE_N;
        const float *a = (const float *)p->a + (p->form == RH_TN ? i : i * p->lda);
        const float *b = (const float *)p->b + (p->form == RH_NT ? j * p->ldb : j);
        rh_cpu_gemm(p->form, smaller(job->tile_m, p->m - i), smaller(TILE_N, p->n - j), p->k, 1.0F, a,
                    p->lda, b, p->ldb, p->accumulate ? 1.0F : 0.0F,
                    (float *)p->c + i * p->ldc + j, p->ldc);
    }
}

/* Tiles do not show in the result, so they may follow the number of threads. B is packed anew for every
 * tile, and A too for a weight's gradient: few tall tiles, but enough of them to spread. */
static int64_t tile_rows(const struct rh_backend *b, const struct rh_matmul *p)
{
    int64_t tiles = rh_thread_pool_size(b->pool) * (p->form == RH_TN ? 1 : 4);
    int64_t rows = (p->m + tiles - 1) / tiles;
    return (rows + RH_GEMM_ROWS - 1) / RH_GEMM_ROWS * RH_GEMM_ROWS;
}

void rh_cpu_matmul(struct rh_backend *b, const struct rh_matmul *p)
{
    struct job job = {p, tile_rows(b, p), (p->n + TILE_N - 1) / TILE_N};
    int64_t tiles_m = (p->m + job.tile_m - 1) / job.tile_m;
    rh_parallel_for(b->pool, tiles_m * job.tiles_n, 1, run_tiles, &job);
}
