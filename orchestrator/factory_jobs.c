#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "factory_internal.h"
#include "recipe/recipe.h"

/* Submitting. */

#define PRIORITY_MAX 1000000
#define TEXT_MAX     4096
#define NAME_MAX_    200
#define TOKEN_MAX    200
/* A recipe travels in every Assign. */
#define RECIPE_MAX (48 * 1024)

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
    bool hold;
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
    static const char *const known[] = {"model",    "output", "recipe", "name",
                                        "priority", "token",  "hold"};
    for (const struct rh_json *m = rh_json_first(object); m; m = rh_json_next(m)) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || strcmp(rh_json_key(m), known[i]) == 0;
        if (!found)
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "job request: unknown member \"%.80s\"; model, output, recipe, name, "
                           "priority, token and hold are known",
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
        rc = reference(object, "model", "file:/path/to/model or hf:owner/name", &r->model, err);
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
    const struct rh_json *hold = rh_json_get(object, "hold");
    if (rc == RH_OK && hold && rh_json_type(hold) != RH_JSON_BOOL)
        rc = rh_fail(err, RH_ERR_ARGUMENT, "job request: hold must be true or false");
    r->hold = rh_json_bool(hold, false);
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
enum rh_rc rh_factory_check_output(struct rh_factory *f, const char *output,
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
                                 .desired = r->hold ? RH_DESIRED_HOLD : RH_DESIRED_RUN,
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
        rc = rh_factory_check_output(f, r.output, NULL, err);
        if (rc == RH_OK)
            rc = create(f, &r, id, err);
        rh_factory_turn(f);
    }
    if (rc == RH_OK)
        rc = rh_factory_job(f, id, out, err);
    request_done(&r);
    return rc;
}
