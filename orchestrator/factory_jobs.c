#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"
#include "recipe/recipe.h"

/* What operators do: submit, look, pause, cancel, reorder. */

#define PRIORITY_MAX 1000000
#define TEXT_MAX     4096
#define NAME_MAX_    200
#define TOKEN_MAX    200
/* A recipe travels in every Assign. */
#define RECIPE_MAX (48 * 1024)
#define EVENTS_MAX 10000

/* -- Looking at ended jobs -------------------------------------------------------------------- */

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
static enum rh_rc resolve(struct rh_factory *f, const char *given, char out[RH_JOB_ID_SIZE],
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
    enum rh_rc rc = resolve(f, given, id, err);
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
    enum rh_rc rc = job ? resolve(f, job, id, err) : RH_OK;
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

/* -- Submitting ------------------------------------------------------------------------------- */

/* 48 bits of milliseconds and 80 random bits in 26 digits: sorts by time. */
static void make_id(char out[27])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    uint8_t random[10];
    uint64_t ms = (uint64_t)(rh_clock_unix_ns() / 1000000);
    RH_ASSERT(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    for (int i = 9; i >= 0; i--, ms >>= 5)
        out[i] = digits[ms & 31];
    for (int half = 0; half < 2; half++) {
        uint64_t bits = 0;
        for (int i = 0; i < 5; i++)
            bits = bits << 8 | random[5 * half + i];
        for (int i = 7; i >= 0; i--, bits >>= 5)
            out[10 + 8 * half + i] = digits[bits & 31];
    }
    out[26] = '\0';
}

struct request {
    const char *model, *output, *name, *token; /* borrowed; name and token may be NULL */
    int64_t priority;
    struct rh_recipe *recipe;
    char *recipe_text;
};

static void request_done(struct request *r)
{
    rh_recipe_free(r->recipe);
    rh_free(r->recipe_text);
}

static enum rh_rc check_text(const char *key, const char *text, size_t max, struct rh_error *err)
{
    size_t size = strlen(text);
    if (size == 0 || size > max)
        return rh_fail(err, RH_ERR_ARGUMENT, "job request: %s must have 1 to %zu bytes, not %zu",
                       key, max, size);
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return rh_fail(err, RH_ERR_ARGUMENT, "job request: %s has a control character in it",
                           key);
    }
    return RH_OK;
}

static enum rh_rc optional_text(const struct rh_json *object, const char *key, size_t max,
                                const char **out, struct rh_error *err)
{
    *out = NULL;
    if (rh_json_is_null(rh_json_get(object, key)))
        return RH_OK;
    enum rh_rc rc = rh_json_want_string(object, key, "job request", out, err);
    return rc == RH_OK ? check_text(key, *out, max, err) : rc;
}

/* "file:/models/x": a scheme, a colon and what the stage of that scheme makes of it. */
static enum rh_rc reference(const struct rh_json *object, const char *key, const char *example,
                            const char **out, struct rh_error *err)
{
    enum rh_rc rc = rh_json_want_string(object, key, "job request", out, err);
    if (rc == RH_OK)
        rc = check_text(key, *out, TEXT_MAX, err);
    if (rc != RH_OK)
        return rc;
    size_t scheme = strspn(*out, "abcdefghijklmnopqrstuvwxyz");
    if (scheme == 0 || (*out)[scheme] != ':' || (*out)[scheme + 1] == '\0')
        return rh_fail(err, RH_ERR_ARGUMENT, "job request: %s \"%.200s\" has no scheme; write %s",
                       key, *out, example);
    bool is_path = strncmp(*out, "file:", 5) == 0 || strncmp(*out, "dir:", 4) == 0;
    if (is_path && (*out)[scheme + 1] != '/')
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "job request: %s \"%.200s\" is relative; write %s with the whole path", key,
                       *out, example);
    return RH_OK;
}

static enum rh_rc check_members(const struct rh_json *object, struct rh_error *err)
{
    static const char *const known[] = {"model", "output", "recipe", "name", "priority", "token"};
    for (const struct rh_json *m = rh_json_first(object); m; m = rh_json_next(m)) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || strcmp(rh_json_key(m), known[i]) == 0;
        if (!found)
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "job request: unknown member \"%.80s\"; model, output, recipe, name, "
                           "priority and token are known",
                           rh_json_key(m));
    }
    return RH_OK;
}

static enum rh_rc read_recipe(const struct rh_json *object, struct request *r, struct rh_error *err)
{
    const struct rh_json *json = NULL;
    enum rh_rc rc = rh_json_want_object(object, "recipe", "job request", &json, err);
    if (rc == RH_OK)
        rc = rh_recipe_from_json(json, "recipe", &r->recipe, err);
    if (rc == RH_OK)
        rc = rh_recipe_check_complete(r->recipe, err);
    if (rc != RH_OK)
        return rc;
    r->recipe_text = rh_json_canonical(r->recipe->canonical);
    if (strlen(r->recipe_text) > RECIPE_MAX)
        return rh_fail(err, RH_ERR_ARGUMENT, "recipe: %zu bytes, %d are possible",
                       strlen(r->recipe_text), RECIPE_MAX);
    return RH_OK;
}

