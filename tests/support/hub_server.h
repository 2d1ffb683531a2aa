#ifndef RH_TESTS_SUPPORT_HUB_SERVER_H
#define RH_TESTS_SUPPORT_HUB_SERVER_H

#include <stddef.h>
#include <sys/types.h>

/* fake_hub.py in a process of its own; HF_ENDPOINT names it as long as it runs. */
struct hub_server {
    pid_t pid;
    char *log; /* path */
};

/* `dir` is for its files; `options` are further arguments, NULL-terminated, or NULL. */
void hub_server_start(struct hub_server *server, const char *dir, const char *model,
                      const char *const options[]);
void hub_server_stop(struct hub_server *server);
/* Requests so far whose line in the log has both texts; NULL: any. */
size_t hub_server_count(const struct hub_server *server, const char *a, const char *b);

#endif
