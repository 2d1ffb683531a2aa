#include <math.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "factory_internal.h"

/* Jobs and workers as JSON. */

static void add_number(struct rh_json *object, const char *key, double value)
{
    rh_json_add(object, key, isfinite(value) ? rh_json_new_number(value) : rh_json_new_null());
}

static void add_text(struct rh_json *object, const char *key, const char *text)
{
    rh_json_add(object, key, text ? rh_json_new_string(text) : rh_json_new_null());
}

static struct rh_json *stages_json(const struct rh_sched_job *job)
{
    struct rh_json *stages = rh_json_new_object();
    int64_t done[RH_STAGE_COUNT] = {0};
    int64_t total[RH_STAGE_COUNT] = {0};
    for (size_t i = 0; i < job->task_count; i++) {
        enum rh_stage_id stage = rh_op_stage(job->tasks[i]->op);
        done[stage] += job->tasks[i]->state == RH_TASK_DONE;
        total[stage]++;
    }
    for (int s = 0; s < RH_STAGE_COUNT; s++) {
        struct rh_json *stage = rh_json_new_object();
        rh_json_add(stage, "done", rh_json_new_int(done[s]));
        rh_json_add(stage, "total", rh_json_new_int(total[s]));
        rh_json_add(stages, rh_stage_name((enum rh_stage_id)s), stage);
    }
    return stages;
}

/* Of an ended job there is no graph any more, but what was done. */
static bool tunes_mtp(const struct rh_sched_job *job, const struct rh_job_info *info)
{
    bool last = info->metric_count > 0 && info->metrics[info->metric_count - 1].mtp;
    return job->graph ? job->graph->mtp >= 0 : last;
}

static struct rh_json *blocks_json(const struct rh_sched_job *job, const struct rh_job_info *info)
{
    struct rh_json *blocks = rh_json_new_object();
    const struct rh_sched_task *tune = NULL;
    const struct rh_job_tick *tick = &info->tick;
    for (size_t i = 0; i < job->task_count && !tune; i++)
        tune = job->tasks[i]->op == RH_OP_TUNE ? job->tasks[i] : NULL;
    rh_json_add(blocks, "done", rh_json_new_int(tune ? tune->next : 0));
    rh_json_add(blocks, "total", rh_json_new_int(tune ? tune->last + 1 : 0));
    if (tunes_mtp(job, info))
        rh_json_add(blocks, "mtp", rh_json_new_bool(true));
    if (!tune || tune->state != RH_TASK_LEASED || tune->next > tune->last)
        return blocks;
    rh_json_add(blocks, "current", rh_json_new_int(tune->next));
    if (tick->task != tune->id || tick->epoch != tune->epoch || tick->block != tune->next)
        return blocks;
    rh_json_add(blocks, "iter", rh_json_new_int(tick->iter));
    rh_json_add(blocks, "iters", rh_json_new_int(tick->iters));
    add_number(blocks, "loss", tick->loss);
    add_number(blocks, "loss_best", tick->loss_best);
    return blocks;
}

static const char *unit_of(const struct rh_job_info *info, int64_t task)
{
    for (size_t i = 0; i < info->unit_count; i++) {
        if (info->units[i].task == task)
            return info->units[i].unit;
    }
    return "";
}

static struct rh_json *running_json(const struct rh_factory *f, const struct rh_sched_job *job,
                                    const struct rh_job_info *info)
{
    struct rh_json *running = rh_json_new_array();
    for (size_t i = 0; i < job->task_count; i++) {
        const struct rh_sched_task *t = job->tasks[i];
        if (t->state != RH_TASK_LEASED && t->state != RH_TASK_COMMITTING)
            continue;
        const struct rh_sched_worker *w = rh_sched_find_worker(f->sched, t->worker);
        struct rh_json *task = rh_json_new_object();
        rh_json_add(task, "op", rh_json_new_string(rh_op_name(t->op)));
        rh_json_add(task, "index", rh_json_new_int(t->index));
        rh_json_add(task, "phase", rh_json_new_string(t->phase));
        add_number(task, "done", t->done);
        add_number(task, "total", t->total);
        rh_json_add(task, "unit", rh_json_new_string(unit_of(info, t->id)));
        rh_json_add(task, "worker", rh_json_new_string(t->worker));
        rh_json_add(task, "pid", rh_json_new_int(w ? w->pid : 0));
        rh_json_append(running, task);
    }
    return running;
}

