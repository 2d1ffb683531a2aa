#include <stdio.h>
#include <string.h>

#include "base/crash.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "factory_internal.h"
#include "store/store.h"

/* What the scheduler wants done. */

#define BEAT_MS 2000

/* protobuf-c has no const; the message is only read. */
static char *lend(const char *text)
{
    return (char *)(uintptr_t)(text ? text : "");
}

/* -- Commits ---------------------------------------------------------------------------------- */

/* The plan is read before it is committed: one that cannot be scheduled must not become fact. */
static enum rh_rc commit(struct rh_factory *f, const struct rh_job_info *info, const char *sealed,
                         const char *op, int64_t index, struct rh_graph **graph,
                         struct rh_error *err)
{
    const char *job_dir = info->dir;
    bool is_plan = strcmp(op, "plan") == 0;
    if (rh_store_has(job_dir, op, index)) {
        /* Said twice, or made twice: equal bytes either way. */
        char *there = rh_store_artifact(job_dir, op, index);
        enum rh_rc rc = is_plan ? rh_factory_read_graph(there, graph, err) : RH_OK;
        rh_factory_discard(f, sealed);
        rh_free(there);
        return rc;
    }
    enum rh_rc rc = rh_store_check(sealed, false, err);
    if (rc == RH_OK && is_plan)
        rc = rh_factory_read_graph(sealed, graph, err);
    rh_crash_point("before_commit");
    if (rc == RH_OK)
        rc = rh_store_commit(sealed, job_dir, op, index, err);
    rh_crash_point("after_commit_before_row");
    return rc;
}

void rh_factory_commit(struct rh_factory *f, const struct rh_action *a)
{
    const struct rh_job_info *info = a->job->user;
    const char *op = rh_op_name(a->task->op);
    struct rh_graph *graph = NULL;
    struct rh_error err;
    int64_t index = a->block >= 0 ? a->block : a->task->index;
    char *sealed = rh_store_staging(info->dir, op, a->task->index, a->epoch);
    if (a->block >= 0) {
        char *session = sealed;
        sealed = rh_format("%s/%s-%05lld", session, op, (long long)a->block);
        rh_free(session);
    }
    enum rh_rc rc = commit(f, info, sealed, op, index, &graph, &err);
    if (rc != RH_OK) {
        rh_log(RH_LOG_ERROR, "task.uncommitted", "job=%s op=%s index=%lld why=\"%s\"", a->job->id,
               op, (long long)index, err.message);
        rh_graph_free(graph);
        graph = NULL;
    }
    rh_sched_committed(f->sched, rh_factory_now(), a->task_id, a->epoch, a->block,
                       rc == RH_OK ? NULL : &err, a->data, graph);
    rh_free(sealed);
}

/* -- Messages --------------------------------------------------------------------------------- */

static void welcome(struct rh_factory *f, const struct rh_peer_entry *to, const struct rh_action *a)
{
    Rh__Welcome m = RH__WELCOME__INIT;
    Rh__Lease *leases = rh_alloc_array(a->held_count + 1, sizeof *leases);
    m.held = rh_alloc_array(a->held_count + 1, sizeof(Rh__Lease *));
    m.n_held = a->held_count;
    for (size_t i = 0; i < a->held_count; i++) {
        rh__lease__init(&leases[i]);
        leases[i].task = a->held[i].task;
        leases[i].epoch = a->held[i].epoch;
        leases[i].keep = a->held[i].keep;
        m.held[i] = &leases[i];
    }
    m.proto = to->proto;
    m.session = to->session;
    m.beat_ms = BEAT_MS;
    m.lease_ms = (uint32_t)f->config.lease_ms;
    m.factory = lend(rh_database_factory_id(f->db));
    m.orch_epoch = f->epoch;
    rh_factory_send(f, &to->peer, RH_KIND_WELCOME, &m.base);
    rh_free(m.held);
    rh_free(leases);
}

