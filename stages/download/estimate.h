#ifndef RH_DOWNLOAD_ESTIMATE_H
#define RH_DOWNLOAD_ESTIMATE_H

#include <stdint.h>

#include "families/model_plan.h"
#include "recipe/recipe.h"

/*
 * What a job will need. Bytes on disk are exact sums of shapes. Memory and work are estimates that
 * count the large parts only.
 */
struct rh_estimate {
    uint64_t source_tensors, source_bytes; /* tensor data of all units */
    /* Disk of the job directory while everything is kept; the source itself is not in it. */
    uint64_t
        disk_files; /* source files that are not on this machine, at most at a time; not set here */
    uint64_t disk_source; /* fetch: a copy of the source's tensors */
    uint64_t disk_tuned;  /* tune: codes, scales, zero points */
    uint64_t disk_chains; /* tune: outputs of two blocks on both chains, fp32 */
    uint64_t disk_packed; /* pack: the output tensors by unit */
    uint64_t disk_shards; /* shard: the output files; the destination links to them */
    uint64_t disk_all;    /* the sum */
    /*
     * Peak of the quantize stage, fp32: the largest block's weights three times (source, quantized,
     * gradient), rounding offsets and their best values for its quantized linears, the experts'
     * activations of one batch, the calibration rows' hidden states three times (both chains'
     * inputs, the target).
     */
    uint64_t memory;
    /*
     * Floating-point operations of tuning all blocks and, where it is tuned, the MTP head, matrix
     * products of the linears only: per token 2 x 3 x active weights (forward, gradients of inputs
     * and of weights) times the tokens of all iterations, and 2 x active weights for each forward
     * pass over the calibration rows. An expert's weights are active for num_experts_per_tok /
     * num_experts of the tokens.
     */
    double tuning_flop, forward_flop;
};

/* Bytes of source files that are on the disk at the same time at most, when they are downloaded as
 * the units need them, two tasks at a time, and go when their last unit has been fetched. */
uint64_t rh_estimate_files(const struct rh_model_plan *plan);

void rh_estimate_make(const struct rh_model_plan *plan, const struct rh_recipe *recipe,
                      struct rh_estimate *out);

#endif
