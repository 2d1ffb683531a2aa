#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/scheduler.h"

/*
 * Thousands of seeded schedules. A world of workers, a lossy network that repeats and reorders, a
 * disk that survives everything and may be short, compute threads that hang while their process
 * goes on beating, operators who pause, hold, drain and go back to an earlier block, and an
 * orchestrator that dies between any two of its steps and comes back from its rows. RH_SIM_SEEDS
 * sets how many schedules, RH_SIM_SEED runs one of them.
 */
enum {
    JOBS_MAX = 3,
    TASKS_MAX = 256,
    INDEX_MAX = 16,
    EPOCH_MAX = 512,
    WORKERS = 7,
    HELD_MAX = 4,
    NET_MAX = 512,
    DROPS_MAX = 64,
    HEADROOM = 1000,
    FAULTY_STEPS = 1200,
    STEPS_MAX = 60000,
};

enum kind { HELLO, BEAT, ACCEPT, REJECT, CHECKPOINT, RESULT, WELCOME, ASSIGN, ACK, REVOKE };

struct held {
    bool used;
    int job;
    enum rh_op_id op;
    int64_t task, epoch, index, last, cur;
    uint64_t seq;
    uint32_t pending; /* tune: blocks sealed and not acknowledged */
    bool finished, ok;
    bool stuck; /* its thread hangs, deaf to everything */
    enum rh_failure failure;
    int64_t device_need, device_room; /* failed for want of device memory */
};

struct message {
    enum kind kind;
    int worker;
    uint64_t incarnation;
    int64_t task, epoch, block;
    struct held held[HELD_MAX]; /* HELLO, BEAT: what is held; ASSIGN: the task in held[0] */
    bool keep[HELD_MAX];
    enum rh_verdict verdict;
    bool ok;
    enum rh_failure failure;
    int64_t device_need, device_room;
    int64_t device_free; /* BEAT */
};

struct worker {
    enum rh_stage_id stage;
    int slots;
    uint64_t incarnation;
    bool welcome;
    int64_t next_beat;
    int64_t device;  /* memory; 0: has none */
    int64_t foreign; /* of it, what somebody else has */
    struct held held[HELD_MAX];
};

struct commit {
    int64_t task, epoch, block;
};

struct drop {
    int job;
    enum rh_op_id op;
    int64_t index;
};

/* What is durable: rows, and which artifacts are on disk. */
struct durable {
    struct rh_sched_job jobs[JOBS_MAX];
    struct rh_sched_task tasks[TASKS_MAX];
    int job_of[TASKS_MAX];
    bool used[TASKS_MAX];
    int done_events[TASKS_MAX];
    int block_events[JOBS_MAX][INDEX_MAX];
    bool drained[WORKERS];
};

struct world {
    uint64_t rng;
    int64_t now;
    bool faults, poison;
    int job_count;
    int64_t blocks[JOBS_MAX], prefetch[JOBS_MAX];
    bool probe[JOBS_MAX];
    int64_t device_need[JOBS_MAX]; /* to tune the job; the scheduler has to find it out */
    struct durable rows, txn;
    bool disk[JOBS_MAX][RH_OP_COUNT][INDEX_MAX];
    bool chain_dropped[JOBS_MAX][INDEX_MAX];
    uint32_t sealed[TASKS_MAX][EPOCH_MAX]; /* bit b: block b; bit 31: the whole task */
    int8_t leased_to[TASKS_MAX][EPOCH_MAX];
    struct worker workers[WORKERS];
    struct message net[NET_MAX];
    int net_count;
    struct message outbox[NET_MAX]; /* leaves once the rows are durable */
    int outbox_count;
    struct commit commits[64];
    int commit_count;
    struct drop drops[DROPS_MAX]; /* carried out once the rows are durable */
    int drop_count;
    int rewinding; /* the job that an operator sends back right now; -1: none */
    int64_t space;
    struct rh_sched_config config;
    struct rh_sched *s; /* NULL: down */
    int64_t down_until;
    int restarts, losses, repeats, kills, rewinds, too_small, waits;
};

static uint64_t rnd(struct world *w)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng;
}

static bool chance(struct world *w, int percent)
{
    return (rnd(w) >> 20) % 100 < (uint64_t)percent;
}

static int64_t below(struct world *w, int64_t n)
{
    return (int64_t)((rnd(w) >> 20) % (uint64_t)n);
}

static void post(struct world *w, const struct message *m)
{
    if (w->faults && chance(w, 8)) {
        w->losses++;
        return;
    }
    int copies = w->faults && chance(w, 8) ? 2 : 1;
    w->repeats += copies - 1;
    for (int i = 0; i < copies && w->net_count < NET_MAX; i++)
        w->net[w->net_count++] = *m;
}

/* -- Workers ---------------------------------------------------------------------------------- */

static void say(struct world *w, int worker, struct message m)
{
    m.worker = worker;
    m.incarnation = w->workers[worker].incarnation;
    memcpy(m.held, w->workers[worker].held, sizeof m.held);
    post(w, &m);
}

