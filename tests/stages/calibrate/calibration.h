#ifndef RH_TESTS_CALIBRATION_H
#define RH_TESTS_CALIBRATION_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* A job with a plan that holds a tokenizer, and a data set beside it. */
struct calibration {
    char *root, *job, *dataset;
};

/* tokenizer: copied into the plan's meta folder; NULL: none. */
struct calibration *calibration_new(const char *tokenizer);
void calibration_free(struct calibration *c);
void calibration_write(const struct calibration *c, const char *path_in_root, const char *text);

/* The operation with dataset (NULL: the one beside the job) and further members of "calibration",
 * such as "\"seqlen\":4". */
enum rh_rc calibration_run(const struct calibration *c, const char *dataset, const char *settings,
                           struct rh_error *err);
/* The rows of the artifact: [rows, seqlen], owned by caller. */
int32_t *calibration_rows(const struct calibration *c, int64_t *rows, int64_t *seqlen);
/* The candidates likewise. */
int32_t *calibration_candidates(const struct calibration *c, int64_t *rows, int64_t *seqlen);
struct rh_json *calibration_report(const struct calibration *c);

#endif
