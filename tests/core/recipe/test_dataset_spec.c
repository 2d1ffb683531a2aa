#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "recipe/dataset_spec.h"
#include "recipe/recipe.h"

static struct rh_dataset_specs must_parse(const char *text)
{
    struct rh_dataset_specs specs;
    struct rh_error err;
    if (rh_dataset_specs_parse(text, &specs, &err) != RH_OK)
        fail_msg("%s", err.message);
    return specs;
}

static void options_follow_the_name_after_colons(void **state)
{
    (void)state;
    struct rh_dataset_specs s = must_parse(
        "/a.jsonl,/b.parquet:num=96:column=body,owner/name:share=0.25:concat,/c.txt:concat=false");
    assert_int_equal(s.count, 4);
    assert_string_equal(s.items[0].name, "/a.jsonl");
    assert_string_equal(s.items[0].options, "");
    assert_null(s.items[0].column);
    assert_false(s.items[0].concat_given);
    assert_string_equal(s.items[1].name, "/b.parquet");
    assert_int_equal(s.items[1].num, 96);
    assert_string_equal(s.items[1].column, "body");
    assert_string_equal(s.items[2].name, "owner/name");
    assert_true(s.items[2].share == 0.25);
    assert_true(s.items[2].concat_given && s.items[2].concat);
    assert_true(s.items[3].concat_given && !s.items[3].concat);
    rh_dataset_specs_done(&s);
}

static void nothing_is_no_data_set(void **state)
{
    (void)state;
    struct rh_dataset_specs s = must_parse("");
    assert_int_equal(s.count, 0);
    rh_dataset_specs_done(&s);
}

static void names_may_have_colons(void **state)
{
    (void)state;
    struct rh_dataset_specs s = must_parse("/data/12:30/a.jsonl:num=3");
    assert_string_equal(s.items[0].name, "/data/12:30/a.jsonl");
    assert_int_equal(s.items[0].num, 3);
    rh_dataset_specs_done(&s);
}

