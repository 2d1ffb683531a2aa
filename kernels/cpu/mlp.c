#include "ops_cpu.h"

/* Rows that go all the way together: what lies between the products stays in the second cache. */
#define TILE 192

struct job {
    struct rh_backend *b;
    const struct rh_mlp *p;
    const int64_t *first; /* [experts + 1]: first tile of an expert */
};

/* Of one thread: the weights of the expert at hand, packed, and gradients of one tile. */
struct work {
    int64_t expert;
    float *gate_up, *down;
    float *d_act; /* [TILE, width] */
};

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void prepare(const struct job *job, int thread, struct work *w)
{
    const struct rh_mlp *p = job->p;
    /* Forward packs what backward packs turned. */
    int64_t gate_up = larger(rh_gemm_packed_size(2 * p->width, p->hidden),
                             rh_gemm_packed_size(p->hidden, 2 * p->width));
    int64_t down = larger(rh_gemm_packed_size(p->width, p->hidden),
                          rh_gemm_packed_size(p->hidden, p->width));
    w->expert = -1;
    w->gate_up = rh_backend_scratch(
        job->b, thread, (size_t)(gate_up + down + TILE * p->width) * sizeof *w->gate_up);
    w->down = w->gate_up + gate_up;
    w->d_act = w->down + down;
}

static void run(const struct job *job, struct rh_gemm *g, const float *w, float *packed, bool fresh)
{
    g->alpha = 1.0F;
    g->b = w;
    g->ldb = g->form == RH_NT ? g->k : g->n;
    g->packed = NULL;
    if (fresh)
        job->b->loops->pack(g, packed);
    g->packed = packed;
    job->b->loops->gemm(g);
}

static void forward_tile(const struct job *job, int64_t e, int64_t row, int64_t rows,
                         struct work *w)
{
    const struct rh_mlp *p = job->p;
    bool fresh = w->expert != e;
    float *u = (float *)p->u + row * 2 * p->width;
    float *act = (float *)p->act + row * p->width;
    struct rh_gemm up = {.form = RH_NT, .m = rows, .n = 2 * p->width, .k = p->hidden,
                         .a = (const float *)p->x + row * p->hidden, .lda = p->hidden, .c = u,
                         .ldc = 2 * p->width};
    struct rh_gemm down = {.form = RH_NT, .m = rows, .n = p->hidden, .k = p->width, .a = act,
                           .lda = p->width, .c = (float *)p->y + row * p->hidden,
                           .ldc = p->hidden};
    run(job, &up, (const float *)p->gate_up + e * 2 * p->width * p->hidden, w->gate_up, fresh);
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = u + i * 2 * p->width;
        job->b->loops->silu_mul(act + i * p->width, gate, gate + p->width, p->width);
    }
    run(job, &down, (const float *)p->down + e * p->hidden * p->width, w->down, fresh);
    w->expert = e;
}

static void backward_tile(const struct job *job, int64_t e, int64_t row, int64_t rows,
                          struct work *w)
{
    const struct rh_mlp *p = job->p;
    bool fresh = w->expert != e;
    float *du = (float *)p->du + row * 2 * p->width;
    struct rh_gemm down = {.form = RH_NN, .m = rows, .n = p->width, .k = p->hidden,
                           .a = (const float *)p->dy + row * p->hidden, .lda = p->hidden,
                           .c = w->d_act, .ldc = p->width};
    struct rh_gemm up = {.form = RH_NN, .m = rows, .n = p->hidden, .k = 2 * p->width, .a = du,
                         .lda = 2 * p->width, .c = (float *)p->dx + row * p->hidden,
                         .ldc = p->hidden, .accumulate = p->accumulate};
    run(job, &down, (const float *)p->down + e * p->hidden * p->width, w->down, fresh);
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = (const float *)p->u + (row + i) * 2 * p->width;
        float *dgate = du + i * 2 * p->width;
        job->b->loops->silu_mul_backward(dgate, dgate + p->width, gate, gate + p->width,
                                         w->d_act + i * p->width, p->width);
    }
    run(job, &up, (const float *)p->gate_up + e * 2 * p->width * p->hidden, w->gate_up, fresh);
    w->expert = e;
}

static void run_tiles(const struct job *job, int64_t begin, int64_t end, int thread,
                      void (*tile)(const struct job *, int64_t, int64_t, int64_t, struct work *))
{
    struct work w;
    int64_t e = 0;
    prepare(job, thread, &w);
    for (int64_t t = begin; t < end; t++) {
        while (t >= job->first[e + 1])
            e++;
        int64_t rows = job->p->offsets[e + 1] - job->p->offsets[e];
        int64_t at = (t - job->first[e]) * TILE;
        tile(job, e, job->p->offsets[e] + at, smaller(TILE, rows - at), &w);
    }
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    run_tiles(arg, begin, end, thread, forward_tile);
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    run_tiles(arg, begin, end, thread, backward_tile);
}

/* Several tiles at a time, so that an expert's weights are packed once for most of them. */
static void over_tiles(struct rh_backend *b, const struct rh_mlp *p, rh_range_fn fn)
{
    int64_t *first = rh_backend_table(b, (size_t)(p->experts + 1) * sizeof *first);
    first[0] = 0;
    for (int64_t e = 0; e < p->experts; e++)
        first[e + 1] = first[e] + (p->offsets[e + 1] - p->offsets[e] + TILE - 1) / TILE;
    int64_t shares = 8 * (int64_t)rh_thread_pool_size(b->pool);
    rh_parallel_for(b->pool, first[p->experts], (first[p->experts] + shares - 1) / shares, fn,
                    &(struct job){b, p, first});
}

void rh_cpu_mlp(struct rh_backend *b, const struct rh_mlp *p)
{
    over_tiles(b, p, forward);
}

void rh_cpu_mlp_backward(struct rh_backend *b, const struct rh_mlp *p)
{
    over_tiles(b, p, backward);
}
