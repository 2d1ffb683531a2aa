#ifndef RH_DOWNLOAD_DOWNLOAD_OPS_H
#define RH_DOWNLOAD_DOWNLOAD_OPS_H

#include "families/model_plan.h"
#include "harness/stage.h"
#include "source.h"

/* Private to the library. */
#define DOWNLOAD_CHUNK ((size_t)8 << 20) /* bytes in memory of whatever is copied or digested */
#define SOURCE_PIN     "source.json"

/* plan.json: the model plan. source.json: rh_source_pin(), of a source that has one. meta/: every
 * file of the source that is not weights. */
enum rh_rc rh_download_plan(struct rh_task *task, struct rh_error *err);
/* tensors.safetensors: the unit's tensors. RH_ERR_FORMAT when a source file is no longer the one
 * that was planned. */
enum rh_rc rh_download_fetch(struct rh_task *task, struct rh_error *err);
/* digest.json: {file, size, sha256} of a source file. What every fetch has checked the file against
 * is taken from the listing, not computed again. */
enum rh_rc rh_download_digest(struct rh_task *task, struct rh_error *err);

/* Sub-commands; see struct rh_stage. */
int rh_download_command(int argc, char **argv);

/* The job's committed plan; *out: rh_model_plan_free(). */
RH_MUST_USE enum rh_rc rh_download_load_plan(const struct rh_task *task, struct rh_model_plan **out,
                                             struct rh_error *err);

/*
 * The task's source; rh_source_close(). With a plan it is what the plan was made of, whatever has
 * become of the source since. What it downloads is kept for the job's other tasks.
 */
RH_MUST_USE enum rh_rc rh_download_open_source(struct rh_task *task, struct rh_source **out,
                                               struct rh_error *err);

#endif
