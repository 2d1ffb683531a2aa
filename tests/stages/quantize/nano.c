#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
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

void nano_embed(const struct nano *nano, struct rh_backend *backend, bool on_host,
                const struct rh_token_rows *rows, struct rh_chain *out)
{
    struct rh_error err;
    nano_check(rh_chain_new(backend, on_host, rows->samples, rows->seq,
                            nano->plan->config.hidden_size, out, &err),
               &err);
    nano_check(rh_chain_embed(out, rows, nano->weights,
                              nano->plan->units[0].tensors[0].info.name, &err),
               &err);
}

void nano_embed_made(const struct nano *nano, struct rh_backend *backend, bool on_host,
                     int64_t rows, int64_t tokens, struct rh_chain *out)
{
    struct rh_token_rows ids = {rows, tokens, rh_alloc_array((size_t)(rows * tokens), 4)};
    for (int64_t i = 0; i < rows * tokens; i++)
        ids.ids[i] = nano_token(i / tokens, i % tokens);
    nano_embed(nano, backend, on_host, &ids, out);
    rh_token_rows_done(&ids);
}

struct rh_block *nano_block(const struct nano *nano, struct rh_backend *backend, int64_t index,
                            int64_t rows, int64_t tokens, bool with_backward)
{
    struct rh_error err;
    struct rh_block *block = NULL;
    nano_check(rh_block_new(backend, &nano->plan->config, rh_model_plan_block(nano->plan, index),
                            nano->weights, &block, &err),
               &err);
    nano_check(rh_block_reserve(block, rows, tokens, with_backward, &err), &err);
    return block;
}
