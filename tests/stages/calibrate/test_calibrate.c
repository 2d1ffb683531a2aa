#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "base/strbuf.h"
#include "calibration.h"

#define NANO RH_SOURCE_DIR "/tests/data/nano/tokenizer.json"

static int begin(void **state)
{
    *state = calibration_new(NANO);
    return 0;
}

static int end(void **state)
{
    calibration_free(*state);
    return 0;
}

static void must_run(const struct calibration *c, const char *settings)
{
    struct rh_error err;
    if (calibration_run(c, NULL, settings, &err) != RH_OK)
        fail_msg("%s", err.message);
}

static void must_fail(const struct calibration *c, const char *dataset, const char *settings,
                      enum rh_rc expected, const char *says)
{
    struct rh_error err;
    enum rh_rc rc = calibration_run(c, dataset, settings, &err);
    if (rc != expected || !strstr(err.message, says))
        fail_msg("%d \"%s\", not %d \"%s\"", (int)rc, err.message, (int)expected, says);
    char *dir = rh_format("%s/artifacts/calibrate-00000", c->job);
    assert_false(rh_fs_exists(dir));
    rh_free(dir);
}

/* A count of the report, or of its first data set. */
static int64_t counted(const struct calibration *c, const char *key)
{
    int64_t n = -1;
    struct rh_json *report = calibration_report(c);
    const struct rh_json *value = rh_json_get(report, key);
    const struct rh_json *set = rh_json_first(rh_json_get(report, "datasets"));
    assert_true(rh_json_int(value ? value : rh_json_get(set, key), &n));
    rh_json_free(report);
    return n;
}

/* Documents begin with the letters A to J, whose ids in nano's vocabulary follow each other. */
static void write_ten(const struct calibration *c)
{
    struct rh_strbuf text = {0};
    for (char k = 'A'; k < 'A' + 10; k++)
        rh_strbuf_printf(&text, "{\"text\": \"%c 1 2 3 4 5 6 7 8 9\"}\n", k);
    calibration_write(c, "data.jsonl", text.text);
    rh_strbuf_done(&text);
}

static void assert_order(const struct calibration *c, const char *expected)
{
    int64_t rows = 0;
    int64_t seqlen = 0;
    int32_t *ids = calibration_rows(c, &rows, &seqlen);
    assert_int_equal(rows, strlen(expected));
    assert_int_equal(seqlen, 8);
    int32_t a = ids[0] - (expected[0] - 'A');
    for (int64_t i = 0; i < rows; i++)
        assert_int_equal(ids[i * seqlen], a + (expected[i] - 'A'));
    rh_free(ids);
}

/* random.Random(42).shuffle of ten is 7 3 2 8 5 6 9 4 0 1. */
static void documents_come_in_pythons_order(void **state)
{
    write_ten(*state);
    must_run(*state, "\"nsamples\":10,\"seqlen\":8");
    assert_order(*state, "HDCIFGJEAB");
}

static void the_first_rows_are_the_first_of_the_order(void **state)
{
    write_ten(*state);
    must_run(*state, "\"nsamples\":4,\"seqlen\":8");
    assert_order(*state, "HDCI");
    assert_int_equal(counted(*state, "documents"), 10);
    assert_int_equal(counted(*state, "considered"), 4);
}

/* numpy.random.default_rng(42).permutation(10) is 5 6 0 7 3 2 4 9 1 8. */
static void the_order_of_hub_data_can_be_asked_for(void **state)
{
    write_ten(*state);
    must_run(*state, "\"nsamples\":10,\"seqlen\":8,\"order\":\"numpy\"");
    assert_order(*state, "FGAHDCEJBI");
}

static void no_order_is_the_files(void **state)
{
    write_ten(*state);
    must_run(*state, "\"nsamples\":3,\"seqlen\":8,\"order\":\"none\"");
    assert_order(*state, "ABC");
}

static void short_and_repetitive_documents_are_left_out_and_counted(void **state)
{
    /* The last of eight tokens is there six, five and four times. */
    calibration_write(*state, "data.jsonl",
                      "{\"text\": \"1234567\"}\n"
                      "{\"text\": \"12311111\"}\n"
                      "{\"text\": \"11112341\"}\n"
                      "{\"text\": \"23451111\"}\n"
                      "{\"text\": \"\"}\n"
                      "{\"text\": \"1234567\\n \\t\\u00a0\\u3000\"}\n"
                      "{\"text\": \"12345678 and more\"}\n");
    must_run(*state, "\"nsamples\":2,\"seqlen\":8,\"order\":\"none\"");
    assert_int_equal(counted(*state, "rows"), 2);
    assert_int_equal(counted(*state, "tokens"), 16);
    assert_int_equal(counted(*state, "too_short"), 3);
    assert_int_equal(counted(*state, "repetitive"), 2);
    assert_int_equal(counted(*state, "considered"), 7);
}

static void lines_may_be_strings_and_objects_of_one_member(void **state)
{
    calibration_write(*state, "data.jsonl",
                      "\"A1234567\"\n"
                      "\n"
                      "  \r\n"
                      "{\"any\": \"B1234567\"}\r\n"
                      "{\"id\": 7, \"text\": \"C1234567\", \"more\": [1]}");
    must_run(*state, "\"nsamples\":3,\"seqlen\":8,\"order\":\"none\"");
    assert_order(*state, "ABC");
    assert_int_equal(counted(*state, "documents"), 3);
}

