#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "database_internal.h"

/* Opening, creating and bringing up to date. */

#define APPLICATION_ID 0x52484f55 /* "RHOU" */
#define SCHEMA_VERSION 3

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

/* From version 1 + index to the next. A database of any released version is opened by running what
 * it lacks; a new one runs them all. Never change an entry that was released. */
static const char *const upgrades[SCHEMA_VERSION - 1] = {
    "ALTER TABLE task ADD COLUMN crashed_on TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE worker(id TEXT PRIMARY KEY, stage TEXT NOT NULL, why TEXT NOT NULL);"
    "CREATE TABLE step(key TEXT PRIMARY KEY, job TEXT NOT NULL REFERENCES job(id), op TEXT NOT NULL,"
    " idx INTEGER NOT NULL);"
    "CREATE INDEX step_of_job ON step(job);",
    "ALTER TABLE task ADD COLUMN device_need INTEGER NOT NULL DEFAULT 0;",
};
/* clang-format on */

/* -- Opening ---------------------------------------------------------------------------------- */

static enum rh_rc create(struct rh_database *db, struct rh_error *err)
{
    uint8_t random[16];
    char id[33];
    RH_ASSERT(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    for (int i = 0; i < 16; i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    char *sql = rh_format("BEGIN IMMEDIATE; %s INSERT INTO meta VALUES('factory', '%s'), ('epoch', "
                          "'0'); PRAGMA application_id=%d; PRAGMA user_version=1; COMMIT;",
                          schema, id, APPLICATION_ID);
    enum rh_rc rc = rh_db_execute(db, sql, "create", err);
    rh_free(sql);
    return rc;
}

/* One version up, all or nothing. */
static enum rh_rc upgrade_from(struct rh_database *db, int64_t version, struct rh_error *err)
{
    char *sql = rh_format("BEGIN IMMEDIATE; %s PRAGMA user_version=%lld; COMMIT;",
                          upgrades[version - 1], (long long)version + 1);
    enum rh_rc rc = rh_db_execute(db, sql, "upgrade", err);
    if (rc != RH_OK)
        rh_database_rollback(db);
    rh_free(sql);
    return rc;
}

/* "<path>.v1": what the older program can still open, should the newer one not please. */
static enum rh_rc keep_copy(struct rh_database *db, int64_t version, struct rh_error *err)
{
    char *copy = rh_format("%s.v%lld", db->path, (long long)version);
    enum rh_rc rc = rh_fs_exists(copy) ? RH_OK : rh_database_backup(db, copy, err);
    if (rc == RH_OK)
        rh_log(RH_LOG_INFO, "database.upgrading", "from=%lld to=%d copy=%s", (long long)version,
               SCHEMA_VERSION, copy);
    rh_free(copy);
    return rc;
}

static enum rh_rc refuse_version(const struct rh_database *db, int64_t version,
                                 struct rh_error *err)
{
    return rh_fail(err, RH_ERR_UNSUPPORTED,
                   "%s has schema version %lld, this program knows %d; use the version that "
                   "wrote it",
                   db->path, (long long)version, SCHEMA_VERSION);
}

static enum rh_rc check_version(struct rh_database *db, bool reader, struct rh_error *err)
{
    int64_t application = 0;
    int64_t version = 0;
    int64_t tables = 0;
    enum rh_rc rc = rh_db_number(db, "PRAGMA application_id", &application, err);
    if (rc == RH_OK)
        rc = rh_db_number(db, "PRAGMA user_version", &version, err);
    if (rc == RH_OK)
        rc = rh_db_number(db, "SELECT count(*) FROM sqlite_master", &tables, err);
    if (rc != RH_OK)
        return rc;
    bool fresh = tables == 0 && !reader;
    if (!fresh && application != APPLICATION_ID)
        return rh_fail(err, RH_ERR_FORMAT, "%s is a database of another program", db->path);
    if (!fresh && (version < 1 || version > SCHEMA_VERSION))
        return refuse_version(db, version, err);
    if (reader && version != SCHEMA_VERSION)
        return rh_fail(
            err, RH_ERR_UNSUPPORTED,
            "%s has the older schema version %lld; start roundhoused once, it upgrades it",
            db->path, (long long)version);
    if (fresh) {
        rc = create(db, err);
        version = 1;
    } else if (version < SCHEMA_VERSION) {
        rc = keep_copy(db, version, err);
    }
    for (; rc == RH_OK && version < SCHEMA_VERSION; version++)
        rc = upgrade_from(db, version, err);
    return rc;
}

static enum rh_rc check_health(struct rh_database *db, struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, "PRAGMA quick_check(1)", &s, err);
    if (rc == RH_OK && (sqlite3_step(s) != SQLITE_ROW || strcmp(rh_db_text(s, 0), "ok") != 0))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s is damaged: %s; restore it from a copy", db->path,
                     rh_db_text(s, 0) ? rh_db_text(s, 0) : sqlite3_errmsg(db->handle));
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc read_factory_id(struct rh_database *db, struct rh_error *err)
{
    sqlite3_stmt *s = NULL;
    enum rh_rc rc = rh_db_prepare(db, "SELECT value FROM meta WHERE key='factory'", &s, err);
    if (rc == RH_OK && sqlite3_step(s) == SQLITE_ROW)
        db->factory_id = rh_strdup(rh_db_text(s, 0));
    else if (rc == RH_OK)
        rc = rh_db_failed(db, "read", err);
    sqlite3_finalize(s);
    return rc;
}

static enum rh_rc set_up(struct rh_database *db, bool reader, struct rh_error *err)
{
    enum rh_rc rc = rh_db_execute(db,
                                  reader ? "PRAGMA busy_timeout=5000;"
                                         : "PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; "
                                           "PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; "
                                           "PRAGMA journal_size_limit=67108864;",
                                  "set up", err);
    if (rc == RH_OK)
        rc = check_version(db, reader, err);
    if (rc == RH_OK)
        rc = check_health(db, err);
    if (rc == RH_OK)
        rc = read_factory_id(db, err);
    for (int i = 0; i < RH_DB_STATEMENTS && rc == RH_OK && !reader; i++)
        rc = rh_db_prepare(db, rh_db_statements[i], &db->ready[i], err);
    return rc;
}

static enum rh_rc open_with(const char *path, bool reader, struct rh_database **out,
                            struct rh_error *err)
{
    struct rh_database *db = rh_alloc(sizeof *db);
    int flags = reader ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    db->path = rh_strdup(path);
    *out = NULL;
    enum rh_rc rc = sqlite3_open_v2(path, &db->handle, flags, NULL) == SQLITE_OK
                        ? set_up(db, reader, err)
                        : rh_db_failed(db, "open", err);
    if (rc != RH_OK) {
        rh_database_close(db);
        return rc;
    }
    *out = db;
    return RH_OK;
}

enum rh_rc rh_database_open(const char *path, struct rh_database **out, struct rh_error *err)
{
    return open_with(path, false, out, err);
}

enum rh_rc rh_database_open_reader(const char *path, struct rh_database **out, struct rh_error *err)
{
    if (!rh_fs_exists(path))
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s is not there; is that a state directory?", path);
    return open_with(path, true, out, err);
}

/* -- Copies ----------------------------------------------------------------------------------- */

static enum rh_rc copy_into(struct rh_database *db, const char *to, struct rh_error *err)
{
    sqlite3 *copy = NULL;
    int code = sqlite3_open(to, &copy);
    sqlite3_backup *backup =
        code == SQLITE_OK ? sqlite3_backup_init(copy, "main", db->handle, "main") : NULL;
    if (backup) {
        do {
            code = sqlite3_backup_step(backup, -1);
        } while (code == SQLITE_BUSY || code == SQLITE_LOCKED);
        (void)sqlite3_backup_finish(backup);
        /* One file, complete in itself. */
        if (code == SQLITE_DONE)
            code = sqlite3_exec(copy, "PRAGMA journal_mode=DELETE;", NULL, NULL, NULL);
    } else if (code == SQLITE_OK) {
        code = sqlite3_errcode(copy);
    }
    enum rh_rc rc = RH_OK;
    if (code != SQLITE_OK)
        rc = rh_fail(err, code == SQLITE_FULL ? RH_ERR_NO_SPACE : RH_ERR_IO,
                     "could not copy %s to %s: %s", db->path, to, sqlite3_errstr(code));
    sqlite3_close(copy);
    return rc;
}

enum rh_rc rh_database_backup(struct rh_database *db, const char *to, struct rh_error *err)
{
    if (rh_fs_exists(to))
        return rh_fail(err, RH_ERR_EXISTS, "%s is there already; name another file", to);
    char *tmp = rh_format("%s.tmp", to);
    enum rh_rc rc = rh_fs_remove_tree(tmp, err);
    if (rc == RH_OK)
        rc = copy_into(db, tmp, err);
    if (rc == RH_OK)
        rc = rh_fs_rename_new(tmp, to, err);
    if (rc != RH_OK)
        (void)!rh_fs_remove_tree(tmp, NULL);
    rh_free(tmp);
    return rc;
}

void rh_database_close(struct rh_database *db)
{
    if (!db)
        return;
    for (int i = 0; i < RH_DB_STATEMENTS; i++)
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
    enum rh_rc rc = rh_db_execute(
        db, "UPDATE meta SET value=CAST(value AS INTEGER)+1 WHERE key='epoch'", "write", err);
    if (rc == RH_OK)
        rc = rh_db_number(db, "SELECT CAST(value AS INTEGER) FROM meta WHERE key='epoch'", &epoch,
                          err);
    *out = (uint64_t)epoch;
    return rc;
}
