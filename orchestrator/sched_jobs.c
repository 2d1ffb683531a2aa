#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* What a job needs before a task may run, what is handed out to whom, and how jobs end. */

static bool ended(const struct rh_sched_job *job)
{
    return job->state >= RH_JOB_DONE;
}

static bool done(const struct rh_sched_job *job, enum rh_op_id op, int64_t index)
{
    const struct rh_sched_task *task = rh_sched_task_of(job, op, index);
    return task && task->state == RH_TASK_DONE;
}

static bool all_done(const struct rh_sched_job *job, enum rh_op_id op)
{
    for (size_t i = job->first_of[op]; i < job->first_of[op + 1]; i++) {
        if (job->tasks[i]->state != RH_TASK_DONE)
            return false;
    }
    return job->unfolded;
}

int64_t rh_sched_current_block(const struct rh_sched_job *job)
{
    const struct rh_sched_task *tune = rh_sched_task_of(job, RH_OP_TUNE, 0);
    return tune ? tune->next : 0;
}

/* Nothing to wait for where there is no probe. */
static bool probed(const struct rh_sched_job *job)
{
    return !job->graph->probe || done(job, RH_OP_PROBE, 0);
}

/* A probe goes through all blocks before the first is tuned, so until then there is no window.
 * Unit of block b is b + 1; the units behind the blocks count as further blocks, but all that the
 * tuning of an MTP head takes as one. */
static bool in_window(const struct rh_sched_job *job, int64_t unit)
{
    const struct rh_graph *g = job->graph;
    int64_t block = rh_sched_current_block(job);
    if (job->prefetch_blocks == 0 || block >= g->blocks || !probed(job))
        return true;
    if (unit <= g->mtp && block + job->prefetch_blocks >= g->blocks)
        return true;
    return unit <= block + 1 + job->prefetch_blocks;
}

static bool shard_ready(const struct rh_sched_job *job, int64_t shard)
{
    const struct rh_graph *g = job->graph;
    for (int64_t u = 0; u < g->units; u++) {
        if (g->shard_units[shard * g->units + u] && !done(job, RH_OP_PACK, u))
            return false;
    }
    return true;
}

static bool needs_met(const struct rh_sched_task *task)
{
    const struct rh_sched_job *job = task->job;
    if (task->op == RH_OP_PLAN)
        return true;
    if (!job->graph)
        return false;
    switch (task->op) {
    case RH_OP_FETCH:
        return in_window(job, task->index);
    case RH_OP_PROBE:
    case RH_OP_TUNE:
        return (task->op == RH_OP_PROBE || probed(job)) && done(job, RH_OP_CALIBRATE, 0) &&
               done(job, RH_OP_FETCH, 0) && done(job, RH_OP_FETCH, 1);
    case RH_OP_PACK:
        return done(job, RH_OP_FETCH, task->index) &&
               rh_graph_step_of(job->graph, task->index) < rh_sched_current_block(job);
    case RH_OP_SHARD:
        return shard_ready(job, task->index);
    case RH_OP_FINALIZE:
        return all_done(job, RH_OP_SHARD);
    case RH_OP_PUBLISH:
        return done(job, RH_OP_FINALIZE, 0) && all_done(job, RH_OP_SHARD) &&
               all_done(job, RH_OP_DIGEST);
    default: /* digest, calibrate: the plan alone */
        return true;
    }
}

bool rh_sched_ready(const struct rh_sched_task *task, int64_t now)
{
    const struct rh_sched_job *job = task->job;
    return task->state == RH_TASK_WAITING && task->not_before <= now && task->commits == 0 &&
           job->state == RH_JOB_RUNNING && job->desired == RH_DESIRED_RUN && !job->failing &&
           (job->reserved || task->op == RH_OP_PLAN) && !job->lacks_device && needs_met(task);
}

/* -- Jobs ------------------------------------------------------------------------------------- */

