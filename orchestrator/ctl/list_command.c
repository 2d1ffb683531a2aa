#include <ctype.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/format.h"

struct listing {
    const char *state, *run_dir, *all, *only, *json;
};

static int show(const struct listing *l, const char *path,
                void (*format)(struct rh_strbuf *out, const struct rh_json *answer))
{
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    struct rh_json *answer = NULL;
    int code;
    enum rh_rc rc = rh_connection_open(&connection, l->state, l->run_dir, RH_CONNECT_OR_READ, &err);
    if (rc == RH_OK)
        rc = rh_client_call(connection.client, "GET", path, NULL, &answer, &err);
    if (rc != RH_OK) {
        code = rh_command_fail(&err);
    } else if (l->json) {
        code = rh_command_print_json(answer);
    } else {
        struct rh_strbuf text = {0};
        format(&text, answer);
        code = rh_command_print(text.text ? text.text : "");
        rh_strbuf_done(&text);
    }
    rh_json_free(answer);
    rh_connection_close(&connection);
    return code;
}

static bool is_word(const char *text)
{
    while (islower((unsigned char)*text))
        text++;
    return *text == '\0';
}

int rh_command_list(const struct rh_command *command, int argc, char **argv)
{
    struct listing l = {0};
    const char *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "all", .value = &l.all, .help = "ended jobs too"},
        {.name = "only",
         .argument = "STATE",
         .value = &l.only,
         .help = "queued, running, blocked, paused, held, done, failed or cancelled"},
        {.name = "state",
         .argument = "DIR",
         .value = &l.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &l.run_dir, .help = "directory of its sockets"},
        {.name = "json", .value = &l.json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, NULL, 0, 0, &count, &code))
        return code;
    if (l.only && !is_word(l.only)) {
        struct rh_error err;
        (void)rh_fail(&err, RH_ERR_ARGUMENT, "--only %.40s: that is no state of a job", l.only);
        return rh_command_fail(&err);
    }
    char *path = rh_format("/v1/jobs?all=%d%s%s", l.all ? 1 : 0, l.only ? "&state=" : "",
                           l.only ? l.only : "");
    code = show(&l, path, rh_format_jobs);
    rh_free(path);
    return code;
}

int rh_command_workers(const struct rh_command *command, int argc, char **argv)
{
    struct listing l = {0};
    const char *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "state",
         .argument = "DIR",
         .value = &l.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &l.run_dir, .help = "directory of its sockets"},
        {.name = "json", .value = &l.json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, NULL, 0, 0, &count, &code))
        return code;
    return show(&l, "/v1/workers", rh_format_workers);
}
