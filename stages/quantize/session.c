#include <string.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "families/model_plan.h"
#include "quantize/quantize.h"
#include "random/minibatch.h"
#include "tuning/block_file.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/report.h"
#include "tuning/tuner.h"

#define PLAN_MAX ((uint64_t)1 << 30)

/* What lives as long as the session. */
struct session {
    struct rh_task *task;
    const struct rh_recipe *recipe; /* borrowed */
    struct rh_model_plan *plan;
    struct rh_backend *backend;
    struct rh_chain chain;
    struct rh_tune_options options;
    struct rh_minibatch *sampler;
    int64_t *order;   /* [iters, rows] of the block at hand */
    int64_t *tokens;  /* [experts] */
    int64_t *reached; /* [experts] */
    char phase[32];
};

static char *path_in(const struct session *s, const char *op, int64_t index, const char *name)
{
    char *dir = rh_task_artifact(s->task, op, index);
    char *path = rh_fs_join(dir, name);
    rh_free(dir);
    return path;
}

static enum rh_rc read_plan(struct session *s, struct rh_error *err)
{
    char *path = path_in(s, "plan", 0, "plan.json");
    struct rh_json *json = NULL;
    enum rh_rc rc = rh_json_read(path, PLAN_MAX, &json, err);
    if (rc == RH_OK)
        rc = rh_model_plan_from_json(json, path, &s->plan, err);
    rh_json_free(json);
    rh_free(path);
    return rc;
}

/* The embedding is the only matrix of the head. */
static const char *embedding_name(const struct rh_model_plan *plan, size_t *unit)
{
    for (size_t i = 0; i < plan->unit_count; i++) {
        if (plan->units[i].kind == RH_UNIT_HEAD && plan->units[i].tensor_count == 1) {
            *unit = i;
            return plan->units[i].tensors[0].info.name;
        }
    }
    return NULL;
}

static enum rh_rc embed(struct session *s, const struct rh_token_rows *rows, struct rh_error *err)
{
    size_t unit = 0;
    const char *name = embedding_name(s->plan, &unit);
    if (!name)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "the plan's head is not one embedding matrix");
    enum rh_rc rc = rh_task_wait_artifact(s->task, "fetch", (int64_t)unit, err);
    if (rc != RH_OK)
        return rc;
    char *path = path_in(s, "fetch", (int64_t)unit, "tensors.safetensors");
    struct rh_safetensors *head = NULL;
    rc = rh_safetensors_open(path, &head, err);
    if (rc == RH_OK)
        rc = rh_chain_embed(&s->chain, rows, head, name, err);
    rh_safetensors_close(head);
    rh_free(path);
    return rc;
}