static void assign(struct rh_factory *f, const struct rh_peer_entry *to, const struct rh_action *a)
{
    const struct rh_sched_task *task = a->task;
    const struct rh_job_info *info = a->job->user;
    /* Given out and taken back within the same turn. */
    if (task->epoch != a->epoch || task->state != RH_TASK_LEASED)
        return;
    rh_factory_sweep(f, a->job, task);
    char *job_dir = rh_format("jobs/%s", a->job->id);
    char *staging = rh_store_staging(info->dir, rh_op_name(task->op), task->index, task->epoch);
    Rh__Assign m = RH__ASSIGN__INIT;
    m.session = to->session;
    m.task = task->id;
    m.epoch = task->epoch;
    m.attempt = (uint32_t)(task->attempts + task->crashes + 1);
    m.job = lend(a->job->id);
    m.op = lend(rh_op_name(task->op));
    m.index = task->index;
    m.last = task->last;
    m.next = task->next;
    m.job_dir = job_dir;
    m.staging = staging + strlen(info->dir) + 1;
    m.recipe = lend(info->recipe);
    m.model = lend(info->model);
    m.output = lend(info->output);
    m.lease_ms = (uint32_t)f->config.lease_ms;
    rh_factory_send(f, &to->peer, RH_KIND_ASSIGN, &m.base);
    rh_free(staging);
    rh_free(job_dir);
}

static void acknowledge(struct rh_factory *f, const struct rh_peer_entry *to,
                        const struct rh_action *a)
{
    Rh__Ack m = RH__ACK__INIT;
    m.task = a->task_id;
    m.epoch = a->epoch;
    m.checkpoint = a->block >= 0;
    m.block = a->block >= 0 ? a->block : 0;
    m.verdict = (Rh__Verdict)a->verdict;
    rh_factory_send(f, &to->peer, RH_KIND_ACK, &m.base);
}

static void revoke(struct rh_factory *f, const struct rh_peer_entry *to, const struct rh_action *a)
{
    Rh__Cancel m = RH__CANCEL__INIT;
    m.task = a->task_id;
    m.epoch = a->epoch;
    m.grace_ms = (uint32_t)f->config.grace_ms;
    m.reason = lend(a->text);
    m.exit_ms = a->keep ? 2 * m.grace_ms : 0;
    rh_factory_send(f, &to->peer, RH_KIND_CANCEL, &m.base);
}

static void send_action(struct rh_factory *f, const struct rh_action *a)
{
    const struct rh_peer_entry *to = rh_factory_peer_of(f, a->worker);
    if (!to)
        return; /* gone; the lease will tell */
    switch (a->kind) {
    case RH_ACT_WELCOME:
        welcome(f, to, a);
        break;
    case RH_ACT_ASSIGN:
        assign(f, to, a);
        break;
    case RH_ACT_ACK:
        acknowledge(f, to, a);
        break;
    default:
        revoke(f, to, a);
        break;
    }
}

/* -- Files ------------------------------------------------------------------------------------ */

static void drop_chain(struct rh_factory *f, const struct rh_action *a)
{
    const struct rh_job_info *info = a->job->user;
    char *dir = rh_store_artifact(info->dir, "tune", a->block);
    char *path = rh_fs_join(dir, "chain.safetensors");
    rh_factory_discard(f, path);
    rh_free(path);
    rh_free(dir);
}

static void drop_artifact(struct rh_factory *f, const struct rh_action *a)
{
    const struct rh_job_info *info = a->job->user;
    char *dir = rh_store_artifact(info->dir, rh_op_name(a->op), a->block);
    rh_factory_discard(f, dir);
    rh_free(dir);
}

void rh_factory_carry_out(struct rh_factory *f, const struct rh_action *a)
{
    switch (a->kind) {
    case RH_ACT_WELCOME:
    case RH_ACT_ASSIGN:
    case RH_ACT_ACK:
    case RH_ACT_REVOKE:
        send_action(f, a);
        break;
    case RH_ACT_SAVE_TASK:
        /* Nobody writes there any more: room for what is tried next. */
        if (a->task->state == RH_TASK_DONE ||
            (a->task->state == RH_TASK_WAITING && a->task->worker[0] == '\0'))
            rh_factory_sweep_task(f, a->task);
        break;
    case RH_ACT_DROP_CHAIN:
        drop_chain(f, a);
        break;
    case RH_ACT_DROP_ARTIFACT:
        drop_artifact(f, a);
        break;
    case RH_ACT_KILL:
        if (f->supervisor)
            rh_supervisor_kill(f->supervisor, a->worker, a->pid, a->text);
        break;
    case RH_ACT_JOB_ENDED:
        if (a->job->state == RH_JOB_DONE)
            rh_factory_retain(f, a->job);
        break;
    case RH_ACT_SAVE_JOB:
    case RH_ACT_SAVE_WORKER:
    case RH_ACT_COMMIT:
    case RH_ACT_EVENT:
        break;
    }
}
