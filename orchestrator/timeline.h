#ifndef RH_TIMELINE_TIMELINE_H
#define RH_TIMELINE_TIMELINE_H

#include "base/json.h"

/*
 * What ran when, from the event log alone: events of some jobs in, one document out. Times are
 * seconds since the first event that counts.
 *
 * {"schema":"roundhouse.timeline/1","from_unix_ns","to_unix_ns",
 *  "jobs":[as given],
 *  "spans":[{"job","stage","op","index","worker","begin_s","end_s","outcome"}...],
 *  "blocks":[{"job","block","worker","begin_s","end_s","outcome"}...],
 *  "stages":{"download":{"busy_s"}...},       time in which at least one task of the stage ran
 *  "overlap_s":                               time in which tasks of two jobs or more ran
 *  "tuner":{"workers","wall_s","busy_s","idle_s","idle_share"}}
 *
 * outcome: done, lost, retry, stopped, failed, quarantined, rejected, or running (then end_s is
 * that of the newest event). The tuner's wall time goes from the end of the first block that a
 * worker tuned to the end of its last one, summed over workers; idle is what no block covers of it;
 * idle_share is null without a second block.
 *
 * jobs: an array of {"id","name"...}; logs: for each of them its events, oldest first. Borrowed.
 */
struct rh_json *rh_timeline(const struct rh_json *const *logs, const struct rh_json *jobs);

#endif
