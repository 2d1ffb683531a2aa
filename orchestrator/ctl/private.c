#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "ctl/interrupt.h"
#include "ctl/private.h"
#include "daemon/daemon.h"

#define START_NS     INT64_C(30000000000)
#define STOP_NS      INT64_C(60000000000)
#define STEP_NS      20000000L
#define LOG_MAX      ((uint64_t)64 << 20)
#define LAST_ARG_MAX 9

static void nap(void)
{
    struct timespec step = {.tv_nsec = STEP_NS};
    nanosleep(&step, NULL);
}

/* The child's side, between fork and exec: nothing but system calls. */
static _Noreturn void become(const char *program, char **arguments, int log_fd, pid_t parent)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    /* Ctrl-C is for this program alone, which then asks its child to leave in good order. */
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent || null_fd < 0)
        _exit(RH_EXIT_FAILED);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    execv(program, arguments);
    _exit(127);
}

static enum rh_rc launch(struct rh_private *p, struct rh_error *err)
{
    char *dir = rh_program_dir();
    char *program = rh_fs_join(dir, "roundhoused");
    char name[] = "roundhoused", state[] = "--state", run[] = "--run", spawn[] = "--spawn";
    char grace[] = "--grace", none[] = "0"; /* somebody sits before it and wants it to end */
    char *arguments[LAST_ARG_MAX] = {name,   state, p->state, run,
                                     p->run, grace, none,     p->spawn ? spawn : NULL};
    enum rh_rc rc = RH_OK;
    int log_fd = -1;
    if (access(program, X_OK) != 0) {
        rc = rh_fail_errno(err, errno, "%s: the orchestrator must be installed beside this program",
                           program);
        goto out;
    }
    log_fd = open(p->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log_fd < 0) {
        rc = rh_fail_errno(err, errno, "%s: could not be opened", p->log);
        goto out;
    }
    pid_t parent = getpid();
    p->pid = fork();
    if (p->pid == 0)
        become(program, arguments, log_fd, parent);
    if (p->pid < 0) {
        p->pid = 0;
        rc = rh_fail_errno(err, errno, "%s: could not be started", program);
    }
out:
    if (log_fd >= 0)
        close(log_fd);
    rh_free(program);
    rh_free(dir);
    return rc;
}

bool rh_private_alive(struct rh_private *p, char **how)
{
    int status = 0;
    *how = NULL;
    if (p->pid == 0 || waitpid(p->pid, &status, WNOHANG) != p->pid)
        return p->pid != 0;
    p->pid = 0;
    p->refused = WIFEXITED(status) && WEXITSTATUS(status) == RH_EXIT_REFUSED;
    *how = WIFSIGNALED(status) ? rh_format("signal %d", WTERMSIG(status))
                               : rh_format("exit code %d", WEXITSTATUS(status));
    return false;
}

/* Its last line, which says why it left; owned by caller. */
static char *last_words(const struct rh_private *p)
{
    char *text = NULL;
    size_t size = 0;
    if (rh_fs_read(p->log, LOG_MAX, &text, &size, NULL) != RH_OK)
        return rh_strdup("it said nothing");
    while (size > 0 && text[size - 1] == '\n')
        text[--size] = '\0';
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    char *words = *line ? rh_strndup(line, 600) : rh_strdup("it said nothing");
    rh_free(text);
    return words;
}

static enum rh_rc answers(struct rh_client *client, struct rh_error *err)
{
    struct rh_json *body = NULL;
    enum rh_rc rc = rh_client_call(client, "GET", "/readyz", NULL, &body, err);
    rh_json_free(body);
    return rc;
}

static enum rh_rc wait_ready(struct rh_private *p, struct rh_client *client, struct rh_error *err)
{
    int64_t deadline = rh_clock_ns() + START_NS;
    char *how = NULL;
    enum rh_rc rc = RH_ERR_REMOTE;
    while (rc != RH_OK && rh_private_alive(p, &how) && rh_clock_ns() < deadline) {
        rc = answers(client, err);
        if (rc != RH_OK)
            nap();
    }
    if (rc != RH_OK && how) {
        char *words = last_words(p);
        rc = rh_fail(err, p->refused ? RH_ERR_EXISTS : RH_ERR_INTERNAL,
                     "roundhoused did not start (%s): %s", how, words);
        rh_free(words);
    } else if (rc != RH_OK) {
        rh_error_prefix(err, "roundhoused is not ready after %d s, see %s",
                        (int)(START_NS / 1000000000), p->log);
    }
    rh_free(how);
    return rc;
}

enum rh_rc rh_private_start(struct rh_private *p, const char *state, const char *run, bool spawn,
                            struct rh_client *client, struct rh_error *err)
{
    rh_private_done(p);
    p->state = rh_strdup(state);
    p->run = rh_strdup(run);
    p->log = rh_fs_join(state, "roundhoused.log");
    p->spawn = spawn;
    enum rh_rc rc = launch(p, err);
    if (rc == RH_OK)
        rc = wait_ready(p, client, err);
    if (rc != RH_OK)
        rh_private_stop(p);
    return rc;
}

void rh_private_stop(struct rh_private *p)
{
    int64_t deadline = rh_clock_ns() + STOP_NS;
    int interrupts = rh_interrupt_count();
    char *how = NULL;
    if (p->pid == 0)
        return;
    kill(p->pid, SIGTERM);
    while (rh_private_alive(p, &how) && rh_clock_ns() < deadline) {
        if (rh_interrupt_count() > interrupts)
            kill(p->pid, SIGTERM); /* asked again: it does not wait for its stages then */
        interrupts = rh_interrupt_count();
        nap();
    }
    rh_free(how);
    if (p->pid == 0)
        return;
    kill(p->pid, SIGKILL);
    while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    p->pid = 0;
}

void rh_private_done(struct rh_private *p)
{
    rh_private_stop(p);
    rh_free(p->state);
    rh_free(p->run);
    rh_free(p->log);
    *p = (struct rh_private){0};
}
