#ifndef RH_ORCHESTRATOR_SUPERVISOR_H
#define RH_ORCHESTRATOR_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"

/*
 * One daemon per stage as child processes: started, watched, started again after they ended (0.2 s
 * later, doubling to 10 s, from the beginning once one has lived for 30 s), and stopped together.
 */
struct rh_supervisor;

struct rh_supervisor_options {
    const char *bin_dir;   /* of rh-download and its four sisters */
    const char *state_dir; /* absolute */
    const char *endpoint;  /* of the work socket */
    const char *log_dir;   /* <stage>.log, appended; must exist */
    int64_t grace_s;       /* what a daemon may take to end a block when it is to leave */
    /* A child ended; at once. died: by a signal or with an exit code other than 0, unasked. */
    void (*gone)(void *arg, const char *worker, bool died, const char *why);
    void *arg;
};

/* RH_ERR_NOT_FOUND names a program that is not there. Strings are copied. */
RH_MUST_USE enum rh_rc rh_supervisor_new(uv_loop_t *loop,
                                         const struct rh_supervisor_options *options,
                                         struct rh_supervisor **out, struct rh_error *err);
/* SIGTERM to all, SIGKILL after grace_ms; done is called once nobody is left and all handles are
 * closed. A second call only shortens the grace. */
void rh_supervisor_stop(struct rh_supervisor *supervisor, int64_t grace_ms, void (*done)(void *arg),
                        void *arg);
/* Ends a child that hangs; it is started again. Nothing happens unless it is the one of that pid.
 */
void rh_supervisor_kill(struct rh_supervisor *supervisor, const char *worker, int64_t pid,
                        const char *why);
void rh_supervisor_free(struct rh_supervisor *supervisor); /* after done, or when never started */

#endif
