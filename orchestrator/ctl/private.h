#ifndef RH_CTL_PRIVATE_H
#define RH_CTL_PRIVATE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "ctl/client.h"

/* A roundhoused of this program's own: a child that ends with it. Its messages go to
 * <state>/roundhoused.log. Zero-initialise. */
struct rh_private {
    pid_t pid; /* 0: none */
    char *state, *run, *log;
    bool spawn;   /* with stages of its own; without, it only answers questions */
    bool refused; /* the last one left because another one holds the state directory */
};

/* Starts it and waits until it answers on client's socket. The error carries what it said last;
 * with `refused` set, trying again makes sense. */
RH_MUST_USE enum rh_rc rh_private_start(struct rh_private *p, const char *state, const char *run,
                                        bool spawn, struct rh_client *client, struct rh_error *err);
/* False when it has ended by itself; how is then "signal 9" or "exit 1", owned by caller. */
bool rh_private_alive(struct rh_private *p, char **how);
/* Asks it to leave (SIGTERM), and kills it when it has not left in a minute. */
void rh_private_stop(struct rh_private *p);
void rh_private_done(struct rh_private *p);

#endif
