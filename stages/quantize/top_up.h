#ifndef RH_TUNING_TOP_UP_H
#define RH_TUNING_TOP_UP_H

#include <stdint.h>

#include "base/error.h"
#include "tuning/forward.h"

/*
 * Which rows of the sample to exchange for candidates, so that experts get tokens. An expert of a
 * block misses the tokens between what the chosen rows bring and the floor. Each step makes the one
 * exchange that lowers the sum of what all experts miss the most; it ends when none lowers it, or
 * after `limit` exchanges. Of equal exchanges the one whose candidate brings more missing tokens
 * counts, then the first candidate, then the first row. A candidate comes in once, and stays.
 */
struct rh_top_up {
    int64_t blocks, experts;  /* num_experts */
    int64_t rows, candidates; /* of the sample, and behind it */
    const int32_t *tokens;    /* [blocks, rows + candidates, experts]: tokens routed */
    int64_t floor, limit;
};

/* chosen ([rows], host): row i of the new sample is row chosen[i] of tokens: i, or a candidate.
 * pulse (may be NULL) is called now and then. */
RH_MUST_USE enum rh_rc rh_top_up_choose(const struct rh_top_up *t, const struct rh_pulse *pulse,
                                        int64_t *chosen, struct rh_error *err);

/* How tokens spread over the experts of one block. */
struct rh_top_up_coverage {
    int64_t below_floor, without_tokens; /* experts */
    int64_t tokens_min;                  /* of an expert */
    int64_t missing;                     /* tokens, over all experts */
};

/* chosen as above; NULL: the sample itself. */
struct rh_top_up_coverage rh_top_up_coverage(const struct rh_top_up *t, int64_t block,
                                             const int64_t *chosen);

#endif
