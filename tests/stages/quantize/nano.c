#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "nano.h"

#define DIR RH_SOURCE_DIR "/tests/data/nano"

void nano_check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

void nano_open(const char *const *assignments, struct nano *out)
{
    struct rh_error err;
    struct rh_json *empty = rh_json_new_object();
    *out = (struct nano){0};
    nano_check(rh_recipe_from_json(empty, "empty recipe", &out->recipe, &err), &err);
    rh_json_free(empty);
    for (int i = 0; assignments && assignments[i]; i++)
        nano_check(rh_recipe_set(out->recipe, assignments[i], &err), &err);
    nano_check(rh_model_plan_new(DIR, out->recipe, &out->plan, &err), &err);
    nano_check(rh_safetensors_open(DIR "/model-00001-of-00001.safetensors", &out->weights, &err),
               &err);
}

void nano_close(struct nano *nano)
{
    rh_safetensors_close(nano->weights);
    rh_model_plan_free(nano->plan);
    rh_recipe_free(nano->recipe);
}

int32_t nano_token(int64_t i, int64_t j)
{
    return (int32_t)((131 * i + 7 * j * j + 11 * j) % 2048);
}