static void say_result(struct world *w, int worker, const struct held *h)
{
    say(w, worker,
        (struct message){.kind = RESULT,
                         .task = h->task,
                         .epoch = h->epoch,
                         .ok = h->ok,
                         .failure = h->failure,
                         .device_need = h->device_need,
                         .device_room = h->device_room});
}

/* What the next tuning could have: `except` is that one. */
static int64_t device_free(const struct world *w, const struct worker *wk,
                           const struct held *except)
{
    int64_t bytes = wk->device - wk->foreign;
    for (int i = 0; i < HELD_MAX; i++) {
        const struct held *h = &wk->held[i];
        if (h->used && !h->finished && h != except && h->op == RH_OP_TUNE && h->seq > 0)
            bytes -= w->device_need[h->job];
    }
    return bytes > 0 ? bytes : 0;
}

/* A session looks at its device before it begins. */
static bool is_too_small(struct world *w, int worker, struct held *h)
{
    struct worker *wk = &w->workers[worker];
    int64_t room = device_free(w, wk, h);
    if (h->op != RH_OP_TUNE || h->seq > 0 || wk->device == 0 || w->device_need[h->job] <= room)
        return false;
    h->finished = true;
    h->ok = false;
    h->failure = RH_FAILURE_RESOURCE;
    h->device_need = w->device_need[h->job];
    h->device_room = room;
    w->too_small++;
    say_result(w, worker, h);
    return true;
}

static struct held *held_by(struct worker *wk, int64_t task, int64_t epoch)
{
    for (int i = 0; i < HELD_MAX; i++) {
        if (wk->held[i].used && wk->held[i].task == task && wk->held[i].epoch == epoch)
            return &wk->held[i];
    }
    return NULL;
}

static void worker_assign(struct world *w, int worker, const struct message *m)
{
    struct worker *wk = &w->workers[worker];
    struct message answer = {.kind = ACCEPT, .task = m->task, .epoch = m->epoch};
    int used = 0, place = -1;
    if (held_by(wk, m->task, m->epoch)) {
        say(w, worker, answer);
        return;
    }
    for (int i = 0; i < HELD_MAX; i++) {
        if (wk->held[i].used && wk->held[i].task == m->task) {
            if (wk->held[i].epoch > m->epoch)
                return; /* an old assignment, overtaken */
            wk->held[i].used = false;
        }
        used += wk->held[i].used;
        if (!wk->held[i].used)
            place = i;
    }
    if (used >= wk->slots || (w->faults && chance(w, 4))) {
        answer.kind = REJECT;
        say(w, worker, answer);
        return;
    }
    wk->held[place] = m->held[0];
    wk->held[place].used = true;
    say(w, worker, answer);
}

static void worker_receive(struct world *w, const struct message *m)
{
    struct worker *wk = &w->workers[m->worker];
    struct held *h = held_by(wk, m->task, m->epoch);
    switch (m->kind) {
    case WELCOME:
        wk->welcome = true;
        for (int i = 0; i < HELD_MAX; i++) {
            struct held *old = held_by(wk, m->held[i].task, m->held[i].epoch);
            if (m->held[i].used && !m->keep[i] && old)
                old->used = false;
        }
        break;
    case ASSIGN:
        if (m->incarnation == wk->incarnation)
            worker_assign(w, m->worker, m);
        break;
    case REVOKE:
        if (h && h->stuck)
            break;
        if (h && !h->finished) {
            h->finished = true;
            h->ok = false;
            h->failure = RH_FAILURE_CANCELLED;
            say_result(w, m->worker, h);
        } else if (h) {
            h->used = false;
        }
        break;
    case ACK:
        if (m->verdict == RH_VERDICT_REHELLO)
            wk->welcome = false;
        else if (h && m->block >= 0 && m->verdict != RH_VERDICT_STALE)
            h->pending &= ~(1u << m->block);
        else if (h)
            h->used = false;
        break;
    default:
        fail_msg("a worker got message %d", (int)m->kind);
    }
}

static void work_on(struct world *w, int worker, struct held *h)
{
    h->stuck = h->stuck || (w->faults && chance(w, 1));
    if (h->stuck || is_too_small(w, worker, h))
        return;
    h->seq++;
    if (w->faults && chance(w, w->poison ? 4 : 2)) {
        static const enum rh_failure kinds[] = {RH_FAILURE_TRANSIENT, RH_FAILURE_RESOURCE,
                                                RH_FAILURE_CANCELLED, RH_FAILURE_PERMANENT};
        h->finished = true;
        h->ok = false;
        h->failure = kinds[below(w, w->poison ? 4 : 3)];
        say_result(w, worker, h);
        return;
    }
    assert_true(h->epoch < EPOCH_MAX);
    if (h->op != RH_OP_TUNE) {
        w->sealed[h->task][h->epoch] |= 1u << 31;
        h->finished = h->ok = true;
        say_result(w, worker, h);
        return;
    }
    if (h->cur <= h->last && w->disk[h->job][RH_OP_FETCH][h->cur + 1]) {
        w->sealed[h->task][h->epoch] |= 1u << h->cur;
        h->pending |= 1u << h->cur;
        say(w, worker,
            (struct message){
                .kind = CHECKPOINT, .task = h->task, .epoch = h->epoch, .block = h->cur});
        h->cur++;
    } else if (h->cur > h->last && h->pending == 0) {
        h->finished = h->ok = true;
        say_result(w, worker, h);
    }
}

