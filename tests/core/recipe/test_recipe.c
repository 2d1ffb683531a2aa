/* Recipes: what is refused and how, what the digest sees, what --set does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "recipe/recipe.h"

static enum rh_rc from_text(const char *text, struct rh_recipe **out, struct rh_error *err)
{
    struct rh_json *object = NULL;
    assert_int_equal(rh_json_parse(text, strlen(text), "test", &object, err), RH_OK);
    enum rh_rc rc = rh_recipe_from_json(object, "a/recipe.json", out, err);
    rh_json_free(object);
    return rc;
}

static struct rh_recipe *good(const char *text)
{
    struct rh_recipe *out = NULL;
    struct rh_error err;
    if (from_text(text, &out, &err) != RH_OK)
        fail_msg("%s", err.message);
    return out;
}

static void a_wrong_recipe_says_what_would_be_right(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *words[3];
    } cases[] = {
        {"{\"quant\": {\"itres\": 3}}", {"quant.itres", "quant.iters"}},
        {"{\"iters\": 3}", {"iters", "quant.iters"}},
        {"{\"qaunt\": {}}", {"qaunt", "did you mean quant?"}},
        {"{\"quant.iters\": 3}", {"quant.iters"}},
        {"{\"quant\": {\"bits\": 5}}", {"quant.bits is 5", "one of 2 3 4 8"}},
        {"{\"quant\": {\"iters\": -1}}", {"quant.iters is -1", "from 0 to 100000"}},
        {"{\"quant\": {\"iters\": 1.5}}", {"quant.iters is 1.5", "integer"}},
        {"{\"quant\": {\"sym\": \"yes\"}}", {"quant.sym", "true or false"}},
        {"{\"quant\": {\"lr\": 1e300}}", {"quant.lr", "from 0 to 10"}},
        {"{\"quant\": {\"observer\": \"max\"}}", {"quant.observer", "\"minmax\"", "\"mse\""}},
        {"{\"quant\": 4}", {"quant must be an object"}},
        {"{\"mtp\": {\"method\": \"drop\"}}", {"mtp.method", "\"rtn\"", "\"keep\""}},
        {"{\"name\": \"../x\"}", {"name"}},
        {"{\"quant\": {\"batch_size\": 64}, \"calibration\": {\"nsamples\": 16}}",
         {"quant.batch_size", "64", "calibration.nsamples is 16"}},
        {"{\"calibration\": {\"top_up_rows\": 4, \"expert_floor\": 0}}",
         {"calibration.top_up_rows is 4", "calibration.expert_floor is 0"}},
        {"[]", {"a recipe is a JSON object"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rh_recipe *out = NULL;
        struct rh_error err = {0};
        if (from_text(cases[i].text, &out, &err) != RH_ERR_ARGUMENT)
            fail_msg("taken: %s", cases[i].text);
        assert_null(out);
        assert_non_null(strstr(err.message, "a/recipe.json"));
        for (int w = 0; w < 3 && cases[i].words[w]; w++) {
            if (!strstr(err.message, cases[i].words[w]))
                fail_msg("\"%s\" does not say %s", err.message, cases[i].words[w]);
        }
    }
}

static void the_digest_sees_what_changes_the_bytes(void **state)
{
    (void)state;
    struct rh_recipe *plain = good("{}");
    struct rh_recipe *spelt = good("{\"quant\": {\"iters\": 200.0}, \"name\": \"other\"}");
    struct rh_recipe *threads = good("{\"resources\": {\"threads\": 3, \"prefetch_blocks\": 2}}");
    struct rh_recipe *iters = good("{\"quant\": {\"iters\": 201}}");
    struct rh_recipe *observer = good("{\"quant\": {\"observer\": \"mse\"}}");
    struct rh_recipe *seed = good("{\"calibration\": {\"seed\": 43}}");
    assert_int_equal(strlen(plain->digest), 64);
    assert_string_equal(plain->digest, spelt->digest);
    assert_string_equal(plain->digest, threads->digest);
    assert_string_not_equal(plain->digest, iters->digest);
    assert_string_not_equal(plain->digest, seed->digest);
    assert_string_not_equal(plain->digest, observer->digest);
    assert_string_not_equal(iters->digest, seed->digest);
    rh_recipe_free(plain);
    rh_recipe_free(spelt);
    rh_recipe_free(threads);
    rh_recipe_free(iters);
    rh_recipe_free(seed);
    rh_recipe_free(observer);
}

static void the_canonical_form_is_a_recipe_again(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_recipe *first = good("{\"quant\": {\"bits\": 8, \"ignore_layers\": [\"mtp.fc\"]}}");
    struct rh_recipe *second = NULL;
    assert_int_equal(rh_recipe_from_json(first->canonical, "stored", &second, &err), RH_OK);
    assert_string_equal(first->digest, second->digest);
    assert_int_equal(second->bits, 8);
    assert_int_equal(second->ignore_layers_count, 1);
    rh_recipe_free(first);
    rh_recipe_free(second);
}

static void a_setting_is_checked_like_a_file(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_recipe *r = good("{}");
    char before[65];
    memcpy(before, r->digest, sizeof before);
    static const char *const wrong[] = {"quant.itres=3", "quant.iters=many", "quant.iters", "=3",
                                        "quant=3"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        if (rh_recipe_set(r, wrong[i], &err) != RH_ERR_ARGUMENT)
            fail_msg("taken: %s", wrong[i]);
        assert_string_equal(r->digest, before);
    }
    assert_int_equal(rh_recipe_set(r, "quant.iters=7", &err), RH_OK);
    assert_int_equal(r->iters, 7);
    assert_string_not_equal(r->digest, before);
    assert_int_equal(rh_recipe_set(r, "calibration.dataset=/data/a.jsonl", &err), RH_OK);
    assert_string_equal(r->dataset, "/data/a.jsonl");
    assert_int_equal(rh_recipe_check_complete(r, &err), RH_OK);
    rh_recipe_free(r);
}

static void a_recipe_without_data_is_not_complete(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_recipe *r = good("{}");
    assert_int_equal(rh_recipe_check_complete(r, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "calibration.dataset"));
    rh_recipe_free(r);
}

static void ignored_layers_follow_autoround(void **state)
{
    (void)state;
    struct rh_recipe *r = good("{\"quant\": {\"ignore_layers\": [\"mtp.fc\", \"layers.1\"]}}");
    assert_true(rh_recipe_ignores(r, "mtp.fc"));
    assert_true(rh_recipe_ignores(r, "model.layers.1.mlp.up_proj"));
    assert_false(rh_recipe_ignores(r, "model.layers.10.mlp.up_proj"));
    assert_false(rh_recipe_ignores(r, "model.layers.2.mlp.up_proj"));
    rh_recipe_free(r);
}

static void every_shipped_recipe_loads(void **state)
{
    (void)state;
    struct rh_error err;
    char **names = NULL;
    size_t count = 0;
    size_t loaded = 0;
    assert_int_equal(rh_fs_list(RH_SOURCE_DIR "/configs/recipes", &names, &count, &err), RH_OK);
    for (size_t i = 0; i < count; i++) {
        struct rh_recipe *r = NULL;
        char *path = rh_format("%s/configs/recipes/%s", RH_SOURCE_DIR, names[i]);
        if (rh_recipe_load(path, &r, &err) != RH_OK)
            fail_msg("%s", err.message);
        loaded += r->nsamples > 0;
        rh_recipe_free(r);
        rh_free(path);
    }
    assert_true(loaded >= 3);
    rh_fs_list_free(names, count);
}

/* reference/ec-card: 400 iterations, 256 rows of 4096 tokens, 8 at a time, 4 bits in groups of 128.
 */
