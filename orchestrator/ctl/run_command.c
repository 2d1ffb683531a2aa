#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/follow.h"
#include "ctl/interrupt.h"
#include "ctl/place.h"
#include "ctl/progress.h"
#include "ctl/request.h"

/* One shot: a factory of this program's own, for one model. */

/* So many restarts in a row, each sooner than that after the last, are no bad luck. */
#define RESTARTS_MAX 5
#define STEADY_NS    INT64_C(60000000000)

struct run {
    struct rh_request_words words;
    const char *state, *run_dir, *progress, *json;
    struct rh_request request;
    struct rh_connection connection;
    struct rh_progress *display;
    char *job;          /* id */
    bool state_is_ours; /* hidden beside the output, removed after success */
    int restarts;
    int64_t restarted_at;
};

static const char *text_of(const struct rh_json *object, const char *key)
{
    const char *text = rh_json_string(rh_json_get(object, key));
    return text ? text : "";
}

static enum rh_rc check_output_free(const struct run *r, struct rh_error *err)
{
    bool empty = true;
    const char *path = r->request.output_path;
    enum rh_rc rc = path ? rh_place_is_empty(path, &empty, err) : RH_OK;
    if (rc == RH_OK && !empty)
        rc = rh_fail(err, RH_ERR_EXISTS,
                     "%s: is there and is not empty; choose another --output, or remove it", path);
    return rc;
}

/* -- Finding the job, or making it ------------------------------------------------------------ */

/* The newest job that writes where we want to write; NULL: none. Borrowed from jobs. */
static const struct rh_json *newest_for_output(const struct run *r, const struct rh_json *jobs)
{
    const struct rh_json *found = NULL;
    for (const struct rh_json *job = rh_json_first(rh_json_get(jobs, "jobs")); job;
         job = rh_json_next(job)) {
        if (strcmp(text_of(job, "output"), r->request.output) == 0)
            found = job;
    }
    return found;
}

static bool is_same(const struct run *r, const struct rh_json *job)
{
    return strcmp(text_of(job, "model"), r->request.model) == 0 &&
           strcmp(text_of(job, "recipe_digest"), r->request.recipe_digest) == 0;
}

static enum rh_rc call_for_id(struct run *r, const char *method, const char *path,
                              const struct rh_json *body, struct rh_error *err)
{
    struct rh_json *job = NULL;
    enum rh_rc rc = rh_client_call(r->connection.client, method, path, body, &job, err);
    if (rc == RH_OK)
        r->job = rh_strdup(text_of(job, "id"));
    rh_json_free(job);
    return rc;
}

static enum rh_rc try_again(struct run *r, const char *id, struct rh_error *err)
{
    struct rh_json *body = rh_json_new_object();
    char *path = rh_format("/v1/jobs/%s", id);
    rh_json_set_string(body, "desired", "run");
    enum rh_rc rc = call_for_id(r, "PATCH", path, body, err);
    if (rc == RH_OK)
        rh_progress_note(r->display, "taking up job %s again", id);
    rh_free(path);
    rh_json_free(body);
    return rc;
}

/* An interrupted run goes on, a failed one is tried again, everything else is a new job. */
static enum rh_rc find_or_submit(struct run *r, struct rh_error *err)
{
    struct rh_json *jobs = NULL;
    enum rh_rc rc = rh_client_call(r->connection.client, "GET", "/v1/jobs?all=1", NULL, &jobs, err);
    if (rc != RH_OK)
        return rc;
    const struct rh_json *old = newest_for_output(r, jobs);
    const char *id = text_of(old, "id");
    bool done = strcmp(text_of(old, "state"), "done") == 0;
    bool ended = old && rh_job_has_ended(old);
    bool same = old && is_same(r, old);
    if (old && !ended && !same) {
        rc = rh_fail(err, RH_ERR_EXISTS,
                     "job %s in %s writes to the same place with another model or recipe; finish "
                     "it with the command that began it, or remove that directory to start over",
                     id, r->connection.state);
    } else if (same && strcmp(text_of(old, "state"), "held") == 0) {
        rc = try_again(r, id, err);
    } else if (same && !ended) {
        r->job = rh_strdup(id);
    } else if (same && done && r->request.output_path && rh_fs_exists(r->request.output_path)) {
        r->job = rh_strdup(id); /* nothing is left to do */
    } else if (same && !done) {
        rc = try_again(r, id, err);
    } else {
        rc = check_output_free(r, err);
        if (rc == RH_OK)
            rc = call_for_id(r, "POST", "/v1/jobs", r->request.body, err);
    }
    rh_json_free(jobs);
    return rc;
}