/* The process is gone, and another one takes its place. */
static void renew_process(struct world *w, int worker)
{
    struct worker *wk = &w->workers[worker];
    memset(wk->held, 0, sizeof wk->held);
    wk->incarnation++;
    wk->welcome = false;
    wk->next_beat = w->now;
}

static void worker_step(struct world *w, int worker)
{
    struct worker *wk = &w->workers[worker];
    if (w->faults && chance(w, 1)) {
        renew_process(w, worker);
        if (w->s && chance(w, 50)) {
            char id[16];
            snprintf(id, sizeof id, "w%d", worker);
            rh_sched_worker_gone(w->s, w->now, id, true, "signal 9");
        }
        return;
    }
    if (w->now >= wk->next_beat) {
        wk->next_beat = w->now + 5000;
        if (wk->device > 0)
            wk->foreign = w->faults && chance(w, 20) ? below(w, wk->device) : 0;
        say(w, worker,
            (struct message){.kind = wk->welcome ? BEAT : HELLO,
                             .device_free = device_free(w, wk, NULL)});
        for (int i = 0; i < HELD_MAX; i++) {
            struct held *h = &wk->held[i];
            for (int64_t b = 0; h->used && b < INDEX_MAX; b++) {
                if (h->pending & (1u << b))
                    say(w, worker,
                        (struct message){
                            .kind = CHECKPOINT, .task = h->task, .epoch = h->epoch, .block = b});
            }
            if (h->used && h->finished)
                say_result(w, worker, h);
        }
    }
    for (int i = 0; i < HELD_MAX; i++) {
        if (wk->held[i].used && !wk->held[i].finished && chance(w, 30))
            work_on(w, worker, &wk->held[i]);
    }
}

/* -- The orchestrator's shell ----------------------------------------------------------------- */

static int job_index(const struct rh_sched_job *job)
{
    return job->id[0] - 'A';
}

static void save_task(struct world *w, const struct rh_sched_task *t)
{
    assert_true(t->id > 0 && t->id < TASKS_MAX);
    struct durable *d = &w->txn;
    const struct rh_sched_task *old = &w->rows.tasks[t->id];
    if (w->rows.used[t->id]) {
        assert_true(t->epoch >= old->epoch);
        bool back = w->rewinding == job_index(t->job);
        assert_true(back || t->next >= old->next);
        assert_true(back || old->state != RH_TASK_DONE || t->state == RH_TASK_DONE);
        for (int64_t b = t->next; back && t->op == RH_OP_TUNE && b < INDEX_MAX; b++)
            d->block_events[job_index(t->job)][b] = 0;
        if (back && t->state != RH_TASK_DONE)
            d->done_events[t->id] = 0;
    }
    d->tasks[t->id] = *t;
    d->tasks[t->id].error = NULL;
    d->used[t->id] = true;
    d->job_of[t->id] = job_index(t->job);
}

/* What the files on disk must say before a task may start: written anew from the architecture's
 * table, not taken from the scheduler. */
static void check_needs(const struct world *w, const struct rh_sched_task *t)
{
    int j = job_index(t->job);
    int64_t blocks = w->blocks[j], units = blocks + 2, current = 0;
    const bool(*disk)[INDEX_MAX] = w->disk[j];
    while (current < blocks && disk[RH_OP_TUNE][current])
        current++;
    assert_true(t->op == RH_OP_PLAN || disk[RH_OP_PLAN][0]);
    bool probed = !w->probe[j] || disk[RH_OP_PROBE][0];
    if (t->op == RH_OP_FETCH && w->prefetch[j] > 0 && current < blocks && probed)
        assert_true(t->index <= current + 1 + w->prefetch[j]);
    if (t->op == RH_OP_TUNE || t->op == RH_OP_PROBE)
        assert_true(disk[RH_OP_CALIBRATE][0] && disk[RH_OP_FETCH][0] && disk[RH_OP_FETCH][1]);
    if (t->op == RH_OP_TUNE) {
        assert_true(probed);
        assert_true(t->next == 0 || disk[RH_OP_TUNE][t->next - 1]);
        assert_true(t->next == 0 || !w->chain_dropped[j][t->next - 1]);
    }
    if (t->op == RH_OP_PACK) {
        assert_true(disk[RH_OP_FETCH][t->index]);
        if (t->index >= 1 && t->index <= blocks)
            assert_true(disk[RH_OP_TUNE][t->index - 1]);
    }
    for (int64_t u = 0; t->op == RH_OP_SHARD && u < units; u++)
        assert_true(u % 2 != t->index || disk[RH_OP_PACK][u]);
    if (t->op == RH_OP_FINALIZE || t->op == RH_OP_PUBLISH)
        assert_true(disk[RH_OP_SHARD][0] && disk[RH_OP_SHARD][1]);
    if (t->op == RH_OP_PUBLISH)
        assert_true(disk[RH_OP_FINALIZE][0] && disk[RH_OP_DIGEST][0] && disk[RH_OP_DIGEST][1]);
}

