#include <string.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/format.h"

/* drain and undrain: workers that get nothing new, and get it again. */

#define WORKERS_MAX 64

struct drain {
    const char *state, *run, *why, *json;
    const char *workers[WORKERS_MAX];
    int count;
    bool drain;
};

static enum rh_rc drain_one(const struct drain *d, struct rh_client *client, const char *worker,
                            struct rh_json **out, struct rh_error *err)
{
    struct rh_json *body = rh_json_new_object();
    struct rh_json *answer = NULL;
    rh_json_set_bool(body, "drain", d->drain);
    if (d->why)
        rh_json_set_string(body, "why", d->why);
    enum rh_rc rc = RH_OK;
    size_t size = strlen(worker);
    if (size == 0 || strspn(worker, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                    "._-") != size)
        rc = rh_fail(err, RH_ERR_NOT_FOUND, "there is no worker \"%.64s\"", worker);
    char *path = rh_format("/v1/workers/%s/drain", worker);
    if (rc == RH_OK)
        rc = rh_client_call(client, "POST", path, body, &answer, err);
    if (rc == RH_OK) {
        rh_json_free(*out);
        *out = answer;
    }
    rh_free(path);
    rh_json_free(body);
    return rc;
}

static int drain_all(const struct drain *d)
{
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    struct rh_json *workers = NULL;
    int failed = 0, code = RH_EXIT_OK;
    if (rh_connection_open(&connection, d->state, d->run, RH_CONNECT_OR_READ, &err) != RH_OK) {
        code = rh_command_fail(&err);
        goto out;
    }
    for (int i = 0; i < d->count; i++) {
        if (drain_one(d, connection.client, d->workers[i], &workers, &err) == RH_OK)
            continue;
        code = rh_command_fail(&err);
        failed++;
    }
    if (failed > 0 && failed < d->count)
        code = RH_EXIT_PARTLY;
    if (workers && d->json) {
        int printed = rh_command_print_json(workers);
        code = code ? code : printed;
    } else if (workers) {
        struct rh_strbuf text = {0};
        rh_format_workers(&text, workers);
        int printed = rh_command_print(text.text ? text.text : "");
        code = code ? code : printed;
        rh_strbuf_done(&text);
    }
out:
    rh_json_free(workers);
    rh_connection_close(&connection);
    return code;
}

int rh_command_drain(const struct rh_command *command, int argc, char **argv)
{
    struct drain d = {.drain = strcmp(command->name, "drain") == 0};
    const char *help = NULL;
    int code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "why", .argument = "TEXT", .value = &d.why, .help = "for whoever looks later"},
        {.name = "state",
         .argument = "DIR",
         .value = &d.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &d.run, .help = "directory of its sockets"},
        {.name = "json", .value = &d.json, .help = "print the workers as JSON"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, d.workers, 1, WORKERS_MAX, &d.count, &code))
        return code;
    return drain_all(&d);
}
