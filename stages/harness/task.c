#include "task.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/crash.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "daemon/daemon.h"
#include "store/store.h"

/* How often a missing artifact is looked for. */
#define POLL_NS 20000000L

const struct rh_stage_op *rh_stage_find_op(const struct rh_stage *stage, const char *name)
{
    for (int i = 0; i < stage->op_count; i++) {
        if (strcmp(stage->ops[i].op, name) == 0)
            return &stage->ops[i];
    }
    return NULL;
}

struct rh_task *rh_task_new(const struct rh_stage_op *op, const char *job, const char *model,
                            const char *output, const char *job_dir, const char *staging,
                            struct rh_recipe *recipe)
{
    struct rh_task *t = rh_alloc(sizeof *t);
    t->op = op;
    t->job = rh_strdup(job);
    t->model = rh_strdup(model);
    t->output = rh_strdup(output);
    t->job_dir = rh_strdup(job_dir);
    t->staging = rh_strdup(staging);
    t->recipe = recipe;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

void rh_task_free(struct rh_task *t)
{
    if (!t)
        return;
    while (t->notes) {
        struct rh_checkpoint_note *next = t->notes->next;
        rh_free(t->notes->metrics);
        rh_free(t->notes);
        t->notes = next;
    }
    pthread_mutex_destroy(&t->lock);
    rh_json_free(t->meta);
    rh_recipe_free(t->recipe);
    rh_free(t->job);
    rh_free(t->model);
    rh_free(t->output);
    rh_free(t->job_dir);
    rh_free(t->staging);
    rh_free(t);
}

const struct rh_recipe *rh_task_recipe(const struct rh_task *t)
{
    return t->recipe;
}

const char *rh_task_job(const struct rh_task *t)
{
    return t->job;
}

const char *rh_task_model(const struct rh_task *t)
{
    return t->model;
}

const char *rh_task_output(const struct rh_task *t)
{
    return t->output;
}

int64_t rh_task_index(const struct rh_task *t)
{
    return t->index;
}

int64_t rh_task_first_index(const struct rh_task *t)
{
    return t->first;
}

int64_t rh_task_last_index(const struct rh_task *t)
{
    return t->last;
}

const char *rh_task_staging(const struct rh_task *t)
{
    return t->staging;
}

const char *rh_task_job_dir(const struct rh_task *t)
{
    return t->job_dir;
}

char *rh_task_artifact(const struct rh_task *t, const char *op, int64_t index)
{
    return rh_store_artifact(t->job_dir, op, index);
}

char *rh_task_scratch(const struct rh_task *t)
{
    return rh_fs_join(t->job_dir, RH_STORE_SCRATCH);
}

void rh_task_leave(struct rh_task *t, int64_t grace_ms)
{
    atomic_store(&t->leave_by, rh_clock_ns() + grace_ms * 1000000);
}

/* When the phase at hand should be over: as long as the one before, or at the pace of its progress.
 * Not known counts as soon, since the time that is given bounds it anyway. */
static int64_t expected_end(struct rh_task *t, int64_t now)
{
    pthread_mutex_lock(&t->lock);
    int64_t started = t->part_started;
    int64_t took = t->part_took;
    double left = t->done > 0 && t->total > t->done ? (t->total - t->done) / t->done : 0;
    pthread_mutex_unlock(&t->lock);
    if (started == 0)
        return now;
    int64_t end = started + took;
    if (took == 0)
        end = now + (int64_t)((double)(now - started) * left);
    return end > now ? end : now;
}

enum rh_rc rh_task_check(struct rh_task *t, struct rh_error *err)
{
    int64_t leave_by = atomic_load(&t->leave_by);
    if (atomic_load(&t->cancelled))
        return rh_fail(err, RH_ERR_CANCELLED, "%s",
                       leave_by ? "the worker leaves and waits no longer"
                                : "the task was cancelled");
    if (leave_by != 0 && expected_end(t, rh_clock_ns()) > leave_by)
        return rh_fail(err, RH_ERR_CANCELLED,
                       "the worker leaves, and %s would have taken longer than it waits",
                       t->phase[0] ? t->phase : "the task");
    return RH_OK;
}

enum rh_rc rh_task_next_part(struct rh_task *t, struct rh_error *err)
{
    enum rh_rc rc = rh_task_check(t, err);
    if (rc == RH_OK && atomic_load(&t->leave_by) != 0)
        rc = rh_fail(err, RH_ERR_CANCELLED, "the worker leaves between two parts of the task");
    return rc;
}

enum rh_rc rh_task_wait_artifact(struct rh_task *t, const char *op, int64_t index,
                                 struct rh_error *err)
{
    const struct timespec pause = {0, POLL_NS};
    while (!rh_store_has(t->job_dir, op, index)) {
        enum rh_rc rc = rh_task_next_part(t, err); /* what is waited for may take any time */
        if (rc != RH_OK)
            return rc;
        if (t->local)
            return rh_fail(err, RH_ERR_NOT_FOUND, "%s has no artifact %s-%05lld", t->job_dir, op,
                           (long long)index);
        /* Waiting for another stage is no stall. */
        atomic_fetch_add(&t->progress_seq, 1);
        nanosleep(&pause, NULL);
    }
    return RH_OK;
}

void rh_task_clean_text(char *text)
{
    size_t bad = 0;
    while (!rh_utf8_valid(text, strlen(text), &bad))
        text[bad] = '?';
}

/* Returns whether it was another text. A character that is cut in two becomes question marks. */
static bool copy_text(char *to, size_t size, const char *from)
{
    char text[64];
    size_t room = size < sizeof text ? size : sizeof text;
    size_t n = strlen(from) < room ? strlen(from) : room - 1;
    memcpy(text, from, n);
    text[n] = '\0';
    rh_task_clean_text(text);
    bool changed = strcmp(to, text) != 0;
    memcpy(to, text, n + 1);
    return changed;
}

void rh_task_progress(struct rh_task *t, const char *phase, double done, double total,
                      const char *unit)
{
    pthread_mutex_lock(&t->lock);
    bool changed = copy_text(t->phase, sizeof t->phase, phase);
    if (changed) {
        int64_t now = rh_clock_ns();
        t->part_took = t->part_started ? now - t->part_started : 0;
        t->part_started = now;
    }
    copy_text(t->unit, sizeof t->unit, unit);
    t->done = done;
    t->total = total;
    t->urgent |= changed;
    pthread_mutex_unlock(&t->lock);
    atomic_fetch_add(&t->progress_seq, 1);
    if (changed && t->wake)
        t->wake(t->wake_arg);
}

void rh_task_tick(struct rh_task *t, int64_t block, int64_t iter, int64_t iters, double loss,
                  double best_loss)
{
    pthread_mutex_lock(&t->lock);
    t->tick = (struct rh_tick){block, iter, iters, loss, best_loss, true};
    pthread_mutex_unlock(&t->lock);
    atomic_fetch_add(&t->progress_seq, 1);
}

void rh_task_set_meta(struct rh_task *t, struct rh_json *meta)
{
    pthread_mutex_lock(&t->lock);
    rh_json_free(t->meta);
    t->meta = meta;
    pthread_mutex_unlock(&t->lock);
}

void rh_task_device_short(struct rh_task *t, uint64_t need, uint64_t room)
{
    pthread_mutex_lock(&t->lock);
    t->device_need = need;
    t->device_room = room;
    pthread_mutex_unlock(&t->lock);
}

static void add_note(struct rh_task *t, int64_t index, const struct rh_json *metrics)
{
    struct rh_checkpoint_note *note = rh_alloc(sizeof *note);
    note->index = index;
    note->metrics = metrics ? rh_json_text(metrics, false) : NULL;
    pthread_mutex_lock(&t->lock);
    struct rh_checkpoint_note **end = &t->notes;
    while (*end)
        end = &(*end)->next;
    *end = note;
    pthread_mutex_unlock(&t->lock);
}

/* The orchestrator finds a block by its name and commits blocks in order. */
static enum rh_rc check_checkpoint(const struct rh_task *t, const char *name, int64_t index,
                                   struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    char *expected = rh_format("%s-%05lld", t->op->op, (long long)index);
    if (strcmp(name, expected) != 0)
        rc = rh_fail(err, RH_ERR_INTERNAL, "checkpoint %lld is named %.80s instead of %s",
                     (long long)index, name, expected);
    else if (index != t->expect || index > t->last)
        rc = rh_fail(err, RH_ERR_INTERNAL, "checkpoint %s where %lld (of %lld to %lld) is next",
                     expected, (long long)t->expect, (long long)t->first, (long long)t->last);
    rh_free(expected);
    return rc;
}

enum rh_rc rh_task_checkpoint(struct rh_task *t, const char *name, int64_t index,
                              struct rh_json *metrics, struct rh_error *err)
{
    char *dir = rh_fs_join(t->staging, name);
    enum rh_rc rc = check_checkpoint(t, name, index, err);
    if (rc == RH_OK)
        rc = rh_store_seal(dir, t->op->op, index, t->recipe->digest, NULL, err);
    if (rc == RH_OK && t->local)
        rc = rh_store_commit(dir, t->job_dir, t->op->op, index, err);
    if (rc == RH_OK) {
        pthread_mutex_lock(&t->lock);
        t->session = true;
        t->expect = index + 1;
        pthread_mutex_unlock(&t->lock);
        if (!t->local)
            add_note(t, index, metrics);
        rh_crash_point("after_checkpoint");
        if (t->wake)
            t->wake(t->wake_arg);
    }
    rh_json_free(metrics);
    rh_free(dir);
    return rc;
}

/* What it was given to work with. */
static enum rh_rc prepare(struct rh_task *t, struct rh_error *err)
{
    if (!t->local && !rh_fs_is_dir(t->job_dir))
        return rh_fail(err, RH_ERR_NOT_FOUND,
                       "%s is not there; --state must be the orchestrator's state directory",
                       t->job_dir);
    enum rh_rc rc = rh_fs_remove_tree(t->staging, err);
    return rc == RH_OK ? rh_fs_mkdirs(t->staging, err) : rc;
}

/* Seals what the operation left; a session has sealed its parts already. */
static enum rh_rc conclude(struct rh_task *t, struct rh_error *err)
{
    if (!t->session)
        return rh_store_seal(t->staging, t->op->op, t->index, t->recipe->digest, t->meta, err);
    if (t->expect <= t->last)
        return rh_fail(err, RH_ERR_INTERNAL, "%s ended after index %lld of %lld", t->op->op,
                       (long long)t->expect - 1, (long long)t->last);
    return RH_OK;
}

void rh_task_execute(struct rh_task *t)
{
    struct rh_error err = {0};
    t->expect = t->first;
    enum rh_rc rc = prepare(t, &err);
    if (rc == RH_OK)
        rc = t->op->run(t, &err);
    if (rc == RH_OK)
        rc = conclude(t, &err);
    /* Room for the next attempt. What failed for good stays as evidence, and the parts of a session
     * may still be waiting to be taken over. */
    if (rc != RH_OK && !t->session && err.failure != RH_FAILURE_PERMANENT) {
        struct rh_error swept;
        if (rh_fs_remove_tree(t->staging, &swept) != RH_OK)
            rh_log(RH_LOG_WARN, "task.unswept", "%s", swept.message);
    }
    rh_crash_point("before_result");
    rh_task_clean_text(err.message);
    pthread_mutex_lock(&t->lock);
    t->rc = rc;
    t->err = err;
    t->finished = true;
    pthread_mutex_unlock(&t->lock);
    if (t->wake)
        t->wake(t->wake_arg);
}