static void mistakes_are_told_with_the_option(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *says;
    } bad[] = {
        {"/a.jsonl:nmu=3", "nmu=3: unknown option"},
        {"/a.jsonl:num", "num is a number of rows"},
        {"/a.jsonl:num=0", "num=0"},
        {"/a.jsonl:num=1e3", "num=1e3"},
        {"/a.jsonl:num=99999999999999999999", "num is a number of rows"},
        {"/a.jsonl:share=1.5", "share=1.5"},
        {"/a.jsonl:share=nan", "share=nan"},
        {"/a.jsonl:share=0", "share=0"},
        {"/a.jsonl:column=", "column="},
        {"/a.jsonl:num=3:share=0.5", "exclude each other"},
        {"/a.jsonl:split=train", "name the file of the split"},
        {"/a.jsonl:apply_chat_template", "render the text first"},
        {"/a.jsonl:system_prompt=x", "render the text first"},
        {"/a.jsonl,", "without a name"},
        {",/a.jsonl", "without a name"},
        {":num=3", "without a name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rh_dataset_specs s;
        struct rh_error err = {0};
        enum rh_rc rc = rh_dataset_specs_parse(bad[i].text, &s, &err);
        if (rc != RH_ERR_ARGUMENT || !strstr(err.message, bad[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, err.message, bad[i].says);
    }
    struct rh_dataset_specs s = must_parse("/a.jsonl:apply_chat_template=false");
    rh_dataset_specs_done(&s);
}

static void too_many_data_sets_are_refused(void **state)
{
    (void)state;
    char text[3 * (RH_DATASETS_MAX + 1)] = "";
    struct rh_dataset_specs s;
    struct rh_error err;
    for (int i = 0; i < RH_DATASETS_MAX; i++)
        memcpy(text + 3 * i, "/a,", 3);
    text[3 * RH_DATASETS_MAX - 1] = '\0';
    s = must_parse(text);
    assert_int_equal(s.count, RH_DATASETS_MAX);
    rh_dataset_specs_done(&s);
    memcpy(text + 3 * RH_DATASETS_MAX - 1, ",/b", 4);
    assert_int_equal(rh_dataset_specs_parse(text, &s, &err), RH_ERR_ARGUMENT);
}

static void expect_rows(const char *text, int64_t nsamples, const int64_t *expected)
{
    int64_t rows[RH_DATASETS_MAX];
    struct rh_error err;
    struct rh_dataset_specs s = must_parse(text);
    if (rh_dataset_specs_rows(&s, nsamples, rows, &err) != RH_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < s.count; i++)
        assert_int_equal(rows[i], expected[i]);
    rh_dataset_specs_done(&s);
}

static void expect_no_rows(const char *text, int64_t nsamples, const char *says)
{
    int64_t rows[RH_DATASETS_MAX];
    struct rh_error err = {0};
    struct rh_dataset_specs s = must_parse(text);
    if (rh_dataset_specs_rows(&s, nsamples, rows, &err) != RH_ERR_ARGUMENT ||
        !strstr(err.message, says))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, err.message, says);
    rh_dataset_specs_done(&s);
}

static void shares_add_up_to_nsamples(void **state)
{
    (void)state;
    expect_rows("/a:share=0.75,/b:share=0.25", 128, (const int64_t[]){96, 32});
    expect_rows("/a:share=0.333333,/b:share=0.333333,/c:share=0.333334", 128,
                (const int64_t[]){43, 42, 43});
    expect_rows("/a:num=5,/b,/c:share=0.5", 20, (const int64_t[]){5, 0, 10});
    expect_no_rows("/a:share=0.75,/b:share=0.5", 128, "lower num or share");
    expect_no_rows("/a:num=100,/b:num=29", 128, "asks for 129 rows");
    expect_no_rows("/a:num=100,/b:num=20", 128, "asks for 120 rows in all");
    expect_no_rows("/a:num=127,/b,/c", 128, "1 of calibration.nsamples 128 rows are left for 2");
    expect_no_rows("/a:share=0.001,/b", 100, "is no row");
}

static void published_names_have_no_folders(void **state)
{
    (void)state;
    char *text = rh_dataset_public_text("/home/me/a.jsonl:num=3,owner/name,/x/b.parquet:concat");
    assert_string_equal(text, "a.jsonl:num=3,owner/name,b.parquet:concat");
    rh_free(text);
}

static void a_recipe_checks_its_data_sets_and_anchors_each(void **state)
{
    (void)state;
    struct rh_json *json = NULL;
    struct rh_recipe *r = NULL;
    struct rh_error err;
    char here[4096];
    assert_int_equal(rh_json_parse("{}", 2, "recipe", &json, &err), RH_OK);
    assert_int_equal(rh_recipe_from_json(json, "recipe", &r, &err), RH_OK);
    assert_int_equal(
        rh_recipe_set(r, "calibration.dataset=a.jsonl:num=28,./b.txt,o/n,/c.json", &err), RH_OK);
    assert_non_null(getcwd(here, sizeof here));
    char *expected = rh_format("%s/a.jsonl:num=28,%s/b.txt,o/n,/c.json", here, here);
    assert_string_equal(r->dataset, expected);
    assert_int_equal(rh_recipe_set(r, "calibration.nsamples=20", &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "lower num or share"));
    assert_int_equal(rh_recipe_set(r, "calibration.dataset=a.jsonl:nmu=3", &err), RH_ERR_ARGUMENT);
    assert_string_equal(r->dataset, expected);
    rh_free(expected);
    rh_recipe_free(r);
    rh_json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_follow_the_name_after_colons),
        cmocka_unit_test(nothing_is_no_data_set),
        cmocka_unit_test(names_may_have_colons),
        cmocka_unit_test(mistakes_are_told_with_the_option),
        cmocka_unit_test(too_many_data_sets_are_refused),
        cmocka_unit_test(shares_add_up_to_nsamples),
        cmocka_unit_test(published_names_have_no_folders),
        cmocka_unit_test(a_recipe_checks_its_data_sets_and_anchors_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
