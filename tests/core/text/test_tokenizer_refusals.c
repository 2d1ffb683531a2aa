/* What a tokenizer.json may not ask for, and what hostile ones try. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "text/tokenizer.h"

#define FLAGS RH_SOURCE_DIR "/tests/golden/tokenizer/flags.tokenizer.json"

static char *original; /* a good file, as text */

static int read_original(void **state)
{
    (void)state;
    size_t size = 0;
    struct rh_error err = {0};
    return rh_fs_read(FLAGS, 1 << 20, &original, &size, &err);
}

static int free_original(void **state)
{
    (void)state;
    rh_free(original);
    return 0;
}

static enum rh_rc parse(const char *json, const char *pattern, struct rh_error *err)
{
    struct rh_tokenizer *t = NULL;
    *err = (struct rh_error){0};
    enum rh_rc rc = rh_tokenizer_parse(json, strlen(json), "t.json", pattern, &t, err);
    assert_int_equal(rc == RH_OK, t != NULL);
    rh_tokenizer_free(t);
    return rc;
}

/* The file with the first `from` replaced. */
static char *with(const char *from, const char *to)
{
    const char *at = strstr(original, from);
    if (!at)
        fail_msg("%s is not in the file", from);
    return rh_format("%.*s%s%s", (int)(at - original), original, to, at + strlen(from));
}

static void refuses(const char *from, const char *to, enum rh_rc expected, const char *says)
{
    char *json = with(from, to);
    struct rh_error err;
    enum rh_rc rc = parse(json, NULL, &err);
    if (rc != expected || !strstr(err.message, says) || !strstr(err.message, "t.json"))
        fail_msg("%s for %s: %d \"%s\", not %d \"%s\"", to, from, (int)rc, err.message,
                 (int)expected, says);
    rh_free(json);
}

static void the_file_itself_is_good(void **state)
{
    (void)state;
    struct rh_error err;
    assert_int_equal(parse(original, NULL, &err), RH_OK);
}

static void unsupported_parts_are_named(void **state)
{
    (void)state;
    const enum rh_rc no = RH_ERR_UNSUPPORTED;
    refuses("{\"type\":\"NFC\"}", "{\"type\":\"NFKC\"}", no, "normalizer \"NFKC\"");
    refuses("{\"type\":\"NFC\"}", "{\"type\":\"Sequence\",\"normalizers\":[]}", no, "Sequence");
    refuses("\"type\":\"Split\"", "\"type\":\"Whitespace\"", no, "pre_tokenizer \"Whitespace\"");
    refuses("{\"Regex\":", "{\"String\":", no, "String");
    refuses("\"Isolated\"", "\"Removed\"", no, "Removed");
    refuses("\"invert\":false", "\"invert\":true", no, "Isolated");
    refuses("\"add_prefix_space\":false", "\"add_prefix_space\":true", no, "add_prefix_space");
    refuses("\"use_regex\":false", "\"use_regex\":true", no, "use_regex after Split");
    refuses("\"type\":\"ByteLevel\"", "\"type\":\"Metaspace\"", no, "Metaspace");
    refuses("\"post_processor\":null", "\"post_processor\":{\"type\":\"TemplateProcessing\"}", no,
            "TemplateProcessing");
    refuses("\"type\":\"BPE\"", "\"type\":\"Unigram\"", no, "model \"Unigram\"");
    refuses("\"dropout\":null", "\"dropout\":0.1", no, "dropout");
    refuses("\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", no, "end_of_word");
    refuses("\"byte_fallback\":false", "\"byte_fallback\":true", no, "byte_fallback");
    refuses("\"!\":", "\"not a byte\":", no, "0x21");
}

static void broken_files_are_format_errors(void **state)
{
    (void)state;
    const enum rh_rc no = RH_ERR_FORMAT;
    refuses("\"vocab\":{", "\"vocab\":[{", no, "t.json");
    refuses("\"model\":{", "\"m\":{", no, "model");
    refuses("\"merges\":[", "\"merges\":7,\"m\":[", no, "merges");
    refuses("\"merges\":[", "\"merges\":[\"zz qq\",", no, "merge 0");
    refuses("\"merges\":[", "\"merges\":[\"z\",", no, "merge 0");
    refuses("\"merges\":[", "\"merges\":[[\"a\",\"b\",\"c\"],", no, "merge 0");
    refuses("\"!\":33", "\"!\":-1", no, "has no id in");
    refuses("\"!\":33", "\"!\":1e15", no, "has no id in");
    refuses("\"!\":33", "\"!\":\"0\"", no, "has no id in");
    refuses("\"!\":33", "\"!\":34", no, "id 34 stands for two");
    refuses("\"content\":\"<L>\"", "\"content\":\"\"", no, "cannot be empty");
    refuses("\"content\":\"<L>\"", "\"content\":7", no, "content");
    refuses("\"content\":\"<L>\"", "\"content\":\"the\"", no, "in the vocabulary it is");
    refuses("\"added_tokens\":[", "\"added_tokens\":[{\"content\":\"x\",\"id\":99999999},", no,
            "99999999");
}

