#ifndef RH_CTL_CONNECTION_H
#define RH_CTL_CONNECTION_H

#include <stdbool.h>

#include "ctl/client.h"
#include "ctl/private.h"

/* The way to the orchestrator of a state directory. Zero-initialise. */
struct rh_connection {
    char *state, *run;
    struct rh_client *client;
    struct rh_private factory; /* when this program started one itself */
};

enum rh_connect {
    RH_CONNECT_LIVE,    /* somebody must be at work there: else RH_ERR_REMOTE */
    RH_CONNECT_OR_READ, /* else start one without stages, when there is something to read */
    RH_CONNECT_OR_WORK, /* else start a whole factory, making the directory */
};

/* state, run: as given on the command line, NULL for the usual place. */
RH_MUST_USE enum rh_rc rh_connection_open(struct rh_connection *c, const char *state,
                                          const char *run, enum rh_connect how,
                                          struct rh_error *err);
/* The orchestrator is gone: finds another one or starts one, in the way that `how` says. */
RH_MUST_USE enum rh_rc rh_connection_renew(struct rh_connection *c, enum rh_connect how,
                                           struct rh_error *err);
/* Stops what was started. */
void rh_connection_close(struct rh_connection *c);

#endif
