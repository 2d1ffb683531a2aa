#ifndef RH_CTL_FORMAT_H
#define RH_CTL_FORMAT_H

#include "base/json.h"
#include "base/strbuf.h"

/* Texts for people, made from the documents of the HTTP API. Whatever comes from there is printed
 * without control characters: a model's name must not be able to steer the terminal. */

/* Appends text with every control character replaced by '?'; NULL prints nothing. */
void rh_format_clean(struct rh_strbuf *out, const char *text);
void rh_format_jobs(struct rh_strbuf *out, const struct rh_json *jobs); /* a table */
void rh_format_job(struct rh_strbuf *out, const struct rh_json *job);
void rh_format_tasks(struct rh_strbuf *out, const struct rh_json *tasks);
void rh_format_event(struct rh_strbuf *out, const struct rh_json *event); /* one line */
void rh_format_workers(struct rh_strbuf *out, const struct rh_json *workers);
/* "loss 3.579e-02 -> 1.769e-02", or nothing when the numbers are not there. */
void rh_format_loss(struct rh_strbuf *out, const struct rh_json *init, const struct rh_json *best);
/* "block 2/4", or "mtp head" for the last one where that is tuned; blocks: "blocks" of a job, at:
 * counted from 1. */
void rh_format_step(struct rh_strbuf *out, const struct rh_json *blocks, int64_t at);
/* "block 2/4  loss 3.579e-02 -> 1.769e-02  8.1 s", and what is said of starved experts; metrics:
 * one of "block_metrics". */
void rh_format_block(struct rh_strbuf *out, const struct rh_json *metrics,
                     const struct rh_json *blocks);

#endif