void rh_sched_job_state(struct rh_sched *s, struct rh_sched_job *job, enum rh_job_state state,
                        const char *reason)
{
    static const char *const events[] = {"job.queued", "job.running",  "job.blocked",
                                         "job.paused", "job.held",     "job.done",
                                         "job.failed", "job.cancelled"};
    char *copy = rh_strdup(reason);
    job->state = state;
    job->reserved = job->reserved && (state == RH_JOB_RUNNING || state == RH_JOB_BLOCKED);
    rh_free(job->reason);
    job->reason = copy;
    rh_sched_save_job(s, job);
    rh_sched_event(s, events[state], job, NULL, -1, job->reason, NULL);
    if (ended(job))
        rh_sched_push(s, RH_ACT_JOB_ENDED)->job = job;
}

size_t rh_sched_live_tasks(const struct rh_sched_job *job)
{
    size_t live = 0;
    for (size_t i = 0; i < job->task_count; i++) {
        const struct rh_sched_task *t = job->tasks[i];
        live += t->state == RH_TASK_LEASED || t->state == RH_TASK_COMMITTING || t->commits > 0;
    }
    return live;
}

static void wind_down(struct rh_sched *s, int64_t now, struct rh_sched_job *job, const char *why)
{
    for (size_t i = 0; i < job->task_count; i++) {
        struct rh_sched_task *task = job->tasks[i];
        if (task->state == RH_TASK_LEASED && !task->result_in && task->revoke_at == 0)
            rh_sched_cancel_lease(s, now, task, why);
    }
}

static const char *hold_reason(const struct rh_sched_job *job)
{
    for (size_t i = 0; i < job->task_count; i++) {
        if (job->tasks[i]->state == RH_TASK_QUARANTINED && job->tasks[i]->error)
            return job->tasks[i]->error;
    }
    return "held by the operator";
}

/* Looks whether what the operator wants, and what has happened, move the job's state. */
void rh_sched_settle(struct rh_sched *s, int64_t now, struct rh_sched_job *job)
{
    if (ended(job))
        return;
    bool cancel = job->desired == RH_DESIRED_CANCEL;
    if (done(job, RH_OP_PUBLISH, 0)) {
        if (rh_sched_live_tasks(job) == 0)
            rh_sched_job_state(s, job, RH_JOB_DONE, NULL);
        return;
    }
    if (cancel || job->failing) {
        wind_down(s, now, job, cancel ? "the job was cancelled" : "the job failed");
        if (rh_sched_live_tasks(job) == 0)
            rh_sched_job_state(s, job, job->failing ? RH_JOB_FAILED : RH_JOB_CANCELLED,
                               job->failing ? job->reason : "cancelled by the operator");
        return;
    }
    bool hold = job->desired == RH_DESIRED_HOLD;
    bool pause = job->desired == RH_DESIRED_PAUSE;
    struct rh_sched_task *tune = rh_sched_task_of(job, RH_OP_TUNE, 0);
    if (tune)
        tune->stop_at_checkpoint = pause;
    bool halted = job->state == RH_JOB_PAUSED || job->state == RH_JOB_HELD;
    if (pause && job->state != RH_JOB_PAUSED && rh_sched_live_tasks(job) == 0)
        rh_sched_job_state(s, job, RH_JOB_PAUSED, "paused by the operator");
    else if (hold && job->state != RH_JOB_HELD && rh_sched_live_tasks(job) == 0)
        rh_sched_job_state(s, job, RH_JOB_HELD, hold_reason(job));
    else if (!pause && !hold && halted)
        rh_sched_job_state(s, job, RH_JOB_QUEUED, NULL);
}

void rh_sched_fail_job(struct rh_sched *s, int64_t now, struct rh_sched_job *job,
                       const char *reason)
{
    if (!job->failing) {
        job->failing = true;
        rh_free(job->reason);
        job->reason = rh_strdup(reason);
        rh_sched_save_job(s, job);
    }
    rh_sched_settle(s, now, job);
}

