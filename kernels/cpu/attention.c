#include <math.h>
#include <string.h>

#include "ops_cpu.h"

/*
 * The heads that share keys go together: ROWS rows are the same few queries of each, so that a
 * product has rows enough where only few keys are hidden from some of them. Keys and values of a
 * sequence are laid out once for all its queries.
 */
#define ROWS 64

struct job {
    struct rh_backend *b;
    const struct rh_attention *p;
    int64_t group;   /* heads that share keys */
    int64_t queries; /* of a tile, of each head */
    int64_t tiles;   /* per sequence */
    int64_t parts;   /* in which the tiles of a sequence are dealt out */
    int64_t ld;      /* floats from a row of scores to the next: not a power of two */
};

/* Scratch of one thread; rows = group * queries. */
struct work {
    float *keys, *values;     /* [seq, size] */
    float *keys_t, *values_t; /* [size, seq] in rows of ld */
    float *q, *o, *d_o, *dq;  /* [rows, size] */
    float *s, *ds;            /* [rows, seq] in rows of ld */
    float *dk, *dv;           /* [seq, size] */
    float *factor;            /* [rows] */
};

/* A tile of queries of the heads of one key head. */
struct place {
    int64_t sequence, kv_head;
    int64_t first, count; /* queries, positions in the sequence */
    int64_t rows;         /* group * count */
    int64_t keys;         /* first + count */
};

static struct job plan(struct rh_backend *b, const struct rh_attention *p)
{
    struct job job = {.b = b, .p = p, .group = p->heads / p->kv_heads};
    job.queries = job.group < ROWS ? ROWS / job.group : 1;
    job.tiles = (p->seq + job.queries - 1) / job.queries;
    job.ld = (p->seq + 15) / 16 * 16 + 16;
    job.parts = 1;
    return job;
}

static size_t carve(const struct job *job, bool backward, float *memory, struct work *w)
{
    const struct rh_attention *p = job->p;
    int64_t rows = job->group * job->queries;
    const struct {
        float **to;
        int64_t size;
        bool backward;
    } parts[] = {
        {&w->keys_t, p->size * job->ld, false},  {&w->values, p->seq * p->size, false},
        {&w->q, rows * p->size, false},          {&w->o, rows * p->size, false},
        {&w->s, rows * job->ld, false},          {&w->factor, rows, false},
        {&w->values_t, p->size * job->ld, true}, {&w->keys, p->seq * p->size, true},
        {&w->d_o, rows * p->size, true},         {&w->dq, rows * p->size, true},
        {&w->ds, rows * job->ld, true},          {&w->dk, p->seq * p->size, true},
        {&w->dv, p->seq * p->size, true},
    };
    int64_t used = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].backward && !backward)
            continue;
        *parts[i].to = memory ? memory + used : NULL;
        used += (parts[i].size + 15) / 16 * 16;
    }
    return (size_t)used * sizeof(float);
}

static void prepare(const struct job *job, bool backward, int thread, struct work *w)
{
    size_t size = carve(job, backward, NULL, w);
    carve(job, backward, rh_backend_scratch(job->b, thread, size), w);
}

static void copy_rows(float *to, int64_t ld_to, const float *from, int64_t ld_from, int64_t rows,
                      int64_t size)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * ld_to, from + i * ld_from, (size_t)size * sizeof *to);
}

/* Keys and values of a sequence, whole or turned. */
static void lay_out(const struct job *job, int64_t sequence, int64_t kv_head, bool backward,
                    struct work *w)
{
    const struct rh_attention *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    int64_t ldk = p->kv_heads * p->size;
    const float *k = (const float *)p->k + sequence * p->seq * ldk + kv_head * p->size;
    const float *v = (const float *)p->v + sequence * p->seq * p->ldv + kv_head * p->size;
    loops->transpose(k, ldk, p->seq, p->size, w->keys_t, job->ld);
    copy_rows(w->values, p->size, v, p->ldv, p->seq, p->size);
    if (backward) {
        loops->transpose(v, p->ldv, p->seq, p->size, w->values_t, job->ld);
        copy_rows(w->keys, p->size, k, ldk, p->seq, p->size);
    }
}

static struct place place_at(const struct job *job, int64_t sequence, int64_t kv_head, int64_t tile)
{
    struct place t = {.sequence = sequence, .kv_head = kv_head, .first = tile * job->queries};
    int64_t left = job->p->seq - t.first;
    t.count = left < job->queries ? left : job->queries;
    t.rows = job->group * t.count;
    t.keys = t.first + t.count;
    return t;
}

/* Where the rows of one of the tile's heads begin in q, o and what looks like them. */
static int64_t head_at(const struct job *job, const struct place *t, int64_t h)
{
    const struct rh_attention *p = job->p;
    return ((t->sequence * p->seq + t->first) * p->heads + t->kv_head * job->group + h) * p->size;
}

static float *lse_of(const struct job *job, const struct place *t, int64_t h)
{
    const struct rh_attention *p = job->p;
    return p->lse + (t->sequence * p->heads + t->kv_head * job->group + h) * p->seq + t->first;
}

/* The tile's rows of q and the like, one head after the other. */
static void gather(const struct job *job, const struct place *t, const void *x, float *to)
{
    const struct rh_attention *p = job->p;
    for (int64_t h = 0; h < job->group; h++)
        copy_rows(to + h * t->count * p->size, p->size, (const float *)x + head_at(job, t, h),
                  p->heads * p->size, t->count, p->size);
}