static void queue_assign(struct world *w, struct message *m, const struct rh_sched_task *t)
{
    check_needs(w, t);
    assert_true(t->op == RH_OP_PLAN || t->job->reserved);
    assert_true(w->space >= HEADROOM || rh_op_stage(t->op) != RH_STAGE_DOWNLOAD);
    assert_true(w->space >= HEADROOM / 4);
    assert_false(w->txn.drained[m->worker]);
    const struct worker *wk = &w->workers[m->worker];
    assert_true(t->device_need == 0 || wk->device == 0 || t->device_need <= wk->device);
    assert_true(t->epoch < EPOCH_MAX);
    m->kind = ASSIGN;
    m->incarnation = t->incarnation;
    m->held[0] = (struct held){.job = job_index(t->job),
                               .op = t->op,
                               .task = t->id,
                               .epoch = t->epoch,
                               .index = t->index,
                               .last = t->last,
                               .cur = t->next};
}

static void carry_out(struct world *w, struct rh_action *a)
{
    struct message m = {.worker = a->worker[0] ? atoi(a->worker + 1) : 0,
                        .task = a->task_id,
                        .epoch = a->epoch,
                        .block = a->block,
                        .verdict = a->verdict};
    switch (a->kind) {
    case RH_ACT_SAVE_JOB:
        w->txn.jobs[job_index(a->job)] = *a->job;
        w->txn.jobs[job_index(a->job)].reason = NULL;
        return;
    case RH_ACT_SAVE_TASK:
        save_task(w, a->task);
        return;
    case RH_ACT_EVENT:
        if (strcmp(a->event, "task.done") == 0)
            w->txn.done_events[a->task->id]++;
        if (strcmp(a->event, "block.done") == 0)
            w->txn.block_events[job_index(a->job)][a->block]++;
        return;
    case RH_ACT_DROP_CHAIN:
        assert_true(w->disk[job_index(a->job)][RH_OP_TUNE][a->block + 1]);
        w->chain_dropped[job_index(a->job)][a->block] = true;
        return;
    case RH_ACT_COMMIT:
        assert_true(w->commit_count < 64);
        w->commits[w->commit_count++] = (struct commit){a->task_id, a->epoch, a->block};
        return;
    case RH_ACT_DROP_ARTIFACT:
        assert_true(w->drop_count < DROPS_MAX);
        w->drops[w->drop_count++] = (struct drop){job_index(a->job), a->op, a->block};
        return;
    case RH_ACT_SAVE_WORKER:
        w->txn.drained[m.worker] = a->keep;
        return;
    case RH_ACT_KILL:
        w->kills++;
        renew_process(w, m.worker);
        return;
    case RH_ACT_JOB_ENDED:
        return;
    case RH_ACT_ASSIGN:
        queue_assign(w, &m, a->task);
        break;
    case RH_ACT_ACK:
        m.kind = ACK;
        break;
    case RH_ACT_REVOKE:
        m.kind = REVOKE;
        break;
    case RH_ACT_WELCOME:
        m.kind = WELCOME;
        for (size_t i = 0; i < a->held_count; i++) {
            m.held[i] =
                (struct held){.used = true, .task = a->held[i].task, .epoch = a->held[i].epoch};
            m.keep[i] = a->held[i].keep;
        }
        break;
    }
    assert_true(w->outbox_count < NET_MAX);
    w->outbox[w->outbox_count++] = m;
}

static void crash(struct world *w)
{
    rh_sched_free(w->s);
    w->s = NULL;
    w->txn = w->rows;
    w->outbox_count = 0;
    w->commit_count = 0;
    w->drop_count = 0;
    w->rewinding = -1;
    w->restarts++;
    w->down_until = w->now + below(w, 90000);
}

/* One lease, one worker: an epoch that has left the house never gets a second owner. */
static void check_owner(struct world *w, const struct message *m)
{
    int8_t *owner = &w->leased_to[m->task][m->epoch];
    assert_true(*owner == 0 || *owner == m->worker + 1);
    *owner = (int8_t)(m->worker + 1);
}

