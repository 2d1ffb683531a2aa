/* Several data sets, packing, and kinds of files. Rows of tests/golden/calibration.json are those
 * of auto-round; tests/golden/make_calibration.py makes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "calibration.h"

#define NANO    RH_SOURCE_DIR "/tests/data/nano/tokenizer.json"
#define SAMPLES RH_SOURCE_DIR "/tests/data/nano-samples.jsonl"
#define GOLDEN  RH_SOURCE_DIR "/tests/golden/"

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

static void must_run(const struct calibration *c, const char *dataset, const char *settings)
{
    struct rh_error err;
    if (calibration_run(c, dataset, settings, &err) != RH_OK)
        fail_msg("%s: %s", dataset, err.message);
}

static void must_fail(const struct calibration *c, const char *dataset, const char *settings,
                      enum rh_rc expected, const char *says)
{
    struct rh_error err;
    enum rh_rc rc = calibration_run(c, dataset, settings, &err);
    if (rc != expected || !strstr(err.message, says))
        fail_msg("%d \"%s\", not %d \"%s\"", (int)rc, err.message, (int)expected, says);
}

/* Forgets the result, so that the next run does not find it there. */
static void forget(const struct calibration *c)
{
    struct rh_error err;
    char *dir = rh_format("%s/artifacts/calibrate-00000", c->job);
    assert_int_equal(rh_fs_remove_tree(dir, &err), RH_OK);
    rh_free(dir);
}

/* Lines of the samples from..to-1 as a file. */
static void write_lines(const struct calibration *c, const char *name, int from, int to)
{
    char *text = NULL;
    size_t size = 0;
    struct rh_error err;
    assert_int_equal(rh_fs_read(SAMPLES, 1 << 20, &text, &size, &err), RH_OK);
    char *first = text;
    for (int i = 0; i < from; i++)
        first = strchr(first, '\n') + 1;
    char *last = first;
    for (int i = from; i < to; i++)
        last = strchr(last, '\n') + 1;
    *last = '\0';
    calibration_write(c, name, first);
    rh_free(text);
}

/* "{a}:num=3" with the paths of the files. */
static char *with_paths(const struct calibration *c, const char *spec)
{
    struct rh_strbuf text = {0};
    for (const char *p = spec; *p; p++) {
        if (*p == '{')
            rh_strbuf_printf(&text, "%s/", c->root);
        else if (*p == '}')
            rh_strbuf_puts(&text, ".jsonl");
        else
            rh_strbuf_append(&text, p, 1);
    }
    return rh_strbuf_take(&text);
}

static void check_golden(const struct calibration *c, const struct rh_json *golden)
{
    const char *spec = rh_json_string(rh_json_get(golden, "dataset"));
    char *dataset = with_paths(c, spec);
    char *settings = rh_format("\"nsamples\":%.0f,\"seqlen\":%.0f,\"seed\":%.0f",
                               rh_json_number(rh_json_get(golden, "nsamples"), 0),
                               rh_json_number(rh_json_get(golden, "seqlen"), 0),
                               rh_json_number(rh_json_get(golden, "seed"), 0));
    int64_t count = 0;
    int64_t seqlen = 0;
    must_run(c, dataset, settings);
    int32_t *ids = calibration_rows(c, &count, &seqlen);
    const struct rh_json *rows = rh_json_get(golden, "rows");
    assert_int_equal(count, rh_json_count(rows));
    int64_t at = 0;
    for (const struct rh_json *row = rh_json_first(rows); row; row = rh_json_next(row)) {
        assert_int_equal(rh_json_count(row), seqlen);
        for (const struct rh_json *id = rh_json_first(row); id; id = rh_json_next(id), at++) {
            if (ids[at] != (int32_t)rh_json_number(id, -1))
                fail_msg("%s: row %d differs at token %d", spec, (int)(at / seqlen),
                         (int)(at % seqlen));
        }
    }
    forget(c);
    rh_free(ids);
    rh_free(settings);
    rh_free(dataset);
}

static void mixes_and_packed_rows_equal_those_of_auto_round(void **state)
{
    struct calibration *c = *state;
    struct rh_json *golden = NULL;
    struct rh_error err;
    write_lines(c, "a.jsonl", 0, 12);
    write_lines(c, "b.jsonl", 12, 72);
    write_lines(c, "c.jsonl", 72, 96);
    assert_int_equal(rh_json_read(GOLDEN "calibration.json", 1 << 20, &golden, &err), RH_OK);
    assert_true(rh_json_count(golden) >= 7);
    for (const struct rh_json *g = rh_json_first(golden); g; g = rh_json_next(g))
        check_golden(c, g);
    rh_json_free(golden);
}

