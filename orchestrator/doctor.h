#ifndef RH_UPKEEP_DOCTOR_H
#define RH_UPKEEP_DOCTOR_H

#include <stdbool.h>

#include "base/error.h"
#include "base/json.h"

/*
 * Looks whether a state directory is what it should be, beside a running orchestrator or without
 * one. What must hold:
 *
 *   - the database is whole, and its events are numbered without a gap;
 *   - a task that is done has its artifact, with the files and sizes of its manifest (deep: and
 * their digests), for as long as its job has not ended; of a finished job the manifests are left;
 *   - the blocks of a tuning task are there up to the one it stands at, and the newest has its
 * chain;
 *   - there is no artifact without a task that is done, no staging directory without a lease, no
 * job directory without a job;
 *   - there is room on the disk.
 *
 * *out:
 * {"schema":"roundhouse.doctor/1","state","running":bool,"checked":{"jobs","artifacts","bytes"},
 * "problems":[{"severity":"error"|"warning","what","path","job","remedy","fixed":bool}...]}.
 *
 * fix repairs what can be repaired: a damaged or missing artifact of an active job is dropped, so
 * that its task is done again; what belongs to nobody is deleted. Only while no orchestrator runs:
 * RH_ERR_EXISTS names its pid.
 */
struct rh_doctor_options {
    bool deep, fix;
    /* Told before each artifact; may be NULL. */
    void (*progress)(void *arg, const char *path, int64_t done, int64_t total);
    void *arg;
};

RH_MUST_USE enum rh_rc rh_doctor(const char *state_dir, const struct rh_doctor_options *options,
                                 struct rh_json **out, struct rh_error *err);
/* Errors among the problems, those that were fixed left out. */
int rh_doctor_errors(const struct rh_json *report);

#endif
