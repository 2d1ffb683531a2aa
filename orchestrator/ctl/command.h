#ifndef RH_CTL_COMMAND_H
#define RH_CTL_COMMAND_H

#include <stdbool.h>

#include "base/error.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "ctl/request.h"
#include "daemon/daemon.h"

/* The verbs of the roundhouse program. argv[0] is the verb; the result is the exit code. */
struct rh_command {
    const char *name;
    const char *arguments; /* "MODEL --recipe RECIPE --output DIR" */
    const char *summary;
    int (*run)(const struct rh_command *command, int argc, char **argv);
};

int rh_command_run(const struct rh_command *command, int argc, char **argv);
int rh_command_submit(const struct rh_command *command, int argc, char **argv);
int rh_command_list(const struct rh_command *command, int argc, char **argv);
int rh_command_show(const struct rh_command *command, int argc, char **argv);
int rh_command_watch(const struct rh_command *command, int argc, char **argv);
int rh_command_change(const struct rh_command *command, int argc, char **argv); /* by its name */
int rh_command_drain(const struct rh_command *command, int argc, char **argv); /* by its name */
int rh_command_timeline(const struct rh_command *command, int argc, char **argv);
int rh_command_doctor(const struct rh_command *command, int argc, char **argv);
int rh_command_backup(const struct rh_command *command, int argc, char **argv);
int rh_command_export(const struct rh_command *command, int argc, char **argv);
int rh_command_gc(const struct rh_command *command, int argc, char **argv);
int rh_command_workers(const struct rh_command *command, int argc, char **argv);
int rh_command_stage(const struct rh_command *command, int argc, char **argv); /* by its name */
int rh_command_schema(const struct rh_command *command, int argc, char **argv);

/*
 * Options and positionals of a verb. False: there is nothing more to do and *code says how it
 * ended (--help was given, or the command line is wrong and has been told so).
 */
bool rh_command_parse(const struct rh_command *command, int argc, char **argv,
                      const struct rh_option *options, const char **positionals, int min, int max,
                      int *count, int *code);
/* Says on stderr when the given model is a path that is written like a model of the Hub. */
void rh_command_note_model(const struct rh_request *request, const char *given);
/* "roundhouse: <message>" on stderr; the exit code that fits. */
int rh_command_fail(const struct rh_error *err);
/* Exit code of an ended job; unless it is done, says on stderr why. */
int rh_command_job_exit(const struct rh_json *job);
/* On stdout; exit code. A closed or full stdout is an error, told on stderr. */
int rh_command_print(const char *text);
int rh_command_print_json(const struct rh_json *json); /* indented */

#endif
