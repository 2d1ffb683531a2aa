#include "database.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/crash.h"
#include "base/mem.h"

#define APPLICATION_ID 0x52484f55 /* "RHOU" */
#define SCHEMA_VERSION 1

/* clang-format off */
static const char schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE TABLE job(id TEXT PRIMARY KEY, seq INTEGER NOT NULL UNIQUE, priority INTEGER NOT NULL,"
    " prefetch INTEGER NOT NULL, desired TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, name TEXT,"
    " model TEXT NOT NULL, output TEXT NOT NULL, recipe TEXT NOT NULL, recipe_digest TEXT NOT NULL,"
    " token TEXT UNIQUE, created INTEGER NOT NULL, finished INTEGER NOT NULL);"
    "CREATE TABLE task(id INTEGER PRIMARY KEY, job TEXT NOT NULL REFERENCES job(id), op TEXT NOT NULL,"
    " idx INTEGER NOT NULL, last INTEGER NOT NULL, state TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " attempts INTEGER NOT NULL, crashes INTEGER NOT NULL, next INTEGER NOT NULL, failure INTEGER NOT NULL,"
    " error TEXT, worker TEXT NOT NULL, UNIQUE(job, op, idx));"
    "CREATE TABLE event(seq INTEGER PRIMARY KEY AUTOINCREMENT, unix_ns INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " job TEXT, type TEXT NOT NULL, task INTEGER, op TEXT, idx INTEGER, block INTEGER, worker TEXT, pid INTEGER,"
    " text TEXT, data TEXT);"
    "CREATE INDEX event_of_job ON event(job, seq);"
    "CREATE INDEX job_by_state ON job(state);";

enum { ADD_JOB, SAVE_JOB, SAVE_TASK, ADD_EVENT, STATEMENT_COUNT };

static const char *const statements[STATEMENT_COUNT] = {
    [ADD_JOB] = "INSERT INTO job(id, seq, priority, prefetch, desired, state, reason, name, model, output, recipe,"
                " recipe_digest, token, created, finished) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,0)",
    [SAVE_JOB] = "UPDATE job SET priority=?2, desired=?3, state=?4, reason=?5, finished=?6 WHERE id=?1",
    [SAVE_TASK] = "INSERT INTO task(id, job, op, idx, last, state, epoch, attempts, crashes, next, failure, error,"
                  " worker) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13) ON CONFLICT(id) DO UPDATE SET"
                  " state=excluded.state, epoch=excluded.epoch, attempts=excluded.attempts,"
                  " crashes=excluded.crashes, next=excluded.next, failure=excluded.failure, error=excluded.error,"
                  " worker=excluded.worker, last=excluded.last",
    [ADD_EVENT] = "INSERT INTO event(unix_ns, epoch, job, type, task, op, idx, block, worker, pid, text, data)"
                  " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
};
/* clang-format on */

struct rh_database {
    sqlite3 *handle;
    char *path;
    char *factory_id;
    sqlite3_stmt *ready[STATEMENT_COUNT];
};

static enum rh_rc failed(const struct rh_database *db, const char *doing, struct rh_error *err)
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

static enum rh_rc execute(struct rh_database *db, const char *sql, const char *doing,
                          struct rh_error *err)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? RH_OK
                                                                        : failed(db, doing, err);
}

static enum rh_rc prepare(struct rh_database *db, const char *sql, sqlite3_stmt **out,
                          struct rh_error *err)
{
    return sqlite3_prepare_v2(db->handle, sql, -1, out, NULL) == SQLITE_OK ? RH_OK
                                                                           : failed(db, "ask", err);
}

/* A text column; NULL stays NULL. Valid until the next step. */
static const char *text_at(sqlite3_stmt *s, int column)
{
    return (const char *)sqlite3_column_text(s, column);
}

static void bind_text(sqlite3_stmt *s, int index, const char *text)
{
    if (text)
        sqlite3_bind_text(s, index, text, -1, SQLITE_TRANSIENT);
    else
        sqlite3_bind_null(s, index);
}

/* -- Opening ---------------------------------------------------------------------------------- */