/* False: died half way. */
static bool carry_out_drops(struct world *w)
{
    for (int i = 0; i < w->drop_count; i++) {
        if (w->faults && chance(w, 5)) {
            crash(w);
            return false;
        }
        w->disk[w->drops[i].job][w->drops[i].op][w->drops[i].index] = false;
    }
    w->drop_count = 0;
    return true;
}

/* Bytes come and go; without faults there is room for everybody. */
static void tell_space(struct world *w)
{
    if (!w->faults)
        w->space = INT64_C(1) << 40;
    else if (chance(w, 3))
        w->space = chance(w, 30) ? below(w, HEADROOM) : HEADROOM + below(w, 40000);
    rh_sched_space(w->s, w->space);
}

static int leases_of(const struct world *w, const struct rh_sched_worker *worker,
                     enum rh_stage_id stage)
{
    int leases = 0;
    for (int j = 0; j < w->job_count; j++) {
        const struct rh_sched_job *job = rh_sched_job_at(w->s, (size_t)j);
        for (size_t i = 0; i < job->task_count; i++) {
            const struct rh_sched_task *t = job->tasks[i];
            leases += t->state == RH_TASK_LEASED &&
                      (worker ? t->holder == worker : rh_op_stage(t->op) == stage);
        }
    }
    return leases;
}

static bool could_have(const struct world *w, const struct rh_sched_task *t,
                       const struct rh_sched_worker *wk)
{
    enum rh_stage_id stage = rh_op_stage(t->op);
    int max = w->config.stage_max[stage];
    return wk->stage == stage && wk->connected && !wk->leaving && !wk->drained &&
           wk->busy_until <= w->now && w->now - wk->last_seen <= w->config.lease_ms / 3 &&
           strcmp(t->crashed_on, wk->id) != 0 &&
           (t->device_need == 0 || wk->device_bytes == 0 || t->device_need <= wk->device_room) &&
           leases_of(w, wk, stage) < wk->slots &&
           (max == 0 || leases_of(w, NULL, stage) < max) &&
           (w->space >= HEADROOM ||
            (w->space >= HEADROOM / 4 && stage != RH_STAGE_DOWNLOAD));
}

/* Who waits for a device has nobody here that could do it. */
static void check_waits_for_device(struct world *w, const struct rh_sched_job *job)
{
    if (!job->lacks_device || (job->state != RH_JOB_RUNNING && job->state != RH_JOB_BLOCKED))
        return;
    w->waits++;
    assert_true(job->state == RH_JOB_RUNNING || strstr(job->reason, "of GPU memory"));
    for (size_t i = 0; i < job->task_count; i++) {
        const struct rh_sched_task *t = job->tasks[i];
        for (size_t k = 0; t->op == RH_OP_TUNE && k < rh_sched_worker_count(w->s); k++) {
            const struct rh_sched_worker *wk = rh_sched_worker_at(w->s, k);
            assert_false(wk->stage == RH_STAGE_QUANTIZE && wk->connected && !wk->leaving &&
                         !wk->drained &&
                         (wk->device_bytes == 0 || wk->device_room >= t->device_need));
        }
    }
}

/* What the scheduler remembers so as not to look at everything must not hide anything: all of it is
 * looked at here. */
static void check_nothing_overlooked(struct world *w)
{
    size_t workers = rh_sched_worker_count(w->s);
    for (size_t i = 0; i < workers; i++) {
        const struct rh_sched_worker *wk = rh_sched_worker_at(w->s, i);
        assert_int_equal(rh_sched_leases(w->s, wk), leases_of(w, wk, wk->stage));
    }
    for (int j = 0; j < w->job_count; j++) {
        const struct rh_sched_job *job = rh_sched_job_at(w->s, (size_t)j);
        check_waits_for_device(w, job);
        for (size_t i = 0; i < job->task_count; i++) {
            if (!rh_sched_ready(job->tasks[i], w->now))
                continue;
            for (size_t k = 0; k < workers; k++)
                assert_false(could_have(w, job->tasks[i], rh_sched_worker_at(w->s, k)));
        }
    }
}

/* Rows first, then what leaves the house; death may come in between. */
static void end_turn(struct world *w)
{
    struct rh_action a;
    if (!w->s)
        return;
    tell_space(w);
    rh_sched_dispatch(w->s, w->now);
    check_nothing_overlooked(w);
    while (rh_sched_next(w->s, &a)) {
        carry_out(w, &a);
        rh_action_done(&a);
    }
    if (w->faults && chance(w, 1) && chance(w, 30)) {
        crash(w);
        return;
    }
    for (int i = 0; i < TASKS_MAX; i++)
        assert_true(w->txn.done_events[i] <= 1);
    w->rows = w->txn;
    w->rewinding = -1;
    if (w->faults && chance(w, 1) && chance(w, 30)) {
        crash(w);
        return;
    }
    if (!carry_out_drops(w))
        return;
    for (int i = 0; i < w->outbox_count; i++) {
        if (w->outbox[i].kind == ASSIGN)
            check_owner(w, &w->outbox[i]);
        post(w, &w->outbox[i]);
    }
    w->outbox_count = 0;
}