/* The activations before block `first`. */
static enum rh_rc read_chain(struct session *s, int64_t first, struct rh_error *err)
{
    struct rh_token_rows rows = {0};
    char *path = path_in(s, "calibrate", 0, "ids.safetensors");
    enum rh_rc rc = rh_token_rows_read(path, s->plan->config.vocab_size, &rows, err);
    rh_free(path);
    if (rc == RH_OK)
        rc = rh_chain_new(s->backend, false, rows.samples, rows.seq, s->plan->config.hidden_size,
                          &s->chain, err);
    if (rc == RH_OK && first == 0)
        rc = embed(s, &rows, err);
    if (rc == RH_OK && first > 0) {
        path = path_in(s, "tune", first - 1, "chain.safetensors");
        rc = rh_chain_read(&s->chain, path, err);
        rh_free(path);
    }
    rh_token_rows_done(&rows);
    return rc;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void set_options(struct session *s)
{
    const struct rh_recipe *r = s->recipe;
    int64_t samples = s->chain.samples;
    s->options = (struct rh_tune_options){
        .iters = r->iters,
        .rows = least(samples, r->batch_size * r->gradient_accumulate_steps),
        .batch_size = least(samples, r->batch_size),
        .lr = r->lr,
        .minmax_lr = r->minmax_lr,
        .minmax = r->enable_minmax_tuning,
    };
}

/* The rows of all iterations of the next block. */
static void draw_order(struct session *s)
{
    rh_minibatch_begin_block(s->sampler);
    for (int64_t i = 0; i < s->options.iters; i++)
        rh_minibatch_next(s->sampler, s->order + i * s->options.rows);
}

static enum rh_rc start(struct session *s, struct rh_error *err)
{
    int64_t first = rh_task_first_index(s->task);
    int64_t last = rh_task_last_index(s->task);
    enum rh_rc rc = read_plan(s, err);
    if (rc == RH_OK && (first < 0 || last >= s->plan->config.num_hidden_layers || first > last))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "blocks %lld to %lld of a model with %lld",
                     (long long)first, (long long)last,
                     (long long)s->plan->config.num_hidden_layers);
    if (rc == RH_OK)
        rc = rh_backend_new("cpu", (int)s->recipe->threads, &s->backend, err);
    if (rc == RH_OK)
        rc = read_chain(s, first, err);
    if (rc != RH_OK)
        return rc;
    set_options(s);
    size_t experts = (size_t)s->plan->config.num_experts;
    s->tokens = rh_alloc_array(experts, sizeof *s->tokens);
    s->reached = rh_alloc_array(experts, sizeof *s->reached);
    void *memory = NULL;
    rc = rh_try_alloc((size_t)(s->options.iters * s->options.rows) * sizeof *s->order + 1,
                      "order of the rows", &memory, err);
    s->order = memory;
    if (rc != RH_OK)
        return rc;
    s->sampler = rh_minibatch_new((uint64_t)s->recipe->seed, s->chain.samples, s->options.rows);
    for (int64_t b = 0; b < first; b++)
        draw_order(s); /* one stream through all blocks */
    return RH_OK;
}

static enum rh_rc load_block(struct session *s, int64_t index, struct rh_block **out,
                             struct rh_error *err)
{
    const struct rh_unit *unit = rh_model_plan_block(s->plan, index);
    enum rh_rc rc = rh_task_wait_artifact(s->task, "fetch", (int64_t)unit->index, err);
    if (rc != RH_OK)
        return rc;
    char *path = path_in(s, "fetch", (int64_t)unit->index, "tensors.safetensors");
    struct rh_safetensors *file = NULL;
    rc = rh_safetensors_open(path, &file, err);
    if (rc == RH_OK)
        rc = rh_block_new(s->backend, &s->plan->config, unit, file, out, err);
    rh_safetensors_close(file);
    rh_free(path);
    if (rc == RH_OK)
        rc = rh_block_reserve(*out, s->options.batch_size, s->chain.seq, s->options.iters > 0, err);
    return rc;
}

/* Progress of one block. */
struct beat {
    struct session *session;
    int64_t block, iter;
};

static enum rh_rc beat(void *arg, struct rh_error *err)
{
    const struct beat *b = arg;
    rh_task_progress(b->session->task, b->session->phase, (double)b->iter,
                     (double)b->session->options.iters, "iterations");
    return rh_task_check(b->session->task, err);
}

static enum rh_rc after_iteration(void *arg, int64_t iter, double loss, double best_loss,
                                  struct rh_error *err)
{
    struct beat *b = arg;
    b->iter = iter + 1;
    rh_task_tick(b->session->task, b->block, iter, b->session->options.iters, loss, best_loss);
    return beat(b, err);
}

/* Writes one file of the artifact. */
static enum rh_rc write_report(const char *dir, const struct rh_block_report *report,
                               struct rh_error *err)
{
    char *path = rh_fs_join(dir, "report.json");
    struct rh_json *json = rh_block_report_json(report);
    enum rh_rc rc = rh_json_write(path, json, err);
    rh_json_free(json);
    rh_free(path);
    return rc;
}

