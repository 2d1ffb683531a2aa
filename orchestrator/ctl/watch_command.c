#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/connection.h"
#include "ctl/follow.h"
#include "ctl/format.h"
#include "ctl/interrupt.h"
#include "ctl/job_path.h"
#include "ctl/progress.h"

#define TURN_MS  500
#define LOST_MAX 20 /* turns without a stream: the orchestrator is gone */

struct watch {
    const char *state, *run_dir, *progress, *job;
};

/* -- One job ---------------------------------------------------------------------------------- */

static int watch_job(const struct watch *w, struct rh_connection *c, enum rh_progress_mode mode)
{
    struct rh_error err = {0};
    struct rh_json *job = NULL;
    bool events = mode == RH_PROGRESS_JSON;
    struct rh_progress *progress =
        rh_progress_new(mode, events ? stdout : stderr, rh_tty_width(STDERR_FILENO));
    struct rh_follow follow = {
        .client = c->client, .job = w->job, .progress = progress, .events = events};
    enum rh_rc rc = rh_follow(&follow, &job, &err);
    rh_progress_free(progress);
    if (rc == RH_ERR_CANCELLED)
        (void)rh_fail(&err, rc, "interrupted; job %s goes on", w->job);
    int code = rc == RH_OK ? rh_command_job_exit(job) : rh_command_fail(&err);
    rh_json_free(job);
    return code;
}

/* -- Everything ------------------------------------------------------------------------------- */

struct printer {
    enum rh_progress_mode mode;
    bool broken; /* nobody reads us any more */
};

static void on_event(void *arg, const char *name, const char *data)
{
    struct printer *p = arg;
    struct rh_json *event = NULL;
    struct rh_strbuf line = {0};
    if (rh_json_parse(data, strlen(data), "an event", &event, NULL) != RH_OK)
        return;
    if (p->mode == RH_PROGRESS_JSON) {
        char *text = rh_json_text(event, false);
        rh_strbuf_printf(&line, "%s\n", text);
        rh_free(text);
    } else if (strcmp(name, "tick") != 0 && strcmp(name, "reset") != 0) {
        rh_format_event(&line, event);
    }
    if (line.text && (fputs(line.text, stdout) < 0 || fflush(stdout) != 0))
        p->broken = true;
    rh_strbuf_done(&line);
    rh_json_free(event);
}

static int watch_all(struct rh_connection *c, enum rh_progress_mode mode)
{
    struct printer printer = {.mode = mode};
    struct rh_sse sse = {.on_event = on_event, .arg = &printer};
    struct rh_error err = {0};
    int lost = 0, code = RH_EXIT_OK;
    rh_client_stream(c->client, "/v1/stream", &sse);
    while (!printer.broken && lost < LOST_MAX && rh_interrupt_count() == 0) {
        if (rh_client_stream_turn(c->client, TURN_MS)) {
            lost = 0;
            continue;
        }
        lost++;
        rh_client_stream(c->client, "/v1/stream", &sse);
    }
    if (printer.broken)
        (void)rh_fail(&err, RH_ERR_IO, "could not write to standard output");
    else if (rh_interrupt_count() > 0)
        (void)rh_fail(&err, RH_ERR_CANCELLED, "interrupted; the jobs go on");
    else
        (void)rh_fail(&err, RH_ERR_REMOTE, "%s: the orchestrator is gone", c->state);
    code = rh_command_fail(&err);
    rh_client_stream_close(c->client);
    rh_sse_done(&sse);
    return code;
}

int rh_command_watch(const struct rh_command *command, int argc, char **argv)
{
    struct watch w = {0};
    const char *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "progress",
         .argument = "MODE",
         .value = &w.progress,
         .help = "auto, plain, json or none"},
        {.name = "state",
         .argument = "DIR",
         .value = &w.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &w.run_dir, .help = "directory of its sockets"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    struct rh_error err = {0};
    struct rh_connection connection = {0};
    enum rh_progress_mode mode;
    if (!rh_command_parse(command, argc, argv, options, &w.job, 0, 1, &count, &code))
        return code;
    rh_interrupt_catch();
    enum rh_rc rc = rh_progress_mode_from(w.progress, STDERR_FILENO, &mode, &err);
    if (rc == RH_OK && w.job)
        rc = rh_job_path_check(w.job, &err);
    if (rc == RH_OK)
        rc = rh_connection_open(&connection, w.state, w.run_dir, RH_CONNECT_LIVE, &err);
    if (rc != RH_OK)
        code = rh_command_fail(&err);
    else
        code = w.job ? watch_job(&w, &connection, mode) : watch_all(&connection, mode);
    rh_connection_close(&connection);
    return code;
}