static struct rh_graph *graph_of(const struct world *w, int job)
{
    struct rh_graph *g = rh_graph_new(w->blocks[job], 1, 2, 2);
    g->probe = w->probe[job];
    for (int64_t u = 0; u < g->units; u++) {
        g->source_bytes[u] = 1000;
        g->output_bytes[u] = 300;
    }
    g->shard_bytes[0] = g->shard_bytes[1] = 600;
    g->chain_bytes = 2000;
    return g;
}

static void run_commit(struct world *w)
{
    if (!w->s || w->commit_count == 0)
        return;
    struct commit c = w->commits[0];
    memmove(&w->commits[0], &w->commits[1], (size_t)--w->commit_count * sizeof c);
    const struct rh_sched_task *row = &w->txn.tasks[c.task];
    int job = w->txn.job_of[c.task];
    /* Only a directory that a worker sealed under this very epoch can be committed. */
    assert_true(w->sealed[c.task][c.epoch] & (c.block < 0 ? 1u << 31 : 1u << c.block));
    if (w->faults && chance(w, 3)) {
        struct rh_error e;
        assert_int_equal(rh_fail(&e, RH_ERR_NO_SPACE, "no room"), RH_ERR_NO_SPACE);
        rh_sched_committed(w->s, w->now, c.task, c.epoch, c.block, &e, NULL, NULL);
        return;
    }
    int64_t index = c.block < 0 ? row->index : c.block;
    if (row->op == RH_OP_TUNE && !w->disk[job][RH_OP_TUNE][index])
        w->chain_dropped[job][index] = false;
    w->disk[job][row->op][index] = true;
    if (w->faults && chance(w, 2)) {
        crash(w); /* after the rename, before the row */
        return;
    }
    rh_sched_committed(w->s, w->now, c.task, c.epoch, c.block, NULL, NULL,
                       row->op == RH_OP_PLAN ? graph_of(w, job) : NULL);
}

/* Rows, healed by what the disk holds: the same rule as the real start-up. */
static void restart(struct world *w)
{
    int64_t first_free = 1;
    for (int i = 1; i < TASKS_MAX; i++)
        first_free = w->rows.used[i] ? i + 1 : first_free;
    w->s = rh_sched_new(&w->config);
    rh_sched_reserve_ids(w->s, first_free);
    for (int i = 0; i < WORKERS; i++) {
        char id[16];
        snprintf(id, sizeof id, "w%d", i);
        if (w->rows.drained[i])
            rh_sched_load_worker(w->s, id, w->workers[i].stage, "its row says so");
    }
    for (int j = 0; j < w->job_count; j++) {
        struct rh_sched_job *job = rh_sched_load_job(w->s, &w->rows.jobs[j]);
        for (int i = 1; i < TASKS_MAX; i++) {
            if (!w->rows.used[i] || w->rows.job_of[i] != j)
                continue;
            struct rh_sched_task t = w->rows.tasks[i];
            while (t.op == RH_OP_TUNE && t.next <= t.last && w->disk[j][RH_OP_TUNE][t.next])
                t.next++;
            /* Tuning can go on where the chain before is; what lies behind is made again. */
            while (t.op == RH_OP_TUNE && t.next > 0 && t.next <= t.last &&
                   w->chain_dropped[j][t.next - 1]) {
                w->disk[j][RH_OP_TUNE][--t.next] = false;
                w->txn.block_events[j][t.next] = 0;
            }
            if (t.op == RH_OP_TUNE ? t.next > t.last : w->disk[j][t.op][t.index])
                t.state = RH_TASK_DONE;
            w->txn.tasks[i] = t;
            rh_sched_load_task(w->s, job, &t);
        }
        rh_sched_loaded(w->s, w->now, job, w->disk[j][RH_OP_PLAN][0] ? graph_of(w, j) : NULL);
    }
}

static void orchestrator_receive(struct world *w, const struct message *m)
{
    char id[16];
    snprintf(id, sizeof id, "w%d", m->worker);
    struct rh_sched_held held[HELD_MAX];
    struct rh_sched_progress progress[HELD_MAX];
    size_t count = 0;
    for (int i = 0; i < HELD_MAX; i++) {
        if (!m->held[i].used)
            continue;
        held[count] = (struct rh_sched_held){m->held[i].task, m->held[i].epoch};
        progress[count++] =
            (struct rh_sched_progress){m->held[i].task, m->held[i].epoch, m->held[i].seq, "", 0, 0};
    }
    struct rh_sched_hello hello = {.id = id,
                                   .incarnation = m->incarnation,
                                   .stage = w->workers[m->worker].stage,
                                   .slots = w->workers[m->worker].slots,
                                   .device_bytes = w->workers[m->worker].device,
                                   .held = held,
                                   .held_count = count};
    switch (m->kind) {
    case HELLO:
        rh_sched_hello(w->s, w->now, &hello);
        break;
    case BEAT:
        rh_sched_beat(w->s, w->now, id, m->incarnation, progress, count);
        rh_sched_device(w->s, id, m->device_free, count == 0);
        break;
    case ACCEPT:
        rh_sched_accept(w->s, w->now, id, m->task, m->epoch);
        break;
    case REJECT:
        rh_sched_reject(w->s, w->now, id, m->task, m->epoch, "busy");
        break;
    case CHECKPOINT:
        rh_sched_checkpoint(w->s, w->now, id, m->task, m->epoch, m->block, NULL);
        break;
    default:
        if (m->device_need > 0)
            rh_sched_device_short(w->s, id, m->task, m->epoch, m->device_need, m->device_room);
        rh_sched_result(w->s, w->now, id, m->task, m->epoch, m->ok, m->failure, "it broke", NULL);
        break;
    }
}

