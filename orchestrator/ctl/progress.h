#ifndef RH_CTL_PROGRESS_H
#define RH_CTL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "base/json.h"

/* Shows a job on its way: from the states of the job that it is given it says what is new. */
enum rh_progress_mode {
    RH_PROGRESS_NONE,
    RH_PROGRESS_PLAIN, /* a line for every change of state, finished stage and finished block */
    RH_PROGRESS_LIVE,  /* a block of lines, redrawn in place */
    RH_PROGRESS_JSON,  /* the events, one JSON document a line */
};

struct rh_progress;

/* choice: "auto" (live on a terminal, else plain), "plain", "json", "none". */
RH_MUST_USE enum rh_rc rh_progress_mode_from(const char *choice, int fd, enum rh_progress_mode *out,
                                             struct rh_error *err);
/* out is borrowed. width: columns of the terminal, for the live mode. */
struct rh_progress *rh_progress_new(enum rh_progress_mode mode, FILE *out, int width);
/* A state of the job; now_ns: monotonic. */
void rh_progress_job(struct rh_progress *p, const struct rh_json *job, int64_t now_ns);
void rh_progress_event(struct rh_progress *p, const struct rh_json *event);
/* A line for the reader, above the live block. */
void rh_progress_note(struct rh_progress *p, const char *format, ...) RH_PRINTF(2, 3);
/* How often a job's state is worth fetching. */
int64_t rh_progress_interval_ns(const struct rh_progress *p);
/* Leaves the terminal with the live block wiped away. */
void rh_progress_free(struct rh_progress *p);

#endif
