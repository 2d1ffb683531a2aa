#include "probe.h"

#include <string.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "session.h"
#include "tuning/forward.h"
#include "tuning/top_up.h"

struct probe {
    struct rh_session session;
    struct rh_token_rows rows; /* the sample, the candidates behind it */
    struct rh_top_up top_up;
    int32_t *tokens; /* what top_up.tokens shows as constant */
    int64_t *chosen; /* [top_up.rows] */
    int64_t block;
    int64_t row; /* of the block, the next one */
};

static enum rh_rc read_rows(const struct probe *p, const char *name, struct rh_token_rows *out,
                            struct rh_error *err)
{
    const struct rh_session *s = &p->session;
    char *path = rh_session_path(s, "calibrate", 0, name);
    enum rh_rc rc = rh_token_rows_read(path, s->plan->config.vocab_size, out, err);
    rh_free(path);
    return rc;
}

static enum rh_rc join_rows(struct probe *p, const struct rh_token_rows *sample,
                            const struct rh_token_rows *more, struct rh_error *err)
{
    size_t bytes = (size_t)(sample->samples * sample->seq) * sizeof *sample->ids;
    size_t more_bytes = (size_t)(more->samples * more->seq) * sizeof *more->ids;
    void *ids = NULL;
    if (more->seq != sample->seq)
        return rh_fail(err, RH_ERR_SHAPE, "candidates of %lld tokens for rows of %lld",
                       (long long)more->seq, (long long)sample->seq);
    enum rh_rc rc = rh_try_alloc(bytes + more_bytes, "calibration rows", &ids, err);
    if (rc != RH_OK)
        return rc;
    memcpy(ids, sample->ids, bytes);
    memcpy((char *)ids + bytes, more->ids, more_bytes);
    p->rows = (struct rh_token_rows){sample->samples + more->samples, sample->seq, ids};
    return RH_OK;
}

static enum rh_rc read_all_rows(struct probe *p, struct rh_error *err)
{
    struct rh_token_rows sample = {0}, more = {0};
    enum rh_rc rc = read_rows(p, "ids.safetensors", &sample, err);
    if (rc == RH_OK)
        rc = read_rows(p, "candidates.safetensors", &more, err);
    if (rc == RH_OK)
        rc = join_rows(p, &sample, &more, err);
    p->top_up.rows = sample.samples;
    p->top_up.candidates = more.samples;
    rh_token_rows_done(&sample);
    rh_token_rows_done(&more);
    return rc;
}

static enum rh_rc open_counts(struct probe *p, struct rh_error *err)
{
    const struct rh_recipe *r = p->session.recipe;
    struct rh_top_up *t = &p->top_up;
    void *memory = NULL;
    t->blocks = p->session.plan->config.num_hidden_layers;
    t->experts = p->session.plan->config.num_experts;
    t->floor = r->expert_floor;
    t->limit = r->top_up_rows < t->rows ? r->top_up_rows : t->rows;
    size_t count = (size_t)(t->blocks * p->rows.samples * t->experts);
    enum rh_rc rc = rh_try_alloc(count * sizeof *p->tokens + 1, "tokens of experts", &memory, err);
    t->tokens = p->tokens = memory;
    p->chosen = rh_alloc_array((size_t)t->rows + 1, sizeof *p->chosen);
    return rc;
}

static enum rh_rc start(struct probe *p, struct rh_error *err)
{
    struct rh_session *s = &p->session;
    enum rh_rc rc = rh_session_open(s, err);
    if (rc == RH_OK)
        rc = read_all_rows(p, err);
    if (rc == RH_OK)
        rc = open_counts(p, err);
    if (rc != RH_OK)
        return rc;
    s->options = (struct rh_tune_options){.rows = 1, .batch_size = 1};
    s->last = p->top_up.blocks - 1;
    /* A chain of all rows is as large as the two of a tuning on half of them. */
    rc = rh_session_plan_memory(s, (p->rows.samples + 1) / 2, p->rows.seq, err);
    if (rc == RH_OK)
        rc = rh_chain_new_source(s->backend, s->memory.chains_on_host, p->rows.samples, p->rows.seq,
                                 s->plan->config.hidden_size, &s->chain, err);
    return rc == RH_OK ? rh_session_embed(s, &p->rows, err) : rc;
}

