#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/format.h"
#include "ctl/job_path.h"

struct view {
    const char *state, *run_dir, *tasks, *events, *recipe, *json;
};

static enum rh_rc fetch(const struct view *v, struct rh_client *client, const char *job,
                        struct rh_json **out, struct rh_error *err)
{
    if (v->events)
        return rh_client_events(client, job, out, err);
    char *path = rh_format("/v1/jobs/%s%s", job, v->tasks ? "/tasks" : v->recipe ? "/recipe" : "");
    enum rh_rc rc = rh_client_call(client, "GET", path, NULL, out, err);
    rh_free(path);
    return rc;
}

static int print(const struct view *v, const struct rh_json *answer)
{
    struct rh_strbuf text = {0};
    if (v->json || v->recipe)
        return rh_command_print_json(answer);
    if (v->events) {
        for (const struct rh_json *e = rh_json_first(rh_json_get(answer, "events")); e;
             e = rh_json_next(e))
            rh_format_event(&text, e);
    } else if (v->tasks) {
        rh_format_tasks(&text, answer);
    } else {
        rh_format_job(&text, answer);
    }
    int code = rh_command_print(text.text ? text.text : "");
    rh_strbuf_done(&text);
    return code;
}

static int show(const struct view *v, const char *job)
{
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    struct rh_json *answer = NULL;
    enum rh_rc rc = rh_job_path_check(job, &err);
    if (rc == RH_OK)
        rc = rh_connection_open(&connection, v->state, v->run_dir, RH_CONNECT_OR_READ, &err);
    if (rc == RH_OK)
        rc = fetch(v, connection.client, job, &answer, &err);
    int code = rc == RH_OK ? print(v, answer) : rh_command_fail(&err);
    rh_json_free(answer);
    rh_connection_close(&connection);
    return code;
}

int rh_command_show(const struct rh_command *command, int argc, char **argv)
{
    struct view v = {0};
    const char *help = NULL, *job = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "tasks", .value = &v.tasks, .help = "its tasks"},
        {.name = "events", .value = &v.events, .help = "all that happened to it"},
        {.name = "recipe", .value = &v.recipe, .help = "the recipe with every default"},
        {.name = "state",
         .argument = "DIR",
         .value = &v.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &v.run_dir, .help = "directory of its sockets"},
        {.name = "json", .value = &v.json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    struct rh_error err;
    if (!rh_command_parse(command, argc, argv, options, &job, 1, 1, &count, &code))
        return code;
    if ((v.tasks != NULL) + (v.events != NULL) + (v.recipe != NULL) > 1) {
        (void)rh_fail(&err, RH_ERR_ARGUMENT, "one of --tasks, --events and --recipe at a time");
        return rh_command_fail(&err);
    }
    return show(&v, job);
}
