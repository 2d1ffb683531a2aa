/* Ids of the `tokenizers` library; the files are made by tests/golden/make_tokenizer.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "base/strbuf.h"
#include "text/tokenizer.h"

#define GOLDEN RH_SOURCE_DIR "/tests/golden/tokenizer/"
#define NANO   RH_SOURCE_DIR "/tests/data/nano/tokenizer.json"

static struct rh_tokenizer *load(const char *path, const char *pattern)
{
    struct rh_tokenizer *t = NULL;
    struct rh_error err = {0};
    if (rh_tokenizer_load(path, pattern, &t, &err) != RH_OK)
        fail_msg("%s", err.message);
    return t;
}

static void encode(struct rh_tokenizer *t, const char *text, size_t size, struct rh_ids *out)
{
    struct rh_error err = {0};
    out->count = 0;
    if (rh_tokenizer_encode(t, text, size, 0, out, &err) != RH_OK)
        fail_msg("%s", err.message);
}

static void check_case(struct rh_tokenizer *t, const struct rh_json *c)
{
    const char *text = rh_json_string(rh_json_get(c, "text"));
    const struct rh_json *expected = rh_json_get(c, "ids");
    struct rh_ids ids = {0};
    encode(t, text, strlen(text), &ids);
    struct rh_strbuf got = {0};
    rh_strbuf_puts(&got, "[");
    for (size_t i = 0; i < ids.count; i++)
        rh_strbuf_printf(&got, "%s%d", i ? "," : "", (int)ids.ids[i]);
    rh_strbuf_puts(&got, "]");
    char *want = rh_json_canonical(expected);
    if (strcmp(got.text, want) != 0)
        fail_msg("\"%s\" gives %s, not %s", text, got.text, want);
    rh_free(want);
    rh_strbuf_done(&got);
    rh_ids_done(&ids);
}

static void check_run(struct rh_tokenizer *t, const struct rh_json *run)
{
    const char *unit = rh_json_string(rh_json_get(run, "text"));
    size_t times = (size_t)rh_json_number(rh_json_get(run, "times"), 0.0);
    struct rh_strbuf text = {0};
    struct rh_ids ids = {0};
    char hex[RH_SHA256_HEX_SIZE];
    for (size_t i = 0; i < times; i++)
        rh_strbuf_puts(&text, unit);
    encode(t, text.text, text.size, &ids);
    assert_int_equal(ids.count, (size_t)rh_json_number(rh_json_get(run, "count"), 0.0));
    rh_sha256_of(ids.ids, ids.count * sizeof *ids.ids, hex);
    assert_string_equal(hex, rh_json_string(rh_json_get(run, "sha256")));
    rh_ids_done(&ids);
    rh_strbuf_done(&text);
}

/* Every case twice: the second time short pieces come from the cache. */
static void check_golden(const char *name, size_t least)
{
    char *path = rh_format(GOLDEN "%s", name);
    struct rh_json *golden = NULL;
    struct rh_error err = {0};
    if (rh_json_read(path, 1 << 20, &golden, &err) != RH_OK)
        fail_msg("%s", err.message);
    const char *file = rh_json_string(rh_json_get(golden, "tokenizer"));
    char *tokenizer = strcmp(file, "nano") == 0 ? rh_strdup(NANO) : rh_format(GOLDEN "%s", file);
    struct rh_tokenizer *t = load(tokenizer, NULL);
    const struct rh_json *cases = rh_json_get(golden, "cases");
    assert_true(rh_json_count(cases) >= least);
    for (int pass = 0; pass < 2; pass++) {
        for (const struct rh_json *c = rh_json_first(cases); c; c = rh_json_next(c))
            check_case(t, c);
    }
    const struct rh_json *run = rh_json_first(rh_json_get(golden, "runs"));
    assert_non_null(run);
    for (; run; run = rh_json_next(run))
        check_run(t, run);
    rh_tokenizer_free(t);
    rh_json_free(golden);
    rh_free(tokenizer);
    rh_free(path);
}

static void texts_of_all_kinds_give_the_librarys_ids(void **state)
{
    (void)state;
    check_golden("nano.json", 300);
}

static void unicode_torture_gives_the_librarys_ids(void **state)
{
    (void)state;
    check_golden("torture.json", 0);
}

static void added_tokens_obey_their_flags(void **state)
{
    (void)state;
    check_golden("flags.json", 120);
}

static void whole_words_come_before_merges_when_asked(void **state)
{
    (void)state;
    check_golden("whole_words.json", 100);
}