/* A document a line, of nine tokens: a letter and eight others. */
static void write_ten(const struct calibration *c, const char *name, char first)
{
    struct rh_strbuf text = {0};
    for (char k = first; k < first + 10; k++)
        rh_strbuf_printf(&text, "\"%c 1 2 3 4\"\n", k);
    calibration_write(c, name, text.text);
    rh_strbuf_done(&text);
}

static int64_t set_count(const struct calibration *c, int set, const char *key)
{
    int64_t n = -1;
    struct rh_json *report = calibration_report(c);
    const struct rh_json *s = rh_json_first(rh_json_get(report, "datasets"));
    for (int i = 0; i < set; i++)
        s = rh_json_next(s);
    assert_true(rh_json_int(rh_json_get(s, key), &n));
    rh_json_free(report);
    return n;
}

static void shares_are_parts_of_nsamples(void **state)
{
    struct calibration *c = *state;
    write_ten(c, "a.jsonl", 'A');
    write_ten(c, "b.jsonl", 'K');
    char *dataset = with_paths(c, "{a}:share=0.75,{b}:share=0.25");
    must_run(c, dataset, "\"nsamples\":10,\"seqlen\":8");
    assert_int_equal(set_count(c, 0, "rows"), 8);
    assert_int_equal(set_count(c, 1, "rows"), 2);
    forget(c);
    rh_free(dataset);
    dataset = with_paths(c, "{a}:share=0.3,{b}");
    must_run(c, dataset, "\"nsamples\":10,\"seqlen\":8");
    assert_int_equal(set_count(c, 0, "rows"), 3);
    assert_int_equal(set_count(c, 1, "rows"), 7);
    assert_int_equal(set_count(c, 1, "rows_found"), 10);
    rh_free(dataset);
}

static void what_one_set_lacks_another_gives(void **state)
{
    struct calibration *c = *state;
    write_ten(c, "a.jsonl", 'A');
    calibration_write(c, "b.jsonl", "\"K 1 2 3 4\"\n\"L 1 2 3 4\"\n\"M\"\n");
    char *dataset = with_paths(c, "{a},{b}");
    must_run(c, dataset, "\"nsamples\":12,\"seqlen\":8");
    assert_int_equal(set_count(c, 0, "rows"), 10);
    assert_int_equal(set_count(c, 1, "rows"), 2);
    assert_int_equal(set_count(c, 1, "too_short"), 1);
    forget(c);
    must_fail(c, dataset, "\"nsamples\":13,\"seqlen\":8", RH_ERR_FORMAT,
              "gives 12 rows of 8 tokens, calibration.nsamples asks for 13");
    rh_free(dataset);
}

static void a_set_that_cannot_give_its_rows_is_named(void **state)
{
    struct calibration *c = *state;
    write_ten(c, "a.jsonl", 'A');
    write_ten(c, "b.jsonl", 'K');
    char *dataset = with_paths(c, "{a}:num=11,{b}");
    must_fail(c, dataset, "\"nsamples\":20,\"seqlen\":8", RH_ERR_FORMAT,
              "a.jsonl: of 10 documents 0 are shorter and 0 repeat themselves, 10 of its 11 rows");
    rh_free(dataset);
}

static void short_documents_are_packed_when_asked(void **state)
{
    struct calibration *c = *state;
    write_ten(c, "data.jsonl", 'A');
    must_fail(c, NULL, "\"nsamples\":2,\"seqlen\":20", RH_ERR_FORMAT, "calibration.concat");
    must_run(c, NULL, "\"nsamples\":4,\"seqlen\":20,\"concat\":true,\"order\":\"none\"");
    int64_t rows = 0;
    int64_t seqlen = 0;
    int32_t *ids = calibration_rows(c, &rows, &seqlen);
    for (int k = 1; k < 8; k++) /* letters nine tokens apart */
        assert_int_equal(ids[9 * k], ids[0] + k);
    rh_free(ids);
}