/* -- The run ---------------------------------------------------------------------------------- */

/* The factory went away under us: it is started again, and goes on from what is durable. */
static enum rh_rc on_lost(void *arg, struct rh_error *err)
{
    struct run *r = arg;
    struct rh_connection *c = &r->connection;
    char *how = NULL;
    if (rh_interrupt_count() > 0)
        return RH_OK; /* seen by the caller next */
    if (rh_private_alive(&c->factory, &how))
        return err->rc; /* it is there and does not answer */
    if (rh_clock_ns() - r->restarted_at > STEADY_NS)
        r->restarts = 0;
    r->restarted_at = rh_clock_ns();
    if (++r->restarts > RESTARTS_MAX) {
        rh_free(how);
        return rh_error_prefix(err, "the orchestrator ended %d times", RESTARTS_MAX + 1);
    }
    rh_progress_note(r->display, "the orchestrator ended (%s), starting it again",
                     how ? how : "it was not ours");
    rh_free(how);
    return rh_connection_renew(c, RH_CONNECT_OR_WORK, err);
}

static char *published_line(const struct run *r)
{
    char **names = NULL;
    size_t count = 0;
    double bytes = 0;
    const char *path = r->request.output_path;
    if (!path || rh_fs_list(path, &names, &count, NULL) != RH_OK)
        return rh_format("published %s, verified\n", path ? path : r->request.output);
    for (size_t i = 0; i < count; i++) {
        uint64_t size = 0;
        char *file = rh_fs_join(path, names[i]);
        if (rh_fs_size(file, &size, NULL) == RH_OK)
            bytes += (double)size;
        rh_free(file);
    }
    rh_fs_list_free(names, count);
    char *human = rh_human_bytes(bytes);
    char *line = rh_format("published %s, verified: %zu files, %s\n", path, count, human);
    rh_free(human);
    return line;
}

/* How it ended, in the exit code; a job that was left behind says where it is and how to go on. */
static int conclude(struct run *r, enum rh_rc rc, const struct rh_json *job, struct rh_error *err)
{
    if (rc == RH_ERR_CANCELLED) {
        (void)rh_fail(err, RH_ERR_CANCELLED,
                      "interrupted; the same command goes on from here (the work is kept in %s)",
                      r->connection.state);
        return rh_command_fail(err);
    }
    if (rc == RH_ERR_NO_SPACE) {
        char *reason = rh_strdup(err->message);
        (void)rh_fail(err, rc,
                      "job %s is parked: %s; the same command goes on from here (the work is kept "
                      "in %s)",
                      r->job, reason, r->connection.state);
        rh_free(reason);
    }
    if (rc != RH_OK)
        return rh_command_fail(err);
    int code = rh_command_job_exit(job);
    if (r->json) {
        int printed = rh_command_print_json(job);
        return code ? code : printed;
    }
    if (code != RH_EXIT_OK)
        return code;
    char *line = published_line(r);
    code = rh_command_print(line);
    rh_free(line);
    return code;
}

/* The factory's books are no longer needed once the checkpoint is there. */
static void forget_state(const struct run *r)
{
    struct rh_error err;
    rh_place_forget_run_dir(r->connection.state);
    if (rh_fs_remove_tree(r->connection.state, &err) != RH_OK)
        fprintf(stderr, "roundhouse: %s\n", err.message);
}

