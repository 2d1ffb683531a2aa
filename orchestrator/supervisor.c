#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "scheduler/graph.h"

#define RESTART_MS     200
#define RESTART_MS_MAX 10000
#define STEADY_MS      30000

struct child {
    struct rh_supervisor *owner;
    char *program, *worker, *log;
    uv_process_t process;
    uv_timer_t restart;
    bool running; /* the process handle is in use */
    int64_t started_at;
    int64_t wait_ms; /* before the next start */
};

struct rh_supervisor {
    uv_loop_t *loop;
    struct rh_supervisor_options options;
    char *state_dir, *endpoint;
    struct child children[RH_STAGE_COUNT];
    uv_timer_t grace;
    bool stopping;
    int open_handles;
    void (*done)(void *arg);
    void *done_arg;
};

static int64_t now_ms(void)
{
    return rh_clock_ns() / 1000000;
}

static void start(struct child *c);

static void on_restart(uv_timer_t *timer)
{
    start(timer->data);
}

static void restart_later(struct child *c)
{
    if (c->owner->stopping)
        return;
    uv_timer_start(&c->restart, on_restart, (uint64_t)c->wait_ms, 0);
    c->wait_ms = 2 * c->wait_ms < RESTART_MS_MAX ? 2 * c->wait_ms : RESTART_MS_MAX;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct child *c = handle->data;
    struct rh_supervisor *s = c->owner;
    if (--s->open_handles == 0)
        s->done(s->done_arg);
}

static void on_grace_closed(uv_handle_t *handle)
{
    struct rh_supervisor *s = handle->data;
    if (--s->open_handles == 0)
        s->done(s->done_arg);
}

/* Nobody left: the timers go, and with the last of them the supervisor is done. */
static void look_whether_all_gone(struct rh_supervisor *s)
{
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        if (s->children[i].running)
            return;
    }
    if (!s->stopping || uv_is_closing((uv_handle_t *)&s->grace))
        return;
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        uv_close((uv_handle_t *)&s->children[i].restart, on_handle_closed);
    uv_close((uv_handle_t *)&s->grace, on_grace_closed);
}

static void on_process_closed(uv_handle_t *handle)
{
    struct child *c = handle->data;
    c->running = false;
    restart_later(c);
    look_whether_all_gone(c->owner);
}

static void on_exit_(uv_process_t *process, int64_t status, int signal_number)
{
    struct child *c = process->data;
    struct rh_supervisor *s = c->owner;
    bool died = !s->stopping && (signal_number != 0 || status != 0);
    char *why = signal_number != 0 ? rh_format("%s was ended by signal %d (%s), see %s", c->worker,
                                               signal_number, strsignal(signal_number), c->log)
                                   : rh_format("%s ended with exit code %lld, see %s", c->worker,
                                               (long long)status, c->log);
    if (now_ms() - c->started_at >= STEADY_MS)
        c->wait_ms = RESTART_MS;
    rh_log(died ? RH_LOG_WARN : RH_LOG_INFO, "stage.ended", "worker=%s pid=%d why=\"%s\"",
           c->worker, process->pid, why);
    s->options.gone(s->options.arg, c->worker, died, why);
    rh_free(why);
    uv_close((uv_handle_t *)process, on_process_closed);
}

static void start(struct child *c)
{
    struct rh_supervisor *s = c->owner;
    if (s->stopping || c->running)
        return;
    int log_fd = open(c->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    char connect[] = "--connect", state[] = "--state", worker[] = "--worker";
    char follow[] = "--exit-with-parent", parent[24];
    char wait[] = "--grace", grace[24];
    snprintf(parent, sizeof parent, "%ld", (long)getpid());
    snprintf(grace, sizeof grace, "%lld", (long long)s->options.grace_s);
    char *arguments[] = {c->program, connect, s->endpoint, state,  s->state_dir, worker, c->worker,
                         wait,       grace,   follow,      parent, NULL};
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE},
        {.flags = log_fd < 0 ? UV_IGNORE : UV_INHERIT_FD, .data.fd = log_fd},
        {.flags = log_fd < 0 ? UV_IGNORE : UV_INHERIT_FD, .data.fd = log_fd},
    };
    /* A session of its own: an interrupt typed at the terminal is for the orchestrator, which
     * then asks its children to leave in good order. */
    uv_process_options_t options = {.file = c->program,
                                    .args = arguments,
                                    .exit_cb = on_exit_,
                                    .flags = UV_PROCESS_DETACHED,
                                    .stdio = stdio,
                                    .stdio_count = 3};
    c->process.data = c;
    c->running = true;
    c->started_at = now_ms();
    int failed = uv_spawn(s->loop, &c->process, &options);
    if (log_fd >= 0)
        close(log_fd);
    if (failed) {
        rh_log(RH_LOG_ERROR, "stage.unstartable", "worker=%s program=%s why=\"%s\"", c->worker,
               c->program, uv_strerror(failed));
        uv_close((uv_handle_t *)&c->process, on_process_closed);
        return;
    }
    rh_log(RH_LOG_INFO, "stage.started", "worker=%s pid=%d", c->worker, c->process.pid);
}

