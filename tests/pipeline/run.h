#ifndef RH_TESTS_PIPELINE_RUN_H
#define RH_TESTS_PIPELINE_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "proc.h"

/* A folder of its own for one test, and runs of the factory in it. */
struct place {
    char *dir;
    char *model; /* the source checkpoint; nano unless a test makes another */
};

void place_make(struct place *place);
void place_done(struct place *place); /* removes everything */
char *place_path(const struct place *place, const char *name); /* owned by caller */
/* Copies nano into the place and makes it the model. */
void place_own_model(struct place *place);

/*
 * "roundhouse run": output <place>/<name>, state <place>/<name>.state, recipe tiny with few iterations on
 * the samples of tests/data; `settings` are further --set values, NULL-terminated.
 */
void run_start(const struct place *place, const char *name, const char *const settings[],
               struct proc *p);
/* As run_start; waits and returns the exit code. */
int run_whole(const struct place *place, const char *name, const char *const settings[],
              struct proc *p);
/* As run_start, and a success. */
void must_run(const struct place *place, const char *name, const char *const settings[]);
/* A success too, although the run's `program` is killed with signal 9 once `condition`, which gets
 * the state directory, is true within so many seconds. */
void must_run_killed(const struct place *place, const char *name, const char *const settings[],
                     const char *program, bool (*condition)(void *), int seconds);

/* Fails the test with the program's words unless the code is as expected. */
void expect_exit(const struct proc *p, int code);
/* Exactly one line of the error output begins with "roundhouse: ", and it has all the words
 * (NULL-terminated). */
void expect_one_error(const struct proc *p, const char *const words[]);

/* Digests of every *.safetensors of an output folder, in one text; owned by caller. */
char *weights_digest(const struct place *place, const char *name);
/* The whole event log of the only job of a run; rh_json_free(). */
struct rh_json *event_log(const struct place *place, const char *name);
/* The first event of that type in the log, of that op (NULL: any), index and block (-1: any);
 * fails the test when there is none. */
const struct rh_json *find_event(const struct rh_json *log, const char *type, const char *op,
                                 int64_t index, int64_t block);
/* Files of the place whose name contains the text. */
size_t count_files(const char *dir, const char *part);

#endif
