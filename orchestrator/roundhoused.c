#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "factory/factory.h"
#include "http_api/http_api.h"
#include "scheduler/scheduler.h"

/* The orchestrator: one state directory, one loop. */

/* ROUTER spins when descriptors run out, so there must be many. */
#define FILES_WANTED 65536
#define FILES_NEEDED 512

#define GRACE_S     90
#define GRACE_S_MAX 86400

struct arguments {
    const char *state, *run, *http, *spawn, *exit_when_idle, *headroom, *retain, *grace,
        *version, *help;
    const char *limits[RH_STAGE_COUNT];
    int limit_count;
};

struct program {
    uv_loop_t loop;
    struct rh_factory *factory;
    struct rh_http_api *api;
    uv_signal_t terminate, interrupt;
};

static void on_stopped(void *arg)
{
    struct program *p = arg;
    rh_http_api_close(p->api);
    uv_close((uv_handle_t *)&p->terminate, NULL);
    uv_close((uv_handle_t *)&p->interrupt, NULL);
}

static void stop(struct program *p)
{
    rh_notify_service("STOPPING=1");
    rh_factory_stop(p->factory, on_stopped, p);
}

/* The first one drains, the second one does not wait. */
static void on_signal(uv_signal_t *handle, int number)
{
    rh_log(RH_LOG_INFO, "factory.stopping", "signal=%d", number);
    stop(handle->data);
}

static void on_idle(void *arg)
{
    rh_log(RH_LOG_INFO, "factory.idle", "%s", "");
    stop(arg);
}

static enum rh_rc raise_file_limit(struct rh_error *err)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return rh_fail_errno(err, errno, "could not read the limit of open files");
    if (limit.rlim_cur < FILES_WANTED) {
        limit.rlim_cur = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            return rh_fail_errno(err, errno, "could not raise the limit of open files");
    }
    if (limit.rlim_cur < FILES_NEEDED)
        return rh_fail(err, RH_ERR_IO,
                       "only %llu files may be open, %d are needed; raise the hard "
                       "limit (ulimit -Hn)",
                       (unsigned long long)limit.rlim_cur, FILES_NEEDED);
    return RH_OK;
}

/* "20G": bytes, with K, M, G or T for powers of 1024. */
static enum rh_rc read_size(const char *option, const char *text, int64_t *out,
                            struct rh_error *err)
{
    static const char suffixes[] = "KMGT";
    char *end = NULL;
    double value = strtod(text, &end);
    const char *suffix = end != text && *end ? strchr(suffixes, *end) : NULL;
    for (const char *s = suffixes; suffix && s <= suffix; s++)
        value *= 1024;
    if (end == text || (*end && (!suffix || end[1])) || !(value >= 0) || value > 9e15)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "--%s %.40s: a number of bytes is needed, K, M, G or T may follow", option,
                       text);
    *out = (int64_t)value;
    return RH_OK;
}

/* "download=2" */
static enum rh_rc read_limit(const char *text, struct rh_sched_config *config, struct rh_error *err)
{
    char name[32] = "";
    enum rh_stage_id stage = RH_STAGE_DOWNLOAD;
    char *end = NULL;
    size_t size = strcspn(text, "=");
    if (size < sizeof name)
        memcpy(name, text, size);
    long value = text[size] ? strtol(text + size + 1, &end, 10) : 0;
    if (!rh_stage_from_name(name, &stage) || !end || *end || value < 1 || value > 1000000)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "--limit %.60s: STAGE=N is needed; the stages are download, calibrate, "
                       "quantize, pack and publish",
                       text);
    config->stage_max[stage] = (int)value;
    return RH_OK;
}

static enum rh_rc read_limits(const struct arguments *a, struct rh_factory_options *options,
                              struct rh_sched_config *config, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    *config = rh_sched_defaults;
    config->headroom = -1; /* follows the size of the disk */
    options->sched = config;
    if (a->headroom)
        rc = read_size("headroom", a->headroom, &config->headroom, err);
    if (rc == RH_OK && a->retain)
        rc = read_size("retain", a->retain, &options->retain_bytes, err);
    for (int i = 0; i < a->limit_count && rc == RH_OK; i++)
        rc = read_limit(a->limits[i], config, err);
    return rc;
}

static enum rh_rc read_arguments(const struct arguments *a, struct rh_factory_options *options,
                                 struct rh_error *err)
{
    if (!a->state)
        return rh_fail(err, RH_ERR_ARGUMENT, "--state DIR is needed");
    options->state_dir = a->state;
    options->run_dir = a->run;
    options->spawn = a->spawn != NULL;
    options->exit_when_idle = a->exit_when_idle != NULL;
    options->grace_s = GRACE_S;
    char *end = NULL;
    if (a->grace)
        options->grace_s = strtol(a->grace, &end, 10);
    if (a->grace && (end == a->grace || *end || options->grace_s < 0 || options->grace_s > GRACE_S_MAX))
        return rh_fail(err, RH_ERR_ARGUMENT, "--grace %.40s: 0 to %d seconds are possible", a->grace,
                       GRACE_S_MAX);
    if (!a->http)
        return RH_OK;
    long port = strtol(a->http, &end, 10);
    if (end == a->http || *end || port < 1 || port > 65535)
        return rh_fail(err, RH_ERR_ARGUMENT, "--http %s: a port from 1 to 65535 is needed",
                       a->http);
    options->http_port = (int)port;
    return RH_OK;
}

