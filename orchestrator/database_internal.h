#ifndef RH_DATABASE_INTERNAL_H
#define RH_DATABASE_INTERNAL_H

#include <sqlite3.h>

#include "database.h"

/* Shared by the database's own files, the only ones that see SQLite. */

enum {
    RH_DB_ADD_JOB,
    RH_DB_SAVE_JOB,
    RH_DB_SAVE_TASK,
    RH_DB_ADD_EVENT,
    RH_DB_SAVE_WORKER,
    RH_DB_SAVE_STEP,
    RH_DB_STATEMENTS
};

struct rh_database {
    sqlite3 *handle;
    char *path;
    char *factory_id;
    sqlite3_stmt *ready[RH_DB_STATEMENTS]; /* all NULL when opened for reading only */
};

extern const char *const rh_db_statements[RH_DB_STATEMENTS];

/* SQLite's last error as one of ours. */
enum rh_rc rh_db_failed(const struct rh_database *db, const char *doing, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_db_execute(struct rh_database *db, const char *sql, const char *doing,
                                     struct rh_error *err);
RH_MUST_USE enum rh_rc rh_db_prepare(struct rh_database *db, const char *sql, sqlite3_stmt **out,
                                     struct rh_error *err);
RH_MUST_USE enum rh_rc rh_db_number(struct rh_database *db, const char *sql, int64_t *out,
                                    struct rh_error *err);
/* A text column; NULL stays NULL. Valid until the next step. */
const char *rh_db_text(sqlite3_stmt *s, int column);
void rh_db_bind(sqlite3_stmt *s, int index, const char *text);
/* Runs a statement that gives no rows, and makes it ready for the next time. */
RH_MUST_USE enum rh_rc rh_db_run(struct rh_database *db, sqlite3_stmt *s, struct rh_error *err);

#endif
