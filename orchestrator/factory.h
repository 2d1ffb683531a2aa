#ifndef RH_ORCHESTRATOR_FACTORY_H
#define RH_ORCHESTRATOR_FACTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "base/json.h"

/*
 * The factory: scheduler, database, work socket and supervisor around one libuv loop, and the only
 * thing the HTTP API talks to. All calls on the loop's thread. JSON results are owned by the
 * caller.
 */
struct rh_factory;
struct rh_sched_config;

struct rh_factory_options {
    const char *state_dir;
    const char *run_dir;                 /* sockets; "<state_dir>/run" by default */
    const char *bin_dir;                 /* where the stage programs are */
    bool spawn;                          /* start and supervise one daemon per stage */
    int http_port;                       /* 0: unix socket only; else 127.0.0.1 */
    bool exit_when_idle;                 /* for one-shot runs: leave when no active job is left */
    const struct rh_sched_config *sched; /* copied; NULL: rh_sched_defaults */
    int64_t grace_s;      /* what spawned daemons may take to end a block when they are to leave */
    int64_t retain_bytes; /* files of finished jobs that are kept for others to reuse */
};

/* Strings are copied. Only one process may work on a state directory (RH_ERR_EXISTS); network file
 * systems are refused. After a failure run the loop once more before closing it. */
RH_MUST_USE enum rh_rc rh_factory_new(uv_loop_t *loop, const struct rh_factory_options *options,
                                      struct rh_factory **out, struct rh_error *err);
/* "<run_dir>/api.sock", where the HTTP API belongs; owned by caller. */
char *rh_factory_api_path(const struct rh_factory *factory);
/* With exit_when_idle: called once, when there was a job and no active one is left. */
void rh_factory_on_idle(struct rh_factory *factory, void (*fn)(void *arg), void *arg);
/* Drains the stages, then stops the loop's handles; done is called when uv_run() may return. A
 * second call kills what has not stopped yet. */
void rh_factory_stop(struct rh_factory *factory, void (*done)(void *arg), void *arg);
void rh_factory_free(struct rh_factory *factory);

/*
 * request: {"model": "file:/abs", "output": "dir:/abs", "recipe": {...canonical or partial...},
 *           "name": text?, "priority": int?, "token": text?,
 *           "hold": bool?}
 * The token makes it idempotent: the job submitted before under it comes back. The recipe is
 * validated here. Errors: ARGUMENT/FORMAT (bad request), EXISTS (token used with another content).
 * *out: the job (see rh_factory_job).
 */
RH_MUST_USE enum rh_rc rh_factory_submit(struct rh_factory *factory, const struct rh_json *request,
                                         struct rh_json **out, struct rh_error *err);

/* {"schema":"roundhouse.jobs/1","jobs":[job...]}; active only, or all; state may be NULL. */
struct rh_json *rh_factory_jobs(struct rh_factory *factory, bool all, const char *state);

/*
 * One job: {"schema":"roundhouse.job/1","id","name","state","desired","reason","priority","model",
 * "output","recipe_digest","created_unix_ns","finished_unix_ns",
 * "stages":{"download":{"done","total"},...},      tasks
 * "blocks":{"done","total","current","iter","iters","loss","loss_best",
 *           "mtp": true},      only where the MTP head is tuned: the last of the total
 * "progress": 0..1, "eta_s": number|null,
 * "running":[{"op","index","phase","done","total","unit","worker","pid"}],
 * "block_metrics":[{"block","unit" ("mtp", of the MTP head alone),
 *                   "init_loss","best_loss","best_iter","seconds",
 *                   "experts":{"count","floor","below_floor","tokens_min","tokens_median"}}...]}
 * RH_ERR_NOT_FOUND. An unambiguous prefix of an id will do.
 */
