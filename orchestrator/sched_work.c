#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* What workers say, what becomes of their leases, and what has been committed. */

/* -- Judging messages ------------------------------------------------------------------------- */

/* May `worker` still act under this epoch? A lease that ran out counts as long as nobody else got
 * the task: the epoch is unchanged then. */
bool rh_sched_holds(const struct rh_sched_task *task, const char *worker, int64_t epoch)
{
    if (!task || task->epoch != epoch || strcmp(task->worker, worker) != 0)
        return false;
    if (task->state == RH_TASK_LEASED || task->state == RH_TASK_COMMITTING)
        return true;
    return task->state == RH_TASK_WAITING && task->job->state < RH_JOB_DONE &&
           !task->job->failing && task->job->desired == RH_DESIRED_RUN;
}

/* Makes sure that a task which the worker holds is leased to it, and renews the lease. */
void rh_sched_renew(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                    struct rh_sched_worker *worker)
{
    if (task->state == RH_TASK_WAITING) {
        task->state = RH_TASK_LEASED;
        task->moved_at = task->started_at = now;
        task->moves = 0;
        rh_sched_save_task(s, task);
        rh_sched_event(s, "task.resumed", task->job, task, -1, NULL, NULL);
    }
    task->holder = worker;
    task->incarnation = worker->incarnation;
    task->accept_by = 0;
    task->lease_end = now + s->config.lease_ms;
}

static void announce_block(struct rh_sched *s, struct rh_sched_task *task, int64_t block)
{
    if (task->op != RH_OP_TUNE || block <= task->started_block || block > task->last)
        return;
    task->started_block = block;
    rh_sched_event(s, "block.started", task->job, task, block, NULL, NULL);
}

/* A session is on the first block that was not handed in, once that block's source is there. */
static void announce_next(struct rh_sched *s, struct rh_sched_job *job)
{
    struct rh_sched_task *tune = rh_sched_task_of(job, RH_OP_TUNE, 0);
    if (!tune || tune->state != RH_TASK_LEASED || tune->accept_by != 0)
        return;
    int64_t unit = rh_graph_unit_of(job->graph, tune->expect);
    const struct rh_sched_task *fetch = unit >= 0 ? rh_sched_task_of(job, RH_OP_FETCH, unit) : NULL;
    if (fetch && fetch->state == RH_TASK_DONE)
        announce_block(s, tune, tune->expect);
}

/* The sender, or NULL after it was told to introduce itself. */
static struct rh_sched_worker *sender(struct rh_sched *s, int64_t now, const char *id, int64_t task,
                                      int64_t epoch, int64_t block)
{
    struct rh_sched_worker *w = rh_sched_worker(s, id);
    if (!w || !w->connected) {
        rh_sched_ack(s, id, task, epoch, block, RH_VERDICT_REHELLO);
        return NULL;
    }
    w->last_seen = now;
    return w;
}

void rh_sched_accept(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                     int64_t epoch)
{
    struct rh_sched_worker *w = sender(s, now, worker, task, epoch, -1);
    struct rh_sched_task *t = rh_sched_find_task(s, task);
    if (!w)
        return;
    if (!rh_sched_holds(t, worker, epoch)) {
        rh_sched_revoke(s, worker, task, epoch, "the lease is over");
        return;
    }
    rh_sched_renew(s, now, t, w);
    announce_next(s, t->job);
}

void rh_sched_reject(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                     int64_t epoch, const char *why)
{
    struct rh_sched_worker *w = sender(s, now, worker, task, epoch, -1);
    struct rh_sched_task *t = rh_sched_find_task(s, task);
    if (!w || !t || t->state != RH_TASK_LEASED || t->epoch != epoch ||
        strcmp(t->worker, worker) != 0)
        return;
    w->busy_until = now + s->config.retry_ms;
    t->not_before = now;
    rh_sched_release(s, t, "task.rejected", why);
    rh_sched_settle(s, now, t->job);
}

static void note_progress(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                          const struct rh_sched_progress *p)
{
    if (p->progress_seq != task->progress_seq) {
        task->progress_seq = p->progress_seq;
        task->moved_at = now;
        task->moves++;
    }
    snprintf(task->phase, sizeof task->phase, "%s", p->phase ? p->phase : "");
    task->done = p->done;
    task->total = p->total;
    if (strncmp(task->phase, "block ", 6) == 0)
        announce_block(s, task, strtoll(task->phase + 6, NULL, 10));
    else if (strcmp(task->phase, "mtp") == 0 && task->job->graph)
        announce_block(s, task, task->job->graph->blocks);
}

