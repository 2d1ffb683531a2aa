#ifndef RH_DAEMON_DAEMON_H
#define RH_DAEMON_DAEMON_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* What every program of the house shares: exit codes, options, one instance per directory. */
enum rh_exit {
    RH_EXIT_OK = 0,
    RH_EXIT_FAILED = 1,      /* the job or the check failed */
    RH_EXIT_USAGE = 2,       /* wrong command line or recipe */
    RH_EXIT_UNREACHABLE = 3, /* no orchestrator */
    RH_EXIT_NOT_FOUND = 4,
    RH_EXIT_REFUSED = 5, /* not in this state; another instance runs; destination exists */
    RH_EXIT_DENIED = 6,
    RH_EXIT_TIMEOUT = 7,
    RH_EXIT_PARTLY = 8,
    RH_EXIT_PROBLEMS = 9,
    RH_EXIT_INTERRUPTED = 130,
};

/* The exit code that tells a script what kind of error it was. */
int rh_exit_code(const struct rh_error *err);

/* Options "--name VALUE", "--name=VALUE" and flags "--name", in any order with positionals; "--"
 * ends them; "-h" is "--help"; "-" and negative numbers are positionals. Unknown option:
 * RH_ERR_ARGUMENT naming the nearest known one. */
struct rh_option {
    const char *name;     /* without dashes; NULL ends the table */
    const char *argument; /* "DIR"; NULL: a flag */
    const char *help;
    const char **value;   /* last one given; flags: set to "" */
    /* For options that may be given several times: appended here instead of *value. */
    const char **values;
    int *value_count;
    int value_max;
};

RH_MUST_USE enum rh_rc rh_options_parse(int argc, char **argv, const struct rh_option *options,
                                        const char **positionals, int positional_max,
                                        int *positional_count, struct rh_error *err);
/* "  --name DIR   help" for every row. */
char *rh_options_help(const struct rh_option *options); /* owned by caller */

/* Holds <dir>/lock for the life of the process (flock); RH_ERR_EXISTS names the pid that has it. */
RH_MUST_USE enum rh_rc rh_lock_dir(const char *dir, int *out_fd, struct rh_error *err);

/* Tells the service manager, when there is one ($NOTIFY_SOCKET): "READY=1", "STOPPING=1". */
void rh_notify_service(const char *state);

/* Is a terminal there, wide enough and wanted (NO_COLOR, TERM=dumb)? */
bool rh_tty_is_live(int fd);
int rh_tty_width(int fd);

/* ceil-free human figures: "12.3 MiB", "1m 23s"; owned by caller. */
char *rh_human_bytes(double bytes);
char *rh_human_seconds(double seconds);
/* "19,545,968,896" */
char *rh_human_count(long long count);

/* Directory of the running program, for finding its siblings; owned by caller. */
char *rh_program_dir(void);
/* What this program was called as, without directories; borrowed from argv. A stage program that the
 * roundhouse program turned into calls itself "roundhouse". */
const char *rh_program_name(char **argv);

#endif