static void scores(const struct job *job, const struct place *t, const struct work *w)
{
    const struct rh_attention *p = job->p;
    gather(job, t, p->q, w->q);
    rh_cpu_gemm(RH_NN, t->rows, t->keys, p->size, p->scale, w->q, p->size, w->keys_t, job->ld, 0.0F,
                w->s, job->ld);
}

static void forward_tile(const struct job *job, const struct place *t, const struct work *w)
{
    const struct rh_attention *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    scores(job, t, w);
    for (int64_t i = 0; i < t->rows; i++) {
        float max = 0.0F;
        float sum = loops->exp_row(w->s + i * job->ld, t->first + i % t->count + 1, t->keys, &max);
        lse_of(job, t, i / t->count)[i % t->count] = max + logf(sum);
        w->factor[i] = 1.0F / sum;
    }
    rh_cpu_gemm(RH_NN, t->rows, p->size, t->keys, 1.0F, w->s, job->ld, w->values, p->size, 0.0F,
                w->o, p->size);
    for (int64_t h = 0; h < job->group; h++)
        loops->scale_rows((float *)p->o + head_at(job, t, h), p->heads * p->size,
                          w->o + h * t->count * p->size, p->size, w->factor + h * t->count,
                          t->count, p->size);
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_attention *p = job->p;
    struct work w;
    prepare(job, false, thread, &w);
    for (int64_t i = begin; i < end; i++) {
        int64_t sequence = i / (p->kv_heads * job->parts);
        int64_t kv_head = i / job->parts % p->kv_heads;
        lay_out(job, sequence, kv_head, false, &w);
        for (int64_t tile = i % job->parts; tile < job->tiles; tile += job->parts) {
            struct place t = place_at(job, sequence, kv_head, tile);
            forward_tile(job, &t, &w);
        }
    }
}

/* The last tile comes first and reaches all keys: it sets dk and dv, the others add. */
static void backward_tile(const struct job *job, const struct place *t, const struct work *w)
{
    const struct rh_attention *p = job->p;
    const struct rh_loops *loops = job->b->loops;
    float beta = t->keys == p->seq ? 0.0F : 1.0F;
    scores(job, t, w);
    gather(job, t, p->o, w->o);
    gather(job, t, p->d_o, w->d_o);
    rh_cpu_gemm(RH_NN, t->rows, t->keys, p->size, 1.0F, w->d_o, p->size, w->values_t, job->ld, 0.0F,
                w->ds, job->ld);
    for (int64_t i = 0; i < t->rows; i++) {
        float delta = loops->dot(w->d_o + i * p->size, w->o + i * p->size, p->size);
        loops->softmax_backward(w->s + i * job->ld, w->ds + i * job->ld,
                                lse_of(job, t, i / t->count)[i % t->count], delta,
                                t->first + i % t->count + 1, t->keys);
    }
    rh_cpu_gemm(RH_TN, t->keys, p->size, t->rows, 1.0F, w->s, job->ld, w->d_o, p->size, beta, w->dv,
                p->size);
    rh_cpu_gemm(RH_TN, t->keys, p->size, t->rows, p->scale, w->ds, job->ld, w->q, p->size, beta,
                w->dk, p->size);
    rh_cpu_gemm(RH_NN, t->rows, p->size, t->keys, p->scale, w->ds, job->ld, w->keys, p->size, 0.0F,
                w->dq, p->size);
    for (int64_t h = 0; h < job->group; h++)
        copy_rows((float *)p->dq + head_at(job, t, h), p->heads * p->size,
                  w->dq + h * t->count * p->size, p->size, t->count, p->size);
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const struct job *job = arg;
    const struct rh_attention *p = job->p;
    int64_t ldk = p->kv_heads * p->size;
    struct work w;
    prepare(job, true, thread, &w);
    for (int64_t i = begin; i < end; i++) {
        int64_t sequence = i / p->kv_heads;
        int64_t kv_head = i % p->kv_heads;
        lay_out(job, sequence, kv_head, true, &w);
        for (int64_t tile = job->tiles - 1; tile >= 0; tile--) {
            struct place t = place_at(job, sequence, kv_head, tile);
            backward_tile(job, &t, &w);
        }
        copy_rows((float *)p->dk + sequence * p->seq * ldk + kv_head * p->size, ldk, w.dk, p->size,
                  p->seq, p->size);
        copy_rows((float *)p->dv + sequence * p->seq * p->lddv + kv_head * p->size, p->lddv, w.dv,
                  p->size, p->seq, p->size);
    }
}

void rh_cpu_attention(struct rh_backend *b, const struct rh_attention *p)
{
    struct job job = plan(b, p);
    /* Parts do not show in the result, so they may follow the number of threads. */
    int64_t heads = p->batch * p->kv_heads;
    int64_t wanted = 4 * (int64_t)rh_thread_pool_size(b->pool);
    job.parts = (wanted + heads - 1) / heads;
    job.parts = job.parts < job.tiles ? job.parts : job.tiles;
    rh_parallel_for(b->pool, heads * job.parts, 1, forward, &job);
}

void rh_cpu_attention_backward(struct rh_backend *b, const struct rh_attention *p)
{
    struct job job = plan(b, p);
    rh_parallel_for(b->pool, p->batch * p->kv_heads, 1, backward, &job);
}