enum rh_rc rh_supervisor_new(uv_loop_t *loop, const struct rh_supervisor_options *options,
                             struct rh_supervisor **out, struct rh_error *err)
{
    struct rh_supervisor *s = rh_alloc(sizeof *s);
    enum rh_rc rc = RH_OK;
    s->loop = loop;
    s->options = *options;
    s->state_dir = rh_strdup(options->state_dir);
    s->endpoint = rh_strdup(options->endpoint);
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        struct child *c = &s->children[i];
        const char *stage = rh_stage_name((enum rh_stage_id)i);
        c->owner = s;
        c->wait_ms = RESTART_MS;
        c->program = rh_format("%s/rh-%s", options->bin_dir, stage);
        c->worker = rh_format("%s-1", stage);
        c->log = rh_format("%s/%s.log", options->log_dir, stage);
        if (rc == RH_OK && access(c->program, X_OK) != 0)
            rc = rh_fail(err, RH_ERR_NOT_FOUND,
                         "%s: %s; the stage programs must be installed beside roundhoused",
                         c->program, strerror(errno));
    }
    if (rc != RH_OK) {
        rh_supervisor_free(s);
        return rc;
    }
    uv_timer_init(loop, &s->grace);
    s->grace.data = s;
    s->open_handles = RH_STAGE_COUNT + 1;
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        uv_timer_init(loop, &s->children[i].restart);
        s->children[i].restart.data = &s->children[i];
    }
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        start(&s->children[i]);
    *out = s;
    return RH_OK;
}

static void signal_all(struct rh_supervisor *s, int signal_number)
{
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        struct child *c = &s->children[i];
        if (c->running && !uv_is_closing((uv_handle_t *)&c->process))
            uv_process_kill(&c->process, signal_number);
    }
}

void rh_supervisor_kill(struct rh_supervisor *s, const char *worker, int64_t pid, const char *why)
{
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        struct child *c = &s->children[i];
        if (strcmp(c->worker, worker) != 0 || !c->running || c->process.pid != pid ||
            uv_is_closing((uv_handle_t *)&c->process))
            continue;
        rh_log(RH_LOG_WARN, "stage.killed", "worker=%s pid=%lld why=\"%s\"", worker, (long long)pid,
               why);
        uv_process_kill(&c->process, SIGKILL);
    }
}

static void on_grace_over(uv_timer_t *timer)
{
    rh_log(RH_LOG_WARN, "stages.killed", "why=\"they did not stop in time\"");
    signal_all(timer->data, SIGKILL);
}

void rh_supervisor_stop(struct rh_supervisor *s, int64_t grace_ms, void (*done)(void *arg),
                        void *arg)
{
    s->done = done;
    s->done_arg = arg;
    if (uv_is_closing((uv_handle_t *)&s->grace))
        return;
    if (!s->stopping)
        signal_all(s, SIGTERM);
    s->stopping = true;
    uv_timer_start(&s->grace, on_grace_over, (uint64_t)grace_ms, 0);
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        uv_timer_stop(&s->children[i].restart);
    look_whether_all_gone(s);
}

void rh_supervisor_free(struct rh_supervisor *s)
{
    if (!s)
        return;
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        rh_free(s->children[i].program);
        rh_free(s->children[i].worker);
        rh_free(s->children[i].log);
    }
    rh_free(s->state_dir);
    rh_free(s->endpoint);
    rh_free(s);
}
