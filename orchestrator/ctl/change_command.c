#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/format.h"
#include "ctl/job_path.h"

/* cancel, pause, hold, resume, retry, priority: one change, several jobs. */

#define JOBS_MAX 256

struct change {
    const char *state, *run_dir, *json;
    const char *from, *task; /* of retry */
    bool again;              /* retry of a part: a POST */
    struct rh_json *body;
    const char *jobs[JOBS_MAX];
    int count;
};

static enum rh_rc change_one(const struct change *c, struct rh_client *client, const char *job,
                             struct rh_json **out, struct rh_error *err)
{
    enum rh_rc rc = rh_job_path_check(job, err);
    if (rc != RH_OK)
        return rc;
    char *path = rh_format("/v1/jobs/%s%s", job, c->again ? "/retry" : "");
    rc = rh_client_call(client, c->again ? "POST" : "PATCH", path, c->body, out, err);
    rh_free(path);
    return rc;
}

static void add_line(struct rh_strbuf *text, const struct rh_json *job)
{
    const char *id = rh_json_string(rh_json_get(job, "id"));
    const char *state = rh_json_string(rh_json_get(job, "state"));
    const char *desired = rh_json_string(rh_json_get(job, "desired"));
    int64_t priority = 0;
    (void)rh_json_int(rh_json_get(job, "priority"), &priority);
    rh_format_clean(text, id);
    rh_strbuf_puts(text, "  ");
    rh_format_clean(text, state);
    rh_strbuf_puts(text, "  desired ");
    rh_format_clean(text, desired);
    rh_strbuf_printf(text, "  priority %lld\n", (long long)priority);
}

static int change_all(const struct change *c)
{
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    struct rh_json *jobs = rh_json_new_array();
    struct rh_strbuf text = {0};
    int failed = 0, code = RH_EXIT_OK;
    if (rh_connection_open(&connection, c->state, c->run_dir, RH_CONNECT_OR_READ, &err) != RH_OK) {
        code = rh_command_fail(&err);
        goto out;
    }
    for (int i = 0; i < c->count; i++) {
        struct rh_json *job = NULL;
        if (change_one(c, connection.client, c->jobs[i], &job, &err) != RH_OK) {
            code = rh_command_fail(&err);
            failed++;
            continue;
        }
        add_line(&text, job);
        rh_json_append(jobs, job);
    }
    if (failed > 0 && failed < c->count)
        code = RH_EXIT_PARTLY;
    int printed = RH_EXIT_OK;
    if (c->json) {
        struct rh_json *answer = rh_json_new_object();
        rh_json_set_string(answer, "schema", "roundhouse.jobs/1");
        rh_json_set(answer, "jobs", jobs);
        jobs = NULL;
        printed = rh_command_print_json(answer);
        rh_json_free(answer);
    } else if (text.text) {
        printed = rh_command_print(text.text);
    }
    code = code ? code : printed;
out:
    rh_connection_close(&connection);
    rh_json_free(jobs);
    rh_strbuf_done(&text);
    return code;
}

static enum rh_rc whole_number(const char *what, const char *text, long *out, struct rh_error *err)
{
    char *end = NULL;
    errno = 0;
    *out = strtol(text, &end, 10);
    if (end == text || *end || errno)
        return rh_fail(err, RH_ERR_ARGUMENT, "%s %.40s: a whole number is needed", what, text);
    return RH_OK;
}

/* A part of one job: from a block on, or one task. */
static enum rh_rc make_part(struct change *c, struct rh_error *err)
{
    long value = 0;
    if ((c->from && c->task) || c->count > 1)
        return rh_fail(err, RH_ERR_ARGUMENT, "--from or --task, and one job, are possible");
    enum rh_rc rc =
        whole_number(c->from ? "--from" : "--task", c->from ? c->from : c->task, &value, err);
    rh_json_set_int(c->body, c->from ? "from_block" : "task", value);
    c->again = true;
    return rc;
}

static enum rh_rc make_body(const char *verb, struct change *c, struct rh_error *err)
{
    c->body = rh_json_new_object();
    if (c->from || c->task)
        return make_part(c, err);
    if (strcmp(verb, "priority") != 0) {
        bool run = strcmp(verb, "resume") == 0 || strcmp(verb, "retry") == 0;
        rh_json_set_string(c->body, "desired", run ? "run" : verb);
        return RH_OK;
    }
    long value = 0;
    enum rh_rc rc = whole_number("priority", c->jobs[0], &value, err);
    rh_json_set_int(c->body, "priority", value);
    c->count--;
    memmove(c->jobs, c->jobs + 1, (size_t)c->count * sizeof *c->jobs);
    return rc;
}

int rh_command_change(const struct rh_command *command, int argc, char **argv)
{
    struct change c = {0};
    const char *help = NULL;
    int code = RH_EXIT_OK;
    int min = strcmp(command->name, "priority") == 0 ? 2 : 1;
    bool retry = strcmp(command->name, "retry") == 0;
    const struct rh_option common[] = {
        {.name = "state",
         .argument = "DIR",
         .value = &c.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &c.run_dir, .help = "directory of its sockets"},
        {.name = "json", .value = &c.json, .help = "print the jobs as JSON"},
        {.name = "help", .value = &help, .help = "show this text"},
    };
    const struct rh_option parts[] = {
        {.name = "from",
         .argument = "BLOCK",
         .value = &c.from,
         .help = "tune again from this block, or the nearest before it that can be started at"},
        {.name = "task",
         .argument = "ID",
         .value = &c.task,
         .help = "only this task (show --tasks), when it failed or is quarantined"},
    };
    struct rh_option options[sizeof common / sizeof *common + 3] = {{0}};
    memcpy(options, common, sizeof common);
    if (retry)
        memcpy(options + sizeof common / sizeof *common, parts, sizeof parts);
    struct rh_error err;
    if (!rh_command_parse(command, argc, argv, options, c.jobs, min, JOBS_MAX, &c.count, &code))
        return code;
    code = make_body(command->name, &c, &err) == RH_OK ? change_all(&c) : rh_command_fail(&err);
    rh_json_free(c.body);
    return code;
}
