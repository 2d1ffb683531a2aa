#include <string.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/format.h"
#include "ctl/job_path.h"

/* What ran when, as lanes of one character a slice of time. */

#define JOBS_MAX 32
#define COLUMNS  60

static const char *text_of(const struct rh_json *object, const char *key)
{
    const char *text = rh_json_string(rh_json_get(object, key));
    return text ? text : "";
}

static double number_of(const struct rh_json *object, const char *key)
{
    return rh_json_number(rh_json_get(object, key), 0);
}

/* One lane: where a task of the job and stage ran; "x" where it was lost or failed. */
static bool draw_lane(char lane[COLUMNS + 1], const struct rh_json *spans, const char *job,
                      const char *stage, double length)
{
    bool any = false;
    memset(lane, '.', COLUMNS);
    lane[COLUMNS] = '\0';
    for (const struct rh_json *s = rh_json_first(spans); s; s = rh_json_next(s)) {
        if (strcmp(text_of(s, "job"), job) != 0 || strcmp(text_of(s, "stage"), stage) != 0)
            continue;
        const char *outcome = text_of(s, "outcome");
        bool good = strcmp(outcome, "done") == 0 || strcmp(outcome, "running") == 0;
        int from = (int)(number_of(s, "begin_s") / length * COLUMNS);
        int to = (int)(number_of(s, "end_s") / length * COLUMNS);
        for (int i = from; i <= to && i < COLUMNS; i++)
            lane[i] = good ? '#' : 'x';
        any = true;
    }
    return any;
}

static void add_job(struct rh_strbuf *text, const struct rh_json *timeline,
                    const struct rh_json *job, double length)
{
    static const char *const stages[] = {"download", "calibrate", "quantize", "pack", "publish"};
    char lane[COLUMNS + 1];
    rh_format_clean(text, text_of(job, "id"));
    rh_strbuf_puts(text, "  ");
    rh_format_clean(text, text_of(job, "name"));
    rh_strbuf_puts(text, "  ");
    rh_format_clean(text, text_of(job, "state"));
    rh_strbuf_puts(text, "\n");
    for (int i = 0; i < 5; i++) {
        if (draw_lane(lane, rh_json_get(timeline, "spans"), text_of(job, "id"), stages[i], length))
            rh_strbuf_printf(text, "  %-9s |%s|\n", stages[i], lane);
    }
}

static char *timeline_text(const struct rh_json *timeline)
{
    struct rh_strbuf text = {0};
    const struct rh_json *tuner = rh_json_get(timeline, "tuner");
    double length =
        (number_of(timeline, "to_unix_ns") - number_of(timeline, "from_unix_ns")) * 1e-9;
    const struct rh_json *jobs = rh_json_get(timeline, "jobs");
    for (const struct rh_json *j = rh_json_first(jobs); j; j = rh_json_next(j))
        add_job(&text, timeline, j, length > 0 ? length : 1);
    char *whole = rh_human_seconds(length);
    char *both = rh_human_seconds(number_of(timeline, "overlap_s"));
    rh_strbuf_printf(&text, "%s in all; tasks of several jobs at once for %s\n", whole, both);
    rh_free(both);
    rh_free(whole);
    if (rh_json_is_null(rh_json_get(tuner, "idle_share")))
        return rh_strbuf_take(&text);
    char *wall = rh_human_seconds(number_of(tuner, "wall_s"));
    rh_strbuf_printf(&text, "tuner idle for %.1f %% of %s behind its first block\n",
                     100 * number_of(tuner, "idle_share"), wall);
    rh_free(wall);
    return rh_strbuf_take(&text);
}

/* "/v1/timeline?jobs=a,b"; owned by caller, NULL when one cannot be a job. */
static char *path_of(const char *const *jobs, int count, struct rh_error *err)
{
    struct rh_strbuf path = {0};
    rh_strbuf_puts(&path, "/v1/timeline");
    for (int i = 0; i < count; i++) {
        if (rh_job_path_check(jobs[i], err) != RH_OK) {
            rh_strbuf_done(&path);
            return NULL;
        }
        rh_strbuf_printf(&path, "%s%s", i == 0 ? "?jobs=" : ",", jobs[i]);
    }
    return rh_strbuf_take(&path);
}

static int show(const char *state, const char *run, const char *path, bool json)
{
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    struct rh_json *answer = NULL;
    int code;
    enum rh_rc rc = rh_connection_open(&connection, state, run, RH_CONNECT_OR_READ, &err);
    if (rc == RH_OK)
        rc = rh_client_call(connection.client, "GET", path, NULL, &answer, &err);
    if (rc != RH_OK) {
        code = rh_command_fail(&err);
    } else if (json) {
        code = rh_command_print_json(answer);
    } else {
        char *text = timeline_text(answer);
        code = rh_command_print(text);
        rh_free(text);
    }
    rh_json_free(answer);
    rh_connection_close(&connection);
    return code;
}

int rh_command_timeline(const struct rh_command *command, int argc, char **argv)
{
    const char *state = NULL, *run = NULL, *json = NULL, *help = NULL;
    const char *jobs[JOBS_MAX];
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "state",
         .argument = "DIR",
         .value = &state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &run, .help = "directory of its sockets"},
        {.name = "json", .value = &json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, jobs, 0, JOBS_MAX, &count, &code))
        return code;
    struct rh_error err;
    char *path = path_of(jobs, count, &err);
    code = path ? show(state, run, path, json != NULL) : rh_command_fail(&err);
    rh_free(path);
    return code;
}
