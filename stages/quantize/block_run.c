#include <string.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "session.h"
#include "tuning/block_file.h"
#include "tuning/forward.h"

/* Does the backend compute while this process does something else? */
static bool is_device(const struct rh_session *s)
{
    return rh_backend_depth(s->backend) > 1;
}

static char *tensors_path(const struct rh_session *s, int64_t block)
{
    const struct rh_unit *unit = rh_model_plan_step(s->plan, block);
    return rh_session_path(s, "fetch", (int64_t)unit->index, "tensors.safetensors");
}

static enum rh_rc load(void *arg, struct rh_error *err)
{
    struct rh_loading *l = arg;
    struct rh_session *s = l->session;
    char *path = tensors_path(s, l->index);
    struct rh_safetensors *file = NULL;
    enum rh_rc rc = rh_safetensors_open(path, &file, err);
    if (rc == RH_OK)
        rc = rh_block_new(s->backend, &s->plan->config, rh_model_plan_step(s->plan, l->index), file,
                          &l->block, err);
    rh_safetensors_close(file);
    rh_free(path);
    return rc;
}

void rh_session_load_ahead(struct rh_session *s, int64_t index)
{
    struct rh_loading *l = &s->loading;
    if (!is_device(s) || l->index >= 0 || index >= s->last)
        return;
    char *path = tensors_path(s, index + 1);
    if (rh_fs_exists(path)) { /* artifacts appear whole */
        l->index = index + 1;
        rh_background_start(&l->thread, load, l);
    }
    rh_free(path);
}

enum rh_rc rh_session_take_block(struct rh_session *s, int64_t index, struct rh_block **out,
                                 struct rh_error *err)
{
    struct rh_loading *l = &s->loading;
    const struct rh_unit *unit = rh_model_plan_step(s->plan, index);
    enum rh_rc rc = RH_OK;
    if (l->index == index) {
        rc = rh_background_join(&l->thread, err);
    } else {
        rc = rh_task_wait_artifact(s->task, "fetch", (int64_t)unit->index, err);
        l->index = index;
        if (rc == RH_OK)
            rc = load(l, err);
    }
    *out = l->block;
    l->block = NULL;
    l->index = -1;
    if (rc == RH_OK)
        rc = rh_block_reserve(*out, s->options.batch_size, s->chain.seq, s->options.iters > 0, err);
    return rc;
}

/* Seconds of the parts of a block, as the session went through them. */
struct times {
    int64_t last; /* rh_clock_ns() */
    double load, source, tune, quantized, files, copies;
};

/* Progress of one block. */
struct beat {
    struct rh_session *session;
    int64_t block, iter;
    struct times times;
};

static void lap(struct times *t, double *part)
{
    int64_t now = rh_clock_ns();
    *part = (double)(now - t->last) * 1e-9;
    t->last = now;
}

/* `files` is what a slow disk costs: the files of the block before were not written in time. */
static void log_times(int64_t block, const struct times *t)
{
    rh_log(RH_LOG_INFO, "tune.times",
           "block=%lld load=%.2f source=%.2f tune=%.2f quantized=%.2f files=%.2f copies=%.2f",
           (long long)block, t->load, t->source, t->tune, t->quantized, t->files, t->copies);
}

