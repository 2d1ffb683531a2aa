#ifndef RH_TEST_PACK_JOB_H
#define RH_TEST_PACK_JOB_H

#include "families/model_plan.h"

#define NANO RH_SOURCE_DIR "/tests/data/nano"

/* A job of the model nano; tuning is replaced by rounding to nearest. */
struct job {
    char *root; /* temporary; "<root>/job" is the job, "<root>/out" the gathered result */
    char *dir, *out;
    char *model; /* the source's directory */
    struct rh_recipe *recipe;
    struct rh_model_plan *plan;
};

/* What tune would have written wrongly. */
struct job_damage {
    const char *linear; /* NULL: nothing */
    uint8_t code;       /* the first two codes */
    uint16_t scale;     /* the first scale; 0: leave it */
};

/* Runs plan and all fetches. */
struct job *job_new(const char *recipe);
/* The same from nano with the MTP experts one by one, as some checkpoints have them. */
struct job *job_new_split(const char *recipe);
void job_free(struct job *j);
/* Commits tune[block] with the codes of rounding to nearest, without a search; the MTP head counts
 * as one more block where it is tuned. */
void job_tune(const struct job *j, int64_t block, const struct job_damage *damage);
enum rh_rc job_run(const struct job *j, const char *op, int64_t index, struct rh_error *err);
void job_must_run(const struct job *j, const char *op, int64_t index);
/* Everything up to finalize, then shards and finalize's files side by side in j->out. */
void job_finish(const struct job *j);
/* Path inside an artifact; owned by caller. */
char *job_path(const struct job *j, const char *op, int64_t index, const char *name);
/* The source weight of a linear, [out, in]; owned by caller. */
float *job_weight(const struct job *j, const struct rh_linear *linear);
const struct rh_linear *job_linear(const struct job *j, const char *name);

#endif
