#include "ops_cpu.h"

/* Outputs of a weight's gradient at a time; a multiple of RH_GEMM_ROWS. */
#define TILE_OUT 264

struct job {
    const struct rh_expert_matmul *p;
    int64_t tile_rows;
    const int64_t *first; /* [experts + 1]: first tile of an expert */
};

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t tiles_of(const struct rh_expert_matmul *p, int64_t tile_rows, int64_t e)
{
    int64_t rows = p->offsets[e + 1] - p->offsets[e];
    if (p->form == RH_TN)
        return rows > 0 ? (p->n + TILE_OUT - 1) / TILE_OUT : 0;
    return (rows + tile_rows - 1) / tile_rows;
}

static void run_rows(const struct rh_expert_matmul *p, int64_t tile_rows, int64_t e, int64_t tile)
{
    const float *x = p->x;
    const float *w = p->w;
    float *y = p->y;
    int64_t row = p->offsets[e] + tile * tile_rows;
    int64_t rows = smaller(tile_rows, p->offsets[e + 1] - row);
    rh_cpu_gemm(p->form, rows, p->n, p->k, 1.0F, x + row * p->ldx, p->ldx,
                w + e * p->w_stride, p->form == RH_NT ? p->k : p->n, 0.0F, y + row * p->ldy,
                p->ldy);
}

static void run_weight(const struct rh_expert_matmul *p, int64_t e, int64_t tile)
{
    const float *x = p->x;
    const float *y = p->y;
    float *w = p->w;
    int64_t row = p->offsets[e];
    int64_t out = tile * TILE_OUT;
    rh_cpu_gemm(RH_TN, smaller(TILE_OUT, p->n - out), p->k, p->offsets[e + 1] - row, 1.0F,
                y + row * p->ldy + out, p->ldy, x + row * p->ldx, p->ldx, 0.0F,
                w + e * p->w_stride + out * p->k, p->k);
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct job *job = arg;
    int64_t e = 0;
    for (int64_t t = begin; t < end; t++) {
        while (t >= job->first[e + 1])
            e++;
        if (job->p->form == RH_TN)
            run_weight(job->p, e, t - job->first[e]);
        else
            run_rows(job->p, job->tile_rows, e, t - job->first[e]);
    }
}

void rh_cpu_expert_matmul(struct rh_backend *b, const struct rh_expert_matmul *p)
{
    /* An expert's weights are packed anew for every tile: tall ones, but enough of them to spread. */
    int64_t tiles = 8 * (int64_t)rh_thread_pool_size(b->pool);
    int64_t tile_rows = (p->offsets[p->experts] / tiles / RH_GEMM_ROWS + 1) * RH_GEMM_ROWS;
    int64_t *first = rh_backend_table(b, (size_t)(p->experts + 1) * sizeof *first);
    first[0] = 0;
    for (int64_t e = 0; e < p->experts; e++)
        first[e + 1] = first[e] + tiles_of(p, tile_rows, e);
    struct job job = {p, tile_rows, first};
    rh_parallel_for(b->pool, first[p->experts], 1, run_tiles, &job);
}