static void plain_text_is_packed_from_first_to_last(void **state)
{
    struct calibration *c = *state;
    struct rh_strbuf text = {0};
    for (int i = 0; i < 9000; i++)
        rh_strbuf_printf(&text, "%d%s", i % 10, i % 40 == 39 ? "\n\n" : i % 8 == 7 ? "\n" : " ");
    calibration_write(c, "data.txt", text.text);
    char *dataset = rh_format("%s/data.txt", c->root);
    must_run(c, dataset, "\"nsamples\":250,\"seqlen\":64,\"order\":\"none\"");
    assert_int_equal(set_count(c, 0, "documents"), 2); /* of 16 KiB and what is left */
    int64_t rows = 0;
    int64_t seqlen = 0;
    int32_t *ids = calibration_rows(c, &rows, &seqlen);
    int32_t zero = ids[0];
    int64_t digit = 0;
    for (int64_t i = 0; i < rows * seqlen; i++) {
        if (ids[i] >= zero && ids[i] < zero + 10)
            assert_int_equal(ids[i], zero + digit++ % 10);
    }
    assert_true(digit > 7000);
    rh_free(ids);
    forget(c);
    char *whole = rh_format("%s:concat=false", dataset);
    must_run(c, whole, "\"nsamples\":2,\"seqlen\":64");
    assert_int_equal(set_count(c, 0, "rows"), 2);
    rh_free(whole);
    rh_free(dataset);
    rh_strbuf_done(&text);
}

static void a_list_of_documents_is_read(void **state)
{
    struct calibration *c = *state;
    char *dataset = rh_format("%s/data.json", c->root);
    calibration_write(
        c, "data.json",
        "[\"A 1 2 3 4\", {\"text\": \"B 1 2 3 4\", \"n\": 1}, {\"any\": \"C 1 2 3 4\"}]");
    must_run(c, dataset, "\"nsamples\":3,\"seqlen\":8,\"order\":\"none\"");
    forget(c);
    calibration_write(c, "data.json", "{\"x\": \"A 1 2 3 4\", \"y\": \"B 1 2 3 4\"}");
    must_run(c, dataset, "\"nsamples\":2,\"seqlen\":8");
    forget(c);
    calibration_write(c, "data.json", "[\"A 1 2 3 4\", [1]]");
    must_fail(c, dataset, "\"nsamples\":2,\"seqlen\":8", RH_ERR_FORMAT,
              "data.json document 2: no text");
    calibration_write(c, "data.json", "7");
    must_fail(c, dataset, "\"nsamples\":2,\"seqlen\":8", RH_ERR_FORMAT, "list of documents");
    rh_free(dataset);
}

static void parquet_columns_are_read(void **state)
{
    struct calibration *c = *state;
    const char *groups = GOLDEN "parquet/snappy_dictionary_groups.parquet";
    must_run(c, groups, "\"nsamples\":40,\"seqlen\":8");
    assert_int_equal(set_count(c, 0, "documents"), 400);
    assert_true(set_count(c, 0, "too_short") > 0);
    forget(c);
    must_run(c, GOLDEN "parquet/required.parquet:column=large", "\"nsamples\":4,\"seqlen\":8");
    forget(c);
    must_fail(c, GOLDEN "parquet/required.parquet:column=small", "\"nsamples\":4,\"seqlen\":8",
              RH_ERR_NOT_FOUND, "no column small; name one with :column=NAME");
    must_fail(c, GOLDEN "parquet/refused_conversation.parquet", "\"nsamples\":4,\"seqlen\":8",
              RH_ERR_UNSUPPORTED, "render it first");
}

static void members_of_objects_can_be_named(void **state)
{
    struct calibration *c = *state;
    calibration_write(c, "data.jsonl", "{\"body\": \"A 1 2 3 4\", \"text\": \"x\"}\n");
    char *dataset = rh_format("%s:column=body", c->dataset);
    must_run(c, dataset, "\"nsamples\":1,\"seqlen\":8");
    forget(c);
    rh_free(dataset);
    dataset = rh_format("%s:column=corpus", c->dataset);
    must_fail(c, dataset, "\"nsamples\":1,\"seqlen\":8", RH_ERR_FORMAT, "the member \"corpus\"");
    rh_free(dataset);
}