static enum rh_rc beat(void *arg, struct rh_error *err)
{
    struct probe *p = arg;
    int64_t rows = p->rows.samples;
    p->row++;
    rh_task_progress(p->session.task, "experts of the rows", (double)(p->block * rows + p->row),
                     (double)(p->top_up.blocks * rows), "rows");
    rh_session_load_ahead(&p->session, p->block);
    return rh_task_check(p->session.task, err);
}

static enum rh_rc run_block(struct probe *p, int64_t index, struct rh_error *err)
{
    struct rh_session *s = &p->session;
    struct rh_block *block = NULL;
    struct rh_pulse pulse = {beat, p};
    int64_t count = p->rows.samples * p->top_up.experts;
    int64_t *tokens = rh_alloc_array((size_t)count + 1, sizeof *tokens);
    p->block = index;
    p->row = 0;
    enum rh_rc rc = rh_session_take_block(s, index, &block, err);
    if (rc == RH_OK)
        rc = rh_forward_rows(s->backend, block, &s->chain, tokens, &pulse, err);
    for (int64_t i = 0; i < count && rc == RH_OK; i++)
        p->tokens[index * count + i] = (int32_t)tokens[i]; /* seqlen at most */
    rh_block_free(block);
    rh_free(tokens);
    return rc == RH_OK ? rc : rh_error_prefix(err, "block %lld", (long long)index);
}

static enum rh_rc alive(void *arg, struct rh_error *err)
{
    const struct probe *p = arg;
    rh_task_progress(p->session.task, "choosing rows", 0, 0, "rows");
    return rh_task_check(p->session.task, err);
}

/* Sums over all blocks, and the lowest minimum. */
static struct rh_top_up_coverage all_blocks(const struct probe *p, const int64_t *chosen)
{
    struct rh_top_up_coverage all = {0};
    for (int64_t b = 0; b < p->top_up.blocks; b++) {
        struct rh_top_up_coverage c = rh_top_up_coverage(&p->top_up, b, chosen);
        all.below_floor += c.below_floor;
        all.without_tokens += c.without_tokens;
        all.missing += c.missing;
        all.tokens_min = b == 0 || c.tokens_min < all.tokens_min ? c.tokens_min : all.tokens_min;
    }
    return all;
}

static struct rh_json *coverage_json(const struct rh_top_up_coverage *c)
{
    struct rh_json *json = rh_json_new_object();
    rh_json_set_int(json, "below_floor", c->below_floor);
    rh_json_set_int(json, "without_tokens", c->without_tokens);
    rh_json_set_int(json, "tokens_min", c->tokens_min);
    rh_json_set_int(json, "missing", c->missing);
    return json;
}

static void set_coverage(struct rh_json *json, const struct rh_top_up_coverage *before,
                         const struct rh_top_up_coverage *after)
{
    rh_json_set(json, "before", coverage_json(before));
    rh_json_set(json, "after", coverage_json(after));
}

static struct rh_json *exchanged_json(const struct probe *p)
{
    struct rh_json *list = rh_json_new_array();
    for (int64_t i = 0; i < p->top_up.rows; i++) {
        if (p->chosen[i] == i)
            continue;
        struct rh_json *entry = rh_json_new_object();
        rh_json_set_int(entry, "row", i);
        rh_json_set_int(entry, "candidate", p->chosen[i] - p->top_up.rows);
        rh_json_append(list, entry);
    }
    return list;
}