RH_MUST_USE enum rh_rc rh_factory_job(struct rh_factory *factory, const char *id,
                                      struct rh_json **out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_factory_tasks(struct rh_factory *factory, const char *id,
                                        struct rh_json **out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_factory_recipe(struct rh_factory *factory, const char *id,
                                         struct rh_json **out, struct rh_error *err);

/* desired: "run" (also retries a failed, held or cancelled job), "pause", "hold", "cancel".
 * RH_ERR_EXISTS: refused in this state. */
RH_MUST_USE enum rh_rc rh_factory_set_desired(struct rh_factory *factory, const char *id,
                                              const char *desired, struct rh_json **out,
                                              struct rh_error *err);
/*
 * Once more. task > 0: that task, when it failed or is quarantined. from_block >= 0: tuning again
 * from that block, or from the nearest one before it at which tuning can start; for jobs in which
 * nothing runs. Neither: the whole job, as "run". RH_ERR_EXISTS: refused in this state.
 */
RH_MUST_USE enum rh_rc rh_factory_retry(struct rh_factory *factory, const char *id,
                                        int64_t from_block, int64_t task, struct rh_json **out,
                                        struct rh_error *err);
RH_MUST_USE enum rh_rc rh_factory_set_priority(struct rh_factory *factory, const char *id,
                                               int priority, struct rh_json **out,
                                               struct rh_error *err);

/*
 * Events after `after` (0: from the start), at most limit, oldest first:
 * {"schema":"roundhouse.events/1","events":[{"seq","time","unix_ns","job","type","task","op","index",
 *  "block","worker","pid","text","data":{...}}],"last":seq}. job: NULL for all.
 */
RH_MUST_USE enum rh_rc rh_factory_events(struct rh_factory *factory, const char *job, int64_t after,
                                         int limit, struct rh_json **out, struct rh_error *err);
/* What ran when (timeline.h). jobs: ids or beginnings of ids, with commas between them; NULL: those
 * submitted last, RH_TIMELINE_JOBS at most. */
#define RH_TIMELINE_JOBS 32
RH_MUST_USE enum rh_rc rh_factory_timeline(struct rh_factory *factory, const char *jobs,
                                           struct rh_json **out, struct rh_error *err);
/*
 * Deletes files of finished jobs, oldest first, until no more than retain_bytes (negative: as
 * configured) are kept of them, and those of jobs that failed or were cancelled failed_after_s or
 * more ago (negative: none); retrying one of these starts from nothing then.
 * The sizes are found out in another thread; `done` is called later, on the loop's thread, with the
 * report (borrowed), or with why there is none:
 * {"schema":"roundhouse.gc/1","dry_run","freed_bytes","retained_bytes",
 * "items":[{"job","what":"finished"|"failed","path","bytes"}...]}.
 */
struct rh_gc_options {
    bool dry_run;
    int64_t retain_bytes, failed_after_s;
};
typedef void (*rh_gc_fn)(void *arg, const struct rh_json *report, const struct rh_error *err);
void rh_factory_gc(struct rh_factory *factory, const struct rh_gc_options *options, rh_gc_fn done,
                   void *arg);
struct rh_json *rh_factory_workers(struct rh_factory *factory);
/* No new tasks for the worker, or tasks again. why may be NULL. RH_ERR_NOT_FOUND. *out: as
 * rh_factory_workers(). */
RH_MUST_USE enum rh_rc rh_factory_drain(struct rh_factory *factory, const char *worker,
                                        bool drained, const char *why, struct rh_json **out,
                                        struct rh_error *err);
/* All that a dashboard needs: {"schema":"roundhouse.snapshot/1","epoch","seq","jobs","workers",
 * "version","disk_free_bytes"}. */
struct rh_json *rh_factory_snapshot(struct rh_factory *factory);
bool rh_factory_ready(const struct rh_factory *factory, const char **why_not);

/* Called on the loop for every stored event (seq > 0) and for coalesced ticks (seq 0, type "tick",
 * at most 2 a second per job). event is borrowed. One subscriber; fn NULL ends it. */
typedef void (*rh_event_fn)(void *arg, const struct rh_json *event);
void rh_factory_subscribe(struct rh_factory *factory, rh_event_fn fn, void *arg);
uint64_t rh_factory_epoch(const struct rh_factory *factory);

#endif
