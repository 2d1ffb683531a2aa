#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/follow.h"
#include "ctl/interrupt.h"
#include "ctl/progress.h"
#include "ctl/request.h"

struct submit {
    struct rh_request_words words;
    const char *state, *run_dir, *name, *priority, *token, *wait, *progress, *json;
};

static enum rh_rc add_extras(const struct submit *s, struct rh_json *body, struct rh_error *err)
{
    if (s->name)
        rh_json_set_string(body, "name", s->name);
    if (s->token)
        rh_json_set_string(body, "token", s->token);
    if (!s->priority)
        return RH_OK;
    char *end = NULL;
    errno = 0;
    long value = strtol(s->priority, &end, 10);
    if (end == s->priority || *end || errno)
        return rh_fail(err, RH_ERR_ARGUMENT, "--priority %.40s: a whole number is needed",
                       s->priority);
    rh_json_set_int(body, "priority", value);
    return RH_OK;
}

static const char *id_of(const struct rh_json *job)
{
    const char *id = rh_json_string(rh_json_get(job, "id"));
    return id ? id : "";
}

static int report(const struct submit *s, const struct rh_json *job)
{
    if (s->json)
        return rh_command_print_json(job);
    char *line = rh_format("%s\n", id_of(job));
    int code = rh_command_print(line);
    rh_free(line);
    return code;
}

static int wait_for(const struct submit *s, struct rh_connection *c, const char *id,
                    enum rh_progress_mode mode)
{
    struct rh_error err = {0};
    struct rh_json *job = NULL;
    struct rh_progress *progress = rh_progress_new(mode, stderr, rh_tty_width(STDERR_FILENO));
    struct rh_follow follow = {.client = c->client, .job = id, .progress = progress};
    rh_interrupt_catch();
    enum rh_rc rc = rh_follow(&follow, &job, &err);
    rh_progress_free(progress);
    if (rc == RH_ERR_CANCELLED)
        (void)rh_fail(&err, rc, "interrupted; job %s goes on", id);
    int code = rc == RH_OK ? rh_command_job_exit(job) : rh_command_fail(&err);
    if (rc == RH_OK && s->json) {
        int printed = rh_command_print_json(job);
        code = code ? code : printed;
    }
    rh_json_free(job);
    return code;
}

static int submit(const struct submit *s)
{
    struct rh_error err = {0};
    struct rh_request request = {0};
    struct rh_connection connection = {0};
    struct rh_json *job = NULL;
    enum rh_progress_mode mode = RH_PROGRESS_NONE;
    enum rh_rc rc = rh_progress_mode_from(s->progress, STDERR_FILENO, &mode, &err);
    if (rc == RH_OK && mode == RH_PROGRESS_JSON)
        rc = rh_fail(&err, RH_ERR_ARGUMENT,
                     "--progress json: \"roundhouse watch JOB --progress json\" does that");
    if (rc == RH_OK)
        rc = rh_request_make(&s->words, &request, &err);
    if (rc == RH_OK)
        rh_command_note_model(&request, s->words.model);
    if (rc == RH_OK)
        rc = add_extras(s, request.body, &err);
    if (rc == RH_OK)
        rc = rh_connection_open(&connection, s->state, s->run_dir, RH_CONNECT_LIVE, &err);
    if (rc == RH_OK)
        rc = rh_client_call(connection.client, "POST", "/v1/jobs", request.body, &job, &err);
    int code = RH_EXIT_OK;
    if (rc != RH_OK)
        code = rh_command_fail(&err);
    else if (!s->wait || !s->json)
        code = report(s, job);
    if (rc == RH_OK && code == RH_EXIT_OK && s->wait)
        code = wait_for(s, &connection, id_of(job), mode);
    rh_json_free(job);
    rh_connection_close(&connection);
    rh_request_done(&request);
    return code;
}

int rh_command_submit(const struct rh_command *command, int argc, char **argv)
{
    struct submit s = {0};
    const char *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "recipe",
         .argument = "RECIPE",
         .value = &s.words.recipe,
         .help = "file, or name of a shipped recipe"},
        {.name = "output",
         .argument = "DIR",
         .value = &s.words.output,
         .help = "where the quantized checkpoint appears"},
        {.name = "set",
         .argument = "KEY=VALUE",
         .values = s.words.sets,
         .value_count = &s.words.set_count,
         .value_max = RH_REQUEST_SETS_MAX,
         .help = "overrides a key of the recipe, may be repeated"},
        {.name = "name",
         .argument = "TEXT",
         .value = &s.name,
         .help = "a name for people (default: the recipe's)"},
        {.name = "priority",
         .argument = "N",
         .value = &s.priority,
         .help = "higher goes first (default 0)"},
        {.name = "token",
         .argument = "TEXT",
         .value = &s.token,
         .help = "submitting again under the same token gives the same job"},
        {.name = "wait", .value = &s.wait, .help = "wait for the end, exit 1 when it is not done"},
        {.name = "progress",
         .argument = "MODE",
         .value = &s.progress,
         .help = "with --wait: auto, plain or none"},
        {.name = "state",
         .argument = "DIR",
         .value = &s.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &s.run_dir, .help = "directory of its sockets"},
        {.name = "json", .value = &s.json, .help = "print the job as JSON"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, &s.words.model, 1, 1, &count, &code))
        return code;
    return submit(&s);
}
