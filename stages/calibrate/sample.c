#include "sample.h"

#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "random/pcg64.h"
#include "sample_set.h"

/* The data sets while they are sampled. */
struct mix {
    const struct rh_recipe *recipe;
    struct rh_dataset_specs specs;
    int64_t fixed[RH_DATASETS_MAX]; /* rows that num or share ask for; 0: open */
    int order[RH_DATASETS_MAX];     /* by rows, fewest first */
    struct rh_set_rows rows[RH_DATASETS_MAX];
    struct rh_sampling *out;
};

void rh_sampling_done(struct rh_sampling *s)
{
    for (int i = 0; i < s->set_count; i++)
        rh_free(s->sets[i].name);
    rh_free(s->sets);
    rh_free(s->ids);
    rh_free(s->candidates);
    *s = (struct rh_sampling){0};
}

static enum rh_rc check_names(const struct rh_dataset_specs *specs, struct rh_error *err)
{
    for (int i = 0; i < specs->count; i++) {
        if (specs->items[i].name[0] != '/')
            return rh_fail(err, RH_ERR_UNSUPPORTED,
                           "calibration.dataset %s is the name of a data set on the hub, which "
                           "cannot be fetched; download it and name its .parquet or .jsonl file",
                           specs->items[i].name);
    }
    return RH_OK;
}

int64_t rh_sample_pool(const struct rh_recipe *recipe)
{
    if (recipe->top_up_rows == 0)
        return 0;
    return recipe->top_up_pool > 0 ? recipe->top_up_pool : recipe->nsamples;
}

static enum rh_rc sample_sets(struct mix *m, struct rh_set_order *o, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (int i = 0; i < m->specs.count && rc == RH_OK; i++) {
        o->keep = m->fixed[i] > 0 ? m->fixed[i] : m->recipe->nsamples;
        o->keep += rh_sample_pool(m->recipe);
        /* How many rows there are decides about the shares of all. */
        o->count_all = m->specs.count > 1 && m->fixed[i] == 0;
        rc = rh_sample_set(o, &m->specs.items[i], &m->out->sets[i], &m->rows[i], err);
        o->before += m->rows[i].kept;
    }
    return rc;
}

/* A stable order by rows. */
static void sort_sets(struct mix *m)
{
    for (int i = 0; i < m->specs.count; i++) {
        int at = i;
        for (; at > 0 && m->out->sets[m->order[at - 1]].rows > m->out->sets[i].rows; at--)
            m->order[at] = m->order[at - 1];
        m->order[at] = i;
    }
}

static void share_out(struct mix *m)
{
    int64_t left = m->recipe->nsamples;
    int open = 0;
    for (int i = 0; i < m->specs.count; i++) {
        m->out->sets[i].taken = m->fixed[i] < m->rows[i].kept ? m->fixed[i] : m->rows[i].kept;
        left -= m->fixed[i];
        open += m->fixed[i] == 0;
    }
    for (int k = 0; k < m->specs.count; k++) {
        struct rh_set_sampling *s = &m->out->sets[m->order[k]];
        if (m->fixed[m->order[k]] > 0)
            continue;
        int64_t part = left / open--;
        s->taken = part < s->rows ? part : s->rows;
        left -= s->taken;
    }
}

static enum rh_rc too_few(const struct mix *m, struct rh_error *err)
{
    struct rh_strbuf each = {0};
    const char *joint = "";
    for (int i = 0; i < m->out->set_count && each.size < 512; i++, joint = "; ") {
        const struct rh_set_sampling *s = &m->out->sets[i];
        rh_strbuf_printf(
            &each, "%s%s: of %lld documents %lld are shorter and %lld repeat themselves", joint,
            s->name, (long long)s->considered, (long long)s->too_short, (long long)s->repetitive);
        if (m->fixed[i] > s->taken)
            rh_strbuf_printf(&each, ", %lld of its %lld rows", (long long)s->taken,
                             (long long)m->fixed[i]);
    }
    rh_fail(err, RH_ERR_FORMAT,
            "calibration.dataset gives %lld rows of %lld tokens, calibration.nsamples asks for "
            "%lld (%s); add text, pack short documents with calibration.concat, lower "
            "calibration.seqlen or nsamples, or set calibration.accept_fewer",
            (long long)m->out->rows, (long long)m->recipe->seqlen, (long long)m->recipe->nsamples,
            each.text ? each.text : "no data set");
    rh_strbuf_done(&each);
    return RH_ERR_FORMAT;
}