static int work(struct run *r, struct rh_error *err)
{
    struct rh_json *job = NULL;
    bool events = r->progress && strcmp(r->progress, "json") == 0;
    enum rh_rc rc =
        rh_connection_open(&r->connection, r->state, r->run_dir, RH_CONNECT_OR_WORK, err);
    if (rc == RH_OK)
        rc = find_or_submit(r, err);
    while (rc == RH_ERR_REMOTE && rh_interrupt_count() == 0) {
        rc = on_lost(r, err);
        if (rc == RH_OK)
            rc = find_or_submit(r, err);
    }
    if (rc == RH_OK) {
        struct rh_follow follow = {.client = r->connection.client,
                                   .job = r->job,
                                   .progress = r->display,
                                   .events = events,
                                   .lost = on_lost,
                                   .arg = r,
                                   .give_up_when_blocked = true};
        rc = rh_follow(&follow, &job, err);
    }
    rh_progress_free(r->display);
    r->display = NULL;
    bool ours = r->connection.factory.pid != 0; /* else others still need the state */
    rh_private_stop(&r->connection.factory);
    int code = conclude(r, rc, job, err);
    if (rc == RH_OK && strcmp(text_of(job, "state"), "done") == 0 && r->state_is_ours && ours)
        forget_state(r);
    rh_json_free(job);
    rh_connection_close(&r->connection);
    return code;
}

static enum rh_rc prepare(struct run *r, char **hidden, struct rh_error *err)
{
    enum rh_progress_mode mode = RH_PROGRESS_NONE;
    const char *choice = !r->progress && r->json ? "none" : r->progress;
    enum rh_rc rc = rh_progress_mode_from(choice, STDERR_FILENO, &mode, err);
    if (rc == RH_OK && r->json && mode == RH_PROGRESS_JSON)
        rc = rh_fail(err, RH_ERR_ARGUMENT,
                     "--json and --progress json both write to standard output; choose one");
    if (rc == RH_OK)
        rc = rh_request_make(&r->words, &r->request, err);
    if (rc != RH_OK)
        return rc;
    rh_command_note_model(&r->request, r->words.model);
    if (!r->state) {
        if (!r->request.output_path)
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "--state DIR is needed when the output is no local directory");
        *hidden = rh_place_hidden_state(r->request.output_path);
        r->state = *hidden;
        r->state_is_ours = true;
    }
    /* Refused before anything is made; afterwards the job of an earlier run may explain it. */
    if (!rh_fs_exists(r->state))
        rc = check_output_free(r, err);
    r->display = rh_progress_new(mode, mode == RH_PROGRESS_JSON ? stdout : stderr,
                                 rh_tty_width(STDERR_FILENO));
    return rc;
}

int rh_command_run(const struct rh_command *command, int argc, char **argv)
{
    struct run r = {0};
    const char *help = NULL;
    char *hidden = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "recipe",
         .argument = "RECIPE",
         .value = &r.words.recipe,
         .help = "file, or name of a shipped recipe"},
        {.name = "output",
         .argument = "DIR",
         .value = &r.words.output,
         .help = "where the quantized checkpoint appears"},
        {.name = "set",
         .argument = "KEY=VALUE",
         .values = r.words.sets,
         .value_count = &r.words.set_count,
         .value_max = RH_REQUEST_SETS_MAX,
         .help = "overrides a key of the recipe, may be repeated"},
        {.name = "progress",
         .argument = "MODE",
         .value = &r.progress,
         .help = "auto, plain, json or none; on stderr, json on stdout"},
        {.name = "state",
         .argument = "DIR",
         .value = &r.state,
         .help = "keep the work there (default: hidden beside the output, removed at the end)"},
        {.name = "run",
         .argument = "DIR",
         .value = &r.run_dir,
         .help = "directory of the sockets (default: run below the state directory)"},
        {.name = "json", .value = &r.json, .help = "print the job as JSON at the end"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    struct rh_error err = {0};
    if (!rh_command_parse(command, argc, argv, options, &r.words.model, 1, 1, &count, &code))
        return code;
    rh_interrupt_catch();
    if (prepare(&r, &hidden, &err) == RH_OK)
        code = work(&r, &err);
    else
        code = rh_command_fail(&err);
    rh_progress_free(r.display);
    rh_request_done(&r.request);
    rh_free(r.job);
    rh_free(hidden);
    return code;
}