void rh_sched_beat(struct rh_sched *s, int64_t now, const char *worker, uint64_t incarnation,
                   const struct rh_sched_progress *held, size_t count)
{
    struct rh_sched_worker *w = rh_sched_worker(s, worker);
    if (w && incarnation < w->incarnation)
        return; /* a predecessor's last words */
    if (w && incarnation != w->incarnation)
        w->connected = false;
    w = sender(s, now, worker, 0, 0, -1);
    for (size_t i = 0; w && i < count; i++) {
        struct rh_sched_task *task = rh_sched_find_task(s, held[i].task);
        if (task && task->state == RH_TASK_DONE)
            continue; /* the acknowledgement is on its way, or will be asked for again */
        if (!rh_sched_holds(task, worker, held[i].epoch)) {
            rh_sched_revoke(s, worker, held[i].task, held[i].epoch, "the lease is over");
            continue;
        }
        rh_sched_renew(s, now, task, w);
        note_progress(s, now, task, &held[i]);
    }
}

/* -- Results ---------------------------------------------------------------------------------- */

static void start_commit(struct rh_sched *s, struct rh_sched_task *task, int64_t block,
                         const char *data)
{
    struct rh_action *a = rh_sched_push(s, RH_ACT_COMMIT);
    a->job = task->job;
    a->task = task;
    a->task_id = task->id;
    a->epoch = task->epoch;
    a->block = block;
    a->data = rh_strdup(data);
    memcpy(a->worker, task->worker, sizeof a->worker);
    task->commits++;
}

void rh_sched_checkpoint(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                         int64_t epoch, int64_t block, const char *metrics)
{
    struct rh_sched_worker *w = sender(s, now, worker, task, epoch, block);
    struct rh_sched_task *t = rh_sched_find_task(s, task);
    if (!w)
        return;
    bool known = t && t->op == RH_OP_TUNE && t->epoch == epoch;
    if (known && block >= t->index && block < t->next) {
        rh_sched_ack(s, worker, task, epoch, block, RH_VERDICT_DUPLICATE);
        return;
    }
    if (!known || t->state == RH_TASK_COMMITTING || !rh_sched_holds(t, worker, epoch)) {
        rh_sched_ack(s, worker, task, epoch, block, RH_VERDICT_STALE);
        return;
    }
    rh_sched_renew(s, now, t, w);
    if (t->expect < t->next)
        t->expect = t->next;
    if (block != t->expect || block > t->last)
        return; /* being committed already, or ahead of a lost one: it will be repeated */
    announce_block(s, t, block);
    t->moved_at = now;
    t->expect = block + 1;
    announce_next(s, t->job);
    start_commit(s, t, block, metrics);
}

static void task_done(struct rh_sched *s, int64_t now, struct rh_sched_task *task, const char *data)
{
    task->state = RH_TASK_DONE;
    task->attempts = task->crashes = 0;
    task->revoke_at = 0;
    task->result_in = false;
    rh_free(task->error);
    task->error = NULL;
    rh_sched_save_task(s, task);
    rh_sched_event(s, "task.done", task->job, task, -1, NULL, data);
    rh_sched_ack(s, task->worker, task->id, task->epoch, -1, RH_VERDICT_ACCEPTED);
    announce_next(s, task->job);
    rh_sched_settle(s, now, task->job);
}

/* An OK result of a session: everything must have been handed in by checkpoints. */
static void session_result(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                           const char *meta)
{
    if (task->next > task->last) {
        task_done(s, now, task, meta);
    } else if (task->expect > task->last) {
        task->result_in = true;
    } else if (++task->early_results > 10) {
        char *text = rh_format("the session ended, but block %lld was never handed in",
                               (long long)task->expect);
        rh_sched_ack(s, task->worker, task->id, task->epoch, -1, RH_VERDICT_ACCEPTED);
        rh_sched_failed(s, now, task, RH_FAILURE_TRANSIENT, text);
        rh_free(text);
    }
}

void rh_sched_result(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                     int64_t epoch, bool ok, enum rh_failure failure, const char *error,
                     const char *meta)
{
    struct rh_sched_worker *w = sender(s, now, worker, task, epoch, -1);
    struct rh_sched_task *t = rh_sched_find_task(s, task);
    if (!w)
        return;
    if (t && t->epoch == epoch && t->state == RH_TASK_DONE) {
        rh_sched_ack(s, worker, task, epoch, -1, RH_VERDICT_DUPLICATE);
        return;
    }
    if (!rh_sched_holds(t, worker, epoch)) {
        rh_sched_ack(s, worker, task, epoch, -1, RH_VERDICT_STALE);
        return;
    }
    if (t->state == RH_TASK_COMMITTING || t->result_in)
        return; /* answered when the artifact is in place */
    rh_sched_renew(s, now, t, w);
    if (!ok) {
        rh_sched_ack(s, worker, task, epoch, -1, RH_VERDICT_ACCEPTED);
        rh_sched_failed(s, now, t, failure, error);
    } else if (t->op == RH_OP_TUNE) {
        session_result(s, now, t, meta);
    } else {
        t->state = RH_TASK_COMMITTING;
        start_commit(s, t, -1, meta);
    }
}

