#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* Device memory: what a tuning needs at least is known once it was refused for want of it. From then
 * on only a worker with that much gets it, and without one the job waits and holds nobody up. */

bool rh_sched_fits_device(const struct rh_sched_task *task, const struct rh_sched_worker *worker)
{
    return task->device_need == 0 || worker->device_bytes == 0 ||
           worker->device_room >= task->device_need;
}

void rh_sched_device(struct rh_sched *s, const char *worker, int64_t device_free, bool idle)
{
    struct rh_sched_worker *w = rh_sched_worker(s, worker);
    if (!w || w->device_bytes == 0)
        return;
    w->device_free = device_free;
    if (idle)
        w->device_room = device_free;
}

void rh_sched_device_short(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                           int64_t need, int64_t room)
{
    struct rh_sched_worker *w = rh_sched_worker(s, worker);
    struct rh_sched_task *t = rh_sched_find_task(s, task);
    if (!w || w->device_bytes == 0 || need <= room || !rh_sched_holds(t, worker, epoch))
        return;
    t->device_need = need; /* stored with the failure that follows */
    w->device_free = w->device_room = room;
}

/* The usable worker of the stage with the most room; without a device there is no bound. size: not
 * what is free of its device counts, but what it has. */
static const struct rh_sched_worker *roomiest(const struct rh_sched *s, enum rh_stage_id stage,
                                              bool size)
{
    const struct rh_sched_worker *best = NULL;
    for (size_t i = 0; i < s->worker_count; i++) {
        const struct rh_sched_worker *w = s->workers[i];
        if (w->stage != stage || !rh_sched_usable(w))
            continue;
        bool more = best && (size ? w->device_bytes > best->device_bytes
                                  : w->device_room > best->device_room);
        if (!best || (best->device_bytes > 0 && (w->device_bytes == 0 || more)))
            best = w;
    }
    return best;
}

static char *lack_text(const struct rh_sched_task *tune, const struct rh_sched_worker *best)
{
    double need = (double)tune->device_need * 1e-9;
    if (!best)
        return rh_format(RH_NO_DEVICE "%.3g GB of GPU memory; no worker is here; it goes on by itself "
                         "when one with that much comes",
                         need);
    if (best->device_bytes < tune->device_need)
        return rh_format(RH_NO_DEVICE "%.3g GB of GPU memory; the largest worker has %.3g GB (%s); it "
                         "goes on by itself when one with that much comes",
                         need, (double)best->device_bytes * 1e-9, best->id);
    return rh_format(RH_NO_DEVICE "%.3g GB of GPU memory; of the %.3g GB of the largest worker %.3g GB "
                     "are free (%s); it goes on by itself when they are",
                     need, (double)best->device_bytes * 1e-9, (double)best->device_room * 1e-9,
                     best->id);
}

/* The task of the job that was refused for want of memory; NULL: none. */
static const struct rh_sched_task *refused(const struct rh_sched_job *job)
{
    static const enum rh_op_id on_device[] = {RH_OP_PROBE, RH_OP_TUNE};
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++) {
        const struct rh_sched_task *t = rh_sched_task_of(job, on_device[i], 0);
        if (t && t->device_need > 0 && t->state == RH_TASK_WAITING)
            return t;
    }
    return NULL;
}

char *rh_sched_device_lack(const struct rh_sched *s, const struct rh_sched_job *job)
{
    const struct rh_sched_task *tune = refused(job);
    if (!tune)
        return NULL;
    const struct rh_sched_worker *best = roomiest(s, RH_STAGE_QUANTIZE, false);
    /* A fleet that has not come yet, after a start, parks nobody; who is parked stays so. */
    if (best ? rh_sched_fits_device(tune, best) : job->state != RH_JOB_BLOCKED)
        return NULL;
    return lack_text(tune, roomiest(s, RH_STAGE_QUANTIZE, true));
}

bool rh_sched_wait_for_device(struct rh_sched *s, struct rh_sched_job *job)
{
    char *reason = rh_sched_device_lack(s, job);
    if (!reason) {
        if (job->lacks_device) {
            job->lacks_device = false;
            job->blocked_until = 0; /* it goes on now, if there is room on the disk */
            rh_sched_touch(job);
        }
        return false;
    }
    job->lacks_device = true;
    if (job->state == RH_JOB_RUNNING && rh_sched_live_tasks(job) == 0)
        rh_sched_job_state(s, job, RH_JOB_BLOCKED, reason);
    if (job->state == RH_JOB_BLOCKED) {
        job->reserved = false; /* the disk is for those that can go on */
        rh_free(job->reason);
        job->reason = reason; /* with the workers of now; nothing is stored for that */
        return true;
    }
    rh_free(reason);
    return true;
}
