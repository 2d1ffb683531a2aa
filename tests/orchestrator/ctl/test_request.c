#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/mem.h"
#include "ctl/job_path.h"
#include "ctl/request.h"

#define NANO    RH_SOURCE_DIR "/tests/data/nano"
#define SAMPLES "calibration.dataset=" RH_SOURCE_DIR "/tests/data/nano-samples.jsonl"

static struct rh_request_words good(void)
{
    return (struct rh_request_words){
        .model = NANO, .recipe = "tiny", .output = "/out/x", .sets = {SAMPLES}, .set_count = 1};
}

static void words_become_a_request(void **state)
{
    (void)state;
    struct rh_request r;
    struct rh_error err;
    struct rh_request_words words = good();
    words.sets[words.set_count++] = "quant.iters=7";
    assert_int_equal(rh_request_make(&words, &r, &err), RH_OK);
    assert_string_equal(r.model, "file:" NANO);
    assert_string_equal(r.output, "dir:/out/x");
    assert_string_equal(r.output_path, "/out/x");
    assert_int_equal(strlen(r.recipe_digest), 64);
    const struct rh_json *quant = rh_json_get(rh_json_get(r.body, "recipe"), "quant");
    assert_true(rh_json_number(rh_json_get(quant, "iters"), 0) == 7);
    rh_request_done(&r);
}

static void other_schemes_pass(void **state)
{
    (void)state;
    struct rh_request r;
    struct rh_error err;
    struct rh_request_words words = good();
    words.model = "hf:owner/name";
    words.output = "hf:me/name";
    assert_int_equal(rh_request_make(&words, &r, &err), RH_OK);
    assert_string_equal(r.model, "hf:owner/name");
    assert_null(r.output_path);
    rh_request_done(&r);
}

static void refuse(struct rh_request_words words, enum rh_rc rc, const char *text)
{
    struct rh_request r;
    struct rh_error err = {0};
    assert_int_equal(rh_request_make(&words, &r, &err), rc);
    if (!strstr(err.message, text))
        fail_msg("\"%s\" is not in: %s", text, err.message);
    assert_int_equal(err.rc, rc);
    rh_request_done(&r);
}

static void what_is_missing_or_wrong_is_named(void **state)
{
    (void)state;
    struct rh_request_words words = good();
    words.recipe = NULL;
    refuse(words, RH_ERR_ARGUMENT, "--recipe");
    words = good();
    words.output = NULL;
    refuse(words, RH_ERR_ARGUMENT, "--output");
    words = good();
    words.model = "";
    refuse(words, RH_ERR_ARGUMENT, "model");
    words = good();
    words.model = "/no/such/model";
    refuse(words, RH_ERR_NOT_FOUND, "/no/such/model");
    words = good();
    words.model = NANO "/config.json";
    refuse(words, RH_ERR_ARGUMENT, "directory");
    words = good();
    words.recipe = "tinny";
    refuse(words, RH_ERR_ARGUMENT, "tiny");
    words = good();
    words.set_count = 0;
    refuse(words, RH_ERR_ARGUMENT, "calibration.dataset");
    words = good();
    words.sets[0] = "calibration.dataset=/no/such/text.jsonl";
    refuse(words, RH_ERR_ARGUMENT, "/no/such/text.jsonl");
    words = good();
    words.sets[words.set_count++] = "quant.itres=3";
    refuse(words, RH_ERR_ARGUMENT, "quant.iters");
}

static void ids_cannot_leave_their_path(void **state)
{
    (void)state;
    struct rh_error err;
    static const char *const wrong[] = {"", "a/b", "..", "a?b", "a%2fb", "a b", "a\n"};
    assert_int_equal(rh_job_path_check("01m8ABZ", &err), RH_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(rh_job_path_check(wrong[i], &err), RH_ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_become_a_request),
        cmocka_unit_test(other_schemes_pass),
        cmocka_unit_test(what_is_missing_or_wrong_is_named),
        cmocka_unit_test(ids_cannot_leave_their_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
