#ifndef RH_CALIBRATE_SAMPLE_H
#define RH_CALIBRATE_SAMPLE_H

#include "corpus.h"
#include "recipe/recipe.h"
#include "text/tokenizer.h"

/* AutoRound's choice of rows: documents in shuffled order, their first seqlen tokens, no short ones
 * and none whose last token fills more than half of the row; the first nsamples of them. */
struct rh_sampling {
    int64_t considered, too_short, repetitive, rows;
    int32_t *ids; /* [rows, seqlen]; rh_free() */
};

/* progress (may be NULL) is called after every row and ends the work with its error. */
RH_MUST_USE enum rh_rc rh_sample_rows(struct rh_corpus *corpus, struct rh_tokenizer *tokenizer,
                                      const struct rh_recipe *recipe,
                                      enum rh_rc (*progress)(void *arg, int64_t rows,
                                                             struct rh_error *err),
                                      void *arg, struct rh_sampling *out, struct rh_error *err);

#endif