static enum rh_rc hand_in(struct session *s, const struct rh_tuner *tuner,
                          const struct rh_block_report *report, int64_t started,
                          struct rh_error *err)
{
    struct rh_tuned tuned;
    char *name = rh_format("tune-%05lld", (long long)report->block);
    char *dir = rh_fs_join(rh_task_staging(s->task), name);
    char *codes = rh_fs_join(dir, "block.safetensors");
    char *chain = rh_fs_join(dir, "chain.safetensors");
    enum rh_rc rc = rh_tuned_take(tuner, &tuned, err);
    if (rc == RH_OK)
        rc = rh_fs_mkdirs(dir, err);
    if (rc == RH_OK)
        rc = rh_block_file_write(codes, &tuned, err);
    if (rc == RH_OK)
        rc = rh_chain_write(&s->chain, chain, err);
    if (rc == RH_OK)
        rc = write_report(dir, report, err);
    if (rc == RH_OK) {
        double seconds = (double)(rh_clock_ns() - started) * 1e-9;
        rc = rh_task_checkpoint(s->task, name, report->block,
                                rh_block_report_metrics(report, seconds), err);
    }
    rh_tuned_done(&tuned);
    rh_free(codes);
    rh_free(chain);
    rh_free(dir);
    rh_free(name);
    return rc;
}

/* From the source outputs to the quantized ones. */
static enum rh_rc tune(struct session *s, struct rh_block *block, struct beat *b,
                       struct rh_tuner *tuner, struct rh_block_report *report, struct rh_error *err)
{
    const struct rh_chain *c = &s->chain;
    struct rh_pulse pulse = {beat, b};
    struct rh_tune_watch watch = {after_iteration, b};
    struct rh_tune_data data = {c->samples, c->seq, c->hidden, c->quant, c->fp, s->order};
    bool chained = s->recipe->enable_quanted_input;
    enum rh_rc rc = rh_forward_source(s->backend, block, s->options.batch_size, &s->chain,
                                      s->tokens, &pulse, err);
    if (rc == RH_OK)
        rc = rh_tune_block(tuner, &data, &watch, s->reached, &report->result, err);
    if (rc == RH_OK)
        rc = rh_forward_quantized(s->backend, block, s->options.batch_size, chained, &s->chain,
                                  &report->final_loss, &pulse, err);
    if (rc == RH_OK && !chained)
        rh_backend_copy(s->backend, c->quant, c->fp, rh_chain_bytes(c));
    return rc;
}

static enum rh_rc run_block(struct session *s, int64_t index, struct rh_error *err)
{
    int64_t started = rh_clock_ns();
    struct rh_block *block = NULL;
    struct rh_tuner *tuner = NULL;
    struct beat b = {s, index, 0};
    int64_t experts = s->plan->config.num_experts;
    struct rh_block_report report = {.block = index, .iters = s->options.iters,
                                     .experts = experts, .tokens = s->tokens,
                                     .reached = s->reached};
    memset(s->tokens, 0, (size_t)experts * sizeof *s->tokens);
    memset(s->reached, 0, (size_t)experts * sizeof *s->reached);
    draw_order(s);
    enum rh_rc rc = load_block(s, index, &block, err);
    if (rc == RH_OK)
        rc = rh_tuner_new(s->backend, block, &s->options, s->chain.seq, s->chain.hidden, &tuner,
                          err);
    if (rc == RH_OK)
        rc = tune(s, block, &b, tuner, &report, err);
    if (rc == RH_OK) {
        report.linears = rh_block_linear_count(block);
        rc = hand_in(s, tuner, &report, started, err);
    }
    rh_tuner_free(tuner);
    rh_block_free(block);
    return rc == RH_OK ? rc : rh_error_prefix(err, "block %lld", (long long)index);
}

static enum rh_rc run_tune(struct rh_task *task, struct rh_error *err)
{
    struct session s = {.task = task, .recipe = rh_task_recipe(task)};
    enum rh_rc rc = start(&s, err);
    for (int64_t b = rh_task_first_index(task); rc == RH_OK && b <= rh_task_last_index(task); b++) {
        char *phase = rh_format("block %lld", (long long)b);
        strncpy(s.phase, phase, sizeof s.phase - 1);
        rh_free(phase);
        rc = run_block(&s, b, err);
    }
    rh_minibatch_free(s.sampler);
    rh_free(s.order);
    rh_free(s.tokens);
    rh_free(s.reached);
    rh_chain_done(&s.chain);
    rh_backend_free(s.backend);
    rh_model_plan_free(s.plan);
    return rc;
}

static const struct rh_stage_op ops[] = {{"tune", run_tune}};

const struct rh_stage rh_quantize_stage = {"quantize", ops, 1, 1, NULL};
