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
    rh_sched_event(s, event, task->job, task, -1, why, NULL);
    task->state = RH_TASK_WAITING;
    task->worker[0] = '\0';
    task->revoke_at = 0;
    task->result_in = false;
    rh_sched_save_task(s, task);
}

static int64_t back_off(const struct rh_sched *s, int attempts)
{
    int64_t ms = s->config.retry_ms;
    for (int i = 1; i < attempts && ms < s->config.retry_max_ms; i++)
        ms *= 2;
    return ms < s->config.retry_max_ms ? ms : s->config.retry_max_ms;
}

void rh_sched_lost(struct rh_sched *s, int64_t now, struct rh_sched_task *task, bool blame,
                   const char *why)
{
    if (blame && ++task->crashes >= s->config.crashes_max) {
        char *text = rh_format("%s %lld took its worker down %d times in a row, last: %s; see the "
                               "stage's log",
                               rh_op_name(task->op), (long long)task->index, task->crashes, why);
        rh_sched_failed(s, now, task, RH_FAILURE_PERMANENT, text);
        rh_free(text);
        return;
    }
    task->not_before = blame ? now + back_off(s, task->crashes) : now;
    rh_sched_release(s, task, "task.lost", why);
    rh_sched_settle(s, now, task->job);
}

static void block_job(struct rh_sched *s, int64_t now, struct rh_sched_job *job, const char *why)
{
    job->blocked_until = now + s->config.blocked_ms;
    if (job->state == RH_JOB_RUNNING && !job->failing && job->desired == RH_DESIRED_RUN)
        rh_sched_job_state(s, job, RH_JOB_BLOCKED, why);
}

/* A lease ended with a result that is not one. */
void rh_sched_failed(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                     enum rh_failure failure, const char *error)
{
    struct rh_sched_job *job = task->job;
    char *why = rh_strdup(error && *error ? error : "no reason given");
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
        rh_sched_save_task(s, task);
        char *reason = rh_format("%s %lld: %s", rh_op_name(task->op), (long long)task->index, why);
        rh_sched_fail_job(s, now, job, reason);
        rh_free(reason);
    } else {
        bool asked = task->revoke_at != 0;
        int64_t wait =
            failure == RH_FAILURE_TRANSIENT ? back_off(s, task->attempts) : s->config.retry_ms;
        task->not_before = asked ? now : now + wait;
        rh_sched_release(s, task, failure == RH_FAILURE_CANCELLED ? "task.stopped" : "task.retry",
                         why);
        if (failure == RH_FAILURE_RESOURCE)
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
}

void rh_sched_expire(struct rh_sched *s, int64_t now, struct rh_sched_task *task)
{
    if (task->result_in)
        return;
    if (task->revoke_at != 0 && now >= task->revoke_at) {
        rh_sched_release(s, task, "task.lost", "did not stop in time");
        rh_sched_settle(s, now, task->job);
    } else if (now >= task->lease_end) {
        /* The name stays, so that this worker, and only this one, can take the lease up again. */
        char worker[RH_WORKER_ID_SIZE];
        memcpy(worker, task->worker, sizeof worker);
        rh_sched_lost(s, now, task, task->incarnation != 0, "the worker was not heard of");
        if (task->state == RH_TASK_WAITING) {
            memcpy(task->worker, worker, sizeof worker);
            rh_sched_save_task(s, task);
        }
    } else if (task->accept_by != 0 && now >= task->accept_by) {
        struct rh_sched_worker *w = rh_sched_worker(s, task->worker);
        if (w)
            w->busy_until = now + s->config.accept_ms;
        rh_sched_revoke(s, task->worker, task->id, task->epoch, "not accepted in time");
        rh_sched_release(s, task, "task.lost", "the worker did not accept it");
        rh_sched_settle(s, now, task->job);
    } else if (s->config.stall_ms > 0 && now - task->moved_at > s->config.stall_ms) {
        rh_sched_event(s, "task.stalled", task->job, task, -1, task->phase, NULL);
        rh_sched_revoke(s, task->worker, task->id, task->epoch, "no progress");
        rh_sched_lost(s, now, task, true, "no progress");
    }
}
