/* JSON: what is refused, and the form that is hashed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"

static enum rh_rc parse(const char *text, struct rh_json **out, struct rh_error *err)
{
    return rh_json_parse(text, strlen(text), "some/file.json", out, err);
}

static struct rh_json *good(const char *text)
{
    struct rh_json *out = NULL;
    struct rh_error err;
    if (parse(text, &out, &err) != RH_OK)
        fail_msg("%s", err.message);
    return out;
}

static void bad_documents_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "{",
        "{} {}",
        "[1,]",
        "{\"a\":1,\"a\":2}",
        "{\"a\" 1}",
        "[01]",
        "[1.]",
        "[-]",
        "[1e]",
        "[+1]",
        "[.5]",
        "nul",
        "[\"\\x\"]",
        "// c\n{}",
        "[\"\xC0\x80\"]",
        "[\"\xED\xA0\x80\"]",
        "\"\\ud800\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct rh_json *out = NULL;
        struct rh_error err = {0};
        if (parse(texts[i], &out, &err) != RH_ERR_FORMAT)
            fail_msg("taken: %s", texts[i]);
        assert_null(out);
        assert_non_null(strstr(err.message, "some/file.json"));
    }
}

static void depth_is_bounded(void **state)
{
    (void)state;
    char text[257];
    for (size_t depth = 64; depth <= 128; depth += 64) {
        struct rh_json *out = NULL;
        struct rh_error err;
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        text[2 * depth] = '\0';
        assert_int_equal(parse(text, &out, &err), depth == 64 ? RH_OK : RH_ERR_FORMAT);
        rh_json_free(out);
    }
}

static void comments_are_for_recipes_only(void **state)
{
    (void)state;
    static const char text[] = "// why\n{ /* what */ \"a\": \"// no comment\" }";
    struct rh_json *out = NULL;
    struct rh_error err;
    assert_int_equal(parse(text, &out, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_json_parse_commented(text, strlen(text), "recipe", &out, &err), RH_OK);
    assert_string_equal(rh_json_string(rh_json_get(out, "a")), "// no comment");
    rh_json_free(out);
}

static void the_canonical_form_does_not_depend_on_spelling(void **state)
{
    (void)state;
    struct rh_json *a = good("{\"b\": [1.0, 1e2, 0.1], \"a\": {\"y\": null, \"x\": \"\\u00e9\"}}");
    struct rh_json *b = good("{\"a\":{\"x\":\"\xC3\xA9\",\"y\":null},\"b\":[1,100,1e-1]}");
    char *first = rh_json_canonical(a);
    char *second = rh_json_canonical(b);
    assert_string_equal(first, second);
    assert_string_equal(first, "{\"a\":{\"x\":\"\xC3\xA9\",\"y\":null},\"b\":[1,100,0.1]}");
    rh_free(first);
    rh_free(second);
    rh_json_free(a);
    rh_json_free(b);
}

static void integers_are_exact_or_no_integers(void **state)
{
    (void)state;
    struct rh_json *a = good("[9007199254740992, -7, 1.5, 1e300, \"3\", true]");
    static const int64_t wanted[] = {INT64_C(9007199254740992), -7};
    size_t i = 0;
    for (const struct rh_json *c = rh_json_first(a); c; c = rh_json_next(c), i++) {
        int64_t n = 0;
        assert_int_equal(rh_json_int(c, &n), i < 2);
        if (i < 2)
            assert_true(n == wanted[i]);
    }
    assert_int_equal(i, 6);
    rh_json_free(a);
}

static void numbers_survive_text(void **state)
{
    (void)state;
    static const double numbers[] = {0.1, 1.0 / 3.0, 1e-310, 123456789.123456789, -2.5e17};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct rh_json *node = rh_json_new_number(numbers[i]);
        char *text = rh_json_text(node, false);
        assert_true(strtod(text, NULL) == numbers[i]);
        rh_free(text);
        rh_json_free(node);
    }
}

static void a_missing_member_is_named_with_its_type(void **state)
{
    (void)state;
    struct rh_json *a = good("{\"size\": \"big\"}");
    struct rh_error err;
    int64_t n = 0;
    assert_int_equal(rh_json_want_int(a, "size", "a/config.json", &n, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "a/config.json"));
    assert_non_null(strstr(err.message, "size"));
    assert_int_equal(rh_json_want_int(a, "count", "a/config.json", &n, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "count"));
    rh_json_free(a);
}

static void absent_nodes_behave(void **state)
{
    (void)state;
    assert_null(rh_json_get(NULL, "a"));
    assert_null(rh_json_string(NULL));
    assert_int_equal(rh_json_count(NULL), 0);
    assert_true(rh_json_is_null(NULL));
    assert_true(rh_json_number(NULL, 2.5) == 2.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_documents_are_refused_by_name),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(comments_are_for_recipes_only),
        cmocka_unit_test(the_canonical_form_does_not_depend_on_spelling),
        cmocka_unit_test(integers_are_exact_or_no_integers),
        cmocka_unit_test(numbers_survive_text),
        cmocka_unit_test(a_missing_member_is_named_with_its_type),
        cmocka_unit_test(absent_nodes_behave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