static enum rh_rc beat(void *arg, struct rh_error *err)
{
    const struct beat *b = arg;
    rh_task_progress(b->session->task, b->session->phase, (double)b->iter,
                     (double)b->session->options.iters, "iterations");
    rh_session_load_ahead(b->session, b->block);
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

static enum rh_rc write_block(void *arg, struct rh_error *err)
{
    struct rh_writing *w = arg;
    struct rh_task *task = w->session->task;
    int64_t index = w->report.block;
    char *name = rh_format("tune-%05lld", (long long)index);
    char *dir = rh_fs_join(rh_task_staging(task), name);
    char *codes = rh_fs_join(dir, "block.safetensors");
    char *chain = rh_fs_join(dir, "chain.safetensors");
    enum rh_rc rc = rh_fs_mkdirs(dir, err);
    if (rc == RH_OK)
        rc = rh_block_file_write(codes, &w->tuned, err);
    if (rc == RH_OK && w->chain)
        rc = rh_chain_write(w->chain, chain, err);
    if (rc == RH_OK)
        rc = write_report(dir, &w->report, err);
    if (rc == RH_OK) {
        double seconds = (double)(rh_clock_ns() - w->started) * 1e-9;
        rc = rh_task_checkpoint(task, name, index, rh_block_report_metrics(&w->report, seconds),
                                err);
    }
    rh_free(codes);
    rh_free(chain);
    rh_free(dir);
    rh_free(name);
    return rc;
}

/* Its weights were tuned on too little, which no loss of the block tells. */
static void warn_of_starved_experts(const struct rh_block_report *report)
{
    struct rh_expert_coverage c = rh_block_report_coverage(report);
    if (c.below_floor > 0)
        rh_log(RH_LOG_WARN, "tune.experts",
               "block=%lld below_floor=%lld experts=%lld floor=%lld tokens_min=%lld "
               "tokens_median=%lld remedy=\"more or other calibration text\"",
               (long long)report->block, (long long)c.below_floor, (long long)c.experts,
               (long long)c.floor, (long long)c.tokens_min, (long long)c.tokens_median);
}

static void writing_done(struct rh_writing *w)
{
    rh_tuned_done(&w->tuned);
    rh_free((void *)(uintptr_t)w->report.tokens);
    rh_free((void *)(uintptr_t)w->report.reached);
    w->report = (struct rh_block_report){0};
}

static enum rh_rc finish_writing(struct rh_session *s, struct rh_error *err)
{
    enum rh_rc rc = rh_background_join(&s->writing.thread, err);
    int64_t index = s->writing.report.block;
    writing_done(&s->writing);
    if (rc != RH_OK)
        rh_error_prefix(err, "files of %s", rh_model_plan_step(s->plan, index)->name);
    return rc;
}

/* Memory for a copy of the chains, where the host has that much; else files are written before the
 * next block begins. */
static bool has_snapshot(struct rh_session *s)
{
    const struct rh_chain *c = &s->chain;
    struct rh_error err;
    if (!is_device(s) || s->memory.chains_on_host)
        return false;
    if (!s->snapshot.fp && !s->without_snapshot &&
        rh_chain_new(s->backend, true, c->samples, c->seq, c->hidden, &s->snapshot, &err) !=
            RH_OK) {
        rh_log(RH_LOG_WARN, "tune.memory", "%s; files are written between blocks", err.message);
        s->without_snapshot = true;
    }
    return !s->without_snapshot;
}

/* A copy of the chains that the next block leaves alone. */
static enum rh_rc take_snapshot(struct rh_session *s, struct rh_error *err)
{
    const struct rh_chain *c = &s->chain;
    rh_backend_copy(s->backend, s->snapshot.fp, c->fp, rh_chain_bytes(c));
    rh_backend_copy(s->backend, s->snapshot.quant, c->quant, rh_chain_bytes(c));
    return rh_backend_sync(s->backend, err);
}

/* Takes over the result of a block, tokens and reached of its report included; its files follow now or behind the next block. */
static enum rh_rc hand_in(struct rh_session *s, const struct rh_tuner *tuner,
                          const struct rh_block_report *report, int64_t started,
                          struct rh_error *err)
{
    struct rh_writing *w = &s->writing;
    bool behind = !report->unit && has_snapshot(s);
    w->report = *report;
    w->started = started;
    w->chain = report->unit ? NULL : behind ? &s->snapshot : &s->chain;
    enum rh_rc rc = rh_tuned_take(tuner, &w->tuned, err);
    if (rc == RH_OK)
        rc = behind ? take_snapshot(s, err) : rh_backend_sync(s->backend, err);
    if (rc != RH_OK)
        return rc;
    if (!behind)
        return write_block(w, err);
    rh_background_start(&w->thread, write_block, w);
    return RH_OK;
}

/* From the source outputs to the quantized ones; tokens and reached are the report's. */
static enum rh_rc tune(struct rh_session *s, struct rh_block *block, struct beat *b,
                       struct rh_tuner *tuner, int64_t *tokens, int64_t *reached,
                       struct rh_block_report *report, struct rh_error *err)
{
    const struct rh_chain *c = &s->chain;
    struct rh_pulse pulse = {beat, b};
    struct rh_tune_watch watch = {after_iteration, b};
    struct rh_tune_data data = {c->samples, c->seq, c->hidden, c->quant, c->fp, s->order};
    bool chained = s->recipe->enable_quanted_input;
    enum rh_rc rc = rh_forward_source(s->backend, block, s->options.batch_size, &s->chain, tokens,
                                      &pulse, err);
    lap(&b->times, &b->times.source);
    if (rc == RH_OK)
        rc = rh_tune_block(tuner, &data, &watch, reached, &report->result, err);
    lap(&b->times, &b->times.tune);
    if (rc == RH_OK)
        rc = rh_forward_quantized(s->backend, block, s->options.batch_size, chained, &s->chain,
                                  &report->final_loss, &pulse, err);
    if (rc == RH_OK && !chained)
        rh_backend_copy(s->backend, c->quant, c->fp, rh_chain_bytes(c));
    lap(&b->times, &b->times.quantized);
    return rc;
}

enum rh_rc rh_session_run_block(struct rh_session *s, int64_t index, struct rh_error *err)
{
    int64_t started = rh_clock_ns();
    const struct rh_unit *unit = rh_model_plan_step(s->plan, index);
    bool mtp = unit->kind == RH_UNIT_MTP;
    struct rh_block *block = NULL;
    struct rh_tuner *tuner = NULL;
    struct beat b = {.session = s, .block = index, .times.last = started};
    int64_t experts = s->plan->config.num_experts;
    int64_t *tokens = rh_alloc_array((size_t)experts, sizeof *tokens);
    int64_t *reached = rh_alloc_array((size_t)experts, sizeof *reached);
    struct rh_pulse pulse = {beat, &b};
    struct rh_block_report report = {.block = index,
                                     .unit = mtp ? unit->name : NULL,
                                     .iters = s->options.iters,
                                     .experts = experts,
                                     .expert_floor = s->recipe->expert_floor,
                                     .tokens = tokens,
                                     .reached = reached,
                                     .backend = rh_backend_name(s->backend),
                                     .device = is_device(s) ? rh_backend_device(s->backend) : NULL,
                                     .batch_size = s->options.batch_size};
    rh_session_draw_order(s);
    enum rh_rc rc = mtp ? rh_session_enter_mtp(s, &pulse, err) : RH_OK;
    if (rc == RH_OK)
        rc = rh_session_take_block(s, index, &block, err);
    if (rc == RH_OK)
        rc = rh_tuner_new(s->backend, block, &s->options, s->chain.seq, s->chain.hidden, &tuner,
                          err);
    lap(&b.times, &b.times.load);
    if (rc == RH_OK)
        rc = tune(s, block, &b, tuner, tokens, reached, &report, err);
    if (rc != RH_OK)
        rh_error_prefix(err, "%s", unit->name);
    if (rc == RH_OK)
        rc = finish_writing(s, err); /* of the block before */
    lap(&b.times, &b.times.files);
    if (rc == RH_OK) {
        report.linears = rh_block_linear_count(block);
        warn_of_starved_experts(&report);
        rc = hand_in(s, tuner, &report, started, err);
        lap(&b.times, &b.times.copies);
        log_times(index, &b.times);
    } else {
        rh_free(tokens);
        rh_free(reached);
    }
    rh_tuner_free(tuner);
    rh_block_free(block);
    return rc;
}

enum rh_rc rh_session_settle(struct rh_session *s, struct rh_error *err)
{
    enum rh_rc loaded = rh_background_join(&s->loading.thread, NULL);
    (void)loaded; /* nobody waits for that block any more */
    rh_block_free(s->loading.block);
    s->loading.block = NULL;
    s->loading.index = -1;
    return finish_writing(s, err);
}
