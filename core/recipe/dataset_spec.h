#ifndef RH_RECIPE_DATASET_SPEC_H
#define RH_RECIPE_DATASET_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/*
 * calibration.dataset taken apart. As in AutoRound, data sets are separated by commas, and options
 * follow a name after colons:
 *   NAME[:num=ROWS][:concat[=false]][:share=PART][:column=TEXT_COLUMN]
 * num and concat are AutoRound's; share (of nsamples, 0..1) and column are not. Its options split,
 * apply_chat_template and system_prompt are refused with a remedy.
 */
struct rh_dataset_spec {
    char *name;    /* a path or the name of a data set on the hub */
    char *options; /* what follows the name, colons included; "" for none */
    char *column;  /* NULL: not given */
    int64_t num;   /* 0: not given */
    double share;  /* 0: not given */
    bool concat_given, concat;
};

struct rh_dataset_specs {
    struct rh_dataset_spec *items;
    int count;
};

#define RH_DATASETS_MAX 64

/* "" gives no data sets. */
RH_MUST_USE enum rh_rc rh_dataset_specs_parse(const char *text, struct rh_dataset_specs *out,
                                              struct rh_error *err);
void rh_dataset_specs_done(struct rh_dataset_specs *specs);

/*
 * Rows of nsamples that each data set has to give, in rows[count]; 0: its part of the rest. Errors:
 * more than nsamples in all; all fixed, and not nsamples.
 */
RH_MUST_USE enum rh_rc rh_dataset_specs_rows(const struct rh_dataset_specs *specs, int64_t nsamples,
                                             int64_t *rows, struct rh_error *err);

/* The text again with every name replaced; rename returns a new name, which is freed here. */
char *rh_dataset_specs_text(const struct rh_dataset_specs *specs,
                            char *(*rename)(const char *name, const void *arg), const void *arg);
/* The text without the folders of files, for what is published; owned by caller. */
char *rh_dataset_public_text(const char *text);

#endif
