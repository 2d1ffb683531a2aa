#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/format.h"
#include "ctl/place.h"
#include "database/database.h"
#include "upkeep/doctor.h"

/* doctor, backup and gc: looking after a state directory. */

/* -- doctor ----------------------------------------------------------------------------------- */

static void add_problem(struct rh_strbuf *text, const struct rh_json *problem)
{
    bool fixed = rh_json_bool(rh_json_get(problem, "fixed"), false);
    const char *job = rh_json_string(rh_json_get(problem, "job"));
    rh_strbuf_puts(text, fixed ? "fixed" : rh_json_string(rh_json_get(problem, "severity")));
    rh_strbuf_puts(text, ": ");
    rh_format_clean(text, rh_json_string(rh_json_get(problem, "what")));
    rh_strbuf_puts(text, "\n  ");
    rh_format_clean(text, rh_json_string(rh_json_get(problem, "path")));
    if (job) {
        rh_strbuf_puts(text, "\n  job ");
        rh_format_clean(text, job);
    }
    if (!fixed) {
        rh_strbuf_puts(text, "\n  ");
        rh_format_clean(text, rh_json_string(rh_json_get(problem, "remedy")));
    }
    rh_strbuf_puts(text, "\n");
}

static char *doctor_text(const struct rh_json *report)
{
    struct rh_strbuf text = {0};
    const struct rh_json *checked = rh_json_get(report, "checked");
    const struct rh_json *problems = rh_json_get(report, "problems");
    int64_t jobs = 0, artifacts = 0;
    (void)rh_json_int(rh_json_get(checked, "jobs"), &jobs);
    (void)rh_json_int(rh_json_get(checked, "artifacts"), &artifacts);
    for (const struct rh_json *p = rh_json_first(problems); p; p = rh_json_next(p))
        add_problem(&text, p);
    char *bytes = rh_human_bytes(rh_json_number(rh_json_get(checked, "bytes"), 0));
    rh_strbuf_printf(&text, "%lld jobs, %lld artifacts, %s%s: %zu problems\n", (long long)jobs,
                     (long long)artifacts, bytes,
                     rh_json_bool(rh_json_get(report, "deep"), false) ? " read" : "",
                     rh_json_count(problems));
    rh_free(bytes);
    return rh_strbuf_take(&text);
}

static bool something_left(const struct rh_json *report)
{
    const struct rh_json *problems = rh_json_get(report, "problems");
    for (const struct rh_json *p = rh_json_first(problems); p; p = rh_json_next(p)) {
        if (!rh_json_bool(rh_json_get(p, "fixed"), false))
            return true;
    }
    return false;
}

int rh_command_doctor(const struct rh_command *command, int argc, char **argv)
{
    const char *state = NULL, *deep = NULL, *fix = NULL, *json = NULL, *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "state",
         .argument = "DIR",
         .value = &state,
         .help = "state directory of the orchestrator"},
        {.name = "deep", .value = &deep, .help = "read every file and compare its digest"},
        {.name = "fix",
         .value = &fix,
         .help = "repair what can be; while no orchestrator is at work there"},
        {.name = "json", .value = &json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, NULL, 0, 0, &count, &code))
        return code;
    struct rh_error err;
    struct rh_json *report = NULL;
    const struct rh_doctor_options doctor = {.deep = deep != NULL, .fix = fix != NULL};
    char *dir = rh_place_state(state);
    if (rh_doctor(dir, &doctor, &report, &err) != RH_OK) {
        code = rh_command_fail(&err);
    } else if (json) {
        code = rh_command_print_json(report);
    } else {
        char *text = doctor_text(report);
        code = rh_command_print(text);
        rh_free(text);
    }
    if (code == RH_EXIT_OK && something_left(report))
        code = RH_EXIT_PROBLEMS;
    rh_json_free(report);
    rh_free(dir);
    return code;
}

/* -- backup ----------------------------------------------------------------------------------- */

int rh_command_backup(const struct rh_command *command, int argc, char **argv)
{
    const char *state = NULL, *help = NULL, *file = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "state",
         .argument = "DIR",
         .value = &state,
         .help = "state directory of the orchestrator"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, &file, 1, 1, &count, &code))
        return code;
    struct rh_error err;
    struct rh_database *db = NULL;
    char *dir = rh_place_state(state);
    char *path = rh_format("%s/roundhouse.db", dir);
    char *to = rh_place_absolute(file);
    enum rh_rc rc = rh_database_open_reader(path, &db, &err);
    if (rc == RH_OK)
        rc = rh_database_backup(db, to, &err);
    rh_database_close(db);
    code = rc == RH_OK ? RH_EXIT_OK : rh_command_fail(&err);
    rh_free(to);
    rh_free(path);
    rh_free(dir);
    return code;
}

