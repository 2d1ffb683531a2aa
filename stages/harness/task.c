#include "task.h"

#include <string.h>
#include <time.h>

#include "base/fs.h"
#include "base/mem.h"
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

enum rh_rc rh_task_check(struct rh_task *t, struct rh_error *err)
{
    if (atomic_load(&t->cancelled))
        return rh_fail(err, RH_ERR_CANCELLED, "the task was cancelled");
    return RH_OK;
}

enum rh_rc rh_task_wait_artifact(struct rh_task *t, const char *op, int64_t index,
                                 struct rh_error *err)
{
    const struct timespec pause = {0, POLL_NS};
    while (!rh_store_has(t->job_dir, op, index)) {
        enum rh_rc rc = rh_task_check(t, err);
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

static void copy_text(char *to, size_t size, const char *from)
{
    size_t n = strlen(from) < size ? strlen(from) : size - 1;
    memcpy(to, from, n);
    to[n] = '\0';
}

void rh_task_progress(struct rh_task *t, const char *phase, double done, double total,
                      const char *unit)
{
    pthread_mutex_lock(&t->lock);
    copy_text(t->phase, sizeof t->phase, phase);
    copy_text(t->unit, sizeof t->unit, unit);
    t->done = done;
    t->total = total;
    pthread_mutex_unlock(&t->lock);
    atomic_fetch_add(&t->progress_seq, 1);
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

enum rh_rc rh_task_checkpoint(struct rh_task *t, const char *name, int64_t index,
                              struct rh_json *metrics, struct rh_error *err)
{
    char *expected = rh_format("%s-%05lld", t->op->op, (long long)index);
    RH_ASSERT(strcmp(name, expected) == 0);
    rh_free(expected);
    char *dir = rh_fs_join(t->staging, name);
    enum rh_rc rc = rh_store_seal(dir, t->op->op, index, t->recipe->digest, NULL, err);
    if (rc == RH_OK && t->local)
        rc = rh_store_commit(dir, t->job_dir, t->op->op, index, err);
    if (rc == RH_OK) {
        pthread_mutex_lock(&t->lock);
        t->session = true;
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

static enum rh_rc run(struct rh_task *t, struct rh_error *err)
{
    enum rh_rc rc = rh_fs_remove_tree(t->staging, err);
    if (rc == RH_OK)
        rc = rh_fs_mkdirs(t->staging, err);
    if (rc == RH_OK)
        rc = t->op->run(t, err);
    if (rc == RH_OK && !t->session)
        rc = rh_store_seal(t->staging, t->op->op, t->index, t->recipe->digest, t->meta, err);
    return rc;
}

void rh_task_execute(struct rh_task *t)
{
    struct rh_error err = {0};
    enum rh_rc rc = run(t, &err);
    rh_crash_point("before_result");
    pthread_mutex_lock(&t->lock);
    t->rc = rc;
    t->err = err;
    t->finished = true;
    pthread_mutex_unlock(&t->lock);
    if (t->wake)
        t->wake(t->wake_arg);
}
