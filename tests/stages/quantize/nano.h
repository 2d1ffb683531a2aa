#ifndef RH_TESTS_QUANTIZE_NANO_H
#define RH_TESTS_QUANTIZE_NANO_H

#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "families/model_plan.h"
#include "recipe/recipe.h"

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

/* The token of row i at position j that tests/golden/make_tuning.py uses. */
int32_t nano_token(int64_t i, int64_t j);

#endif
