#ifndef RH_TUNING_MEMORY_PLAN_H
#define RH_TUNING_MEMORY_PLAN_H

#include "families/model_plan.h"
#include "tuning/tuner.h"

/*
 * The peak of backend memory, from shapes alone, before anything is loaded. When it does not fit,
 * the chains go to host memory; then the rows of an iteration are cut into smaller batches, whose
 * gradients are summed in the same order on every machine; then it is refused.
 */
struct rh_memory_plan {
    int64_t batch_size;  /* rows of one forward and backward */
    bool chains_on_host; /* in pinned host memory */
    /* Bytes: the largest block, and the weights of the next one beside it. */
    size_t weights, next_weights, weights_q, grads, quantizer, batches, activations, chains;
    size_t scratch; /* of kernels, and what the runtime keeps */
    size_t peak;    /* the sum */
    size_t host;    /* pinned host memory: chains, or their copies on the way to files */
    size_t available;
    /* Of the peaks that were tried, the smallest: with that much available it would have fitted. */
    size_t least;
};

/*
 * options: rows and the wished batch_size; samples x seq: the calibration rows. Where the backend
 * does not know its memory (the CPU), everything fits. RH_ERR_NO_MEMORY with the table when nothing
 * fits.
 */
RH_MUST_USE enum rh_rc rh_memory_plan_make(struct rh_backend *backend,
                                           const struct rh_model_plan *plan,
                                           const struct rh_tune_options *options, int64_t samples,
                                           int64_t seq, struct rh_memory_plan *out,
                                           struct rh_error *err);

/* "weights 1.68 GB, ..." in one line; owned by the caller. */
char *rh_memory_plan_text(const struct rh_memory_plan *plan);

#endif
