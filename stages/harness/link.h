#ifndef RH_HARNESS_LINK_H
#define RH_HARNESS_LINK_H

#include <sys/types.h>

#include "harness/stage.h"

/* The control loop of a stage daemon: one thread that speaks with the orchestrator and never
 * computes; every task has a thread of its own. */
struct rh_link_options {
    const char *endpoint;  /* "ipc:///run/work.sock" */
    const char *state_dir; /* what Assign's folders are relative to */
    const char *worker;    /* stable name */
    int slots;
    int64_t grace_ms; /* a drain waits so long for the end of the part that a session is at */
    pid_t parent;     /* without it nobody wants the results; 0: nobody in particular */
};

/* Returns after a drain (SIGTERM) with RH_OK, or when the orchestrator refuses this worker. */
RH_MUST_USE enum rh_rc rh_link_run(const struct rh_stage *stage,
                                   const struct rh_link_options *options, struct rh_error *err);

#endif
