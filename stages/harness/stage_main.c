#define _GNU_SOURCE /* prctl's companions */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "link.h"

#define WORKER_MAX  63
#define OPTIONS_MAX 16
#define GRACE_S     90

struct arguments {
    const char *connect, *state, *worker, *slots, *grace, *exit_with_parent, *version, *help;
};

static enum rh_rc parse(int argc, char **argv, const struct rh_option *options,
                        struct rh_error *err)
{
    int count = 0;
    const char *positional = NULL;
    enum rh_rc rc = rh_options_parse(argc, argv, options, &positional, 0, &count, err);
    return rc;
}

static void print_help(const struct rh_stage *stage, const struct rh_option *options)
{
    char *table = rh_options_help(options);
    printf("rh-%s: the %s stage of Roundhouse, a daemon that works for a roundhoused.\n\n"
           "  rh-%s --connect ENDPOINT --state DIR [options]\n\n%s",
           stage->name, stage->name, stage->name, table);
    rh_free(table);
}

/* An embedded daemon must not outlive the orchestrator that started it, which may have died before
 * this line already: only its number tells. */
static enum rh_rc follow_parent(const char *parent, pid_t *out, struct rh_error *err)
{
    char *end = NULL;
    long pid = strtol(parent, &end, 10);
    if (end == parent || *end || pid < 1)
        return rh_fail(err, RH_ERR_ARGUMENT, "--exit-with-parent %.40s: a process id is needed",
                       parent);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != (pid_t)pid)
        return rh_fail(err, RH_ERR_CANCELLED, "process %ld, which started this one, is gone", pid);
    *out = (pid_t)pid;
    return RH_OK;
}

static enum rh_rc read_number(const char *option, const char *text, int min, int max, int *out,
                              struct rh_error *err)
{
    char *end = NULL;
    if (!text)
        return RH_OK;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < min || n > max)
        return rh_fail(err, RH_ERR_ARGUMENT, "--%s %.40s: %d to %d are possible", option, text, min,
                       max);
    *out = (int)n;
    return RH_OK;
}

static enum rh_rc check(const struct arguments *a, int *slots, int *grace, struct rh_error *err)
{
    if (!a->connect || !a->state)
        return rh_fail(err, RH_ERR_ARGUMENT, "--connect ENDPOINT and --state DIR are needed");
    if (a->state[0] != '/')
        return rh_fail(err, RH_ERR_ARGUMENT, "--state %s: an absolute path is needed", a->state);
    /* The name also goes into the socket's identity and the orchestrator's tables. */
    const char *usual = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    if (a->worker && (strlen(a->worker) == 0 || strlen(a->worker) > WORKER_MAX ||
                      strspn(a->worker, usual) != strlen(a->worker)))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "--worker %.80s: 1 to %d letters, digits, dots, dashes and underscores are "
                       "possible",
                       a->worker, WORKER_MAX);
    enum rh_rc rc = read_number("slots", a->slots, 1, 64, slots, err);
    return rc == RH_OK ? read_number("grace", a->grace, 0, 86400, grace, err) : rc;
}

static enum rh_rc run(const struct rh_stage *stage, const struct arguments *a, struct rh_error *err)
{
    int slots = stage->default_slots;
    int grace = GRACE_S;
    pid_t parent = 0;
    enum rh_rc rc = check(a, &slots, &grace, err);
    if (rc == RH_OK && stage->check)
        rc = stage->check(err);
    if (rc != RH_OK)
        return rc;
    if (a->exit_with_parent)
        rc = follow_parent(a->exit_with_parent, &parent, err);
    if (rc != RH_OK)
        return rc;
    char *worker =
        a->worker ? rh_strdup(a->worker) : rh_format("%s-%d", stage->name, (int)getpid());
    const struct rh_link_options options = {.endpoint = a->connect,
                                            .state_dir = a->state,
                                            .worker = worker,
                                            .slots = slots,
                                            .grace_ms = grace * INT64_C(1000),
                                            .parent = parent};
    rc = rh_link_run(stage, &options, err);
    rh_free(worker);
    return rc;
}

/* The stage's own options behind the common ones. */
static void add_own(const struct rh_stage *stage, struct rh_option *options)
{
    int end = 0;
    while (options[end].name)
        end++;
    for (const struct rh_option *o = stage->options; o && o->name; o++) {
        RH_ASSERT(end < OPTIONS_MAX - 1);
        options[end++] = *o;
    }
}

int rh_stage_main(const struct rh_stage *stage, int argc, char **argv)
{
    int code = stage->command ? stage->command(argc, argv) : -1;
    if (code >= 0)
        return code;
    struct arguments a = {0};
    struct rh_option options[OPTIONS_MAX] = {
        {.name = "connect",
         .argument = "ENDPOINT",
         .value = &a.connect,
         .help = "work socket of the orchestrator, ipc:///path"},
        {.name = "state",
         .argument = "DIR",
         .value = &a.state,
         .help = "state directory of the orchestrator, absolute"},
        {.name = "worker",
         .argument = "NAME",
         .value = &a.worker,
         .help = "stable name of this worker"},
        {.name = "slots", .argument = "N", .value = &a.slots, .help = "tasks at the same time"},
        {.name = "grace",
         .argument = "SECONDS",
         .value = &a.grace,
         .help = "SIGTERM: time to end the block that is tuned (default 90)"},
        {.name = "exit-with-parent",
         .argument = "PID",
         .value = &a.exit_with_parent,
         .help = "stop when this process, the parent, is gone"},
        {.name = "version", .value = &a.version, .help = "print the version"},
        {.name = "help", .value = &a.help, .help = "print this"},
    };
    add_own(stage, options);
    char *program = rh_format("rh-%s", stage->name);
    rh_log_init(program);
    struct rh_error err;
    enum rh_rc rc = parse(argc, argv, options, &err);
    if (rc == RH_OK && a.help)
        print_help(stage, options);
    else if (rc == RH_OK && a.version)
        printf("%s %s\n", program, RH_VERSION);
    else if (rc == RH_OK)
        rc = run(stage, &a, &err);
    if (rc != RH_OK)
        fprintf(stderr, "%s: %s\n", program, err.message);
    rh_free(program);
    return rc == RH_OK ? RH_EXIT_OK : rh_exit_code(&err);
}
