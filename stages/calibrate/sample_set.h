#ifndef RH_CALIBRATE_SAMPLE_SET_H
#define RH_CALIBRATE_SAMPLE_SET_H

#include "recipe/dataset_spec.h"
#include "sample.h"

/* Private to the stage: the rows of one data set. */
struct rh_set_rows {
    int32_t *ids; /* [kept, seqlen] */
    int64_t kept, capacity;
};

struct rh_set_order {
    const struct rh_recipe *recipe;
    struct rh_tokenizer *tokenizer;
    enum rh_rc (*progress)(void *arg, int64_t rows, struct rh_error *err);
    void *arg;
    int64_t before; /* rows of the sets before, for the progress */
    int64_t keep;   /* rows to keep */
    bool count_all; /* go on counting behind them */
};

RH_MUST_USE enum rh_rc rh_sample_set(const struct rh_set_order *o,
                                     const struct rh_dataset_spec *spec,
                                     struct rh_set_sampling *stats, struct rh_set_rows *out,
                                     struct rh_error *err);

#endif
