#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"
#include "timeline/timeline.h"

/* Jobs, wherever they are: active ones in the scheduler, ended ones in the database. */

#define EVENTS_MAX 10000
/* Of one job in a timeline: every task and block of the largest plan, and then some. */
#define TIMELINE_EVENTS_MAX 200000

/* A job of the database, in a scheduler of its own in which nothing happens. */
struct archived {
    struct rh_factory *f;
    struct rh_sched *sched;
    struct rh_sched_job *job;
    size_t matches;
    char id[RH_JOB_ID_SIZE]; /* of the last match */
};

static void archive_task(void *arg, const struct rh_sched_task *row)
{
    struct archived *a = arg;
    rh_sched_load_task(a->sched, a->job, row);
}

static enum rh_rc archive_job(void *arg, const struct rh_job_row *row,
                              const struct rh_sched_job *sched, struct rh_error *err)
{
    struct archived *a = arg;
    struct rh_sched_job copy = *sched;
    copy.user = rh_job_info_new(a->f, row);
    a->job = rh_sched_load_job(a->sched, &copy);
    return rh_database_tasks(a->f->db, row->id, archive_task, a, err);
}

static void archived_done(struct archived *a)
{
    for (size_t i = 0; a->sched && i < rh_sched_job_count(a->sched); i++)
        rh_job_info_free(rh_sched_job_at(a->sched, i)->user);
    rh_sched_free(a->sched);
    *a = (struct archived){0};
}

static enum rh_rc count_match(void *arg, const struct rh_job_row *row,
                              const struct rh_sched_job *sched, struct rh_error *err)
{
    struct archived *a = arg;
    (void)row;
    (void)err;
    a->matches++;
    memcpy(a->id, sched->id, sizeof a->id);
    return RH_OK;
}

/* The whole id for a beginning of one. */
enum rh_rc rh_factory_resolve(struct rh_factory *f, const char *given, char out[RH_JOB_ID_SIZE],
                              struct rh_error *err)
{
    struct archived a = {.f = f};
    if (!*given || strlen(given) >= RH_JOB_ID_SIZE)
        return rh_fail(err, RH_ERR_NOT_FOUND, "there is no job \"%.64s\"", given);
    enum rh_rc rc = rh_database_jobs(f->db, RH_JOBS_ID, given, count_match, &a, err);
    if (rc != RH_OK)
        return rc;
    if (a.matches == 0)
        return rh_fail(err, RH_ERR_NOT_FOUND, "there is no job \"%s\"; list shows all", given);
    if (a.matches > 1)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "\"%s\" is the beginning of %zu jobs; give more of the id", given,
                       a.matches);
    memcpy(out, a.id, RH_JOB_ID_SIZE);
    return RH_OK;
}

typedef struct rh_json *view_fn(const struct rh_factory *f, const struct rh_sched_job *job);

/* Shows a job, wherever it is. */
static enum rh_rc show(struct rh_factory *f, const char *given, view_fn *view, struct rh_json **out,
                       struct rh_error *err)
{
    char id[RH_JOB_ID_SIZE];
    *out = NULL;
    enum rh_rc rc = rh_factory_resolve(f, given, id, err);
    if (rc != RH_OK)
        return rc;
    struct rh_sched_job *job = rh_sched_find_job(f->sched, id);
    if (job) {
        *out = view(f, job);
        return RH_OK;
    }
    struct archived a = {.f = f, .sched = rh_sched_new(&rh_sched_defaults)};
    rc = rh_database_jobs(f->db, RH_JOBS_ID, id, archive_job, &a, err);
    if (rc == RH_OK)
        rc = rh_factory_read_metrics(f, id, a.job->user, err);
    if (rc == RH_OK)
        *out = view(f, a.job);
    archived_done(&a);
    return rc;
}

static struct rh_json *view_job(const struct rh_factory *f, const struct rh_sched_job *job)
{
    return rh_factory_describe(f, job, job->user, true);
}