static void byte_level_splits_by_itself_when_asked(void **state)
{
    (void)state;
    check_golden("gpt2.json", 100);
}

static void tokens_put_together_are_the_text_again(void **state)
{
    (void)state;
    static const char text[] =
        "na\xC3\xAFve <|im_start|> \xF0\x9F\x98\x80\n\t x\x01 '\xE6\xBC\xA2'";
    struct rh_tokenizer *t = load(NANO, NULL);
    struct rh_ids ids = {0};
    struct rh_strbuf back = {0};
    encode(t, text, sizeof text - 1, &ids);
    for (size_t i = 0; i < ids.count; i++) {
        size_t size = 0;
        const char *bytes = rh_tokenizer_token(t, ids.ids[i], &size);
        assert_non_null(bytes);
        rh_strbuf_append(&back, bytes, size);
    }
    assert_string_equal(back.text, text);
    rh_strbuf_done(&back);
    rh_ids_done(&ids);
    rh_tokenizer_free(t);
}

static void every_id_below_the_size_has_bytes_and_no_other(void **state)
{
    (void)state;
    struct rh_tokenizer *t = load(NANO, NULL);
    size_t size = 0;
    assert_int_equal(rh_tokenizer_size(t), 2047);
    for (int32_t id = 0; id < 2047; id++)
        assert_non_null(rh_tokenizer_token(t, id, &size));
    assert_null(rh_tokenizer_token(t, 2047, &size));
    assert_null(rh_tokenizer_token(t, -1, &size));
    assert_string_equal(rh_tokenizer_token(t, 2040, &size), "<|endoftext|>");
    assert_int_equal(size, 13);
    rh_tokenizer_free(t);
}

static void encoding_stops_when_there_is_enough(void **state)
{
    (void)state;
    struct rh_tokenizer *t = load(NANO, NULL);
    struct rh_strbuf text = {0};
    struct rh_ids all = {0};
    struct rh_ids some = {0};
    struct rh_error err = {0};
    for (int i = 0; i < 5000; i++)
        rh_strbuf_printf(&text, "word number %d<|im_end|>\n", i);
    encode(t, text.text, text.size, &all);
    for (size_t enough = 1; enough < 200; enough++) {
        some.count = 0;
        assert_int_equal(rh_tokenizer_encode(t, text.text, text.size, enough, &some, &err), RH_OK);
        assert_in_range(some.count, enough, enough + 16);
        assert_memory_equal(some.ids, all.ids, enough * sizeof *all.ids);
    }
    rh_ids_done(&some);
    rh_ids_done(&all);
    rh_strbuf_done(&text);
    rh_tokenizer_free(t);
}

static void text_that_is_not_utf8_is_refused_at_its_byte(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *at;
    } bad[] = {{"abc\xFF", "byte 3 "},         {"\x80", "byte 0 "},
               {"ok \xED\xA0\x80", "byte 3 "}, /* a surrogate */
               {"\xC0\xAF", "byte 0 "},        {"x\xE2\x82", "byte 1 "},
               {"\xF4\x90\x80\x80", "byte 0 "}};
    struct rh_tokenizer *t = load(NANO, NULL);
    struct rh_ids ids = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rh_error err = {0};
        assert_int_equal(rh_tokenizer_encode(t, bad[i].text, strlen(bad[i].text), 0, &ids, &err),
                         RH_ERR_FORMAT);
        if (!strstr(err.message, bad[i].at))
            fail_msg("%s does not say %s", err.message, bad[i].at);
        assert_int_equal(ids.count, 0);
    }
    rh_tokenizer_free(t);
}

static void a_pattern_given_replaces_the_files(void **state)
{
    (void)state;
    struct rh_tokenizer *t = load(NANO, "[a-z]");
    struct rh_ids ids = {0};
    encode(t, "hello", 5, &ids);
    assert_int_equal(ids.count, 5);
    rh_ids_done(&ids);
    rh_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_of_all_kinds_give_the_librarys_ids),
        cmocka_unit_test(unicode_torture_gives_the_librarys_ids),
        cmocka_unit_test(added_tokens_obey_their_flags),
        cmocka_unit_test(whole_words_come_before_merges_when_asked),
        cmocka_unit_test(byte_level_splits_by_itself_when_asked),
        cmocka_unit_test(tokens_put_together_are_the_text_again),
        cmocka_unit_test(every_id_below_the_size_has_bytes_and_no_other),
        cmocka_unit_test(encoding_stops_when_there_is_enough),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_at_its_byte),
        cmocka_unit_test(a_pattern_given_replaces_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