static struct rh_json *experts_json(const struct rh_block_metric *m)
{
    struct rh_json *experts = rh_json_new_object();
    rh_json_add(experts, "count", rh_json_new_int(m->experts));
    rh_json_add(experts, "floor", rh_json_new_int(m->floor));
    rh_json_add(experts, "below_floor", rh_json_new_int(m->below_floor));
    rh_json_add(experts, "tokens_min", rh_json_new_int(m->tokens_min));
    rh_json_add(experts, "tokens_median", rh_json_new_int(m->tokens_median));
    return experts;
}

static struct rh_json *metrics_json(const struct rh_job_info *info)
{
    struct rh_json *metrics = rh_json_new_array();
    for (size_t i = 0; i < info->metric_count; i++) {
        const struct rh_block_metric *m = &info->metrics[i];
        struct rh_json *block = rh_json_new_object();
        rh_json_add(block, "block", rh_json_new_int(m->block));
        if (m->mtp)
            rh_json_add(block, "unit", rh_json_new_string("mtp"));
        add_number(block, "init_loss", m->init_loss);
        add_number(block, "best_loss", m->best_loss);
        rh_json_add(block, "best_iter",
                    m->best_iter >= 0 ? rh_json_new_int(m->best_iter) : rh_json_new_null());
        add_number(block, "seconds", m->seconds);
        if (m->experts > 0)
            rh_json_add(block, "experts", experts_json(m));
        rh_json_append(metrics, block);
    }
    return metrics;
}

/* While nothing can be stored, that is what the operator must know. */
static const char *reason_of(const struct rh_factory *f, const struct rh_sched_job *job)
{
    return f->stuck && job->state < RH_JOB_DONE ? f->fault.message : job->reason;
}

/* What failed and will be tried again by itself; NULL: nothing. Else it would look like standing
 * still. */
static struct rh_json *retrying_json(const struct rh_sched_job *job)
{
    for (size_t i = 0; i < job->task_count && job->state == RH_JOB_RUNNING; i++) {
        const struct rh_sched_task *t = job->tasks[i];
        if (t->state != RH_TASK_WAITING || t->failure != RH_FAILURE_TRANSIENT || t->attempts == 0 ||
            !t->error)
            continue;
        struct rh_json *task = rh_json_new_object();
        rh_json_add(task, "op", rh_json_new_string(rh_op_name(t->op)));
        rh_json_add(task, "index", rh_json_new_int(t->index));
        rh_json_add(task, "attempts", rh_json_new_int(t->attempts));
        rh_json_add(task, "error", rh_json_new_string(t->error));
        return task;
    }
    return rh_json_new_null();
}