static struct rh_json *view_tasks(const struct rh_factory *f, const struct rh_sched_job *job)
{
    struct rh_json *out = rh_json_new_object();
    struct rh_json *tasks = rh_json_new_array();
    (void)f;
    for (size_t i = 0; i < job->task_count; i++) {
        const struct rh_sched_task *t = job->tasks[i];
        struct rh_json *task = rh_json_new_object();
        rh_json_add(task, "id", rh_json_new_int(t->id));
        rh_json_add(task, "op", rh_json_new_string(rh_op_name(t->op)));
        rh_json_add(task, "stage", rh_json_new_string(rh_stage_name(rh_op_stage(t->op))));
        rh_json_add(task, "index", rh_json_new_int(t->index));
        rh_json_add(task, "last", rh_json_new_int(t->last));
        rh_json_add(task, "state", rh_json_new_string(rh_task_state_name(t->state)));
        rh_json_add(task, "epoch", rh_json_new_int(t->epoch));
        rh_json_add(task, "attempts", rh_json_new_int(t->attempts));
        rh_json_add(task, "crashes", rh_json_new_int(t->crashes));
        rh_json_add(task, "worker", rh_json_new_string(t->worker));
        if (t->error)
            rh_json_add(task, "error", rh_json_new_string(t->error));
        rh_json_append(tasks, task);
    }
    rh_json_add(out, "schema", rh_json_new_string("roundhouse.tasks/1"));
    rh_json_add(out, "job", rh_json_new_string(job->id));
    rh_json_add(out, "tasks", tasks);
    return out;
}

static struct rh_json *view_recipe(const struct rh_factory *f, const struct rh_sched_job *job)
{
    const struct rh_job_info *info = job->user;
    struct rh_json *recipe = NULL;
    (void)f;
    /* Written by ourselves; a damaged one is shown as null. */
    if (rh_json_parse(info->recipe, strlen(info->recipe), "stored recipe", &recipe, NULL) != RH_OK)
        recipe = rh_json_new_null();
    return recipe;
}

enum rh_rc rh_factory_job(struct rh_factory *f, const char *id, struct rh_json **out,
                          struct rh_error *err)
{
    return show(f, id, view_job, out, err);
}

enum rh_rc rh_factory_tasks(struct rh_factory *f, const char *id, struct rh_json **out,
                            struct rh_error *err)
{
    return show(f, id, view_tasks, out, err);
}

enum rh_rc rh_factory_recipe(struct rh_factory *f, const char *id, struct rh_json **out,
                             struct rh_error *err)
{
    return show(f, id, view_recipe, out, err);
}

struct listing {
    struct archived archived;
    struct rh_json *jobs;
    const char *state;
};

static void list_one(struct listing *l, const struct rh_sched_job *job)
{
    if (!l->state || strcmp(rh_job_state_name(job->state), l->state) == 0)
        rh_json_append(l->jobs, rh_factory_describe(l->archived.f, job, job->user, false));
}

static enum rh_rc list_row(void *arg, const struct rh_job_row *row,
                           const struct rh_sched_job *sched, struct rh_error *err)
{
    struct listing *l = arg;
    struct archived *a = &l->archived;
    const struct rh_sched_job *job = rh_sched_find_job(a->f->sched, row->id);
    if (job) {
        list_one(l, job);
        return RH_OK;
    }
    if (l->state && strcmp(rh_job_state_name(sched->state), l->state) != 0)
        return RH_OK;
    enum rh_rc rc = archive_job(a, row, sched, err);
    if (rc == RH_OK)
        list_one(l, a->job);
    rh_job_info_free(a->job->user);
    rh_sched_forget(a->sched, a->job);
    return rc;
}

struct rh_json *rh_factory_jobs(struct rh_factory *f, bool all, const char *state)
{
    struct listing l = {.archived = {.f = f, .sched = rh_sched_new(&rh_sched_defaults)},
                        .jobs = rh_json_new_array(),
                        .state = state};
    struct rh_json *out = rh_json_new_object();
    struct rh_error err;
    /* The state of an ended job can be asked for without asking for all. */
    bool ended = false;
    enum rh_job_state wanted;
    if (state && rh_job_state_from_name(state, &wanted))
        ended = wanted >= RH_JOB_DONE;
    enum rh_job_choice choice = all || ended ? RH_JOBS_ALL : RH_JOBS_ACTIVE;
    if (rh_database_jobs(f->db, choice, NULL, list_row, &l, &err) != RH_OK)
        rh_log(RH_LOG_ERROR, "jobs.unreadable", "why=\"%s\"", err.message);
    archived_done(&l.archived);
    rh_json_add(out, "schema", rh_json_new_string("roundhouse.jobs/1"));
    rh_json_add(out, "jobs", l.jobs);
    return out;
}

