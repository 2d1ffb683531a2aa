#include "random/minibatch.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "random/mt19937.h"

struct rh_minibatch {
    struct rh_mt19937 stream;
    int64_t samples, batch, at;
    int64_t *rows;
};

struct rh_minibatch *rh_minibatch_new(uint64_t seed, int64_t samples, int64_t batch)
{
    RH_ASSERT(samples > 0 && batch > 0);
    struct rh_minibatch *m = rh_alloc(sizeof *m);
    rh_mt19937_seed(&m->stream, seed);
    m->samples = samples;
    m->batch = batch < samples ? batch : samples;
    m->rows = rh_alloc_array((size_t)samples, sizeof *m->rows);
    return m;
}

void rh_minibatch_free(struct rh_minibatch *m)
{
    if (!m)
        return;
    rh_free(m->rows);
    rh_free(m);
}

void rh_minibatch_begin_block(struct rh_minibatch *m)
{
    for (int64_t i = 0; i < m->samples; i++)
        m->rows[i] = i;
    rh_mt19937_shuffle(&m->stream, m->rows, m->samples);
    m->at = 0;
}

int64_t rh_minibatch_next(struct rh_minibatch *m, int64_t *rows)
{
    if (m->at + m->batch > m->samples) {
        rh_mt19937_shuffle(&m->stream, m->rows, m->samples);
        m->at = 0;
    }
    memcpy(rows, m->rows + m->at, (size_t)m->batch * sizeof *rows);
    m->at += m->batch;
    return m->batch;
}

void rh_minibatch_skip_block(struct rh_minibatch *m, int64_t iterations)
{
    int64_t batches = m->samples / m->batch;
    rh_minibatch_begin_block(m);
    for (int64_t i = batches; i < iterations; i += batches)
        rh_mt19937_shuffle(&m->stream, m->rows, m->samples);
}