static struct rh_json *report(const struct probe *p)
{
    const struct rh_session *s = &p->session;
    struct rh_json *json = rh_json_new_object(), *blocks = rh_json_new_array();
    struct rh_top_up_coverage before = all_blocks(p, NULL), after = all_blocks(p, p->chosen);
    rh_json_set_string(json, "schema", "roundhouse.probe/1");
    rh_json_set_string(json, "backend", rh_backend_name(s->backend));
    if (rh_backend_depth(s->backend) > 1)
        rh_json_set_string(json, "device", rh_backend_device(s->backend));
    rh_json_set_int(json, "floor", p->top_up.floor);
    rh_json_set_int(json, "rows", p->top_up.rows);
    rh_json_set_int(json, "candidates", p->top_up.candidates);
    rh_json_set(json, "exchanged", exchanged_json(p));
    set_coverage(json, &before, &after);
    for (int64_t b = 0; b < p->top_up.blocks; b++) {
        struct rh_json *block = rh_json_new_object();
        before = rh_top_up_coverage(&p->top_up, b, NULL);
        after = rh_top_up_coverage(&p->top_up, b, p->chosen);
        rh_json_set_int(block, "block", b);
        set_coverage(block, &before, &after);
        rh_json_append(blocks, block);
    }
    rh_json_set(json, "blocks", blocks);
    return json;
}

/* For the event log: the report without its lists, which grow with the model. */
static struct rh_json *summary(const struct rh_json *report)
{
    struct rh_json *json = rh_json_copy(report);
    int64_t exchanged = (int64_t)rh_json_count(rh_json_get(report, "exchanged"));
    rh_json_remove(json, "blocks");
    rh_json_set_int(json, "exchanged", exchanged);
    return json;
}

static enum rh_rc write_rows(const struct probe *p, struct rh_error *err)
{
    struct rh_token_rows chosen = {p->top_up.rows, p->rows.seq, NULL};
    size_t row = (size_t)p->rows.seq * sizeof *chosen.ids;
    chosen.ids = rh_alloc_array((size_t)p->top_up.rows, row);
    for (int64_t i = 0; i < chosen.samples; i++)
        memcpy(chosen.ids + i * chosen.seq, p->rows.ids + p->chosen[i] * chosen.seq, row);
    char *path = rh_fs_join(rh_task_staging(p->session.task), "ids.safetensors");
    enum rh_rc rc = rh_token_rows_write(path, &chosen, err);
    rh_free(path);
    rh_token_rows_done(&chosen);
    return rc;
}

static enum rh_rc write_results(const struct probe *p, struct rh_error *err)
{
    char *path = rh_fs_join(rh_task_staging(p->session.task), "report.json");
    struct rh_json *json = report(p);
    struct rh_json *meta = summary(json);
    char *text = rh_json_text(meta, false);
    rh_log(RH_LOG_INFO, "probe.rows", "result=%s", text);
    enum rh_rc rc = write_rows(p, err);
    if (rc == RH_OK)
        rc = rh_json_write(path, json, err);
    rh_task_set_meta(p->session.task, meta);
    rh_free(text);
    rh_json_free(json);
    rh_free(path);
    return rc;
}

enum rh_rc rh_run_probe(struct rh_task *task, struct rh_error *err)
{
    struct probe p = {.session = {.task = task, .recipe = rh_task_recipe(task)}};
    struct rh_pulse pulse = {alive, &p};
    enum rh_rc rc = start(&p, err);
    for (int64_t b = 0; b < p.top_up.blocks && rc == RH_OK; b++)
        rc = run_block(&p, b, err);
    if (rc == RH_OK)
        rc = rh_top_up_choose(&p.top_up, &pulse, p.chosen, err);
    if (rc == RH_OK)
        rc = write_results(&p, err);
    enum rh_rc settled = rh_session_settle(&p.session, rc == RH_OK ? err : NULL);
    rh_session_close(&p.session);
    rh_token_rows_done(&p.rows);
    rh_free(p.tokens);
    rh_free(p.chosen);
    return rc == RH_OK ? settled : rc;
}