/*
 * One more job than there are tuning slots is active: its downloads fill the gap at the end of a
 * tuning session, and more would only cost disk. A job that waits for room keeps nobody waiting.
 */
void rh_sched_admit(struct rh_sched *s)
{
    size_t slots = 0, active = 0;
    for (size_t i = 0; i < s->worker_count; i++) {
        if (s->workers[i]->stage == RH_STAGE_QUANTIZE && s->workers[i]->connected)
            slots += (size_t)s->workers[i]->slots;
    }
    size_t limit = (slots > 0 ? slots : 1) + 1;
    for (size_t i = 0; i < s->job_count; i++)
        active += s->jobs[i]->state == RH_JOB_RUNNING;
    for (size_t i = 0; i < s->job_count && active < limit; i++) {
        if (s->jobs[i]->state == RH_JOB_QUEUED && s->jobs[i]->desired == RH_DESIRED_RUN) {
            rh_sched_job_state(s, s->jobs[i], RH_JOB_RUNNING, NULL);
            active++;
        }
    }
}

/* -- Giving out ------------------------------------------------------------------------------- */

int rh_sched_leases(const struct rh_sched *s, const struct rh_sched_worker *worker)
{
    int leases = 0;
    for (const struct rh_sched_task *t = s->claimed; t; t = t->next_claimed)
        leases += t->state == RH_TASK_LEASED && t->holder == worker;
    return leases;
}

/* One pass for all workers; returns the leases by stage. */
static void count_loads(struct rh_sched *s, int by_stage[RH_STAGE_COUNT])
{
    for (size_t i = 0; i < s->worker_count; i++)
        s->workers[i]->load = 0;
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        by_stage[i] = 0;
    for (const struct rh_sched_task *t = s->claimed; t; t = t->next_claimed) {
        if (t->state != RH_TASK_LEASED)
            continue;
        by_stage[rh_op_stage(t->op)]++;
        if (t->holder)
            t->holder->load++;
    }
}

static bool is_free(const struct rh_sched *s, int64_t now, enum rh_stage_id stage,
                    const struct rh_sched_worker *w)
{
    return w->stage == stage && rh_sched_usable(w) && w->busy_until <= now &&
           now - w->last_seen <= s->config.lease_ms / 3 && w->load < w->slots;
}

static bool any_free(const struct rh_sched *s, int64_t now, enum rh_stage_id stage)
{
    for (size_t i = 0; i < s->worker_count; i++) {
        if (is_free(s, now, stage, s->workers[i]))
            return true;
    }
    return false;
}

/* The free worker of a stage that has been quiet the longest would starve nobody either; the first
 * in order of arrival keeps runs reproducible. */
static struct rh_sched_worker *worker_for(const struct rh_sched *s, int64_t now,
                                          const struct rh_sched_task *task)
{
    for (size_t i = 0; i < s->worker_count; i++) {
        struct rh_sched_worker *w = s->workers[i];
        if (is_free(s, now, rh_op_stage(task->op), w) && rh_sched_fits_device(task, w) &&
            !rh_sched_avoids(s, task, w))
            return w;
    }
    return NULL;
}

static void lease(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                  struct rh_sched_worker *worker)
{
    task->epoch++;
    task->state = RH_TASK_LEASED;
    memcpy(task->worker, worker->id, sizeof task->worker);
    task->holder = worker;
    worker->load++;
    task->incarnation = worker->incarnation;
    task->lease_end = now + s->config.lease_ms;
    task->accept_by = now + s->config.accept_ms;
    task->started_at = task->moved_at = now;
    task->moves = 0;
    task->stalled = false;
    task->revoke_at = 0;
    task->progress_seq = 0;
    task->expect = task->next;
    task->started_block = task->next - 1;
    task->early_results = 0;
    task->result_in = false;
    task->phase[0] = '\0';
    task->done = task->total = 0;
    rh_sched_save_task(s, task);
    struct rh_action *a = rh_sched_push(s, RH_ACT_ASSIGN);
    a->job = task->job;
    a->task = task;
    a->task_id = task->id;
    a->epoch = task->epoch;
    memcpy(a->worker, worker->id, sizeof a->worker);
    rh_sched_event(s, "task.started", task->job, task, -1, NULL, NULL);
}

