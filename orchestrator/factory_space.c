#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"
#include "store/store.h"

/* Deleting: what is no longer needed first gets another name, at once, and then goes in a thread of
 * libuv's pool; large files take their time. */

struct deletion {
    uv_work_t work;
    char *path;
    bool prune;
};

bool rh_factory_is_keepsake(const char *name)
{
    static const char *const kept[] = {"MANIFEST.json", "plan.json",   "report.json",
                                       "receipt.json",  "digest.json", "source.json"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (strcmp(name, kept[i]) == 0)
            return true;
    }
    return false;
}

static enum rh_rc prune_artifact(const char *dir, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = rh_fs_list(dir, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        char *path = rh_fs_join(dir, names[i]);
        if (!rh_factory_is_keepsake(names[i]))
            rc = rh_fs_remove_tree(path, err);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    return rc;
}

/* The staging folder goes last: as long as it is there, a later start takes this up again. */
static enum rh_rc prune_job(const char *job_dir, struct rh_error *err)
{
    char *artifacts = rh_fs_join(job_dir, "artifacts");
    char *staging = rh_fs_join(job_dir, "staging");
    char *scratch = rh_fs_join(job_dir, RH_STORE_SCRATCH);
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = RH_OK;
    if (rh_fs_is_dir(artifacts))
        rc = rh_fs_list(artifacts, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        char *dir = rh_fs_join(artifacts, names[i]);
        rc = prune_artifact(dir, err);
        rh_free(dir);
    }
    rh_fs_list_free(names, count);
    if (rc == RH_OK)
        rc = rh_fs_remove_tree(scratch, err);
    if (rc == RH_OK)
        rc = rh_fs_remove_tree(staging, err);
    rh_free(scratch);
    rh_free(staging);
    rh_free(artifacts);
    return rc;
}

static void on_work(uv_work_t *work)
{
    struct deletion *d = work->data;
    struct rh_error err;
    enum rh_rc rc = d->prune ? prune_job(d->path, &err) : rh_fs_remove_tree(d->path, &err);
    if (rc != RH_OK)
        rh_log(RH_LOG_WARN, "space.undeleted", "why=\"%s\"", err.message);
}

static void after_work(uv_work_t *work, int status)
{
    struct deletion *d = work->data;
    (void)status;
    rh_free(d->path);
    rh_free(d);
}

static void start(struct rh_factory *f, char *path, bool prune)
{
    struct deletion *d = rh_alloc(sizeof *d);
    d->work.data = d;
    d->path = path;
    d->prune = prune;
    if (uv_queue_work(f->loop, &d->work, on_work, after_work) != 0)
        after_work(&d->work, 0);
}

void rh_factory_discard(struct rh_factory *f, const char *path)
{
    static unsigned count;
    if (!rh_fs_exists(path))
        return;
    char *trash = rh_format("%s/trash/%llu-%lld-%u", f->state_dir, (unsigned long long)f->epoch,
                            (long long)rh_clock_ns(), count++);
    bool renamed = rename(path, trash) == 0;
    start(f, renamed ? trash : rh_strdup(path), false);
    if (!renamed)
        rh_free(trash);
}

void rh_factory_prune(struct rh_factory *f, const char *job_dir)
{
    start(f, rh_strdup(job_dir), true);
}

void rh_factory_sweep_trash(struct rh_factory *f)
{
    char *trash = rh_fs_join(f->state_dir, "trash");
    char **names = NULL;
    size_t count = 0;
    if (rh_fs_list(trash, &names, &count, NULL) != RH_OK)
        count = 0;
    for (size_t i = 0; i < count; i++)
        start(f, rh_fs_join(trash, names[i]), false);
    rh_fs_list_free(names, count);
    rh_free(trash);
}

/* -- Staging ---------------------------------------------------------------------------------- */

void rh_factory_sweep_task(struct rh_factory *f, const struct rh_sched_task *task)
{
    const struct rh_job_info *info = task->job->user;
    char *path = rh_store_staging(info->dir, rh_op_name(task->op), task->index, task->epoch);
    rh_factory_discard(f, path);
    rh_free(path);
}

/* Is the staging directory `name` that of the task's newest lease? */
static bool belongs(const struct rh_sched_task *task, const char *name)
{
    char *path = rh_store_staging("", rh_op_name(task->op), task->index, task->epoch);
    bool same = strcmp(strrchr(path, '/') + 1, name) == 0;
    rh_free(path);
    return same;
}

/* Of this task, of whatever epoch? */
static bool is_of(const struct rh_sched_task *task, const char *name)
{
    char *path = rh_store_staging("", rh_op_name(task->op), task->index, 0);
    const char *leaf = strrchr(path, '/') + 1;
    size_t size = (size_t)(strrchr(leaf, '.') - leaf) + 1;
    bool same = strncmp(leaf, name, size) == 0;
    rh_free(path);
    return same;
}

/* A lease that ran out may still be taken up by the worker whose name the task keeps. */
static bool may_be_needed(const struct rh_sched_job *job, const char *name)
{
    for (size_t i = 0; i < job->task_count; i++) {
        const struct rh_sched_task *t = job->tasks[i];
        /* What failed for good is evidence. */
        bool evidence = t->state == RH_TASK_FAILED || t->state == RH_TASK_QUARANTINED;
        if (t->state != RH_TASK_DONE && (t->worker[0] != '\0' || evidence) && belongs(t, name))
            return true;
    }
    return false;
}

void rh_factory_sweep(struct rh_factory *f, const struct rh_sched_job *job,
                      const struct rh_sched_task *task)
{
    const struct rh_job_info *info = job->user;
    char *staging = rh_fs_join(info->dir, "staging");
    char **names = NULL;
    size_t count = 0;
    if (rh_fs_is_dir(staging) && rh_fs_list(staging, &names, &count, NULL) != RH_OK)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        bool dead = task ? is_of(task, names[i]) && !belongs(task, names[i])
                         : !may_be_needed(job, names[i]);
        char *path = rh_fs_join(staging, names[i]);
        if (dead)
            rh_factory_discard(f, path);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    rh_free(staging);
}