/* -- Commits ---------------------------------------------------------------------------------- */

static void block_committed(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                            int64_t epoch, int64_t block, const char *data)
{
    if (block != task->next)
        return;
    task->next = block + 1;
    task->attempts = task->crashes = 0;
    rh_sched_save_task(s, task);
    rh_sched_event(s, "block.done", task->job, task, block, NULL, data);
    if (block > 0) {
        struct rh_action *a = rh_sched_push(s, RH_ACT_DROP_CHAIN);
        a->job = task->job;
        a->block = block - 1;
    }
    if (task->epoch == epoch && task->worker[0] != '\0')
        rh_sched_ack(s, task->worker, task->id, epoch, block, RH_VERDICT_ACCEPTED);
    if (task->result_in && task->next > task->last)
        task_done(s, now, task, NULL);
    else if (task->stop_at_checkpoint && task->state == RH_TASK_LEASED && task->revoke_at == 0)
        rh_sched_cancel_lease(s, now, task, "the job is paused");
}

static void commit_failed(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                          int64_t epoch, const struct rh_error *failed)
{
    enum rh_failure failure = failed->failure;
    if (task->epoch != epoch ||
        (task->state != RH_TASK_LEASED && task->state != RH_TASK_COMMITTING))
        return;
    /* The worker cannot mend what it has handed in: it drops the task, and the next lease makes it
     * again. Only what another try cannot change ends the job. */
    if (failure == RH_FAILURE_PERMANENT && task->op != RH_OP_PLAN)
        failure = RH_FAILURE_TRANSIENT;
    rh_sched_ack(s, task->worker, task->id, epoch, -1, RH_VERDICT_STALE);
    rh_sched_revoke(s, task->worker, task->id, epoch, failed->message);
    rh_sched_failed(s, now, task, failure, failed->message);
}

void rh_sched_committed(struct rh_sched *s, int64_t now, int64_t task, int64_t epoch, int64_t block,
                        const struct rh_error *failed, const char *data, struct rh_graph *graph)
{
    struct rh_sched_task *t = rh_sched_find_task(s, task);
    if (!t || t->commits == 0) {
        rh_graph_free(graph);
        return;
    }
    t->commits--;
    rh_sched_touch(t->job);
    if (failed) {
        commit_failed(s, now, t, epoch, failed);
    } else if (block >= 0) {
        block_committed(s, now, t, epoch, block, data);
    } else if (t->state == RH_TASK_COMMITTING && t->epoch == epoch) {
        if (t->op == RH_OP_PLAN) {
            RH_ASSERT(graph != NULL);
            t->job->graph = graph;
            graph = NULL;
        }
        t->state = RH_TASK_DONE; /* before the new tasks look at what is done */
        if (t->op == RH_OP_PLAN)
            rh_sched_expand(s, t->job);
        task_done(s, now, t, data);
    }
    rh_graph_free(graph);
    rh_sched_settle(s, now, t->job);
}

void rh_sched_reused(struct rh_sched *s, int64_t now, struct rh_sched_task *task, int64_t block,
                     const char *from)
{
    bool mtp = block >= 0 && block == task->job->graph->blocks;
    char *data = rh_format("{\"reused_from\":\"%s\"%s}", from, mtp ? ",\"unit\":\"mtp\"" : "");
    RH_ASSERT(task->state == RH_TASK_WAITING && (block < 0 || block == task->next));
    task->worker[0] = '\0';
    if (block >= 0) {
        task->next = task->expect = block + 1;
        task->started_block = block;
        rh_sched_event(s, "block.done", task->job, task, block, NULL, data);
    }
    if (block > 0) {
        struct rh_action *a = rh_sched_push(s, RH_ACT_DROP_CHAIN);
        a->job = task->job;
        a->block = block - 1;
    }
    if (block < 0 || task->next > task->last) {
        task->state = RH_TASK_DONE;
        rh_sched_event(s, "task.reused", task->job, task, -1, from, data);
    }
    rh_sched_save_task(s, task);
    rh_sched_settle(s, now, task->job);
    rh_free(data);
}
