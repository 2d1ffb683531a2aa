#ifndef RH_CALIBRATE_SAMPLE_H
#define RH_CALIBRATE_SAMPLE_H

#include "dataset.h"
#include "recipe/recipe.h"
#include "text/tokenizer.h"

/*
 * AutoRound's choice of rows (calib_dataset.py of 0.16.1). Of one data set: documents in shuffled
 * order, their first seqlen tokens, no short ones and none whose last token fills more than half of
 * the row; the first nsamples of them. Packed ("concat"): the first seqlen tokens of each document,
 * of running text all of them, end to end, cut into rows.
 *
 * Of several: each gives the rows that its num or share asks for; the others share what is left
 * evenly, the one with the fewest rows first, and none more than it has. They follow each other in
 * the order of their numbers of rows, and are then shuffled as numpy's permutation does.
 *
 * With calibration.top_up_rows there are candidates as well: of each data set the rows that would
 * have come next, in proportion to those that were taken, as many as the pool asks for or there are.
 * The rows themselves are the same with and without.
 */
struct rh_set_sampling {
    char *name; /* of the file, without folders */
    char sha256[65];
    int64_t documents, considered, too_short, repetitive;
    int64_t rows;  /* that it could give, as far as it was read */
    int64_t taken; /* that were taken */
    int64_t candidates; /* taken behind them */
    bool concat;
};

struct rh_sampling {
    int32_t *ids; /* [rows, seqlen] */
    int64_t rows;
    int32_t *candidates; /* [candidate_rows, seqlen], set by set in the order of the recipe */
    int64_t candidate_rows;
    struct rh_set_sampling *sets; /* in the order of the recipe */
    int set_count;
};

/* Candidates that the recipe asks for; 0: none. */
int64_t rh_sample_pool(const struct rh_recipe *recipe);

void rh_sampling_done(struct rh_sampling *s);

/* progress (may be NULL) is called after every document with the rows found so far, and ends the
 * work with its error. */
RH_MUST_USE enum rh_rc
rh_sample_rows(const struct rh_recipe *recipe, struct rh_tokenizer *tokenizer,
               enum rh_rc (*progress)(void *arg, int64_t rows, struct rh_error *err), void *arg,
               struct rh_sampling *out, struct rh_error *err);

#endif
