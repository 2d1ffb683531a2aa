/* What needs no server: settings, listings, names, digests, headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fs.h"
#include "base/git_hash.h"
#include "base/mem.h"
#include "download/hub_settings.h"
#include "download/hub_tree.h"
#include "http/http.h"
#include "recipe/model_reference.h"

static int forget_environment(void **state)
{
    static const char *const names[] = {"HF_ENDPOINT",
                                        "HF_TOKEN",
                                        "HUGGING_FACE_HUB_TOKEN",
                                        "HF_TOKEN_PATH",
                                        "HF_HOME",
                                        "HF_HUB_CACHE",
                                        "HUGGINGFACE_HUB_CACHE",
                                        "XDG_CACHE_HOME",
                                        "HF_HUB_OFFLINE",
                                        "TRANSFORMERS_OFFLINE",
                                        "HF_HUB_ETAG_TIMEOUT",
                                        "HF_HUB_DOWNLOAD_TIMEOUT",
                                        "HF_HUB_DISABLE_IMPLICIT_TOKEN"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
    return setenv("HOME", "/home/somebody", 1);
}

static struct rh_hub_settings settings(void)
{
    struct rh_hub_settings s;
    struct rh_error err;
    if (rh_hub_settings_read(&s, &err) != RH_OK)
        fail_msg("%s", err.message);
    return s;
}

static void the_environment_means_what_it_means_to_huggingface_hub(void **state)
{
    (void)state;
    struct rh_hub_settings s = settings();
    assert_string_equal(s.endpoint, "https://huggingface.co");
    assert_string_equal(s.cache, "/home/somebody/.cache/huggingface/hub");
    assert_null(s.token);
    assert_false(s.offline);
    assert_int_equal(s.idle_seconds, 10);
    rh_hub_settings_done(&s);
    setenv("XDG_CACHE_HOME", "/cache", 1);
    setenv("HUGGING_FACE_HUB_TOKEN", "old", 1);
    setenv("HF_ENDPOINT", "http://mirror:8080//", 1);
    setenv("HF_HUB_OFFLINE", "Yes", 1);
    s = settings();
    assert_string_equal(s.endpoint, "http://mirror:8080");
    assert_string_equal(s.cache, "/cache/huggingface/hub");
    assert_string_equal(s.token, "old");
    assert_string_equal(s.token_of, "HUGGING_FACE_HUB_TOKEN");
    assert_true(s.offline);
    rh_hub_settings_done(&s);
    setenv("HF_TOKEN", "\tnew \r\n", 1);
    setenv("HF_HOME", "~/hf/$XDG_CACHE_HOME-${HF_TOKEN_PATH}", 1);
    setenv("HF_HUB_DOWNLOAD_TIMEOUT", "33", 1);
    s = settings();
    assert_string_equal(s.token, "new");
    assert_string_equal(s.cache, "/home/somebody/hf//cache-${HF_TOKEN_PATH}/hub");
    assert_int_equal(s.idle_seconds, 33);
    rh_hub_settings_done(&s);
    setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", 1);
    setenv("HF_HUB_CACHE", "/elsewhere", 1);
    s = settings();
    assert_null(s.token);
    assert_string_equal(s.cache, "/elsewhere");
    rh_hub_settings_done(&s);
}

static void refuse(const char *name, const char *value)
{
    struct rh_hub_settings s;
    struct rh_error err;
    setenv(name, value, 1);
    assert_int_equal(rh_hub_settings_read(&s, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, name));
    rh_hub_settings_done(&s);
    unsetenv(name);
}

static void nonsense_in_the_environment_is_named(void **state)
{
    (void)state;
    refuse("HF_ENDPOINT", "huggingface.co");
    refuse("HF_HUB_ETAG_TIMEOUT", "soon");
    refuse("HF_HUB_DOWNLOAD_TIMEOUT", "0");
    refuse("HF_TOKEN", "a b");
}

static void names_on_the_hub_follow_its_rules(void **state)
{
    static const char *const good[] = {"Qwen/Qwen3.6-35B-A3B", "a/b", "a_1/b.c@main",
                                       "a/b@refs/pr/1", "a/b@v1.0+x"};
    static const char *const bad[] = {"gpt2", "a/b/c",  "/a/b",     "a/",       "../b",   "a/..",
                                      "a/b@", "a--b/c", "a/b c",    "a/b@x..y", "a/b@/x", "a@b/c",
                                      "-a/b", "a/b?",   "a/b@x//y", ""};
    struct rh_hub_name name;
    bool hides = true;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(rh_hub_name_parse(good[i], &name));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(rh_hub_name_parse(bad[i], &name));
    assert_true(rh_hub_name_parse("a/b@refs/pr/1", &name));
    assert_string_equal(name.repo, "a/b");
    assert_string_equal(name.revision, "refs/pr/1");
    assert_true(rh_hub_name_parse("a/b", &name));
    assert_string_equal(name.revision, "main");
    char *reference = rh_model_reference("a/b@v1", &hides);
    assert_string_equal(reference, "hf:a/b@v1");
    assert_false(hides);
    rh_free(reference);
    reference = rh_model_reference("hf://a/b@v1", &hides);
    assert_string_equal(reference, "hf:a/b@v1");
    rh_free(reference);
    assert_null(rh_model_reference("/models/x", &hides));
}

static void a_path_that_is_there_wins_and_says_so(void **state)
{
    struct rh_error err;
    bool hides = false;
    (void)state;
    assert_int_equal(rh_fs_mkdirs("hub-parts/model", &err), RH_OK);
    assert_null(rh_model_reference("hub-parts/model", &hides));
    assert_true(hides);
    assert_null(rh_model_reference("./hub-parts/model", &hides));
    assert_false(hides);
    assert_int_equal(rh_fs_remove_tree("hub-parts", &err), RH_OK);
}

static void the_next_page_is_where_the_link_says(void **state)
{
    (void)state;
    char *next = rh_hub_next_page("<https://a/1>; rel=\"prev\", <https://a/3?x=1,2>; rel=\"next\"");
    assert_string_equal(next, "https://a/3?x=1,2");
    rh_free(next);
    assert_null(rh_hub_next_page("<https://a/1>; rel=\"prev\""));
    assert_null(rh_hub_next_page(NULL));
}

/* The values of "git hash-object". */
static void git_names_are_those_of_git(void **state)
{
    char hex[RH_GIT_HASH_HEX_SIZE];
    (void)state;
    struct rh_git_hash *h = rh_git_hash_new(0);
    rh_git_hash_finish(h, hex);
    rh_git_hash_free(h);
    assert_string_equal(hex, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    h = rh_git_hash_new(6);
    rh_git_hash_update(h, "hel", 3);
    rh_git_hash_update(h, "lo\n", 3);
    rh_git_hash_finish(h, hex);
    rh_git_hash_free(h);
    assert_string_equal(hex, "ce013625030ba8dba906f756967f9e9ca394464a");
}

static void addresses_are_compared_by_scheme_host_and_port(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"https://hub/x", "https://HUB:443/y?z", true},
        {"https://hub", "http://hub", false},
        {"http://127.0.0.1:1", "http://127.0.0.1:2", false},
        {"https://hub", "https://hub.evil", false},
        {"https://hub", "https://hub@evil", false},
        {"nonsense", "nonsense:", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(rh_http_same_origin(cases[i].a, cases[i].b), cases[i].same);
    char *url = rh_http_resolve("https://hub/a/b?c", "/api/x?y=1");
    assert_string_equal(url, "https://hub/api/x?y=1");
    rh_free(url);
    url = rh_http_escape("a b/c%", true);
    assert_string_equal(url, "a%20b/c%25");
    rh_free(url);
}

static void headers_are_found_in_any_case_and_dates_are_waits(void **state)
{
    char headers[] = "HTTP/1.1 200 OK\r\nETag:  \"x\" \r\nRetry-After: 7\r\n\r\n";
    struct rh_http_reply reply = {.headers = headers, .headers_size = sizeof headers - 1};
    char date[64];
    time_t soon = time(NULL) + 30;
    struct tm utc;
    (void)state;
    char *etag = rh_http_header(&reply, "etag");
    assert_string_equal(etag, "\"x\"");
    rh_free(etag);
    assert_null(rh_http_header(&reply, "tag"));
    assert_int_equal(rh_http_seconds("7"), 7);
    assert_int_equal(rh_http_seconds("later"), -1);
    assert_int_equal(rh_http_seconds("Thu, 01 Jan 2015 00:00:00 GMT"), 0);
    assert_non_null(gmtime_r(&soon, &utc));
    assert_true(strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &utc) > 0);
    assert_in_range(rh_http_seconds(date), 20, 30);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, forget_environment)
    const struct CMUnitTest tests[] = {
        TEST(the_environment_means_what_it_means_to_huggingface_hub),
        TEST(nonsense_in_the_environment_is_named),
        TEST(names_on_the_hub_follow_its_rules),
        TEST(a_path_that_is_there_wins_and_says_so),
        TEST(the_next_page_is_where_the_link_says),
        TEST(git_names_are_those_of_git),
        TEST(addresses_are_compared_by_scheme_host_and_port),
        TEST(headers_are_found_in_any_case_and_dates_are_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
