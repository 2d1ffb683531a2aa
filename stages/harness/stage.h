#ifndef RH_HARNESS_STAGE_H
#define RH_HARNESS_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "recipe/recipe.h"

/*
 * The stage contract. A stage is a table of operations; the harness gives it a process: options,
 * signals, the link to the orchestrator, leases, beats, retries of results, one compute thread per
 * slot. An operation reads committed artifacts of its job and writes into its own staging
 * directory, nowhere else; when it returns RH_OK the harness digests the directory, writes
 * MANIFEST.json and hands it in. Operations are deterministic: same inputs and recipe, same bytes.
 *
 *   static const struct rh_stage_op ops[] = {{"pack", run_pack}, {"shard", run_shard}};
 *   int main(int argc, char **argv) {
 *       return rh_stage_main(&(struct rh_stage){.name = "pack", .ops = ops, .op_count = 2,
 *                                               .default_slots = 1}, argc, argv);
 *   }
 */
struct rh_task;
struct rh_option;

typedef enum rh_rc (*rh_stage_fn)(struct rh_task *task, struct rh_error *err);

struct rh_stage_op {
    const char *op;
    rh_stage_fn run;
};

struct rh_stage {
    const char *name; /* download, calibrate, quantize, pack, publish */
    const struct rh_stage_op *ops;
    int op_count;
    int default_slots; /* tasks run at the same time */
    /* Sub-commands for people ("rh-download plan MODEL"); returns -1 when argv[1] is none of its
     * own, else the exit code. NULL: none. */
    int (*command)(int argc, char **argv);
    /* Options of its own, ended by one without a name, and what looks at them before the work
     * begins. NULL: none. */
    const struct rh_option *options;
    enum rh_rc (*check)(struct rh_error *err);
    /* Memory of the device that the operations compute on, in bytes; asked every beat, on the
     * control thread. Must not wait for the device. NULL: they compute in main memory. */
    void (*device_memory)(uint64_t *total, uint64_t *free);
};

int rh_stage_main(const struct rh_stage *stage, int argc, char **argv);

/* What an operation may ask and say. All calls are thread safe. */
const struct rh_recipe *rh_task_recipe(const struct rh_task *task);
const char *rh_task_job(const struct rh_task *task);    /* job id */
const char *rh_task_model(const struct rh_task *task);  /* source reference: "file:/models/x" */
const char *rh_task_output(const struct rh_task *task); /* destination: "dir:/out/x" */
int64_t rh_task_index(const struct rh_task *task);
const char *rh_task_staging(const struct rh_task *task); /* exclusive, empty, on the job's disk */
/* "<job directory>/artifacts/<op>-<index>"; owned by caller. Says nothing about existence. */
char *rh_task_artifact(const struct rh_task *task, const char *op, int64_t index);
/* "<job directory>/scratch": what an operation keeps for a repetition of itself, or for others of its
 * stage; goes with the job's other files. Whoever finds something there has to check it. Owned by
 * caller; need not exist. */
char *rh_task_scratch(const struct rh_task *task);
/* The job's work directory, for reports only. */
const char *rh_task_job_dir(const struct rh_task *task);

/* Returns when the artifact is committed; RH_ERR_CANCELLED when the task is cancelled meanwhile. */
RH_MUST_USE enum rh_rc rh_task_wait_artifact(struct rh_task *task, const char *op, int64_t index,
                                             struct rh_error *err);
/* RH_ERR_CANCELLED once the task was revoked, or the worker leaves and the phase at hand is not
 * expected to end in time; call it in every long loop. */
RH_MUST_USE enum rh_rc rh_task_check(struct rh_task *task, struct rh_error *err);
/* Session operations, before each of their parts: RH_ERR_CANCELLED also when the worker leaves. A part
 * is a phase of its own in rh_task_progress(), whose pace tells how long it will take. */
RH_MUST_USE enum rh_rc rh_task_next_part(struct rh_task *task, struct rh_error *err);

/* Progress; also proves that the compute thread lives. `phase`: short text for people ("block 3").
 * done and total in the operation's own unit ("bytes", "iterations"). */
void rh_task_progress(struct rh_task *task, const char *phase, double done, double total,
                      const char *unit);
/* One tuning iteration, lossy. */
void rh_task_tick(struct rh_task *task, int64_t block, int64_t iter, int64_t iters, double loss,
                  double best_loss);

/*
 * Session operations (tune): hands in the sub-directory `name` of the staging directory as artifact
 * "<op>-<index>" while the operation goes on. `metrics` (adopted, may be NULL) goes to the event
 * log. Asynchronous, but durable before it returns; rh_task_first_index() is the first index that
 * is not yet committed when the task starts (0, or where a lost predecessor stopped).
 */
RH_MUST_USE enum rh_rc rh_task_checkpoint(struct rh_task *task, const char *name, int64_t index,
                                          struct rh_json *metrics, struct rh_error *err);
int64_t rh_task_first_index(const struct rh_task *task);
int64_t rh_task_last_index(const struct rh_task *task); /* inclusive */
/* The operation is about to fail because its device has too little memory: `need` bytes would have to
 * be free before it starts (as device_memory says it), and `room` were. No device with less gets the
 * task again. */
void rh_task_device_short(struct rh_task *task, uint64_t need, uint64_t room);
/* Facts for the event log and for MANIFEST.json ("meta"); adopted. */
void rh_task_set_meta(struct rh_task *task, struct rh_json *meta);

/*
 * Without any process: runs one operation for tests and tools, committing into job_dir as the
 * orchestrator would. recipe borrowed.
 */
RH_MUST_USE enum rh_rc rh_stage_run_local(const struct rh_stage *stage, const char *op,
                                          const char *job_dir, const struct rh_recipe *recipe,
                                          const char *model, const char *output, int64_t index,
                                          int64_t last_index, struct rh_error *err);

#endif
