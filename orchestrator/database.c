#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/crash.h"
#include "base/mem.h"
#include "database_internal.h"

/* clang-format off */
const char *const rh_db_statements[RH_DB_STATEMENTS] = {
    [RH_DB_ADD_JOB] = "INSERT INTO job(id, seq, priority, prefetch, desired, state, reason, name, model, output, recipe,"
                " recipe_digest, token, created, finished) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,0)",
    [RH_DB_SAVE_JOB] = "UPDATE job SET priority=?2, desired=?3, state=?4, reason=?5, finished=?6 WHERE id=?1",
    [RH_DB_SAVE_TASK] = "INSERT INTO task(id, job, op, idx, last, state, epoch, attempts, crashes, next, failure, error,"
                  " worker, crashed_on, device_need) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15) ON CONFLICT(id) DO UPDATE SET"
                  " state=excluded.state, epoch=excluded.epoch, attempts=excluded.attempts,"
                  " crashes=excluded.crashes, next=excluded.next, failure=excluded.failure, error=excluded.error,"
                  " worker=excluded.worker, last=excluded.last, crashed_on=excluded.crashed_on,"
                  " device_need=excluded.device_need",
    [RH_DB_ADD_EVENT] = "INSERT INTO event(unix_ns, epoch, job, type, task, op, idx, block, worker, pid, text, data)"
                  " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
    [RH_DB_SAVE_WORKER] = "INSERT INTO worker(id, stage, why) VALUES(?1,?2,?3) ON CONFLICT(id) DO UPDATE SET"
                  " stage=excluded.stage, why=excluded.why",
    [RH_DB_SAVE_STEP] = "INSERT INTO step(key, job, op, idx) VALUES(?1,?2,?3,?4) ON CONFLICT(key) DO UPDATE SET"
                  " job=excluded.job, op=excluded.op, idx=excluded.idx",
};
/* clang-format on */

enum rh_rc rh_db_failed(const struct rh_database *db, const char *doing, struct rh_error *err)
{
    int code = sqlite3_extended_errcode(db->handle) & 0xFF;
    enum rh_rc rc = RH_ERR_IO;
    const char *remedy = "";
    if (code == SQLITE_FULL) {
        rc = RH_ERR_NO_SPACE;
        remedy = "; make room on that disk";
    } else if (code == SQLITE_IOERR) {
        remedy = "; look at that disk, is there room?";
    } else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) {
        rc = RH_ERR_FORMAT;
    }
    return rh_fail(err, rc, "could not %s %s: %s%s", doing, db->path, sqlite3_errmsg(db->handle),
                   remedy);
}

enum rh_rc rh_db_execute(struct rh_database *db, const char *sql, const char *doing,
                         struct rh_error *err)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK
               ? RH_OK
               : rh_db_failed(db, doing, err);
}

enum rh_rc rh_db_prepare(struct rh_database *db, const char *sql, sqlite3_stmt **out,
                         struct rh_error *err)
{
    return sqlite3_prepare_v2(db->handle, sql, -1, out, NULL) == SQLITE_OK
               ? RH_OK
               : rh_db_failed(db, "ask", err);
}

/* A text column; NULL stays NULL. Valid until the next step. */
const char *rh_db_text(sqlite3_stmt *s, int column)
{
    return (const char *)sqlite3_column_text(s, column);
}

void rh_db_bind(sqlite3_stmt *s, int index, const char *text)
{
    if (text)
        sqlite3_bind_text(s, index, text, -1, SQLITE_TRANSIENT);
    else
        sqlite3_bind_null(s, index);
}

enum rh_rc rh_db_number(struct rh_database *db, const char *sql, int64_t *out, struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, sql, &s, err);
    if (rc == RH_OK && sqlite3_step(s) == SQLITE_ROW)
        *out = sqlite3_column_int64(s, 0);
    else if (rc == RH_OK)
        rc = rh_db_failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

enum rh_rc rh_db_run(struct rh_database *db, sqlite3_stmt *s, struct rh_error *err)
{
    enum rh_rc rc = sqlite3_step(s) == SQLITE_DONE ? RH_OK : rh_db_failed(db, "write", err);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return rc;
}

/* -- Writing ---------------------------------------------------------------------------------- */

