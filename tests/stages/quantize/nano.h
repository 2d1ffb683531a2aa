#ifndef RH_TESTS_QUANTIZE_NANO_H
#define RH_TESTS_QUANTIZE_NANO_H

#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "families/model_plan.h"
#include "models/block.h"
#include "recipe/recipe.h"
#include "tuning/chain.h"

/* tests/data/nano, opened. */
struct nano {
    struct rh_recipe *recipe;
    struct rh_model_plan *plan;
    struct rh_safetensors *weights; /* holds every unit */
};

void nano_check(enum rh_rc rc, const struct rh_error *err);
/* assignments: NULL-terminated "key=value" of the recipe; may be NULL. */
void nano_open(const char *const *assignments, struct nano *out);
void nano_close(struct nano *nano);

/* Chains of the embedded rows; ended with rh_chain_done(). */
void nano_embed(const struct nano *nano, struct rh_backend *backend, bool on_host,
                const struct rh_token_rows *rows, struct rh_chain *out);
/* The same for rows of nano_token(). */
void nano_embed_made(const struct nano *nano, struct rh_backend *backend, bool on_host,
                     int64_t rows, int64_t tokens, struct rh_chain *out);
/* A block with room for rows x tokens; owned by caller. */
struct rh_block *nano_block(const struct nano *nano, struct rh_backend *backend, int64_t index,
                            int64_t rows, int64_t tokens, bool with_backward);

/* The token of row i at position j that tests/golden/make_tuning.py uses. */
int32_t nano_token(int64_t i, int64_t j);

#endif