/* Row i of the mix goes where the permutation says; one data set keeps its order. */
static enum rh_rc join_rows(struct mix *m, struct rh_error *err)
{
    struct rh_sampling *s = m->out;
    size_t row = (size_t)m->recipe->seqlen * sizeof *s->ids;
    void *ids = NULL;
    enum rh_rc rc = rh_try_alloc((size_t)s->rows * row + 1, "calibration rows", &ids, err);
    if (rc != RH_OK)
        return rc;
    s->ids = ids;
    const char **source = rh_alloc_array((size_t)s->rows + 1, sizeof *source);
    int64_t n = 0;
    for (int k = 0; k < m->specs.count; k++) {
        const char *rows = (const char *)m->rows[m->order[k]].ids;
        for (int64_t i = 0; i < s->sets[m->order[k]].taken; i++)
            source[n++] = rows + (size_t)i * row;
    }
    int64_t *order = rh_alloc_array((size_t)s->rows + 1, sizeof *order);
    bool shuffle = m->specs.count > 1 && m->recipe->order != RH_ORDER_NONE;
    if (shuffle)
        rh_pcg64_permutation((uint64_t)m->recipe->calibration_seed, order, s->rows);
    for (int64_t i = 0; i < s->rows; i++)
        memcpy((char *)ids + (size_t)i * row, source[shuffle ? order[i] : i], row);
    rh_free(order);
    rh_free(source);
    return RH_OK;
}

/* Of each data set in proportion to its rows, rounded up. */
static void share_out_pool(struct mix *m)
{
    struct rh_sampling *out = m->out;
    int64_t pool = rh_sample_pool(m->recipe);
    for (int i = 0; i < m->specs.count; i++) {
        struct rh_set_sampling *s = &out->sets[i];
        int64_t part = (pool * s->taken + out->rows - 1) / out->rows;
        int64_t there = m->rows[i].kept - s->taken;
        int64_t left = pool - out->candidate_rows;
        s->candidates = part < there ? part : there;
        s->candidates = s->candidates < left ? s->candidates : left;
        out->candidate_rows += s->candidates;
    }
}

static enum rh_rc gather_candidates(struct mix *m, struct rh_error *err)
{
    struct rh_sampling *out = m->out;
    size_t row = (size_t)m->recipe->seqlen * sizeof *out->candidates;
    void *ids = NULL;
    share_out_pool(m);
    if (out->candidate_rows == 0)
        return rh_fail(err, RH_ERR_FORMAT,
                       "calibration.top_up_rows needs rows to choose from, but calibration.dataset "
                       "has none beyond the %lld of the sample; add text, lower "
                       "calibration.nsamples, or set calibration.top_up_rows to 0",
                       (long long)out->rows);
    enum rh_rc rc =
        rh_try_alloc((size_t)out->candidate_rows * row + 1, "candidate rows", &ids, err);
    if (rc != RH_OK)
        return rc;
    out->candidates = ids;
    char *to = ids;
    for (int i = 0; i < m->specs.count; i++) {
        const struct rh_set_sampling *s = &out->sets[i];
        size_t bytes = (size_t)s->candidates * row;
        if (bytes > 0)
            memcpy(to, (const char *)m->rows[i].ids + (size_t)s->taken * row, bytes);
        to += bytes;
    }
    return RH_OK;
}

static enum rh_rc mix_sets(struct mix *m, struct rh_set_order *o, struct rh_error *err)
{
    m->out->set_count = m->specs.count;
    m->out->sets = rh_alloc_array((size_t)m->specs.count + 1, sizeof *m->out->sets);
    enum rh_rc rc = sample_sets(m, o, err);
    if (rc != RH_OK)
        return rc;
    sort_sets(m);
    share_out(m);
    for (int i = 0; i < m->specs.count; i++)
        m->out->rows += m->out->sets[i].taken;
    if (m->out->rows < m->recipe->nsamples && !(m->recipe->accept_fewer && m->out->rows > 0))
        return too_few(m, err);
    rc = join_rows(m, err);
    return rc == RH_OK && rh_sample_pool(m->recipe) > 0 ? gather_candidates(m, err) : rc;
}

enum rh_rc rh_sample_rows(const struct rh_recipe *recipe, struct rh_tokenizer *tokenizer,
                          enum rh_rc (*progress)(void *arg, int64_t rows, struct rh_error *err),
                          void *arg, struct rh_sampling *out, struct rh_error *err)
{
    struct mix *m = rh_alloc(sizeof *m);
    struct rh_set_order o = {
        .recipe = recipe, .tokenizer = tokenizer, .progress = progress, .arg = arg};
    *out = (struct rh_sampling){0};
    m->recipe = recipe;
    m->out = out;
    enum rh_rc rc = rh_dataset_specs_parse(recipe->dataset, &m->specs, err);
    if (rc == RH_OK)
        rc = check_names(&m->specs, err);
    if (rc == RH_OK)
        rc = rh_dataset_specs_rows(&m->specs, recipe->nsamples, m->fixed, err);
    if (rc == RH_OK)
        rc = mix_sets(m, &o, err);
    if (rc != RH_OK)
        rh_sampling_done(out);
    for (int i = 0; i < RH_DATASETS_MAX; i++)
        rh_free(m->rows[i].ids);
    rh_dataset_specs_done(&m->specs);
    rh_free(m);
    return rc;
}
