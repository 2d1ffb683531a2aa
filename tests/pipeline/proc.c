#include "proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/mem.h"

void sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000L};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

static int spool(const char *base, const char *suffix)
{
    char *path = rh_format("%s%s", base, suffix);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    RH_ASSERT(fd >= 0);
    rh_free(path);
    return fd;
}

void proc_start(struct proc *p, const char *const argv[])
{
    static int counter;
    *p = (struct proc){0};
    p->base = rh_format("/tmp/rh-proc-%d-%d", (int)getpid(), counter++);
    int out = spool(p->base, ".out");
    int err = spool(p->base, ".err");
    char *program = strchr(argv[0], '/') ? rh_strdup(argv[0]) : rh_fs_join(RH_BIN_DIR, argv[0]);
    p->pid = fork();
    RH_ASSERT(p->pid >= 0);
    if (p->pid == 0) {
        int null = open("/dev/null", O_RDONLY);
        dup2(null, 0);
        dup2(out, 1);
        dup2(err, 2);
        char *copy[64] = {0};
        for (int i = 0; argv[i] && i < 63; i++)
            copy[i] = rh_strdup(argv[i]);
        execv(program, copy);
        _exit(127);
    }
    close(out);
    close(err);
    rh_free(program);
}

static char *slurp(const char *base, const char *suffix)
{
    char *path = rh_format("%s%s", base, suffix);
    char *text = NULL;
    size_t size;
    struct rh_error e;
    RH_ASSERT(rh_fs_read(path, UINT64_C(256) << 20, &text, &size, &e) == RH_OK);
    unlink(path);
    rh_free(path);
    return text;
}

void proc_wait(struct proc *p, int seconds)
{
    int status = 0;
    bool done = false;
    for (int i = 0; i < seconds * 50 && !done; i++) {
        done = waitpid(p->pid, &status, WNOHANG) == p->pid;
        if (!done)
            sleep_ms(20);
    }
    if (!done) {
        kill(p->pid, SIGKILL);
        waitpid(p->pid, &status, 0);
    }
    p->out = slurp(p->base, ".out");
    p->err = slurp(p->base, ".err");
    p->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (!done)
        fprintf(stderr, "killed after %d s; its errors:\n%s\n", seconds, p->err);
    RH_ASSERT(done);
}

int proc_run(struct proc *p, int seconds, const char *const argv[])
{
    proc_start(p, argv);
    proc_wait(p, seconds);
    return p->status;
}

void proc_done(struct proc *p)
{
    rh_free(p->out);
    rh_free(p->err);
    rh_free(p->base);
    *p = (struct proc){0};
}

bool wait_until(bool (*condition)(void *), void *arg, int seconds)
{
    int64_t end = rh_clock_ns() + seconds * INT64_C(1000000000);
    while (!condition(arg)) {
        if (rh_clock_ns() > end)
            return false;
        sleep_ms(20);
    }
    return true;
}

static bool command_line_has(const char *pid, const char *a, const char *b)
{
    char path[64], line[4096];
    snprintf(path, sizeof(path), "/proc/%.16s/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, line, sizeof(line) - 1);
    close(fd);
    if (n <= 0)
        return false;
    for (ssize_t i = 0; i < n; i++)
        if (line[i] == '\0')
            line[i] = ' ';
    line[n] = '\0';
    return strstr(line, a) && strstr(line, b);
}

pid_t find_process(const char *a, const char *b)
{
    pid_t found = 0;
    DIR *proc = opendir("/proc");
    RH_ASSERT(proc);
    for (struct dirent *e; !found && (e = readdir(proc));) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (*end == '\0' && pid > 0 && (pid_t)pid != getpid() && command_line_has(e->d_name, a, b))
            found = (pid_t)pid;
    }
    closedir(proc);
    return found;
}
