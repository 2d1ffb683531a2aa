/* Forward and backward of decoder blocks against transformers and autograd; the cases and how they
 * were made: tests/golden/make_blocks.py. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "models/block.h"

struct golden {
    struct rh_model_plan *plan;
    struct rh_recipe *recipe;
    struct rh_safetensors *weights, *values;
    struct rh_backend *backend;
};

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

static void open_case(const char *backend, int threads, const char *name, struct golden *g)
{
    struct rh_error err;
    char *dir = rh_format("%s/tests/golden/blocks/%s", RH_SOURCE_DIR, name);
    char *values = rh_format("%s/golden.safetensors", dir);
    struct rh_json *empty = rh_json_new_object();
    check(rh_recipe_from_json(empty, "empty recipe", &g->recipe, &err), &err);
    rh_json_free(empty);
    char *checkpoint = rh_format("%s/checkpoint", dir);
    check(rh_model_plan_new(checkpoint, g->recipe, &g->plan, &err), &err);
    char *weights = rh_format("%s/model.safetensors", checkpoint);
    check(rh_safetensors_open(weights, &g->weights, &err), &err);
    check(rh_safetensors_open(values, &g->values, &err), &err);
    check(rh_backend_new(backend, threads, &g->backend, &err), &err);
    rh_free(checkpoint);
    rh_free(dir);
    rh_free(weights);
    rh_free(values);
}

static void close_case(struct golden *g)
{
    rh_backend_free(g->backend);
    rh_safetensors_close(g->weights);
    rh_safetensors_close(g->values);
    rh_model_plan_free(g->plan);
    rh_recipe_free(g->recipe);
}

static float *value(const struct golden *g, const char *name, const struct rh_tensor_info **info)
{
    struct rh_error err;
    *info = rh_safetensors_find(g->values, name);
    if (!*info)
        fail_msg("no golden value %s", name);
    float *out = rh_alloc((*info)->bytes);
    check(rh_safetensors_read(g->values, *info, 0, (*info)->bytes, out, &err), &err);
    return out;
}

/* Relative difference of two vectors in the L2 norm; the absolute one when `expected` is zero. */
static double difference(const float *got, const float *expected, int64_t count)
{
    double d = 0.0;
    double e = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double x = (double)got[i] - (double)expected[i];
        d += x * x;
        e += (double)expected[i] * (double)expected[i];
    }
    return e > 0.0 ? sqrt(d / e) : sqrt(d);
}

static void check_close(const char *name, const float *got, const float *expected, int64_t count,
                        double bound)
{
    double d = difference(got, expected, count);
    if (!(d <= bound))
        fail_msg("%s differs by %.3g, allowed %.3g", name, d, bound);
}

/* The gradient of a linear, or of its rows in a fused tensor. */
static void check_gradient(const struct golden *g, int64_t layer,
                           const struct rh_block *block, const struct rh_block_linear *linear)
{
    const char *name = strstr(linear->linear->source, "layers.");
    RH_ASSERT(name);
    name = strchr(name + strlen("layers."), '.') + 1;
    char *key = rh_format("layer.%lld.%s", (long long)layer, name);
    const struct rh_tensor_info *info = NULL;
    float *all = value(g, key, &info);
    const float *expected = all + linear->linear->source_row * linear->linear->in_features;
    int64_t count = linear->linear->out_features * linear->linear->in_features;
    double norm = 0.0;
    for (int64_t i = 0; i < count; i++)
        norm += (double)expected[i] * (double)expected[i];
    /* The backends of these tests have f32 and host memory. */
    const int64_t *offsets = rh_block_offsets(block);
    int e = linear->expert;
    bool reached = e < 0 || offsets[e + 1] > offsets[e];
    assert_int_equal(reached, norm > 0.0);
    if (reached)
        check_close(linear->linear->name, (float *)rh_block_arenas(block)->grads + linear->at,
                    expected, count, strstr(name, "in_proj_a") ? 2e-4 : 1e-5);
    rh_free(all);
    rh_free(key);
}

static void check_layer(const struct golden *g, int64_t layer)
{
    struct rh_error err;
    const struct rh_tensor_info *info = NULL;
    char *keys[3];
    float *values[3];
    static const char *const names[] = {"x", "y", "dy"};
    for (int i = 0; i < 3; i++) {
        keys[i] = rh_format("layer.%lld.%s", (long long)layer, names[i]);
        values[i] = value(g, keys[i], &info);
    }
    int64_t count = rh_tensor_elements(info);
    float *y = rh_alloc((size_t)count * sizeof *y);
    struct rh_block *block = NULL;
    check(rh_block_new(g->backend, &g->plan->config, rh_model_plan_block(g->plan, layer),
                       g->weights, &block, &err),
          &err);
    check(rh_block_reserve(block, info->shape[0], info->shape[1], true, &err), &err);
    int64_t tokens[64] = {0};
    for (int pass = 0; pass < 2; pass++) { /* with and without what backward needs */
        check(rh_block_forward(block, pass ? RH_WEIGHTS_QUANTIZED : RH_WEIGHTS_SOURCE, values[0], y,
                               info->shape[0], info->shape[1], pass == 1, tokens, &err),
              &err);
        check_close(keys[1], y, values[1], count, 1e-5);
    }
    int64_t routed = 0;
    for (int64_t e = 0; e < g->plan->config.num_experts; e++)
        routed += tokens[e];
    assert_int_equal(routed,
                     2 * info->shape[0] * info->shape[1] * g->plan->config.num_experts_per_tok);
    check(rh_block_backward(block, values[2], &err), &err);
    assert_true(rh_block_linear_count(block) > 0);
    for (size_t i = 0; i < rh_block_linear_count(block); i++)
        check_gradient(g, layer, block, rh_block_linear_at(block, i));
    rh_block_free(block);
    rh_free(y);
    for (int i = 0; i < 3; i++) {
        rh_free(keys[i]);
        rh_free(values[i]);
    }
}

static void run_case(const char *backend, int threads, const char *name)
{
    struct golden g = {0};
    open_case(backend, threads, name, &g);
    for (int64_t layer = 0; layer < g.plan->config.num_hidden_layers; layer++)
        check_layer(&g, layer);
    close_case(&g);
}

static const char *const cases[] = {"ragged", "uneven", "one_expert", "short"};

static void agrees_with_transformers_and_autograd(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        run_case("cpu", 2, cases[i]);
}

static void reference_agrees_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        run_case("reference", 1, cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_transformers_and_autograd),
        cmocka_unit_test(reference_agrees_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
