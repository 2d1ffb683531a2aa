#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* How leases end: released, lost, failed, cancelled, expired. */

void rh_sched_ack(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                  int64_t block, enum rh_verdict verdict)
{
    struct rh_action *a = rh_sched_push(s, RH_ACT_ACK);
    snprintf(a->worker, sizeof a->worker, "%s", worker);
    a->task_id = task;
    a->epoch = epoch;
    a->block = block;
    a->verdict = verdict;
}

void rh_sched_revoke(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                     const char *why)
{
    struct rh_action *a = rh_sched_push(s, RH_ACT_REVOKE);
    snprintf(a->worker, sizeof a->worker, "%s", worker);
    a->task_id = task;
    a->epoch = epoch;
    a->text = rh_strdup(why);
}

/* -- Leases ----------------------------------------------------------------------------------- */

void rh_sched_release(struct rh_sched *s, struct rh_sched_task *task, const char *event,
                      const char *why)
{
    /* Every block is in place: nothing is left to be done again. */
    bool complete = task->op == RH_OP_TUNE && task->next > task->last;
    rh_sched_event(s, event, task->job, task, -1, why, NULL);
    if (complete)
        rh_sched_event(s, "task.done", task->job, task, -1, NULL, NULL);
    task->state = complete ? RH_TASK_DONE : RH_TASK_WAITING;
    task->worker[0] = '\0';
    task->holder = NULL;
    task->revoke_at = 0;
    task->stalled = false;
    task->result_in = false;
    rh_sched_save_task(s, task);
}

int64_t rh_sched_back_off(const struct rh_sched *s, int attempts)
{
    int64_t ms = s->config.retry_ms;
    for (int i = 1; i < attempts && ms < s->config.retry_max_ms; i++)
        ms *= 2;
    return ms < s->config.retry_max_ms ? ms : s->config.retry_max_ms;
}

void rh_sched_lost(struct rh_sched *s, int64_t now, struct rh_sched_task *task, bool blame,
                   const char *why)
{
    if (blame) {
        rh_sched_crashed(s, now, task, why);
        return;
    }
    task->not_before = now;
    rh_sched_release(s, task, "task.lost", why);
    rh_sched_settle(s, now, task->job);
}

static void block_job(struct rh_sched *s, int64_t now, struct rh_sched_job *job, const char *why)
{
    job->blocked_until = now + s->config.blocked_ms;
    job->reserved = false; /* what was set aside was not there */
    if (job->state != RH_JOB_RUNNING || job->failing || job->desired != RH_DESIRED_RUN)
        return;
    char *reason = rh_sched_shortage(s, job, why);
    rh_sched_job_state(s, job, RH_JOB_BLOCKED, reason);
    rh_free(reason);
}

/* A lease ended with a result that is not one. */
void rh_sched_failed(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                     enum rh_failure failure, const char *error)
{
    struct rh_sched_job *job = task->job;
    char *why = rh_strdup(error && *error ? error : "no reason given");
    /* It was stopped because it did not move: that is not what an operator asks for. */
    if (task->stalled && failure == RH_FAILURE_CANCELLED)
        failure = RH_FAILURE_TRANSIENT;
    bool fatal = failure == RH_FAILURE_PERMANENT;
    if (failure == RH_FAILURE_TRANSIENT)
        fatal = ++task->attempts >= s->config.attempts_max;
    task->failure = failure;
    rh_free(task->error);
    task->error = rh_strdup(why);
    if (fatal) {
        rh_sched_event(s, "task.failed", job, task, -1, why, NULL);
        task->state = RH_TASK_FAILED;
        task->worker[0] = '\0';
        task->holder = NULL;
        task->stalled = false;
        rh_sched_save_task(s, task);
        char *reason = rh_format("%s %lld: %s", rh_op_name(task->op), (long long)task->index, why);
        rh_sched_fail_job(s, now, job, reason);
        rh_free(reason);
    } else {
        bool asked = task->revoke_at != 0;
        /* Its device is too small: it waits for another one, not for room on the disk. */
        bool elsewhere = task->holder && !rh_sched_fits_device(task, task->holder);
        int64_t wait = failure == RH_FAILURE_TRANSIENT ? rh_sched_back_off(s, task->attempts)
                                                       : s->config.retry_ms;
        task->not_before = asked ? now : now + wait;
        rh_sched_release(s, task, failure == RH_FAILURE_CANCELLED ? "task.stopped" : "task.retry",
                         why);
        if (failure == RH_FAILURE_RESOURCE && !elsewhere)
            block_job(s, now, job, why);
        rh_sched_settle(s, now, job);
    }
    rh_free(why);
}

