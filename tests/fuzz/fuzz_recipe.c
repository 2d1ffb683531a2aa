#include <string.h>

#include "base/mem.h"
#include "fuzz.h"
#include "recipe/recipe.h"

/* A recipe that is accepted gives itself again from its stored form. */
static void check_promises(const struct rh_recipe *r)
{
    struct rh_recipe *again = NULL;
    struct rh_error err;
    RH_ASSERT(rh_recipe_from_json(r->canonical, "stored", &again, &err) == RH_OK);
    RH_ASSERT(strcmp(again->digest, r->digest) == 0);
    RH_ASSERT(r->bits >= 2 && r->bits <= 8 && r->nsamples >= 1 && r->seqlen >= 1);
    (void)rh_recipe_ignores(again, "model.layers.1.mlp.experts.10.gate_proj");
    rh_recipe_free(again);
}

/* A recipe file, or after a first byte '=' an assignment of --set. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rh_json *json = NULL;
    struct rh_recipe *r = NULL;
    struct rh_error err;
    bool set = size > 0 && data[0] == '=';
    const char *text = set ? "{}" : (const char *)data;
    enum rh_rc rc = rh_json_parse_commented(text, set ? 2 : size, "input", &json, &err);
    if (rc == RH_OK)
        rc = rh_recipe_from_json(json, "input", &r, &err);
    if (rc == RH_OK && set) {
        char *assignment = rh_strndup((const char *)data + 1, size - 1);
        rc = rh_recipe_set(r, assignment, &err);
        rh_free(assignment);
    }
    if (rc == RH_OK)
        check_promises(r);
    rh_recipe_free(r);
    rh_json_free(json);
    return 0;
}
