#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "factory_internal.h"

/* How far a job is, and how long it still takes. */

/* Shares of the whole, by operation: tuning is the work, the rest mostly runs beside it. A probe has
 * none: most jobs are without one, and it takes a few percent of the tuning. */
static const double shares[RH_OP_COUNT] = {
    [RH_OP_PLAN] = 0.01,   [RH_OP_FETCH] = 0.08,    [RH_OP_CALIBRATE] = 0.01,
    [RH_OP_TUNE] = 0.72,   [RH_OP_PACK] = 0.08,     [RH_OP_SHARD] = 0.03,
    [RH_OP_DIGEST] = 0.02, [RH_OP_FINALIZE] = 0.01, [RH_OP_PUBLISH] = 0.04,
};

static const struct rh_sched_task *tuning(const struct rh_sched_job *job)
{
    for (size_t i = 0; i < job->task_count; i++) {
        if (job->tasks[i]->op == RH_OP_TUNE)
            return job->tasks[i];
    }
    return NULL;
}

/* Of the block that is being tuned, by the newest iteration heard of; 0 when it is of another. */
static double current_fraction(const struct rh_sched_task *tune, const struct rh_job_info *info)
{
    const struct rh_job_tick *t = &info->tick;
    if (tune->state != RH_TASK_LEASED || t->task != tune->id || t->epoch != tune->epoch ||
        t->block != tune->next || t->iters <= 0)
        return 0;
    return (double)t->iter / (double)t->iters;
}

static double part_done(const struct rh_sched_task *task, const struct rh_job_info *info)
{
    if (task->state == RH_TASK_DONE)
        return 1;
    if (task->op == RH_OP_TUNE) {
        double blocks = (double)(task->last - task->index + 1);
        return ((double)(task->next - task->index) + current_fraction(task, info)) / blocks;
    }
    bool running = task->state == RH_TASK_LEASED || task->state == RH_TASK_COMMITTING;
    if (!running || task->total <= 0 || task->done <= 0)
        return 0;
    return task->done < task->total ? task->done / task->total : 1;
}

double rh_job_progress(const struct rh_sched_job *job, struct rh_job_info *info)
{
    double done[RH_OP_COUNT] = {0};
    int64_t count[RH_OP_COUNT] = {0};
    double progress = 0;
    if (job->state == RH_JOB_DONE)
        return info->progress = 1;
    for (size_t i = 0; i < job->task_count; i++) {
        done[job->tasks[i]->op] += part_done(job->tasks[i], info);
        count[job->tasks[i]->op]++;
    }
    for (int op = 0; op < RH_OP_COUNT; op++) {
        if (count[op] > 0)
            progress += shares[op] * done[op] / (double)count[op];
    }
    /* Only what is done is 1; a repeated task does not take progress back. */
    if (progress > 0.999)
        progress = 0.999;
    if (progress > info->progress)
        info->progress = progress;
    return info->progress;
}

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median time of the blocks that are done, times the blocks that are left. */
double rh_job_eta(const struct rh_sched_job *job, const struct rh_job_info *info)
{
    const struct rh_sched_task *tune = tuning(job);
    size_t count = 0;
    if (job->state != RH_JOB_RUNNING || !tune || tune->next > tune->last)
        return -1;
    double *seconds = rh_alloc_array(info->metric_count + 1, sizeof *seconds);
    for (size_t i = 0; i < info->metric_count; i++) {
        if (isfinite(info->metrics[i].seconds) && info->metrics[i].seconds >= 0)
            seconds[count++] = info->metrics[i].seconds;
    }
    double eta = -1;
    if (count > 0) {
        qsort(seconds, count, sizeof *seconds, compare_seconds);
        double median =
            count % 2 ? seconds[count / 2] : 0.5 * (seconds[count / 2 - 1] + seconds[count / 2]);
        eta = ((double)(tune->last + 1 - tune->next) - current_fraction(tune, info)) * median;
    }
    rh_free(seconds);
    return eta;
}

/* -- Ticks ------------------------------------------------------------------------------------ */

static void set_finite(struct rh_json *object, const char *key, double value)
{
    rh_json_set(object, key, isfinite(value) ? rh_json_new_number(value) : rh_json_new_null());
}

static void tell_tick(struct rh_factory *f, const struct rh_sched_job *job)
{
    struct rh_job_info *info = job->user;
    const struct rh_job_tick *t = &info->tick;
    double eta = rh_job_eta(job, info);
    struct rh_json *event = rh_json_new_object();
    rh_json_set_int(event, "seq", 0);
    rh_json_set_string(event, "type", "tick");
    rh_json_set_string(event, "job", job->id);
    rh_json_set_int(event, "task", t->task);
    rh_json_set_int(event, "block", t->block);
    rh_json_set_int(event, "iter", t->iter);
    rh_json_set_int(event, "iters", t->iters);
    set_finite(event, "loss", t->loss);
    set_finite(event, "loss_best", t->loss_best);
    rh_json_set_number(event, "progress", rh_job_progress(job, info));
    rh_json_set(event, "eta_s", eta >= 0 ? rh_json_new_number(eta) : rh_json_new_null());
    f->subscriber(f->subscriber_arg, event);
    rh_json_free(event);
}

void rh_factory_tell_ticks(struct rh_factory *f)
{
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++) {
        const struct rh_sched_job *job = rh_sched_job_at(f->sched, i);
        struct rh_job_info *info = job->user;
        if (info->tick.fresh && f->subscriber)
            tell_tick(f, job);
        info->tick.fresh = false;
    }
}