struct rh_json *rh_factory_describe(const struct rh_factory *f, const struct rh_sched_job *job,
                                    struct rh_job_info *info, bool in_full)
{
    struct rh_json *out = rh_json_new_object();
    double eta = rh_job_eta(job, info);
    rh_json_add(out, "schema", rh_json_new_string("roundhouse.job/1"));
    rh_json_add(out, "id", rh_json_new_string(job->id));
    add_text(out, "name", info->name);
    rh_json_add(out, "state", rh_json_new_string(rh_job_state_name(job->state)));
    rh_json_add(out, "desired", rh_json_new_string(rh_desired_name(job->desired)));
    add_text(out, "reason", reason_of(f, job));
    rh_json_add(out, "priority", rh_json_new_int(job->priority));
    add_text(out, "model", info->model);
    add_text(out, "output", info->output);
    add_text(out, "recipe_digest", info->recipe_digest);
    add_number(out, "created_unix_ns", (double)info->created_unix_ns);
    if (info->finished_unix_ns > 0)
        add_number(out, "finished_unix_ns", (double)info->finished_unix_ns);
    else
        rh_json_add(out, "finished_unix_ns", rh_json_new_null());
    add_number(out, "unwritten_bytes", (double)rh_sched_unwritten(job));
    rh_json_add(out, "stages", stages_json(job));
    rh_json_add(out, "blocks", blocks_json(job, info));
    add_number(out, "progress", rh_job_progress(job, info));
    rh_json_add(out, "eta_s", eta >= 0 ? rh_json_new_number(eta) : rh_json_new_null());
    rh_json_add(out, "running", running_json(f, job, info));
    rh_json_add(out, "retrying", retrying_json(job));
    if (in_full)
        rh_json_add(out, "block_metrics", metrics_json(info));
    return out;
}

/* -- Workers ---------------------------------------------------------------------------------- */

static struct rh_json *worker_json(const struct rh_factory *f, const struct rh_sched_worker *w)
{
    struct rh_json *worker = rh_json_new_object();
    double silent = (double)(rh_factory_now() - w->last_seen) / 1000;
    rh_json_add(worker, "id", rh_json_new_string(w->id));
    rh_json_add(worker, "stage", rh_json_new_string(rh_stage_name(w->stage)));
    rh_json_add(worker, "host", rh_json_new_string(w->host));
    rh_json_add(worker, "pid", rh_json_new_int(w->pid));
    rh_json_add(worker, "slots", rh_json_new_int(w->slots));
    rh_json_add(worker, "leases", rh_json_new_int(rh_sched_leases(f->sched, w)));
    rh_json_add(worker, "connected", rh_json_new_bool(w->connected));
    rh_json_add(worker, "draining", rh_json_new_bool(w->drained || w->leaving));
    add_text(worker, "why", w->why);
    if (w->device_bytes > 0) {
        add_number(worker, "device_bytes", (double)w->device_bytes);
        add_number(worker, "device_free_bytes", (double)w->device_free);
    }
    rh_json_add(worker, "silent_s", rh_json_new_number(silent));
    return worker;
}

static struct rh_json *worker_list(const struct rh_factory *f)
{
    struct rh_json *list = rh_json_new_array();
    for (size_t i = 0; i < rh_sched_worker_count(f->sched); i++)
        rh_json_append(list, worker_json(f, rh_sched_worker_at(f->sched, i)));
    return list;
}

struct rh_json *rh_factory_workers(struct rh_factory *f)
{
    struct rh_json *out = rh_json_new_object();
    rh_json_add(out, "schema", rh_json_new_string("roundhouse.workers/1"));
    rh_json_add(out, "workers", worker_list(f));
    return out;
}

struct rh_json *rh_factory_snapshot(struct rh_factory *f)
{
    struct rh_json *out = rh_json_new_object();
    struct rh_json *jobs = rh_json_new_array();
    uint64_t bytes = 0;
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++) {
        struct rh_sched_job *job = rh_sched_job_at(f->sched, i);
        rh_json_append(jobs, rh_factory_describe(f, job, job->user, true));
    }
    rh_json_add(out, "schema", rh_json_new_string("roundhouse.snapshot/1"));
    rh_json_add(out, "version", rh_json_new_string(RH_VERSION));
    rh_json_add(out, "epoch", rh_json_new_int((int64_t)f->epoch));
    rh_json_add(out, "seq", rh_json_new_int(rh_database_last_event(f->db)));
    rh_json_add(out, "jobs", jobs);
    rh_json_add(out, "workers", worker_list(f));
    if (rh_fs_free_bytes(f->state_dir, &bytes, NULL) == RH_OK)
        rh_json_add(out, "disk_free_bytes", rh_json_new_number((double)bytes));
    return out;
}