/* Any message may overtake any other while there are faults. */
static void deliver(struct world *w)
{
    if (w->net_count == 0)
        return;
    int i = w->faults ? (int)below(w, w->net_count) : 0;
    struct message m = w->net[i];
    memmove(&w->net[i], &w->net[i + 1], (size_t)(--w->net_count - i) * sizeof m);
    if (m.kind >= WELCOME)
        worker_receive(w, &m);
    else if (w->s)
        orchestrator_receive(w, &m);
}

static void drain_or_not(struct world *w)
{
    struct rh_error e;
    char id[16];
    snprintf(id, sizeof id, "w%d", (int)below(w, WORKERS));
    enum rh_rc rc = rh_sched_drain(w->s, id, chance(w, 30), "by the operator", &e);
    assert_true(rc == RH_OK || rc == RH_ERR_NOT_FOUND);
}

/* To the beginning, or to where the chain before still is. */
static void go_back(struct world *w, struct rh_sched_job *job)
{
    struct rh_error e;
    int64_t next = rh_sched_current_block(job);
    int j = job_index(job);
    bool has_chain = next > 0 && w->disk[j][RH_OP_TUNE][next - 1] && !w->chain_dropped[j][next - 1];
    w->rewinding = j;
    enum rh_rc rc = rh_sched_rewind(w->s, w->now, job, has_chain && chance(w, 50) ? next : 0, &e);
    assert_true(rc == RH_OK || rc == RH_ERR_ARGUMENT);
    if (rc != RH_OK)
        w->rewinding = -1;
    w->rewinds += rc == RH_OK;
}

static void operator_step(struct world *w)
{
    if (!w->s || !chance(w, 1))
        return;
    struct rh_sched_job *job = rh_sched_job_at(w->s, (size_t)below(w, w->job_count));
    struct rh_error e;
    static const enum rh_desired wishes[] = {RH_DESIRED_PAUSE, RH_DESIRED_HOLD, RH_DESIRED_RUN,
                                             RH_DESIRED_RUN};
    enum rh_desired wish = w->poison && chance(w, 15) ? RH_DESIRED_CANCEL : wishes[below(w, 4)];
    enum rh_rc rc = rh_sched_set_desired(w->s, w->now, job, wish, &e);
    assert_true(rc == RH_OK || rc == RH_ERR_ARGUMENT);
    drain_or_not(w);
    if (w->drop_count == 0 && w->commit_count == 0 && chance(w, 60))
        go_back(w, job);
    if (job->task_count > 0 && chance(w, 30)) {
        rc = rh_sched_retry_task(w->s, w->now, job->tasks[below(w, (int64_t)job->task_count)], &e);
        assert_true(rc == RH_OK || rc == RH_ERR_ARGUMENT);
    }
}

/* Nobody leaves a job or a worker aside for ever. */
static void nurse(struct world *w)
{
    struct rh_error e;
    for (size_t i = 0; i < rh_sched_worker_count(w->s); i++)
        assert_int_equal(
            rh_sched_drain(w->s, rh_sched_worker_at(w->s, i)->id, false, "back to work", &e),
            RH_OK);
    for (int j = 0; j < w->job_count; j++) {
        struct rh_sched_job *job = rh_sched_job_at(w->s, (size_t)j);
        if (job->desired == RH_DESIRED_PAUSE || job->desired == RH_DESIRED_HOLD)
            (void)!rh_sched_set_desired(w->s, w->now, job, RH_DESIRED_RUN, &e);
    }
}

static bool all_ended(const struct world *w)
{
    for (int j = 0; j < w->job_count; j++) {
        if (w->rows.jobs[j].state < RH_JOB_DONE)
            return false;
    }
    return w->s != NULL;
}