enum rh_rc rh_database_begin(struct rh_database *db, struct rh_error *err)
{
    return rh_db_execute(db, "BEGIN IMMEDIATE", "write", err);
}

enum rh_rc rh_database_commit(struct rh_database *db, struct rh_error *err)
{
    rh_crash_point("before_transaction");
    enum rh_rc rc = rh_db_execute(db, "COMMIT", "write", err);
    rh_crash_point("after_transaction");
    return rc;
}

void rh_database_rollback(struct rh_database *db)
{
    if (!sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

enum rh_rc rh_database_add_job(struct rh_database *db, const struct rh_job_row *row,
                               const struct rh_sched_job *sched, struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[RH_DB_ADD_JOB];
    rh_db_bind(s, 1, row->id);
    sqlite3_bind_int64(s, 2, sched->seq);
    sqlite3_bind_int64(s, 3, sched->priority);
    sqlite3_bind_int64(s, 4, sched->prefetch_blocks);
    rh_db_bind(s, 5, rh_desired_name(sched->desired));
    rh_db_bind(s, 6, rh_job_state_name(sched->state));
    rh_db_bind(s, 7, sched->reason);
    rh_db_bind(s, 8, row->name);
    rh_db_bind(s, 9, row->model);
    rh_db_bind(s, 10, row->output);
    rh_db_bind(s, 11, row->recipe);
    rh_db_bind(s, 12, row->recipe_digest);
    rh_db_bind(s, 13, row->token);
    sqlite3_bind_int64(s, 14, row->created_unix_ns);
    return rh_db_run(db, s, err);
}

enum rh_rc rh_database_save_job(struct rh_database *db, const struct rh_sched_job *job,
                                int64_t finished_unix_ns, struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[RH_DB_SAVE_JOB];
    rh_db_bind(s, 1, job->id);
    sqlite3_bind_int64(s, 2, job->priority);
    rh_db_bind(s, 3, rh_desired_name(job->desired));
    rh_db_bind(s, 4, rh_job_state_name(job->state));
    rh_db_bind(s, 5, job->reason);
    sqlite3_bind_int64(s, 6, finished_unix_ns);
    return rh_db_run(db, s, err);
}

enum rh_rc rh_database_save_task(struct rh_database *db, const struct rh_sched_task *task,
                                 struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[RH_DB_SAVE_TASK];
    /* A commit that was under way is asked for again after a crash. */
    enum rh_task_state state = task->state == RH_TASK_COMMITTING ? RH_TASK_LEASED : task->state;
    sqlite3_bind_int64(s, 1, task->id);
    rh_db_bind(s, 2, task->job->id);
    rh_db_bind(s, 3, rh_op_name(task->op));
    sqlite3_bind_int64(s, 4, task->index);
    sqlite3_bind_int64(s, 5, task->last);
    rh_db_bind(s, 6, rh_task_state_name(state));
    sqlite3_bind_int64(s, 7, task->epoch);
    sqlite3_bind_int64(s, 8, task->attempts);
    sqlite3_bind_int64(s, 9, task->crashes);
    sqlite3_bind_int64(s, 10, task->next);
    sqlite3_bind_int64(s, 11, (int)task->failure);
    rh_db_bind(s, 12, task->error);
    rh_db_bind(s, 13, task->worker);
    rh_db_bind(s, 14, task->crashed_on);
    sqlite3_bind_int64(s, 15, task->device_need);
    return rh_db_run(db, s, err);
}

enum rh_rc rh_database_add_event(struct rh_database *db, struct rh_event_row *row,
                                 struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[RH_DB_ADD_EVENT];
    sqlite3_bind_int64(s, 1, row->unix_ns);
    sqlite3_bind_int64(s, 2, (int64_t)row->epoch);
    rh_db_bind(s, 3, row->job);
    rh_db_bind(s, 4, row->type);
    if (row->task > 0)
        sqlite3_bind_int64(s, 5, row->task);
    rh_db_bind(s, 6, row->op);
    if (row->index >= 0)
        sqlite3_bind_int64(s, 7, row->index);
    if (row->block >= 0)
        sqlite3_bind_int64(s, 8, row->block);
    rh_db_bind(s, 9, row->worker);
    if (row->pid > 0)
        sqlite3_bind_int64(s, 10, row->pid);
    rh_db_bind(s, 11, row->text);
    rh_db_bind(s, 12, row->data);
    enum rh_rc rc = rh_db_run(db, s, err);
    row->seq = sqlite3_last_insert_rowid(db->handle);
    return rc;
}

enum rh_rc rh_database_save_worker(struct rh_database *db, const char *id, enum rh_stage_id stage,
                                   const char *why, struct rh_error *err)
{
    if (why) {
        sqlite3_stmt *s = db->ready[RH_DB_SAVE_WORKER];
        rh_db_bind(s, 1, id);
        rh_db_bind(s, 2, rh_stage_name(stage));
        rh_db_bind(s, 3, why);
        return rh_db_run(db, s, err);
    }
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, "DELETE FROM worker WHERE id = ?1", &s, err);
    if (rc == RH_OK) {
        rh_db_bind(s, 1, id);
        rc = rh_db_run(db, s, err);
    }
    sqlite3_finalize(s);
    return rc;
}

enum rh_rc rh_database_save_step(struct rh_database *db, const char *key, const char *job,
                                 const char *op, int64_t index, struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[RH_DB_SAVE_STEP];
    rh_db_bind(s, 1, key);
    rh_db_bind(s, 2, job);
    rh_db_bind(s, 3, op);
    sqlite3_bind_int64(s, 4, index);
    return rh_db_run(db, s, err);
}

/* -- Reading ---------------------------------------------------------------------------------- */

enum rh_rc rh_database_next_numbers(struct rh_database *db, int64_t *job_seq, int64_t *task_id,
                                    struct rh_error *err)
{
    enum rh_rc rc = rh_db_number(db, "SELECT ifnull(max(seq), 0) + 1 FROM job", job_seq, err);
    return rc == RH_OK ? rh_db_number(db, "SELECT ifnull(max(id), 0) + 1 FROM task", task_id, err)
                       : rc;
}

static enum rh_rc give_job(sqlite3_stmt *s, rh_job_fn fn, void *arg, struct rh_error *err)
{
    struct rh_job_row row = {.id = rh_db_text(s, 0),
                             .name = rh_db_text(s, 7),
                             .model = rh_db_text(s, 8),
                             .output = rh_db_text(s, 9),
                             .recipe = rh_db_text(s, 10),
                             .recipe_digest = rh_db_text(s, 11),
                             .token = rh_db_text(s, 12),
                             .created_unix_ns = sqlite3_column_int64(s, 13),
                             .finished_unix_ns = sqlite3_column_int64(s, 14)};
    struct rh_sched_job job = {.seq = sqlite3_column_int64(s, 1),
                               .priority = sqlite3_column_int(s, 2),
                               .prefetch_blocks = sqlite3_column_int64(s, 3)};
    snprintf(job.id, sizeof job.id, "%s", row.id);
    if (!rh_desired_from_name(rh_db_text(s, 4), &job.desired) ||
        !rh_job_state_from_name(rh_db_text(s, 5), &job.state))
        return rh_fail(err, RH_ERR_FORMAT, "job %s is in the unknown state %s/%s", row.id,
                       rh_db_text(s, 4), rh_db_text(s, 5));
    job.reason = rh_strdup(rh_db_text(s, 6));
    enum rh_rc rc = fn(arg, &row, &job, err);
    rh_free(job.reason);
    return rc;
}

enum rh_rc rh_database_jobs(struct rh_database *db, enum rh_job_choice choice, const char *key,
                            rh_job_fn fn, void *arg, struct rh_error *err)
{
    static const char *const where[] = {
        [RH_JOBS_ACTIVE] = "state NOT IN ('done', 'failed', 'cancelled')",
        [RH_JOBS_ALL] = "1",
        [RH_JOBS_ID] = "substr(id, 1, length(?1)) = ?1",
        [RH_JOBS_TOKEN] = "token = ?1",
    };
    char *sql =
        rh_format("SELECT id, seq, priority, prefetch, desired, state, reason, name, model, "
                  "output, recipe, recipe_digest, token, created, finished FROM job WHERE "
                  "%s ORDER BY seq",
                  where[choice]);
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, sql, &s, err);
    rh_free(sql);
    if (rc == RH_OK && (choice == RH_JOBS_ID || choice == RH_JOBS_TOKEN))
        rh_db_bind(s, 1, key);
    int step = SQLITE_DONE;
    while (rc == RH_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        rc = give_job(s, fn, arg, err);
    if (rc == RH_OK && step != SQLITE_DONE)
        rc = rh_db_failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc give_task(sqlite3_stmt *s, rh_task_fn fn, void *arg, struct rh_error *err)
{
    struct rh_sched_task t = {.id = sqlite3_column_int64(s, 0),
                              .index = sqlite3_column_int64(s, 2),
                              .last = sqlite3_column_int64(s, 3),
                              .epoch = sqlite3_column_int64(s, 5),
                              .attempts = sqlite3_column_int(s, 6),
                              .crashes = sqlite3_column_int(s, 7),
                              .next = sqlite3_column_int64(s, 8),
                              .failure = (enum rh_failure)sqlite3_column_int(s, 9),
                              .device_need = sqlite3_column_int64(s, 13)};
    if (!rh_op_from_name(rh_db_text(s, 1), &t.op) ||
        !rh_task_state_from_name(rh_db_text(s, 4), &t.state))
        return rh_fail(err, RH_ERR_FORMAT, "task %lld is a %s in the state %s, which is unknown",
                       (long long)t.id, rh_db_text(s, 1), rh_db_text(s, 4));
    t.error = rh_strdup(rh_db_text(s, 10));
    snprintf(t.worker, sizeof t.worker, "%s", rh_db_text(s, 11));
    snprintf(t.crashed_on, sizeof t.crashed_on, "%s", rh_db_text(s, 12));
    fn(arg, &t);
    rh_free(t.error);
    return RH_OK;
}

enum rh_rc rh_database_tasks(struct rh_database *db, const char *job, rh_task_fn fn, void *arg,
                             struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc =
        rh_db_prepare(db,
                      "SELECT id, op, idx, last, state, epoch, attempts, crashes, next, "
                      "failure, error, worker, crashed_on, device_need FROM task "
                      "WHERE job = ?1 ORDER BY id",
                      &s, err);
    if (rc == RH_OK)
        rh_db_bind(s, 1, job);
    int step = SQLITE_DONE;
    while (rc == RH_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        rc = give_task(s, fn, arg, err);
    if (rc == RH_OK && step != SQLITE_DONE)
        rc = rh_db_failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

struct rh_json *rh_event_json(const struct rh_event_row *row)
{
    struct rh_json *e = rh_json_new_object();
    struct rh_json *data = NULL;
    char time[32];
    rh_clock_format(row->unix_ns, time);
    rh_json_add(e, "seq", rh_json_new_int(row->seq));
    rh_json_add(e, "time", rh_json_new_string(time));
    rh_json_add(e, "unix_ns", rh_json_new_number((double)row->unix_ns));
    rh_json_add(e, "epoch", rh_json_new_int((int64_t)row->epoch));
    if (row->job)
        rh_json_add(e, "job", rh_json_new_string(row->job));
    rh_json_add(e, "type", rh_json_new_string(row->type));
    if (row->task > 0)
        rh_json_add(e, "task", rh_json_new_int(row->task));
    if (row->op)
        rh_json_add(e, "op", rh_json_new_string(row->op));
    if (row->index >= 0)
        rh_json_add(e, "index", rh_json_new_int(row->index));
    if (row->block >= 0)
        rh_json_add(e, "block", rh_json_new_int(row->block));
    if (row->worker && row->worker[0])
        rh_json_add(e, "worker", rh_json_new_string(row->worker));
    if (row->pid > 0)
        rh_json_add(e, "pid", rh_json_new_int(row->pid));
    if (row->text)
        rh_json_add(e, "text", rh_json_new_string(row->text));
    if (row->data && rh_json_parse(row->data, strlen(row->data), "data", &data, NULL) == RH_OK)
        rh_json_add(e, "data", data);
    return e;
}

static int64_t number_or(sqlite3_stmt *s, int column, int64_t otherwise)
{
    return sqlite3_column_type(s, column) == SQLITE_NULL ? otherwise
                                                         : sqlite3_column_int64(s, column);
}

enum rh_rc rh_database_events(struct rh_database *db, const char *job, const char *type,
                              int64_t after, int limit, struct rh_json **out, struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    *out = NULL;
    enum rh_rc rc =
        rh_db_prepare(db,
                      "SELECT seq, unix_ns, epoch, job, type, task, op, idx, block, worker, "
                      "pid, text, data FROM event WHERE seq > ?1 AND (?2 IS NULL OR job = "
                      "?2) AND (?3 IS NULL OR type = ?3) ORDER BY seq LIMIT ?4",
                      &s, err);
    if (rc != RH_OK)
        return rc;
    sqlite3_bind_int64(s, 1, after);
    rh_db_bind(s, 2, job);
    rh_db_bind(s, 3, type);
    sqlite3_bind_int(s, 4, limit);
    struct rh_json *events = rh_json_new_array();
    int step = SQLITE_DONE;
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        struct rh_event_row row = {.seq = sqlite3_column_int64(s, 0),
                                   .unix_ns = sqlite3_column_int64(s, 1),
                                   .epoch = (uint64_t)sqlite3_column_int64(s, 2),
                                   .job = rh_db_text(s, 3),
                                   .type = rh_db_text(s, 4),
                                   .task = number_or(s, 5, 0),
                                   .op = rh_db_text(s, 6),
                                   .index = number_or(s, 7, -1),
                                   .block = number_or(s, 8, -1),
                                   .worker = rh_db_text(s, 9),
                                   .pid = number_or(s, 10, 0),
                                   .text = rh_db_text(s, 11),
                                   .data = rh_db_text(s, 12)};
        rh_json_append(events, rh_event_json(&row));
    }
    if (step != SQLITE_DONE)
        rc = rh_db_failed(db, "read", err);
    sqlite3_finalize(s);
    if (rc == RH_OK)
        *out = events;
    else
        rh_json_free(events);
    return rc;
}

int64_t rh_database_last_event(struct rh_database *db)
{
    int64_t last = 0;
    if (rh_db_number(db, "SELECT ifnull(max(seq), 0) FROM event", &last, NULL) != RH_OK)
        return 0;
    return last;
}

enum rh_rc rh_database_workers(struct rh_database *db, rh_worker_fn fn, void *arg,
                               struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, "SELECT id, stage, why FROM worker ORDER BY id", &s, err);
    int step = SQLITE_DONE;
    while (rc == RH_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        enum rh_stage_id stage;
        if (rh_stage_from_name(rh_db_text(s, 1), &stage))
            fn(arg, rh_db_text(s, 0), stage, rh_db_text(s, 2));
    }
    if (rc == RH_OK && step != SQLITE_DONE)
        rc = rh_db_failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

enum rh_rc rh_database_find_step(struct rh_database *db, const char *key, struct rh_step_row *out,
                                 struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, "SELECT job, op, idx FROM step WHERE key = ?1", &s, err);
    *out = (struct rh_step_row){0};
    if (rc != RH_OK)
        return rc;
    rh_db_bind(s, 1, key);
    int step = sqlite3_step(s);
    if (step == SQLITE_ROW) {
        snprintf(out->job, sizeof out->job, "%s", rh_db_text(s, 0));
        snprintf(out->op, sizeof out->op, "%s", rh_db_text(s, 1));
        out->index = sqlite3_column_int64(s, 2);
    } else if (step != SQLITE_DONE) {
        rc = rh_db_failed(db, "read", err);
    }
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc forget(struct rh_database *db, const char *sql, const char *job,
                         struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, sql, &s, err);
    if (rc == RH_OK) {
        rh_db_bind(s, 1, job);
        rc = rh_db_run(db, s, err);
    }
    sqlite3_finalize(s);
    return rc;
}

enum rh_rc rh_database_forget_steps(struct rh_database *db, const char *job, struct rh_error *err)
{
    return forget(db, "DELETE FROM step WHERE job = ?1", job, err);
}

enum rh_rc rh_database_forget_tasks(struct rh_database *db, const char *job, struct rh_error *err)
{
    return forget(db, "DELETE FROM task WHERE job = ?1", job, err);
}

enum rh_rc rh_database_event_range(struct rh_database *db, int64_t *first, int64_t *last,
                                   int64_t *count, struct rh_error *err)
{
    enum rh_rc rc = rh_db_number(db, "SELECT ifnull(min(seq), 0) FROM event", first, err);
    if (rc == RH_OK)
        rc = rh_db_number(db, "SELECT ifnull(max(seq), 0) FROM event", last, err);
    return rc == RH_OK ? rh_db_number(db, "SELECT count(*) FROM event", count, err) : rc;
}