static void the_ec_recipe_is_that_of_the_card(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_recipe *r = NULL;
    char *path =
        rh_format("%s/configs/recipes/qwen3.6-35b-a3b-int4-autoround-ec.json", RH_SOURCE_DIR);
    if (rh_recipe_load(path, &r, &err) != RH_OK)
        fail_msg("%s", err.message);
    assert_int_equal(r->iters, 400);
    assert_int_equal(r->nsamples, 256);
    assert_int_equal(r->seqlen, 4096);
    assert_int_equal(r->batch_size, 8);
    assert_int_equal(r->gradient_accumulate_steps, 1);
    assert_int_equal(r->bits, 4);
    assert_int_equal(r->group_size, 128);
    assert_true(r->sym);
    assert_true(rh_recipe_ignores(r, "mtp.fc"));
    rh_recipe_free(r);
    rh_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_recipe_says_what_would_be_right),
        cmocka_unit_test(the_digest_sees_what_changes_the_bytes),
        cmocka_unit_test(the_canonical_form_is_a_recipe_again),
        cmocka_unit_test(a_setting_is_checked_like_a_file),
        cmocka_unit_test(a_recipe_without_data_is_not_complete),
        cmocka_unit_test(ignored_layers_follow_autoround),
        cmocka_unit_test(every_shipped_recipe_loads),
        cmocka_unit_test(the_ec_recipe_is_that_of_the_card),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
