#ifndef RH_CTL_FOLLOW_H
#define RH_CTL_FOLLOW_H

#include "base/error.h"
#include "base/json.h"
#include "ctl/client.h"
#include "ctl/progress.h"

/* Follows one job to its end. */
struct rh_follow {
    struct rh_client *client;
    const char *job; /* id */
    struct rh_progress *progress;
    /* RH_PROGRESS_JSON: the events go there, from the job's first one on. */
    bool events;
    /*
     * The orchestrator does not answer (err says how). RH_OK: it does again, go on. NULL: that is
     * the end.
     */
    enum rh_rc (*lost)(void *arg, struct rh_error *err);
    void *arg;
    /* Do not wait for room when the job is parked, or nothing can be stored: RH_ERR_NO_SPACE. */
    bool give_up_when_blocked;
};

/*
 * *out: the job as it ended, or as it was last seen (may be NULL); owned by caller. Errors:
 * RH_ERR_CANCELLED when this program was interrupted, the job goes on; what the lost callback says.
 * A job that ended badly is no error.
 */
RH_MUST_USE enum rh_rc rh_follow(struct rh_follow *follow, struct rh_json **out,
                                 struct rh_error *err);

/* "done", "failed" or "cancelled"? */
bool rh_job_has_ended(const struct rh_json *job);

#endif
