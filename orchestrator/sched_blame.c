#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/*
 * A worker died with a task. Either the task kills workers or the worker kills tasks: a bad GPU
 * must not quarantine one model after the other, and a bad model must not drain one GPU after the
 * other. What tells them apart is who else was there: two tasks that crashed on one worker within
 * the hour speak against the worker, the same task on several workers speaks against the task.
 */

bool rh_sched_usable(const struct rh_sched_worker *worker)
{
    return worker->connected && !worker->leaving && !worker->drained;
}

static bool has_substitute(const struct rh_sched *s, const struct rh_sched_task *task,
                           const struct rh_sched_worker *worker)
{
    for (size_t i = 0; i < s->worker_count; i++) {
        const struct rh_sched_worker *w = s->workers[i];
        if (w != worker && w->stage == worker->stage && rh_sched_usable(w) &&
            rh_sched_fits_device(task, w))
            return true;
    }
    return false;
}

bool rh_sched_avoids(const struct rh_sched *s, const struct rh_sched_task *task,
                     const struct rh_sched_worker *worker)
{
    return strcmp(task->crashed_on, worker->id) == 0 && has_substitute(s, task, worker);
}

static struct rh_sched_blame *note_blame(struct rh_sched_worker *w, int64_t now, int64_t task)
{
    struct rh_sched_blame *b = &w->blames[w->blame_next];
    w->blame_next = (w->blame_next + 1) % (int)(sizeof w->blames / sizeof *w->blames);
    *b = (struct rh_sched_blame){.task = task, .at = now};
    return b;
}

/* Other tasks that crashed here; fatal: that were quarantined for it. */
static int other_tasks(const struct rh_sched *s, const struct rh_sched_worker *w, int64_t now,
                       int64_t task, bool fatal)
{
    int others = 0;
    for (size_t i = 0; i < sizeof w->blames / sizeof *w->blames; i++) {
        const struct rh_sched_blame *b = &w->blames[i];
        bool seen = b->task == 0 || b->task == task || now - b->at > s->config.blame_ms ||
                    (fatal && !b->fatal);
        for (size_t j = 0; j < i && !seen; j++)
            seen = w->blames[j].task == b->task && (!fatal || w->blames[j].fatal);
        others += !seen;
    }
    return others;
}

static void drain_suspect(struct rh_sched *s, struct rh_sched_worker *w, int others)
{
    char *why = rh_format("%d tasks crashed on this worker within the hour; look at its machine, "
                          "then undrain it",
                          others + 1);
    struct rh_error err;
    rh_sched_event(s, "worker.suspect", NULL, NULL, -1, why, NULL);
    struct rh_action *a = &s->queue[s->queue_count - 1];
    memcpy(a->worker, w->id, sizeof a->worker);
    if (rh_sched_drain(s, w->id, true, why, &err) != RH_OK)
        RH_ASSERT(!"a worker that is known can be drained");
    rh_free(why);
}

/* The job waits for somebody to decide; its other tasks come to their end. */
static void quarantine(struct rh_sched *s, int64_t now, struct rh_sched_task *task, const char *why)
{
    struct rh_sched_job *job = task->job;
    char *text = rh_format("%s %lld took its worker down %d times, last: %s; see the stage's log, "
                           "then resume the job or cancel it",
                           rh_op_name(task->op), (long long)task->index, task->crashes, why);
    rh_free(task->error);
    task->error = text;
    task->state = RH_TASK_QUARANTINED;
    task->failure = RH_FAILURE_PERMANENT;
    rh_sched_event(s, "task.quarantined", job, task, -1, text, NULL);
    task->worker[0] = '\0';
    task->holder = NULL;
    task->revoke_at = 0;
    task->stalled = false;
    rh_sched_save_task(s, task);
    if (job->desired == RH_DESIRED_RUN || job->desired == RH_DESIRED_PAUSE) {
        job->desired = RH_DESIRED_HOLD;
        rh_sched_save_job(s, job);
    }
    rh_sched_settle(s, now, job);
}

void rh_sched_crashed(struct rh_sched *s, int64_t now, struct rh_sched_task *task, const char *why)
{
    struct rh_sched_worker *w = rh_sched_worker(s, task->worker);
    struct rh_sched_blame *blame = w ? note_blame(w, now, task->id) : NULL;
    int others = w ? other_tasks(s, w, now, task->id, false) : 0;
    if (others > 0 && has_substitute(s, task, w)) {
        if (!w->drained)
            drain_suspect(s, w, others);
    } else {
        task->crashes++;
    }
    memcpy(task->crashed_on, task->worker, sizeof task->crashed_on);
    if (task->crashes < s->config.crashes_max) {
        task->not_before = now + rh_sched_back_off(s, task->crashes);
        rh_sched_release(s, task, "task.lost", why);
        rh_sched_settle(s, now, task->job);
        return;
    }
    if (blame) {
        blame->fatal = true;
        /* The only worker of its stage: two tasks in a row that cannot live here. */
        others = other_tasks(s, w, now, task->id, true);
        if (others > 0 && !w->drained)
            drain_suspect(s, w, others);
    }
    quarantine(s, now, task, why);
}