/* -- gc --------------------------------------------------------------------------------------- */

static const struct {
    const char *suffix;
    double factor;
} units[] = {{"", 1},  {"K", 1024.0}, {"M", 1048576.0}, {"G", 1073741824.0}, {"T", 1099511627776.0},
             {"s", 1}, {"h", 3600},   {"d", 86400}};

/* "20G" or "30d"; first and last: the rows that may be meant. */
static enum rh_rc read_amount(const char *option, const char *text, size_t first, size_t last,
                              struct rh_json *body, const char *key, struct rh_error *err)
{
    char *end = NULL;
    double value = strtod(text, &end);
    for (size_t i = first; i <= last && end != text && value >= 0; i++) {
        double amount = value * units[i].factor;
        if (strcmp(end, units[i].suffix) == 0 && amount < 9e15) {
            rh_json_set_int(body, key, (int64_t)amount);
            return RH_OK;
        }
    }
    return rh_fail(err, RH_ERR_ARGUMENT, "--%s %.40s: a number with %s is needed", option, text,
                   first == 0 ? "K, M, G or T" : "s, h or d behind it");
}

static char *gc_text(const struct rh_json *report)
{
    struct rh_strbuf text = {0};
    bool dry = rh_json_bool(rh_json_get(report, "dry_run"), false);
    const struct rh_json *items = rh_json_get(report, "items");
    for (const struct rh_json *i = rh_json_first(items); i; i = rh_json_next(i)) {
        char *bytes = rh_human_bytes(rh_json_number(rh_json_get(i, "bytes"), 0));
        rh_strbuf_printf(&text, "%10s  %-8s  ", bytes, rh_json_string(rh_json_get(i, "what")));
        rh_format_clean(&text, rh_json_string(rh_json_get(i, "path")));
        rh_strbuf_puts(&text, "\n");
        rh_free(bytes);
    }
    char *freed = rh_human_bytes(rh_json_number(rh_json_get(report, "freed_bytes"), 0));
    char *kept = rh_human_bytes(rh_json_number(rh_json_get(report, "retained_bytes"), 0));
    rh_strbuf_printf(&text, "%s %s, %s of finished jobs kept\n", freed,
                     dry ? "would be freed" : "freed", kept);
    rh_free(kept);
    rh_free(freed);
    return rh_strbuf_take(&text);
}

static int collect(const char *state, const char *run, const struct rh_json *body, bool json)
{
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    struct rh_json *answer = NULL;
    int code;
    enum rh_rc rc = rh_connection_open(&connection, state, run, RH_CONNECT_OR_READ, &err);
    if (rc == RH_OK)
        rc = rh_client_call(connection.client, "POST", "/v1/gc", body, &answer, &err);
    if (rc != RH_OK) {
        code = rh_command_fail(&err);
    } else if (json) {
        code = rh_command_print_json(answer);
    } else {
        char *text = gc_text(answer);
        code = rh_command_print(text);
        rh_free(text);
    }
    rh_json_free(answer);
    rh_connection_close(&connection);
    return code;
}

int rh_command_gc(const struct rh_command *command, int argc, char **argv)
{
    const char *state = NULL, *run = NULL, *dry = NULL, *retain = NULL, *failed = NULL,
               *json = NULL, *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "dry-run", .value = &dry, .help = "say what would go, delete nothing"},
        {.name = "retain",
         .argument = "SIZE",
         .value = &retain,
         .help = "keep so much of finished jobs, the newest (20G; default: as the orchestrator)"},
        {.name = "failed",
         .argument = "AGE",
         .value = &failed,
         .help = "delete what failed or was cancelled so long ago too (30d)"},
        {.name = "state",
         .argument = "DIR",
         .value = &state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &run, .help = "directory of its sockets"},
        {.name = "json", .value = &json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, NULL, 0, 0, &count, &code))
        return code;
    struct rh_error err;
    struct rh_json *body = rh_json_new_object();
    enum rh_rc rc = RH_OK;
    rh_json_set_bool(body, "dry_run", dry != NULL);
    if (retain)
        rc = read_amount("retain", retain, 0, 4, body, "retain_bytes", &err);
    if (rc == RH_OK && failed)
        rc = read_amount("failed", failed, 5, 7, body, "failed_after_s", &err);
    code = rc == RH_OK ? collect(state, run, body, json != NULL) : rh_command_fail(&err);
    rh_json_free(body);
    return code;
}