void rh_sched_cancel_lease(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                           const char *why)
{
    task->revoke_at = now + s->config.grace_ms;
    rh_sched_revoke(s, task->worker, task->id, task->epoch, why);
    s->queue[s->queue_count - 1].keep = task->stalled;
}

/* -- Running out ------------------------------------------------------------------------------ */

/* A tuning iteration on a slow machine may take longer than any fixed limit; one that has gone on
 * for 20 times its usual time will not come. */
static bool is_stuck(const struct rh_sched *s, int64_t now, const struct rh_sched_task *task)
{
    int64_t limit = s->config.stall_ms[rh_op_stage(task->op)];
    if (limit == 0)
        return false;
    if (task->moves > 0 && 20 * ((task->moved_at - task->started_at) / task->moves) > limit)
        limit = 20 * ((task->moved_at - task->started_at) / task->moves);
    return now - task->moved_at > limit;
}

static void stalled(struct rh_sched *s, int64_t now, struct rh_sched_task *task)
{
    char *text =
        rh_format("no progress for %lld s (%s)", (long long)((now - task->moved_at) / 1000),
                  task->phase[0] ? task->phase : "has not said what it does");
    rh_sched_event(s, "task.stalled", task->job, task, -1, text, NULL);
    task->stalled = true;
    rh_sched_cancel_lease(s, now, task, text);
    rh_free(text);
}

/* The worker was asked to stop and did not. One that was stuck will hardly come back. */
static void did_not_stop(struct rh_sched *s, int64_t now, struct rh_sched_task *task)
{
    struct rh_sched_worker *w = rh_sched_worker(s, task->worker);
    if (!task->stalled) {
        rh_sched_release(s, task, "task.lost", "did not stop in time");
        rh_sched_settle(s, now, task->job);
        return;
    }
    if (w) {
        struct rh_action *a = rh_sched_push(s, RH_ACT_KILL);
        memcpy(a->worker, w->id, sizeof a->worker);
        a->pid = w->pid;
        a->text = rh_strdup("its task made no progress and could not be stopped");
        w->busy_until = now + s->config.grace_ms;
    }
    rh_sched_lost(s, now, task, true, "no progress, and it could not be stopped");
}

/* The name stays, so that this worker, and only this one, can take the lease up again. */
static void ran_out(struct rh_sched *s, int64_t now, struct rh_sched_task *task)
{
    char worker[RH_WORKER_ID_SIZE];
    memcpy(worker, task->worker, sizeof worker);
    rh_sched_lost(s, now, task, task->incarnation != 0, "the worker was not heard of");
    if (task->state != RH_TASK_WAITING)
        return;
    memcpy(task->worker, worker, sizeof worker);
    rh_sched_save_task(s, task);
}

static void not_accepted(struct rh_sched *s, int64_t now, struct rh_sched_task *task)
{
    struct rh_sched_worker *w = rh_sched_worker(s, task->worker);
    if (w)
        w->busy_until = now + s->config.accept_ms;
    rh_sched_revoke(s, task->worker, task->id, task->epoch, "not accepted in time");
    rh_sched_release(s, task, "task.lost", "the worker did not accept it");
    rh_sched_settle(s, now, task->job);
}

void rh_sched_expire(struct rh_sched *s, int64_t now, struct rh_sched_task *task)
{
    if (task->result_in)
        return;
    if (task->revoke_at != 0 && now >= task->revoke_at)
        did_not_stop(s, now, task);
    else if (now >= task->lease_end)
        ran_out(s, now, task);
    else if (task->accept_by != 0 && now >= task->accept_by)
        not_accepted(s, now, task);
    else if (task->revoke_at == 0 && is_stuck(s, now, task))
        stalled(s, now, task);
}