static enum rh_rc one_number(struct rh_database *db, const char *sql, int64_t *out,
                             struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = prepare(db, sql, &s, err);
    if (rc == RH_OK && sqlite3_step(s) == SQLITE_ROW)
        *out = sqlite3_column_int64(s, 0);
    else if (rc == RH_OK)
        rc = failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc create(struct rh_database *db, struct rh_error *err)
{
    uint8_t random[16];
    char id[33];
    RH_ASSERT(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    for (int i = 0; i < 16; i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    char *sql = rh_format("BEGIN IMMEDIATE; %s INSERT INTO meta VALUES('factory', '%s'), ('epoch', "
                          "'0'); PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT;",
                          schema, id, APPLICATION_ID, SCHEMA_VERSION);
    enum rh_rc rc = execute(db, sql, "create", err);
    rh_free(sql);
    return rc;
}

static enum rh_rc check_version(struct rh_database *db, struct rh_error *err)
{
    int64_t application = 0;
    int64_t version = 0;
    int64_t tables = 0;
    enum rh_rc rc = one_number(db, "PRAGMA application_id", &application, err);
    if (rc == RH_OK)
        rc = one_number(db, "PRAGMA user_version", &version, err);
    if (rc == RH_OK)
        rc = one_number(db, "SELECT count(*) FROM sqlite_master", &tables, err);
    if (rc != RH_OK)
        return rc;
    if (tables == 0)
        return create(db, err);
    if (application != APPLICATION_ID)
        return rh_fail(err, RH_ERR_FORMAT, "%s is a database of another program", db->path);
    if (version != SCHEMA_VERSION)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s has schema version %lld, this program knows %d; use the version that "
                       "wrote it",
                       db->path, (long long)version, SCHEMA_VERSION);
    return RH_OK;
}

static enum rh_rc check_health(struct rh_database *db, struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = prepare(db, "PRAGMA quick_check(1)", &s, err);
    if (rc == RH_OK && (sqlite3_step(s) != SQLITE_ROW || strcmp(text_at(s, 0), "ok") != 0))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s is damaged: %s; restore it from a copy", db->path,
                     text_at(s, 0) ? text_at(s, 0) : sqlite3_errmsg(db->handle));
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc read_factory_id(struct rh_database *db, struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = prepare(db, "SELECT value FROM meta WHERE key='factory'", &s, err);
    if (rc == RH_OK && sqlite3_step(s) == SQLITE_ROW)
        db->factory_id = rh_strdup(text_at(s, 0));
    else if (rc == RH_OK)
        rc = failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc set_up(struct rh_database *db, struct rh_error *err)
{
    enum rh_rc rc = execute(db,
                            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA "
                            "foreign_keys=ON; PRAGMA busy_timeout=5000; PRAGMA "
                            "journal_size_limit=67108864;",
                            "set up", err);
    if (rc == RH_OK)
        rc = check_version(db, err);
    if (rc == RH_OK)
        rc = check_health(db, err);
    if (rc == RH_OK)
        rc = read_factory_id(db, err);
    for (int i = 0; i < STATEMENT_COUNT && rc == RH_OK; i++)
        rc = prepare(db, statements[i], &db->ready[i], err);
    return rc;
}

enum rh_rc rh_database_open(const char *path, struct rh_database **out, struct rh_error *err)
{
    struct rh_database *db = rh_alloc(sizeof *db);
    db->path = rh_strdup(path);
    *out = NULL;
    enum rh_rc rc =
        sqlite3_open(path, &db->handle) == SQLITE_OK ? set_up(db, err) : failed(db, "open", err);
    if (rc != RH_OK) {
        rh_database_close(db);
        return rc;
    }
    *out = db;
    return RH_OK;
}

void rh_database_close(struct rh_database *db)
{
    if (!db)
        return;
    for (int i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(db->ready[i]);
    sqlite3_close(db->handle);
    rh_free(db->factory_id);
    rh_free(db->path);
    rh_free(db);
}

const char *rh_database_factory_id(const struct rh_database *db)
{
    return db->factory_id;
}

enum rh_rc rh_database_next_epoch(struct rh_database *db, uint64_t *out, struct rh_error *err)
{
    int64_t epoch = 0;
    enum rh_rc rc = execute(db, "UPDATE meta SET value=CAST(value AS INTEGER)+1 WHERE key='epoch'",
                            "write", err);
    if (rc == RH_OK)
        rc = one_number(db, "SELECT CAST(value AS INTEGER) FROM meta WHERE key='epoch'", &epoch,
                        err);
    *out = (uint64_t)epoch;
    return rc;
}

/* -- Writing ---------------------------------------------------------------------------------- */

enum rh_rc rh_database_begin(struct rh_database *db, struct rh_error *err)
{
    return execute(db, "BEGIN IMMEDIATE", "write", err);
}

enum rh_rc rh_database_commit(struct rh_database *db, struct rh_error *err)
{
    rh_crash_point("before_transaction");
    enum rh_rc rc = execute(db, "COMMIT", "write", err);
    rh_crash_point("after_transaction");
    return rc;
}

void rh_database_rollback(struct rh_database *db)
{
    if (!sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

static enum rh_rc run(struct rh_database *db, sqlite3_stmt *s, struct rh_error *err)
{
    enum rh_rc rc = sqlite3_step(s) == SQLITE_DONE ? RH_OK : failed(db, "write", err);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return rc;
}

enum rh_rc rh_database_add_job(struct rh_database *db, const struct rh_job_row *row,
                               const struct rh_sched_job *sched, struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[ADD_JOB];
    bind_text(s, 1, row->id);
    sqlite3_bind_int64(s, 2, sched->seq);
    sqlite3_bind_int64(s, 3, sched->priority);
    sqlite3_bind_int64(s, 4, sched->prefetch_blocks);
    bind_text(s, 5, rh_desired_name(sched->desired));
    bind_text(s, 6, rh_job_state_name(sched->state));
    bind_text(s, 7, sched->reason);
    bind_text(s, 8, row->name);
    bind_text(s, 9, row->model);
    bind_text(s, 10, row->output);
    bind_text(s, 11, row->recipe);
    bind_text(s, 12, row->recipe_digest);
    bind_text(s, 13, row->token);
    sqlite3_bind_int64(s, 14, row->created_unix_ns);
    return run(db, s, err);
}

enum rh_rc rh_database_save_job(struct rh_database *db, const struct rh_sched_job *job,
                                int64_t finished_unix_ns, struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[SAVE_JOB];
    bind_text(s, 1, job->id);
    sqlite3_bind_int64(s, 2, job->priority);
    bind_text(s, 3, rh_desired_name(job->desired));
    bind_text(s, 4, rh_job_state_name(job->state));
    bind_text(s, 5, job->reason);
    sqlite3_bind_int64(s, 6, finished_unix_ns);
    return run(db, s, err);
}

enum rh_rc rh_database_save_task(struct rh_database *db, const struct rh_sched_task *task,
                                 struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[SAVE_TASK];
    /* A commit that was under way is asked for again after a crash. */
    enum rh_task_state state = task->state == RH_TASK_COMMITTING ? RH_TASK_LEASED : task->state;
    sqlite3_bind_int64(s, 1, task->id);
    bind_text(s, 2, task->job->id);
    bind_text(s, 3, rh_op_name(task->op));
    sqlite3_bind_int64(s, 4, task->index);
    sqlite3_bind_int64(s, 5, task->last);
    bind_text(s, 6, rh_task_state_name(state));
    sqlite3_bind_int64(s, 7, task->epoch);
    sqlite3_bind_int64(s, 8, task->attempts);
    sqlite3_bind_int64(s, 9, task->crashes);
    sqlite3_bind_int64(s, 10, task->next);
    sqlite3_bind_int64(s, 11, (int)task->failure);
    bind_text(s, 12, task->error);
    bind_text(s, 13, task->worker);
    return run(db, s, err);
}

enum rh_rc rh_database_add_event(struct rh_database *db, struct rh_event_row *row,
                                 struct rh_error *err)
{
    sqlite3_stmt *s = db->ready[ADD_EVENT];
    sqlite3_bind_int64(s, 1, row->unix_ns);
    sqlite3_bind_int64(s, 2, (int64_t)row->epoch);
    bind_text(s, 3, row->job);
    bind_text(s, 4, row->type);
    if (row->task > 0)
        sqlite3_bind_int64(s, 5, row->task);
    bind_text(s, 6, row->op);
    if (row->index >= 0)
        sqlite3_bind_int64(s, 7, row->index);
    if (row->block >= 0)
        sqlite3_bind_int64(s, 8, row->block);
    bind_text(s, 9, row->worker);
    if (row->pid > 0)
        sqlite3_bind_int64(s, 10, row->pid);
    bind_text(s, 11, row->text);
    bind_text(s, 12, row->data);
    enum rh_rc rc = run(db, s, err);
    row->seq = sqlite3_last_insert_rowid(db->handle);
    return rc;
}

/* -- Reading ---------------------------------------------------------------------------------- */

enum rh_rc rh_database_next_numbers(struct rh_database *db, int64_t *job_seq, int64_t *task_id,
                                    struct rh_error *err)
{
    enum rh_rc rc = one_number(db, "SELECT ifnull(max(seq), 0) + 1 FROM job", job_seq, err);
    return rc == RH_OK ? one_number(db, "SELECT ifnull(max(id), 0) + 1 FROM task", task_id, err)
                       : rc;
}

static enum rh_rc give_job(sqlite3_stmt *s, rh_job_fn fn, void *arg, struct rh_error *err)
{
    struct rh_job_row row = {.id = text_at(s, 0),
                             .name = text_at(s, 7),
                             .model = text_at(s, 8),
                             .output = text_at(s, 9),
                             .recipe = text_at(s, 10),
                             .recipe_digest = text_at(s, 11),
                             .token = text_at(s, 12),
                             .created_unix_ns = sqlite3_column_int64(s, 13),
                             .finished_unix_ns = sqlite3_column_int64(s, 14)};
    struct rh_sched_job job = {.seq = sqlite3_column_int64(s, 1),
                               .priority = sqlite3_column_int(s, 2),
                               .prefetch_blocks = sqlite3_column_int64(s, 3)};
    snprintf(job.id, sizeof job.id, "%s", row.id);
    if (!rh_desired_from_name(text_at(s, 4), &job.desired) ||
        !rh_job_state_from_name(text_at(s, 5), &job.state))
        return rh_fail(err, RH_ERR_FORMAT, "job %s is in the unknown state %s/%s", row.id,
                       text_at(s, 4), text_at(s, 5));
    job.reason = rh_strdup(text_at(s, 6));
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
    enum rh_rc rc = prepare(db, sql, &s, err);
    rh_free(sql);
    if (rc == RH_OK && (choice == RH_JOBS_ID || choice == RH_JOBS_TOKEN))
        bind_text(s, 1, key);
    int step = SQLITE_DONE;
    while (rc == RH_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        rc = give_job(s, fn, arg, err);
    if (rc == RH_OK && step != SQLITE_DONE)
        rc = failed(db, "read", err);
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
                              .failure = (enum rh_failure)sqlite3_column_int(s, 9)};
    if (!rh_op_from_name(text_at(s, 1), &t.op) || !rh_task_state_from_name(text_at(s, 4), &t.state))
        return rh_fail(err, RH_ERR_FORMAT, "task %lld is a %s in the state %s, which is unknown",
                       (long long)t.id, text_at(s, 1), text_at(s, 4));
    t.error = rh_strdup(text_at(s, 10));
    snprintf(t.worker, sizeof t.worker, "%s", text_at(s, 11));
    fn(arg, &t);
    rh_free(t.error);
    return RH_OK;
}

enum rh_rc rh_database_tasks(struct rh_database *db, const char *job, rh_task_fn fn, void *arg,
                             struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = prepare(db,
                            "SELECT id, op, idx, last, state, epoch, attempts, crashes, next, "
                            "failure, error, worker FROM task WHERE job = ?1 ORDER BY id",
                            &s, err);
    if (rc == RH_OK)
        bind_text(s, 1, job);
    int step = SQLITE_DONE;
    while (rc == RH_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        rc = give_task(s, fn, arg, err);
    if (rc == RH_OK && step != SQLITE_DONE)
        rc = failed(db, "read", err);
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
    enum rh_rc rc = prepare(db,
                            "SELECT seq, unix_ns, epoch, job, type, task, op, idx, block, worker, "
                            "pid, text, data FROM event WHERE seq > ?1 AND (?2 IS NULL OR job = "
                            "?2) AND (?3 IS NULL OR type = ?3) ORDER BY seq LIMIT ?4",
                            &s, err);
    if (rc != RH_OK)
        return rc;
    sqlite3_bind_int64(s, 1, after);
    bind_text(s, 2, job);
    bind_text(s, 3, type);
    sqlite3_bind_int(s, 4, limit);
    struct rh_json *events = rh_json_new_array();
    int step = SQLITE_DONE;
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        struct rh_event_row row = {.seq = sqlite3_column_int64(s, 0),
                                   .unix_ns = sqlite3_column_int64(s, 1),
                                   .epoch = (uint64_t)sqlite3_column_int64(s, 2),
                                   .job = text_at(s, 3),
                                   .type = text_at(s, 4),
                                   .task = number_or(s, 5, 0),
                                   .op = text_at(s, 6),
                                   .index = number_or(s, 7, -1),
                                   .block = number_or(s, 8, -1),
                                   .worker = text_at(s, 9),
                                   .pid = number_or(s, 10, 0),
                                   .text = text_at(s, 11),
                                   .data = text_at(s, 12)};
        rh_json_append(events, rh_event_json(&row));
    }
    if (step != SQLITE_DONE)
        rc = failed(db, "read", err);
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
    if (one_number(db, "SELECT ifnull(max(seq), 0) FROM event", &last, NULL) != RH_OK)
        return 0;
    return last;
}
