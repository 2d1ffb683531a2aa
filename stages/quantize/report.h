#ifndef RH_TUNING_REPORT_H
#define RH_TUNING_REPORT_H

#include "base/json.h"
#include "tuning/tuner.h"

/* What is worth knowing about a tuned block. */
struct rh_block_report {
    int64_t block, iters;
    /* "mtp": it is the MTP head, and `block` the number after that of the last block; else NULL. */
    const char *unit;
    struct rh_tune_result result;
    double final_loss; /* of the result, over all calibration rows */
    size_t linears;    /* quantized ones */
    int64_t experts;
    int64_t expert_floor;   /* fewer tokens are too few for an expert; 0: none are */
    const int64_t *tokens;  /* [experts]: tokens routed on the source chain */
    const int64_t *reached; /* [experts]: tokens routed in the minibatches */
    const char *backend;    /* where it was tuned: results differ in the last digits */
    const char *device;     /* name of the GPU; NULL on a CPU */
    int64_t batch_size;     /* rows of one forward and backward */
};

/*
 * report.json: {block, unit: "mtp" (of the MTP head alone), iters, backend, device, batch_size,
 * init_loss, best_loss, best_iter, final_loss, linears, experts: {tokens: [...], floor,
 * below_floor: [...], without_tokens, untuned: [...]}}. below_floor lists the experts with fewer
 * tokens than the floor, untuned those that no minibatch reached: they are rounded to nearest. No
 * times: artifacts are the same bytes for the same inputs. With iters = 0 the three losses are that
 * of all rows.
 */
struct rh_json *rh_block_report_json(const struct rh_block_report *report); /* owned by caller */

/* How the calibration tokens spread over the experts of the block. */
struct rh_expert_coverage {
    int64_t experts, floor, below_floor, without_tokens;
    int64_t tokens_min, tokens_median; /* median: the lower of the two in the middle */
};

struct rh_expert_coverage rh_block_report_coverage(const struct rh_block_report *report);

/* For the event log: {unit, seconds, init_loss, best_loss, best_iter, final_loss, experts: {count,
 * floor, below_floor, without_tokens, tokens_min, tokens_median}}. */
struct rh_json *rh_block_report_metrics(const struct rh_block_report *report, double seconds);

#endif