static void conversations_are_refused_with_row_key_and_remedy(void **state)
{
    struct calibration *c = *state;
    calibration_write(c, "data.jsonl",
                      "\n{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n");
    must_fail(c, NULL, "\"nsamples\":1,\"seqlen\":8", RH_ERR_UNSUPPORTED,
              "data.jsonl line 2: \"messages\"");
    must_fail(c, NULL, "\"nsamples\":1,\"seqlen\":8", RH_ERR_UNSUPPORTED,
              "tokenizer.apply_chat_template(messages, tokenize=False)");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

/* The rows of one run; *candidates (NULL: there must be none) too. Owned by the caller. */
static int32_t *rows_of(const struct calibration *c, const char *dataset, const char *settings,
                        int64_t count, int32_t **candidates, int64_t candidate_count)
{
    int64_t rows = 0;
    int64_t seqlen = 0;
    must_run(c, dataset, settings);
    int32_t *ids = calibration_rows(c, &rows, &seqlen);
    assert_true(rows == count && seqlen == 8);
    if (candidates) {
        *candidates = calibration_candidates(c, &rows, &seqlen);
        assert_true(rows == candidate_count && seqlen == 8);
    } else {
        char *path = rh_format("%s/artifacts/calibrate-00000/candidates.safetensors", c->job);
        assert_false(rh_fs_exists(path));
        rh_free(path);
    }
    return ids;
}

static void candidates_are_the_rows_that_would_come_next(void **state)
{
    struct calibration *c = *state;
    int32_t *more = NULL;
    write_ten(c, "a.jsonl", 'A');
    char *dataset = with_paths(c, "{a}");
    int32_t *all = rows_of(c, dataset, "\"nsamples\":10,\"seqlen\":8", 10, NULL, 0);
    forget(c);
    static const char *const settings[] = {
        "\"nsamples\":4,\"seqlen\":8,\"top_up_rows\":2,\"top_up_pool\":3",
        "\"nsamples\":4,\"seqlen\":8,\"top_up_rows\":2",
        "\"nsamples\":4,\"seqlen\":8,\"top_up_rows\":1,\"top_up_pool\":100",
    };
    static const int64_t counts[] = {3, 4, 6};
    for (int i = 0; i < 3; i++) {
        int32_t *ids = rows_of(c, dataset, settings[i], 4, &more, counts[i]);
        assert_memory_equal(ids, all, 4 * 8 * sizeof *ids);
        assert_memory_equal(more, all + 4 * 8, (size_t)counts[i] * 8 * sizeof *ids);
        assert_int_equal(set_count(c, 0, "candidates"), counts[i]);
        forget(c);
        rh_free(ids);
        rh_free(more);
    }
    must_fail(c, dataset, "\"nsamples\":10,\"seqlen\":8,\"top_up_rows\":1", RH_ERR_FORMAT,
              "none beyond the 10 of the sample");
    rh_free(all);
    rh_free(dataset);
}

static void a_mix_gives_candidates_in_its_proportions(void **state)
{
    struct calibration *c = *state;
    int32_t *more = NULL;
    write_ten(c, "a.jsonl", 'A');
    write_ten(c, "b.jsonl", 'K');
    char *dataset = with_paths(c, "{a}:share=0.75,{b}");
    int32_t *plain = rows_of(c, dataset, "\"nsamples\":8,\"seqlen\":8", 8, NULL, 0);
    forget(c);
    int32_t *ids = rows_of(c, dataset,
                           "\"nsamples\":8,\"seqlen\":8,\"top_up_rows\":1,\"top_up_pool\":4", 8,
                           &more, 4);
    assert_memory_equal(ids, plain, 8 * 8 * sizeof *ids);
    assert_int_equal(set_count(c, 0, "rows"), 6);
    assert_int_equal(set_count(c, 0, "candidates"), 3);
    assert_int_equal(set_count(c, 1, "rows"), 2);
    assert_int_equal(set_count(c, 1, "candidates"), 1);
    rh_free(plain);
    rh_free(more);
    rh_free(ids);
    rh_free(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mixes_and_packed_rows_equal_those_of_auto_round),
        TEST(shares_are_parts_of_nsamples),
        TEST(what_one_set_lacks_another_gives),
        TEST(a_set_that_cannot_give_its_rows_is_named),
        TEST(short_documents_are_packed_when_asked),
        TEST(plain_text_is_packed_from_first_to_last),
        TEST(a_list_of_documents_is_read),
        TEST(parquet_columns_are_read),
        TEST(members_of_objects_can_be_named),
        TEST(conversations_are_refused_with_row_key_and_remedy),
        TEST(candidates_are_the_rows_that_would_come_next),
        TEST(a_mix_gives_candidates_in_its_proportions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