/* The first ready task of an operation that somebody may have. *quiet_until becomes the end of the
 * next back-off where there is none, and `now` where there is one that nobody may have. */
static bool give_out_op(struct rh_sched *s, int64_t now, struct rh_sched_job *job, int op,
                        int64_t *quiet_until)
{
    for (size_t i = job->first_of[op]; i < job->first_of[op + 1]; i++) {
        struct rh_sched_task *task = job->tasks[i];
        if (task->state != RH_TASK_WAITING)
            continue;
        if (task->not_before > now && task->not_before < *quiet_until)
            *quiet_until = task->not_before;
        if (!rh_sched_ready(task, now))
            continue;
        *quiet_until = now;
        struct rh_sched_worker *worker = worker_for(s, now, task);
        if (!worker)
            continue;
        lease(s, now, task, worker);
        return true;
    }
    return false;
}

/* One task of the stage, of the first job in order that has one ready. */
static bool give_out(struct rh_sched *s, int64_t now, enum rh_stage_id stage)
{
    for (size_t j = 0; j < s->job_count; j++) {
        struct rh_sched_job *job = s->jobs[j];
        if (job->state != RH_JOB_RUNNING || job->quiet_until[stage] > now)
            continue;
        int64_t quiet_until = INT64_MAX;
        for (int op = 0; op < RH_OP_COUNT; op++) {
            if (rh_op_stage((enum rh_op_id)op) == stage &&
                give_out_op(s, now, job, op, &quiet_until))
                return true;
        }
        job->quiet_until[stage] = quiet_until;
    }
    return false;
}

void rh_sched_prepare(struct rh_sched *s, int64_t now)
{
    rh_sched_admit(s);
    rh_sched_reserve(s, now);
}

void rh_sched_dispatch(struct rh_sched *s, int64_t now)
{
    int leases[RH_STAGE_COUNT];
    rh_sched_prepare(s, now);
    if (s->hold)
        return;
    count_loads(s, leases);
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        enum rh_stage_id stage = (enum rh_stage_id)i;
        int limit = s->config.stage_max[i];
        if (rh_sched_short_of_space(s, stage))
            continue;
        while ((limit == 0 || leases[i] < limit) && any_free(s, now, stage) &&
               give_out(s, now, stage))
            leases[i]++;
    }
}

void rh_sched_tick(struct rh_sched *s, int64_t now)
{
    for (size_t i = 0; i < s->worker_count; i++) {
        struct rh_sched_worker *w = s->workers[i];
        if (w->connected && now - w->last_seen > s->config.lease_ms) {
            w->connected = false;
            rh_sched_event(s, "worker.lost", NULL, NULL, -1, w->id, NULL);
        }
    }
    for (size_t j = 0; j < s->job_count; j++) {
        struct rh_sched_job *job = s->jobs[j];
        /* Parked before it had a plan: there is nothing to set aside for. */
        if (job->state == RH_JOB_BLOCKED && now >= job->blocked_until && !job->graph &&
            !rh_sched_short_of_space(s, RH_STAGE_DOWNLOAD))
            rh_sched_job_state(s, job, RH_JOB_RUNNING, NULL);
    }
    for (struct rh_sched_task *t = s->claimed, *next; t; t = next) {
        next = t->next_claimed; /* an expired one leaves the list */
        if (t->state == RH_TASK_LEASED)
            rh_sched_expire(s, now, t);
    }
}