static enum rh_rc start(struct program *p, const struct rh_factory_options *options,
                        struct rh_error *err)
{
    enum rh_rc rc = rh_factory_new(&p->loop, options, &p->factory, err);
    if (rc != RH_OK)
        return rc;
    uv_signal_init(&p->loop, &p->terminate);
    uv_signal_init(&p->loop, &p->interrupt);
    p->terminate.data = p->interrupt.data = p;
    uv_signal_start(&p->terminate, on_signal, SIGTERM);
    uv_signal_start(&p->interrupt, on_signal, SIGINT);
    char *socket = rh_factory_api_path(p->factory);
    rc = rh_http_api_new(&p->loop, p->factory, socket, options->http_port, &p->api, err);
    rh_free(socket);
    if (rc != RH_OK) {
        p->api = NULL;
        stop(p);
        return rc;
    }
    rh_factory_on_idle(p->factory, on_idle, p);
    rh_notify_service("READY=1");
    rh_log(RH_LOG_INFO, "factory.ready", "state=%s epoch=%llu", options->state_dir,
           (unsigned long long)rh_factory_epoch(p->factory));
    return RH_OK;
}

static enum rh_rc serve(const struct arguments *a, struct rh_error *err)
{
    struct program p = {0};
    struct rh_factory_options options = {0};
    char *bin_dir = rh_program_dir();
    options.bin_dir = bin_dir;
    struct rh_sched_config config;
    enum rh_rc rc = read_arguments(a, &options, err);
    if (rc == RH_OK)
        rc = read_limits(a, &options, &config, err);
    if (rc == RH_OK)
        rc = raise_file_limit(err);
    if (rc == RH_OK) {
        signal(SIGPIPE, SIG_IGN);
        signal(SIGXFSZ, SIG_IGN); /* a limit on files is an error like any other */
        uv_loop_init(&p.loop);
        rc = start(&p, &options, err);
        uv_run(&p.loop, UV_RUN_DEFAULT);
        rh_factory_free(p.factory);
        uv_loop_close(&p.loop);
    }
    rh_free(bin_dir);
    return rc;
}

static void print_help(const struct rh_option *options)
{
    char *table = rh_options_help(options);
    printf("roundhoused: the orchestrator of Roundhouse.\n\n"
           "  roundhoused --state DIR [--spawn] [options]\n\n%s",
           table);
    rh_free(table);
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    const struct rh_option options[] = {
        {.name = "state",
         .argument = "DIR",
         .value = &a.state,
         .help = "state directory, on a local disk"},
        {.name = "run",
         .argument = "DIR",
         .value = &a.run,
         .help = "directory of the sockets (default: run below the state directory)"},
        {.name = "spawn", .value = &a.spawn, .help = "start and watch one daemon of each stage"},
        {.name = "http",
         .argument = "PORT",
         .value = &a.http,
         .help = "serve the HTTP API on 127.0.0.1 too"},
        {.name = "limit",
         .argument = "STAGE=N",
         .values = a.limits,
         .value_count = &a.limit_count,
         .value_max = RH_STAGE_COUNT,
         .help = "no more than N tasks of the stage at the same time"},
        {.name = "headroom",
         .argument = "SIZE",
         .value = &a.headroom,
         .help = "bytes that stay free on the disk (default a twentieth, at most 1G)"},
        {.name = "retain",
         .argument = "SIZE",
         .value = &a.retain,
         .help = "keep so much of finished jobs for later ones to reuse (default 0)"},
        {.name = "grace",
         .argument = "SECONDS",
         .value = &a.grace,
         .help = "SIGTERM: time for --spawn's daemons to end the block that is tuned (default 90)"},
        {.name = "exit-when-idle",
         .value = &a.exit_when_idle,
         .help = "leave when there was a job and none is active any more"},
        {.name = "version", .value = &a.version, .help = "print the version"},
        {.name = "help", .value = &a.help, .help = "print this"},
        {0},
    };
    struct rh_error err;
    const char *positional = NULL;
    int count = 0;
    rh_log_init("roundhoused");
    enum rh_rc rc = rh_options_parse(argc, argv, options, &positional, 0, &count, &err);
    if (rc == RH_OK && a.help)
        print_help(options);
    else if (rc == RH_OK && a.version)
        printf("roundhoused %s\n", RH_VERSION);
    else if (rc == RH_OK)
        rc = serve(&a, &err);
    if (rc != RH_OK)
        fprintf(stderr, "roundhoused: %s\n", err.message);
    return rc == RH_OK ? RH_EXIT_OK : rh_exit_code(&err);
}
