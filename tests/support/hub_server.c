#include "hub_server.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"

#define READY_TRIES 1000

void hub_server_start(struct hub_server *server, const char *dir, const char *model,
                      const char *const options[])
{
    static int count;
    const struct timespec pause = {0, 20000000};
    struct rh_error err;
    char *endpoint = NULL, *ready = rh_format("%s/hub-%d.ready", dir, count);
    server->log = rh_format("%s/hub-%d.log", dir, count++);
    const char *argv[20] = {
        "python3",  RH_SOURCE_DIR "/tests/support/fake_hub.py", model, "--ready", ready, "--log",
        server->log};
    for (int i = 0; options && options[i]; i++)
        argv[7 + i] = options[i];
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    for (int i = 0; i < READY_TRIES && !rh_fs_exists(ready); i++)
        nanosleep(&pause, NULL);
    if (rh_fs_read(ready, 1000, &endpoint, NULL, &err) != RH_OK)
        fail_msg("the fake Hub did not start: %s", err.message);
    assert_int_equal(setenv("HF_ENDPOINT", endpoint, 1), 0);
    rh_free(endpoint);
    rh_free(ready);
}

void hub_server_stop(struct hub_server *server)
{
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    rh_free(server->log);
    *server = (struct hub_server){0};
}

size_t hub_server_count(const struct hub_server *server, const char *a, const char *b)
{
    char *text = NULL, *rest = NULL;
    struct rh_error err;
    size_t count = 0;
    if (rh_fs_read(server->log, UINT64_C(16) << 20, &text, NULL, &err) != RH_OK)
        fail_msg("%s", err.message);
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        count += (!a || strstr(line, a)) && (!b || strstr(line, b));
    rh_free(text);
    return count;
}
