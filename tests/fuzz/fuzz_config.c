#include "base/mem.h"
#include "fuzz.h"
#include "families/model_plan.h"

/* A config.json of a model without a tensor: whatever it says, the plan fails or is consistent. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rh_json *config = NULL;
    struct rh_json *empty = NULL;
    struct rh_recipe *recipe = NULL;
    struct rh_model_plan *plan = NULL;
    struct rh_error err;
    RH_ASSERT(rh_json_parse("{}", 2, "recipe", &empty, &err) == RH_OK);
    RH_ASSERT(rh_recipe_from_json(empty, "recipe", &recipe, &err) == RH_OK);
    if (rh_json_parse((const char *)data, size, "input", &config, &err) == RH_OK &&
        rh_model_plan_from_tensors(config, recipe, NULL, 0, "input", &plan, &err) == RH_OK)
        RH_ASSERT(plan->unit_count > 0);
    rh_model_plan_free(plan);
    rh_recipe_free(recipe);
    rh_json_free(empty);
    return 0;
}