static void regexes_that_other_engines_read_differently_are_refused(void **state)
{
    (void)state;
    static const char *const regexes[] = {"[a&&b]", "[a[bc]]", "\\h+", "[\\h]+", "^a",    "a$",
                                          "[\\S]",  "\\R",     "(",    "[a",     "a\\Cb", "\\"};
    for (size_t i = 0; i < sizeof regexes / sizeof regexes[0]; i++) {
        struct rh_error err;
        if (parse(original, regexes[i], &err) != RH_ERR_UNSUPPORTED)
            fail_msg("%s is accepted", regexes[i]);
        assert_non_null(strstr(err.message, "t.json"));
    }
}

static void odd_regexes_split_as_they_should(void **state)
{
    (void)state;
    /* Matches of nothing still cut; brackets and blanks inside classes stay themselves. Ids of
     * the tokenizers library for "] the". */
    static const struct {
        const char *regex;
        size_t count;
        int32_t ids[5];
    } cases[] = {{"x*", 5, {93, 32, 116, 104, 101}},
                 {"(?=the)", 3, {93, 32, 260}},
                 {"[]\\s]", 3, {93, 32, 260}},
                 {"[^]]+", 2, {93, 258}},
                 {"\\[", 2, {93, 258}},
                 {"\\S+", 3, {93, 32, 260}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rh_tokenizer *t = NULL;
        struct rh_ids ids = {0};
        struct rh_error err = {0};
        assert_int_equal(
            rh_tokenizer_parse(original, strlen(original), "t.json", cases[i].regex, &t, &err),
            RH_OK);
        assert_int_equal(rh_tokenizer_encode(t, "] the", 5, 0, &ids, &err), RH_OK);
        assert_int_equal(ids.count, cases[i].count);
        assert_memory_equal(ids.ids, cases[i].ids, ids.count * sizeof *ids.ids);
        rh_ids_done(&ids);
        rh_tokenizer_free(t);
    }
}

static void a_regex_that_explodes_is_an_error_in_time(void **state)
{
    (void)state;
    struct rh_tokenizer *t = NULL;
    struct rh_ids ids = {0};
    struct rh_error err = {0};
    struct rh_strbuf text = {0};
    for (int i = 0; i < 5000; i++)
        rh_strbuf_puts(&text, "a");
    assert_int_equal(
        rh_tokenizer_parse(original, strlen(original), "t.json", "(a|aa)+[bc]", &t, &err), RH_OK);
    assert_int_equal(rh_tokenizer_encode(t, text.text, text.size, 0, &ids, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "byte 0"));
    assert_int_equal(ids.count, 0);
    rh_ids_done(&ids);
    rh_strbuf_done(&text);
    rh_tokenizer_free(t);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    size_t size = strlen(original);
    while (original[size - 1] != '}')
        size--;
    for (size_t cut = 0; cut < size; cut++) {
        struct rh_tokenizer *t = NULL;
        struct rh_error err = {0};
        if (rh_tokenizer_parse(original, cut, "t.json", NULL, &t, &err) == RH_OK)
            fail_msg("accepted at %zu of %zu bytes", cut, size);
        assert_null(t);
    }
}

static void a_missing_file_is_an_error_with_its_path(void **state)
{
    (void)state;
    struct rh_tokenizer *t = NULL;
    struct rh_error err = {0};
    assert_int_not_equal(rh_tokenizer_load("/nowhere/tokenizer.json", NULL, &t, &err), RH_OK);
    assert_non_null(strstr(err.message, "/nowhere/tokenizer.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_itself_is_good),
        cmocka_unit_test(unsupported_parts_are_named),
        cmocka_unit_test(broken_files_are_format_errors),
        cmocka_unit_test(regexes_that_other_engines_read_differently_are_refused),
        cmocka_unit_test(odd_regexes_split_as_they_should),
        cmocka_unit_test(a_regex_that_explodes_is_an_error_in_time),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_missing_file_is_an_error_with_its_path),
    };
    return cmocka_run_group_tests(tests, read_original, free_original);
}
