#include <string.h>

#include "base/mem.h"
#include "factory_internal.h"

/* What operators change: run, pause, hold, cancel, once more, another order, workers aside. */

static enum rh_rc load_row(void *arg, const struct rh_job_row *row,
                           const struct rh_sched_job *sched, struct rh_error *err)
{
    struct rh_factory *f = arg;
    return rh_factory_load_job(f, f->db, row, sched, err);
}

/* The job, taken out of the database when it has ended; the next turn puts it back. */
static enum rh_rc take_up(struct rh_factory *f, const char *given, struct rh_sched_job **out,
                          struct rh_error *err)
{
    char id[RH_JOB_ID_SIZE];
    enum rh_rc rc = rh_factory_resolve(f, given, id, err);
    if (rc == RH_OK && !rh_sched_find_job(f->sched, id))
        rc = rh_database_jobs(f->db, RH_JOBS_ID, id, load_row, f, err);
    *out = rc == RH_OK ? rh_sched_find_job(f->sched, id) : NULL;
    return rc;
}

/* The job as it is after the change. */
static enum rh_rc answer(struct rh_factory *f, enum rh_rc rc, const char *id, struct rh_json **out,
                         struct rh_error *err)
{
    rh_factory_turn(f);
    return rc == RH_OK ? rh_factory_job(f, id, out, err) : rc;
}

enum rh_rc rh_factory_set_desired(struct rh_factory *f, const char *id, const char *desired,
                                  struct rh_json **out, struct rh_error *err)
{
    enum rh_desired wanted;
    struct rh_sched_job *job = NULL;
    struct rh_error why;
    *out = NULL;
    if (!rh_desired_from_name(desired, &wanted))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "desired \"%.40s\" is unknown; run, pause, hold and cancel are possible",
                       desired);
    enum rh_rc rc = take_up(f, id, &job, err);
    if (rc == RH_OK && job->state >= RH_JOB_DONE && wanted == RH_DESIRED_RUN)
        rc = rh_factory_check_output(f, ((const struct rh_job_info *)job->user)->output, job, err);
    if (rc == RH_OK && rh_sched_set_desired(f->sched, rh_factory_now(), job, wanted, &why) != RH_OK)
        rc = rh_fail(err, RH_ERR_EXISTS, "%s", why.message);
    return answer(f, rc, id, out, err);
}

enum rh_rc rh_factory_set_priority(struct rh_factory *f, const char *id, int priority,
                                   struct rh_json **out, struct rh_error *err)
{
    struct rh_sched_job *job = NULL;
    *out = NULL;
    enum rh_rc rc = take_up(f, id, &job, err);
    if (rc == RH_OK && job->state >= RH_JOB_DONE)
        rc = rh_fail(err, RH_ERR_EXISTS, "job %s has ended (%s), its priority means nothing now",
                     job->id, rh_job_state_name(job->state));
    if (rc == RH_OK)
        rh_sched_set_priority(f->sched, rh_factory_now(), job, priority);
    return answer(f, rc, id, out, err);
}

/* The block itself, or the nearest one before it at which tuning can start. */
static enum rh_rc rewind_job(struct rh_factory *f, struct rh_sched_job *job, int64_t block,
                             struct rh_error *err)
{
    const struct rh_job_info *info = job->user;
    while (block > 0 && !rh_job_can_tune_from(info, block))
        block--;
    return rh_sched_rewind(f->sched, rh_factory_now(), job, block, err);
}

static enum rh_rc retry_task(struct rh_factory *f, const struct rh_sched_job *job, int64_t task,
                             struct rh_error *err)
{
    struct rh_sched_task *t = rh_sched_find_task(f->sched, task);
    if (!t || t->job != job)
        return rh_fail(err, RH_ERR_NOT_FOUND, "job %s has no task %lld; show --tasks lists them",
                       job->id, (long long)task);
    return rh_sched_retry_task(f->sched, rh_factory_now(), t, err);
}

enum rh_rc rh_factory_retry(struct rh_factory *f, const char *id, int64_t from_block, int64_t task,
                            struct rh_json **out, struct rh_error *err)
{
    struct rh_sched_job *job = NULL;
    struct rh_error why;
    *out = NULL;
    if (from_block < 0 && task <= 0)
        return rh_factory_set_desired(f, id, "run", out, err);
    enum rh_rc rc = take_up(f, id, &job, err);
    if (rc == RH_OK && job->state >= RH_JOB_DONE)
        rc = rh_factory_check_output(f, ((const struct rh_job_info *)job->user)->output, job, err);
    if (rc != RH_OK)
        return answer(f, rc, id, out, err);
    rc = task > 0 ? retry_task(f, job, task, &why) : rewind_job(f, job, from_block, &why);
    if (rc != RH_OK)
        rc = rh_fail(err, rc == RH_ERR_ARGUMENT ? RH_ERR_EXISTS : rc, "%s", why.message);
    return answer(f, rc, id, out, err);
}

enum rh_rc rh_factory_drain(struct rh_factory *f, const char *worker, bool drained, const char *why,
                            struct rh_json **out, struct rh_error *err)
{
    *out = NULL;
    enum rh_rc rc = rh_sched_drain(f->sched, worker, drained, why ? why : "by the operator", err);
    rh_factory_turn(f);
    if (rc == RH_OK)
        *out = rh_factory_workers(f);
    return rc;
}
