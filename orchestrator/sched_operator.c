#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* What operators ask for: run, pause, hold, cancel, another order, and once more. */

static bool ended(const struct rh_sched_job *job)
{
    return job->state >= RH_JOB_DONE;
}

static bool has_quarantined(const struct rh_sched_job *job)
{
    for (size_t i = 0; i < job->task_count; i++) {
        if (job->tasks[i]->state == RH_TASK_QUARANTINED)
            return true;
    }
    return false;
}

static void make_ready(struct rh_sched *s, struct rh_sched_task *task)
{
    if (task->state == RH_TASK_FAILED || task->state == RH_TASK_QUARANTINED)
        task->state = RH_TASK_WAITING;
    task->attempts = task->crashes = 0;
    task->not_before = 0;
    rh_sched_save_task(s, task);
}

enum rh_rc rh_sched_set_desired(struct rh_sched *s, int64_t now, struct rh_sched_job *job,
                                enum rh_desired desired, struct rh_error *err)
{
    if (job->state == RH_JOB_DONE)
        return rh_fail(err, RH_ERR_ARGUMENT, "job %s is done already", job->id);
    if (ended(job) && desired == RH_DESIRED_CANCEL)
        return RH_OK;
    if (ended(job) && desired != RH_DESIRED_RUN)
        return rh_fail(err, RH_ERR_ARGUMENT, "job %s has ended (%s); resume it to go on", job->id,
                       rh_job_state_name(job->state));
    bool restart =
        desired == RH_DESIRED_RUN && (ended(job) || job->failing || has_quarantined(job));
    if (job->desired != desired) {
        job->desired = desired;
        rh_sched_save_job(s, job);
        rh_sched_event(s, "job.desired", job, NULL, -1, rh_desired_name(desired), NULL);
    }
    for (size_t i = 0; restart && i < job->task_count; i++) {
        struct rh_sched_task *task = job->tasks[i];
        if (task->state == RH_TASK_DONE)
            continue;
        make_ready(s, task);
    }
    struct rh_sched_task *tune = rh_sched_task_of(job, RH_OP_TUNE, 0);
    if (desired == RH_DESIRED_RUN && job->lacks_device && tune) {
        tune->device_need = 0; /* somebody knows better */
        rh_sched_save_task(s, tune);
    }
    job->failing = job->failing && !restart;
    if ((restart && job->state != RH_JOB_HELD) ||
        (desired == RH_DESIRED_RUN && job->state == RH_JOB_BLOCKED))
        rh_sched_job_state(s, job, RH_JOB_QUEUED, NULL);
    rh_sched_settle(s, now, job);
    return RH_OK;
}

void rh_sched_set_priority(struct rh_sched *s, int64_t now, struct rh_sched_job *job, int priority)
{
    job->priority = priority;
    rh_sched_sort_jobs(s);
    rh_sched_save_job(s, job);
    char *text = rh_format("%d", priority);
    rh_sched_event(s, "job.priority", job, NULL, -1, text, NULL);
    rh_free(text);
    rh_sched_settle(s, now, job);
}

/* -- Once more -------------------------------------------------------------------------------- */

static bool is_broken(const struct rh_sched_task *task)
{
    return task->state == RH_TASK_FAILED || task->state == RH_TASK_QUARANTINED;
}

enum rh_rc rh_sched_retry_task(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                               struct rh_error *err)
{
    struct rh_sched_job *job = task->job;
    bool waits = task->state == RH_TASK_WAITING && !ended(job) && task->not_before > now;
    if (!is_broken(task) && !waits)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s %lld is %s; only what failed, is quarantined or waits to be tried again "
                       "can be retried",
                       rh_op_name(task->op), (long long)task->index,
                       rh_task_state_name(task->state));
    make_ready(s, task);
    rh_sched_event(s, "task.retried", job, task, -1, "by the operator", NULL);
    /* The job goes on when this was all that kept it from going on. */
    bool others = false;
    for (size_t i = 0; i < job->task_count; i++)
        others = others || is_broken(job->tasks[i]);
    if (waits || others)
        return RH_OK;
    return rh_sched_set_desired(s, now, job, RH_DESIRED_RUN, err);
}

/* The artifact goes even if the row does not know of it: a commit may have come through whose lease
 * was over by then. */
static void make_anew(struct rh_sched *s, struct rh_sched_task *task)
{
    struct rh_action *a = rh_sched_push(s, RH_ACT_DROP_ARTIFACT);
    a->job = task->job;
    a->op = task->op;
    a->block = task->index;
    task->state = RH_TASK_WAITING;
    task->worker[0] = '\0';
    make_ready(s, task);
}

static bool holds_unit_behind(const struct rh_graph *g, int64_t shard, int64_t block)
{
    for (int64_t u = 0; u < g->units; u++) {
        if (g->shard_units[shard * g->units + u] && rh_graph_step_of(g, u) >= block)
            return true;
    }
    return false;
}

/* What was made of a block goes before the block itself: whatever a crash leaves behind is whole.
 */
static void make_followers_anew(struct rh_sched *s, struct rh_sched_job *job, int64_t block)
{
    static const enum rh_op_id order[] = {RH_OP_PUBLISH, RH_OP_FINALIZE, RH_OP_SHARD, RH_OP_PACK};
    for (size_t o = 0; o < sizeof order / sizeof *order; o++) {
        for (size_t i = job->first_of[order[o]]; i < job->first_of[order[o] + 1]; i++) {
            struct rh_sched_task *task = job->tasks[i];
            bool behind =
                task->op == RH_OP_SHARD  ? holds_unit_behind(job->graph, task->index, block)
                : task->op == RH_OP_PACK ? rh_graph_step_of(job->graph, task->index) >= block
                                         : true;
            if (behind)
                make_anew(s, task);
        }
    }
}

enum rh_rc rh_sched_rewind(struct rh_sched *s, int64_t now, struct rh_sched_job *job, int64_t block,
                           struct rh_error *err)
{
    struct rh_sched_task *tune = rh_sched_task_of(job, RH_OP_TUNE, 0);
    if (job->state == RH_JOB_DONE)
        return rh_fail(err, RH_ERR_ARGUMENT, "job %s is done already; submit it again", job->id);
    if (!tune || block < 0 || block > tune->next || block > tune->last)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "job %s has tuned %lld blocks; it cannot go back to %lld", job->id,
                       tune ? (long long)tune->next : 0LL, (long long)block);
    if (rh_sched_live_tasks(job) > 0)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "job %s has tasks running; pause it, and wait until it is paused", job->id);
    make_followers_anew(s, job, block);
    for (int64_t b = tune->last; b >= block; b--) {
        struct rh_action *a = rh_sched_push(s, RH_ACT_DROP_ARTIFACT);
        a->job = job;
        a->op = RH_OP_TUNE;
        a->block = b;
    }
    tune->next = tune->expect = block;
    tune->started_block = block - 1;
    tune->state = RH_TASK_WAITING;
    tune->worker[0] = '\0';
    make_ready(s, tune);
    rh_sched_event(s, "job.rewound", job, NULL, block, "by the operator", NULL);
    return rh_sched_set_desired(s, now, job, RH_DESIRED_RUN, err);
}