static enum rh_rc read_request(const struct rh_json *object, struct request *r,
                               struct rh_error *err)
{
    enum rh_rc rc = check_members(object, err);
    if (rc == RH_OK)
        rc = reference(object, "model", "file:/path/to/model", &r->model, err);
    if (rc == RH_OK)
        rc = reference(object, "output", "dir:/path/to/output", &r->output, err);
    if (rc == RH_OK)
        rc = optional_text(object, "name", NAME_MAX_, &r->name, err);
    if (rc == RH_OK)
        rc = optional_text(object, "token", TOKEN_MAX, &r->token, err);
    if (rc == RH_OK && !rh_json_is_null(rh_json_get(object, "priority")))
        rc = rh_json_want_int(object, "priority", "job request", &r->priority, err);
    if (rc == RH_OK && (r->priority < -PRIORITY_MAX || r->priority > PRIORITY_MAX))
        rc = rh_fail(err, RH_ERR_ARGUMENT,
                     "job request: priority %lld is out of bounds; -%d..%d will do",
                     (long long)r->priority, PRIORITY_MAX, PRIORITY_MAX);
    return rc == RH_OK ? read_recipe(object, r, err) : rc;
}

struct token_match {
    const struct request *request;
    char id[RH_JOB_ID_SIZE];
    bool found, same;
};

static enum rh_rc match_token(void *arg, const struct rh_job_row *row,
                              const struct rh_sched_job *sched, struct rh_error *err)
{
    struct token_match *m = arg;
    (void)err;
    m->found = true;
    m->same = strcmp(row->model, m->request->model) == 0 &&
              strcmp(row->output, m->request->output) == 0 &&
              strcmp(row->recipe, m->request->recipe_text) == 0;
    memcpy(m->id, sched->id, sizeof m->id);
    return RH_OK;
}

/* Two jobs that write to one place would meet at its end, hours from now. */
static enum rh_rc check_output_free(struct rh_factory *f, const char *output,
                                    const struct rh_sched_job *except, struct rh_error *err)
{
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++) {
        const struct rh_sched_job *job = rh_sched_job_at(f->sched, i);
        const struct rh_job_info *info = job->user;
        if (job != except && job->state < RH_JOB_DONE && strcmp(info->output, output) == 0)
            return rh_fail(err, RH_ERR_EXISTS, "%s: job %s writes there already", output, job->id);
    }
    return RH_OK;
}

static enum rh_rc make_job_dir(struct rh_factory *f, const char *id, struct rh_error *err)
{
    char *dir = rh_format("%s/jobs/%s", f->state_dir, id);
    enum rh_rc rc = rh_fs_mkdirs(dir, err);
    rh_free(dir);
    return rc;
}

/* New job: directory, row, then into the scheduler. */
static enum rh_rc create(struct rh_factory *f, const struct request *r, char id[RH_JOB_ID_SIZE],
                         struct rh_error *err)
{
    struct rh_sched_job sched = {.priority = (int)r->priority,
                                 .prefetch_blocks = r->recipe->prefetch_blocks,
                                 .state = RH_JOB_QUEUED};
    int64_t task_id = 0;
    make_id(sched.id);
    memcpy(id, sched.id, sizeof sched.id);
    const struct rh_job_row row = {.id = sched.id,
                                   .name = r->name ? r->name : r->recipe->name,
                                   .model = r->model,
                                   .output = r->output,
                                   .recipe = r->recipe_text,
                                   .recipe_digest = r->recipe->digest,
                                   .token = r->token,
                                   .created_unix_ns = rh_clock_unix_ns()};
    enum rh_rc rc = make_job_dir(f, sched.id, err);
    if (rc == RH_OK)
        rc = rh_database_next_numbers(f->db, &sched.seq, &task_id, err);
    if (rc == RH_OK)
        rc = rh_database_add_job(f->db, &row, &sched, err);
    if (rc == RH_OK)
        rc = rh_factory_load_job(f, f->db, &row, &sched, err);
    if (rc == RH_OK)
        rh_factory_note(f, "job.submitted", rh_sched_find_job(f->sched, sched.id), NULL, r->model);
    return rc;
}

enum rh_rc rh_factory_submit(struct rh_factory *f, const struct rh_json *json, struct rh_json **out,
                             struct rh_error *err)
{
    struct request r = {0};
    struct token_match match = {.request = &r};
    char id[RH_JOB_ID_SIZE] = "";
    *out = NULL;
    enum rh_rc rc = read_request(json, &r, err);
    if (rc == RH_OK && f->stopping)
        rc = rh_fail(err, RH_ERR_EXISTS, "the factory is shutting down");
    if (rc == RH_OK && r.token)
        rc = rh_database_jobs(f->db, RH_JOBS_TOKEN, r.token, match_token, &match, err);
    if (rc == RH_OK && match.found && !match.same)
        rc = rh_fail(err, RH_ERR_EXISTS,
                     "the token \"%s\" belongs to job %s, which is another request; use a new one",
                     r.token, match.id);
    if (rc == RH_OK && match.found) {
        memcpy(id, match.id, sizeof id);
    } else if (rc == RH_OK) {
        rc = check_output_free(f, r.output, NULL, err);
        if (rc == RH_OK)
            rc = create(f, &r, id, err);
        rh_factory_turn(f);
    }
    if (rc == RH_OK)
        rc = rh_factory_job(f, id, out, err);
    request_done(&r);
    return rc;
}

/* -- Changing --------------------------------------------------------------------------------- */

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
    enum rh_rc rc = resolve(f, given, id, err);
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
                       "desired \"%.40s\" is unknown; run, pause and cancel are possible", desired);
    enum rh_rc rc = take_up(f, id, &job, err);
    if (rc == RH_OK && job->state >= RH_JOB_DONE && wanted == RH_DESIRED_RUN)
        rc = check_output_free(f, ((const struct rh_job_info *)job->user)->output, job, err);
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