static void the_report_names_what_was_read(void **state)
{
    struct calibration *c = *state;
    char hex[RH_SHA256_HEX_SIZE];
    struct rh_error err = {0};
    write_ten(c);
    must_run(c, "\"nsamples\":2,\"seqlen\":8");
    struct rh_json *report = calibration_report(c);
    assert_int_equal(rh_sha256_file(c->dataset, hex, NULL, &err), RH_OK);
    const struct rh_json *set = rh_json_first(rh_json_get(report, "datasets"));
    assert_string_equal(rh_json_string(rh_json_get(set, "sha256")), hex);
    assert_string_equal(rh_json_string(rh_json_get(set, "name")), "data.jsonl");
    assert_int_equal(rh_sha256_file(NANO, hex, NULL, &err), RH_OK);
    assert_string_equal(rh_json_string(rh_json_get(report, "tokenizer_sha256")), hex);
    rh_json_free(report);
}

static void too_few_rows_are_an_error_with_counts_and_remedy(void **state)
{
    write_ten(*state);
    must_fail(*state, NULL, "\"nsamples\":11,\"seqlen\":8", RH_ERR_FORMAT,
              "gives 10 rows of 8 tokens, calibration.nsamples asks for 11");
    must_fail(*state, NULL, "\"nsamples\":11,\"seqlen\":8", RH_ERR_FORMAT,
              "calibration.accept_fewer");
    must_fail(*state, NULL, "\"nsamples\":1,\"seqlen\":100", RH_ERR_FORMAT,
              "of 10 documents 10 are shorter and 0 repeat");
    must_fail(*state, NULL, "\"nsamples\":1,\"seqlen\":100,\"accept_fewer\":true", RH_ERR_FORMAT,
              "gives 0 rows");
}

static void fewer_rows_are_taken_when_accepted(void **state)
{
    write_ten(*state);
    must_run(*state, "\"nsamples\":100,\"seqlen\":8,\"accept_fewer\":true");
    assert_order(*state, "HDCIFGJEAB");
    assert_int_equal(counted(*state, "rows"), 10);
}

static void what_is_no_file_is_refused_with_a_remedy(void **state)
{
    struct calibration *c = *state;
    const char *settings = "\"nsamples\":1,\"seqlen\":8";
    must_fail(c, "NeelNanda/pile-10k", settings, RH_ERR_UNSUPPORTED, ".jsonl");
    must_fail(c, c->root, settings, RH_ERR_UNSUPPORTED, "not a regular file");
    must_fail(c, "/nowhere/x.jsonl", settings, RH_ERR_NOT_FOUND, "/nowhere/x.jsonl");
    must_fail(c, "", settings, RH_ERR_ARGUMENT, "calibration.dataset=PATH");
}

static void bad_lines_are_named(void **state)
{
    static const struct {
        const char *line;
        const char *says;
    } bad[] = {
        {"{\"text\": \"x\"", "line 3"},
        {"{\"text\": \"\\ud800\"}", "line 3"},
        {"{\"text\": \"\xED\xA0\x80\"}", "line 3:1:11: not valid UTF-8"},
        {"{\"text\": \"\xFF\"}", "line 3:1:11: not valid UTF-8"},
        {"{\"text\": 7, \"x\": 8}", "line 3: no text"},
        {"{\"body\": \"a\", \"x\": 8}", "line 3: no text"},
        {"[1, 2]", "line 3: no text"},
        {"plain text", "JSON Lines"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *text = rh_format("\"A1234567\"\n\n%s\n", bad[i].line);
        calibration_write(*state, "data.jsonl", text);
        must_fail(*state, NULL, "\"nsamples\":2,\"seqlen\":8", RH_ERR_FORMAT, bad[i].says);
        rh_free(text);
    }
}

static void an_empty_file_has_no_rows(void **state)
{
    calibration_write(*state, "data.jsonl", "\n\n");
    must_fail(*state, NULL, "\"nsamples\":2,\"seqlen\":8,\"accept_fewer\":true", RH_ERR_FORMAT,
              "of 0 documents");
}

static void the_config_of_the_tokenizer_has_the_last_word_on_splitting(void **state)
{
    struct calibration *c = *state;
    calibration_write(c, "data.jsonl", "\"the the the the\"\n");
    calibration_write(c, "job/artifacts/plan-00000/meta/tokenizer_config.json",
                      "{\"pretokenize_regex\": \"[a-z]| \"}");
    must_run(c, "\"nsamples\":1,\"seqlen\":15");
    assert_int_equal(counted(c, "rows"), 1);
}

static void a_model_without_a_tokenizer_is_an_error(void **state)
{
    (void)state;
    struct calibration *c = calibration_new(NULL);
    write_ten(c);
    must_fail(c, NULL, "\"nsamples\":2,\"seqlen\":8", RH_ERR_NOT_FOUND, "tokenizer.json");
    calibration_free(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(documents_come_in_pythons_order),
        TEST(the_first_rows_are_the_first_of_the_order),
        TEST(the_order_of_hub_data_can_be_asked_for),
        TEST(no_order_is_the_files),
        TEST(short_and_repetitive_documents_are_left_out_and_counted),
        TEST(lines_may_be_strings_and_objects_of_one_member),
        TEST(the_report_names_what_was_read),
        TEST(too_few_rows_are_an_error_with_counts_and_remedy),
        TEST(fewer_rows_are_taken_when_accepted),
        TEST(what_is_no_file_is_refused_with_a_remedy),
        TEST(bad_lines_are_named),
        TEST(an_empty_file_has_no_rows),
        TEST(the_config_of_the_tokenizer_has_the_last_word_on_splitting),
        cmocka_unit_test(a_model_without_a_tokenizer_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