static void begin(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->rng = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int i = 0; i < 8; i++)
        (void)rnd(w);
    w->now = 1;
    w->faults = true;
    w->rewinding = -1;
    w->poison = seed % 4 == 0; /* a quarter of the schedules may also fail for good */
    w->config = rh_sched_defaults;
    w->config.headroom = HEADROOM;
    w->config.attempts_max = 1000;
    w->config.crashes_max = seed % 3 == 0 ? 3 : 1000;
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        w->config.stall_ms[i] = 20000;
    w->config.stage_max[RH_STAGE_DOWNLOAD] = (int)(seed % 3);
    w->space = INT64_C(1) << 40;
    w->job_count = 1 + (int)below(w, JOBS_MAX);
    for (int j = 0; j < w->job_count; j++) {
        w->blocks[j] = 1 + below(w, 6);
        w->prefetch[j] = below(w, 3);
        w->probe[j] = chance(w, 30);
        struct rh_sched_job *row = &w->rows.jobs[j];
        row->id[0] = (char)('A' + j);
        row->seq = j;
        row->priority = (int)below(w, 2);
        row->prefetch_blocks = w->prefetch[j];
    }
    w->txn = w->rows;
    static const enum rh_stage_id stages[WORKERS] = {
        RH_STAGE_DOWNLOAD, RH_STAGE_DOWNLOAD, RH_STAGE_CALIBRATE, RH_STAGE_QUANTIZE,
        RH_STAGE_QUANTIZE, RH_STAGE_PACK,     RH_STAGE_PUBLISH};
    for (int i = 0; i < WORKERS; i++) {
        w->workers[i].stage = stages[i];
        w->workers[i].slots = 1 + (int)below(w, 2);
        w->workers[i].incarnation = 1;
    }
    if (seed % 2 == 0)
        return;
    /* Two GPUs, and models that the smaller one is too small for. */
    w->workers[3].device = 24;
    w->workers[4].device = 80;
    for (int j = 0; j < w->job_count; j++)
        w->device_need[j] = 8 + below(w, 60);
}

static void stop_faults(struct world *w)
{
    w->faults = false;
    if (!w->s) {
        restart(w);
        end_turn(w);
    }
    nurse(w);
    end_turn(w);
}

static void check_end(const struct world *w)
{
    for (int j = 0; j < w->job_count; j++) {
        enum rh_job_state state = w->rows.jobs[j].state;
        assert_true(w->poison || state == RH_JOB_DONE);
        for (int64_t b = 0; b < w->blocks[j]; b++)
            assert_true(w->rows.block_events[j][b] <= 1);
        for (int i = 1; i < TASKS_MAX && state == RH_JOB_DONE; i++) {
            if (!w->rows.used[i] || w->rows.job_of[i] != j)
                continue;
            assert_int_equal(w->rows.tasks[i].state, RH_TASK_DONE);
            assert_true(w->disk[j][w->rows.tasks[i].op][w->rows.tasks[i].index]);
        }
    }
}

static void run_seed(struct world *w, uint64_t seed)
{
    begin(w, seed);
    int step = 0;
    for (; step < STEPS_MAX && (step <= FAULTY_STEPS || !all_ended(w)); step++) {
        w->now += below(w, 1500);
        if (step == FAULTY_STEPS)
            stop_faults(w);
        if (!w->s && w->now >= w->down_until)
            restart(w);
        for (int i = 0; i < WORKERS; i++)
            worker_step(w, i);
        if (w->faults)
            operator_step(w);
        else if (w->s)
            nurse(w);
        for (int64_t n = below(w, 12) + (w->net_count > 64 ? 64 : 0); n > 0; n--)
            deliver(w);
        if (chance(w, 70))
            run_commit(w);
        if (w->s)
            rh_sched_tick(w->s, w->now);
        end_turn(w);
    }
    if (step == STEPS_MAX)
        fail_msg("seed %llu: a job never ended", (unsigned long long)seed);
    check_end(w);
    rh_sched_free(w->s);
}

static void every_schedule_ends_with_each_task_accepted_once(void **state)
{
    (void)state;
    const char *one = getenv("RH_SIM_SEED"), *many = getenv("RH_SIM_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one ? 1 : many ? strtoull(many, NULL, 10) : 1000;
    struct world *w = rh_alloc(sizeof *w);
    long restarts = 0, losses = 0, repeats = 0, kills = 0, rewinds = 0, too_small = 0, waits = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        fprintf(stderr, "%s", one ? "one seed\n" : "");
        run_seed(w, seed);
        restarts += w->restarts;
        losses += w->losses;
        repeats += w->repeats;
        kills += w->kills;
        rewinds += w->rewinds;
        too_small += w->too_small;
        waits += w->waits;
    }
    printf(
        "%llu schedules: %ld restarts, %ld messages lost, %ld repeated, %ld stuck workers killed, "
        "%ld times back to an earlier block, %ld devices too small, %ld turns waited for one\n",
        (unsigned long long)count, restarts, losses, repeats, kills, rewinds, too_small, waits);
    assert_true(one || (restarts > 0 && losses > 0 && repeats > 0 && kills > 0 && rewinds > 0 &&
                        too_small > 0 && waits > 0));
    rh_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_ends_with_each_task_accepted_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
