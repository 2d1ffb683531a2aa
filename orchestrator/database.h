#ifndef RH_ORCHESTRATOR_DATABASE_H
#define RH_ORCHESTRATOR_DATABASE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "scheduler/scheduler.h"

/*
 * The truth about scheduling: one SQLite file, WAL with synchronous=FULL, one writer. The
 * database*.c files are the only ones that see SQLite. Strings in rows are borrowed for the call
 * unless said otherwise.
 */
struct rh_database;

/* Opens or creates. What an older version has written is brought up to date, after a copy was kept
 * ("<path>.v1"); RH_ERR_UNSUPPORTED when a newer version has written it. */
RH_MUST_USE enum rh_rc rh_database_open(const char *path, struct rh_database **out,
                                        struct rh_error *err);
/* For looking only, beside a running orchestrator or without one. */
RH_MUST_USE enum rh_rc rh_database_open_reader(const char *path, struct rh_database **out,
                                               struct rh_error *err);
/* A consistent copy of the whole, also while it is written to; RH_ERR_EXISTS when `to` is there. */
RH_MUST_USE enum rh_rc rh_database_backup(struct rh_database *db, const char *to,
                                          struct rh_error *err);
void rh_database_close(struct rh_database *db);
/* A number that rises with every call, durable. */
RH_MUST_USE enum rh_rc rh_database_next_epoch(struct rh_database *db, uint64_t *out,
                                              struct rh_error *err);
const char *rh_database_factory_id(const struct rh_database *db); /* of this state directory */

/* Writes between begin and commit are one transaction. After a failure: rollback. */
RH_MUST_USE enum rh_rc rh_database_begin(struct rh_database *db, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_database_commit(struct rh_database *db, struct rh_error *err);
void rh_database_rollback(struct rh_database *db);

/* What a job is, beside what the scheduler knows. */
struct rh_job_row {
    const char *id, *name, *model, *output, *recipe, *recipe_digest;
    const char *token;                         /* NULL: none */
    int64_t created_unix_ns, finished_unix_ns; /* finished 0: not yet */
};

RH_MUST_USE enum rh_rc rh_database_add_job(struct rh_database *db, const struct rh_job_row *row,
                                           const struct rh_sched_job *sched, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_database_save_job(struct rh_database *db, const struct rh_sched_job *job,
                                            int64_t finished_unix_ns, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_database_save_task(struct rh_database *db,
                                             const struct rh_sched_task *task,
                                             struct rh_error *err);
/* A worker that is drained, and why; why NULL: it is not any more. */
RH_MUST_USE enum rh_rc rh_database_save_worker(struct rh_database *db, const char *id,
                                               enum rh_stage_id stage, const char *why,
                                               struct rh_error *err);
typedef void (*rh_worker_fn)(void *arg, const char *id, enum rh_stage_id stage, const char *why);
RH_MUST_USE enum rh_rc rh_database_workers(struct rh_database *db, rh_worker_fn fn, void *arg,
                                           struct rh_error *err);

/* Numbers of the events; count 0: there are none. */
RH_MUST_USE enum rh_rc rh_database_event_range(struct rh_database *db, int64_t *first,
                                               int64_t *last, int64_t *count, struct rh_error *err);
/* The job's tasks go, so that it starts from nothing. */
RH_MUST_USE enum rh_rc rh_database_forget_tasks(struct rh_database *db, const char *job,
                                                struct rh_error *err);

/* Where the outcome of a step with this semantic key is to be had; the newest wins. */
struct rh_step_row {
    char job[RH_JOB_ID_SIZE], op[16]; /* job "": nowhere */
    int64_t index;
};
RH_MUST_USE enum rh_rc rh_database_save_step(struct rh_database *db, const char *key,
                                             const char *job, const char *op, int64_t index,
                                             struct rh_error *err);
RH_MUST_USE enum rh_rc rh_database_find_step(struct rh_database *db, const char *key,
                                             struct rh_step_row *out, struct rh_error *err);
/* The job's files are going. */
RH_MUST_USE enum rh_rc rh_database_forget_steps(struct rh_database *db, const char *job,
                                                struct rh_error *err);

RH_MUST_USE enum rh_rc rh_database_next_numbers(struct rh_database *db, int64_t *job_seq,
                                                int64_t *task_id, struct rh_error *err);

/* Rows, through callbacks. where is one of the choices below. */
enum rh_job_choice { RH_JOBS_ACTIVE, RH_JOBS_ALL, RH_JOBS_ID, RH_JOBS_TOKEN };
typedef enum rh_rc (*rh_job_fn)(void *arg, const struct rh_job_row *row,
                                const struct rh_sched_job *sched, struct rh_error *err);
/* key: for ID the id or the beginning of one, for TOKEN the token. Newest last. */
RH_MUST_USE enum rh_rc rh_database_jobs(struct rh_database *db, enum rh_job_choice choice,
                                        const char *key, rh_job_fn fn, void *arg,
                                        struct rh_error *err);
typedef void (*rh_task_fn)(void *arg, const struct rh_sched_task *task);
RH_MUST_USE enum rh_rc rh_database_tasks(struct rh_database *db, const char *job, rh_task_fn fn,
                                         void *arg, struct rh_error *err);

struct rh_event_row {
    int64_t seq, unix_ns;
    uint64_t epoch;
    const char *job, *type, *op, *worker, *text, *data; /* NULL: none; data: JSON */
    int64_t task, index, block, pid; /* task 0, index and block -1, pid 0: none */
};

/* Sets row->seq. */
RH_MUST_USE enum rh_rc rh_database_add_event(struct rh_database *db, struct rh_event_row *row,
                                             struct rh_error *err);
/* Events after `after`, oldest first; job and type NULL: any. An array of events, owned by caller.
 */
RH_MUST_USE enum rh_rc rh_database_events(struct rh_database *db, const char *job, const char *type,
                                          int64_t after, int limit, struct rh_json **out,
                                          struct rh_error *err);
int64_t rh_database_last_event(struct rh_database *db);
struct rh_json *rh_event_json(const struct rh_event_row *row);

#endif