enum rh_rc rh_factory_events(struct rh_factory *f, const char *job, int64_t after, int limit,
                             struct rh_json **out, struct rh_error *err)
{
    char id[RH_JOB_ID_SIZE];
    struct rh_json *events = NULL;
    int64_t last = after;
    *out = NULL;
    enum rh_rc rc = job ? rh_factory_resolve(f, job, id, err) : RH_OK;
    if (rc == RH_OK)
        rc = rh_database_events(f->db, job ? id : NULL, NULL, after,
                                limit < 1            ? 1
                                : limit > EVENTS_MAX ? EVENTS_MAX
                                                     : limit,
                                &events, err);
    if (rc != RH_OK)
        return rc;
    for (const struct rh_json *e = rh_json_first(events); e; e = rh_json_next(e)) {
        if (!rh_json_int(rh_json_get(e, "seq"), &last))
            break;
    }
    *out = rh_json_new_object();
    rh_json_add(*out, "schema", rh_json_new_string("roundhouse.events/1"));
    rh_json_add(*out, "events", events);
    rh_json_add(*out, "last", rh_json_new_int(last));
    return RH_OK;
}

/* -- Timeline --------------------------------------------------------------------------------- */

/* The last of all jobs, by submission. */
struct last_jobs {
    char ids[RH_TIMELINE_JOBS][RH_JOB_ID_SIZE];
    size_t count;
};

static enum rh_rc note_last(void *arg, const struct rh_job_row *row, const struct rh_sched_job *job,
                            struct rh_error *err)
{
    struct last_jobs *l = arg;
    (void)row;
    (void)err;
    if (l->count == RH_TIMELINE_JOBS)
        memmove(l->ids[0], l->ids[1], sizeof l->ids - sizeof l->ids[0]);
    else
        l->count++;
    memcpy(l->ids[l->count - 1], job->id, RH_JOB_ID_SIZE);
    return RH_OK;
}

static enum rh_rc named_jobs(struct rh_factory *f, const char *given, struct last_jobs *l,
                             struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    while (rc == RH_OK && *given) {
        char name[RH_JOB_ID_SIZE] = "";
        size_t size = strcspn(given, ",");
        if (l->count == RH_TIMELINE_JOBS)
            return rh_fail(err, RH_ERR_ARGUMENT, "more than %d jobs at once", RH_TIMELINE_JOBS);
        if (size == 0 || size >= sizeof name)
            return rh_fail(err, RH_ERR_NOT_FOUND, "there is no job \"%.*s\"",
                           size < 64 ? (int)size : 64, given);
        memcpy(name, given, size);
        rc = rh_factory_resolve(f, name, l->ids[l->count], err);
        l->count += rc == RH_OK;
        given += size + (given[size] == ',');
    }
    return rc;
}

static enum rh_rc add_log(struct rh_factory *f, const char *id, struct rh_json *jobs,
                          struct rh_json **log, struct rh_error *err)
{
    struct rh_json *job = NULL;
    enum rh_rc rc = rh_factory_job(f, id, &job, err);
    if (rc == RH_OK)
        rc = rh_database_events(f->db, id, NULL, 0, TIMELINE_EVENTS_MAX, log, err);
    if (rc == RH_OK) {
        struct rh_json *entry = rh_json_new_object();
        rh_json_add(entry, "id", rh_json_new_string(id));
        rh_json_add(entry, "name", rh_json_copy(rh_json_get(job, "name")));
        rh_json_add(entry, "state", rh_json_copy(rh_json_get(job, "state")));
        rh_json_append(jobs, entry);
    }
    rh_json_free(job);
    return rc;
}

enum rh_rc rh_factory_timeline(struct rh_factory *f, const char *given, struct rh_json **out,
                               struct rh_error *err)
{
    struct last_jobs last = {.count = 0};
    struct rh_json *logs[RH_TIMELINE_JOBS] = {NULL};
    struct rh_json *jobs = rh_json_new_array();
    *out = NULL;
    enum rh_rc rc = given ? named_jobs(f, given, &last, err)
                          : rh_database_jobs(f->db, RH_JOBS_ALL, NULL, note_last, &last, err);
    for (size_t i = 0; i < last.count && rc == RH_OK; i++)
        rc = add_log(f, last.ids[i], jobs, &logs[i], err);
    if (rc == RH_OK)
        *out = rh_timeline((const struct rh_json *const *)logs, jobs);
    for (size_t i = 0; i < RH_TIMELINE_JOBS; i++)
        rh_json_free(logs[i]);
    rh_json_free(jobs);
    return rc;
}
