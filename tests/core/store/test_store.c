#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "store/store.h"

/* A job directory with one sealed artifact in staging: files b, a/x, a/y, A. */
struct fixture {
    char job[32];
    char *staging;
};

static void put(const char *dir, const char *name, const char *text)
{
    char *path = rh_fs_join(dir, name);
    assert_int_equal(rh_fs_write(path, text, strlen(text), NULL), RH_OK);
    rh_free(path);
}

static void fill(const char *dir)
{
    char *sub = rh_fs_join(dir, "a");
    assert_int_equal(rh_fs_mkdirs(sub, NULL), RH_OK);
    put(dir, "b", "bbb");
    put(dir, "a/y", "yy");
    put(dir, "a/x", "");
    put(dir, "A", "AAAA");
    rh_free(sub);
}

static void seal(const char *dir)
{
    struct rh_error err = {0};
    if (rh_store_seal(dir, "fetch", 3, "abc", NULL, &err) != RH_OK)
        fail_msg("%s", err.message);
}

static void check_fails(const char *dir, bool deep, enum rh_rc expected, const char *text)
{
    struct rh_error err = {0};
    assert_int_equal(rh_store_check(dir, deep, &err), expected);
    if (!strstr(err.message, text))
        print_error("\"%s\" lacks \"%s\"\n", err.message, text);
    assert_non_null(strstr(err.message, text));
}

static void paths_are_those_of_the_header(void **state)
{
    (void)state;
    char *artifact = rh_store_artifact("job", "fetch", 3);
    char *staging = rh_store_staging("job", "tune", 123456, 7);
    assert_string_equal(artifact, "job/artifacts/fetch-00003");
    assert_string_equal(staging, "job/staging/tune-123456.7");
    rh_free(artifact);
    rh_free(staging);
}

static void a_manifest_lists_all_files_sorted_with_their_digests(void **state)
{
    struct fixture *f = *state;
    struct rh_json *root = NULL;
    struct rh_json *meta = rh_json_new_object();
    static const char *const names[] = {"A", "a/x", "a/y", "b"};
    static const char *const texts[] = {"AAAA", "", "yy", "bbb"};
    rh_json_set_string(meta, "note", "kept");
    put(f->staging, ".MANIFEST.json.tmp", "of a writer that died");
    assert_int_equal(rh_store_seal(f->staging, "fetch", 3, "abc", meta, NULL), RH_OK);
    rh_json_free(meta);
    char *path = rh_fs_join(f->staging, "MANIFEST.json");
    assert_int_equal(rh_json_read(path, 100000, &root, NULL), RH_OK);
    rh_free(path);
    const struct rh_json *files = rh_json_get(root, "files");
    assert_int_equal(rh_json_count(files), 4);
    const struct rh_json *file = rh_json_first(files);
    for (size_t i = 0; i < 4; i++, file = rh_json_next(file)) {
        char sha256[RH_SHA256_HEX_SIZE];
        int64_t size = -1;
        rh_sha256_of(texts[i], strlen(texts[i]), sha256);
        assert_string_equal(rh_json_string(rh_json_get(file, "name")), names[i]);
        assert_string_equal(rh_json_string(rh_json_get(file, "sha256")), sha256);
        assert_true(rh_json_int(rh_json_get(file, "size"), &size));
        assert_int_equal(size, strlen(texts[i]));
    }
    assert_string_equal(rh_json_string(rh_json_get(root, "op")), "fetch");
    assert_string_equal(rh_json_string(rh_json_get(root, "recipe")), "abc");
    assert_string_equal(rh_json_string(rh_json_get(rh_json_get(root, "meta"), "note")), "kept");
    rh_json_free(root);
    assert_int_equal(rh_store_check(f->staging, true, NULL), RH_OK);
}

static void sealing_again_gives_the_same_manifest(void **state)
{
    struct fixture *f = *state;
    char first[RH_SHA256_HEX_SIZE];
    char second[RH_SHA256_HEX_SIZE];
    char *path = rh_fs_join(f->staging, "MANIFEST.json");
    seal(f->staging);
    assert_int_equal(rh_sha256_file(path, first, NULL, NULL), RH_OK);
    seal(f->staging);
    assert_int_equal(rh_sha256_file(path, second, NULL, NULL), RH_OK);
    assert_string_equal(first, second);
    rh_free(path);
}

static void commit_moves_once_and_refuses_the_second(void **state)
{
    struct fixture *f = *state;
    struct rh_error err = {0};
    char *artifact = rh_store_artifact(f->job, "fetch", 3);
    char *other = rh_store_staging(f->job, "fetch", 3, 2);
    seal(f->staging);
    assert_false(rh_store_has(f->job, "fetch", 3));
    assert_int_equal(rh_store_commit(f->staging, f->job, "fetch", 3, &err), RH_OK);
    assert_true(rh_store_has(f->job, "fetch", 3));
    assert_false(rh_store_has(f->job, "fetch", 4));
    assert_false(rh_fs_exists(f->staging));
    assert_int_equal(rh_store_check(artifact, true, &err), RH_OK);

    fill(other);
    put(other, "b", "not the first");
    seal(other);
    assert_int_equal(rh_store_commit(other, f->job, "fetch", 3, &err), RH_ERR_EXISTS);
    assert_true(rh_fs_exists(other));
    assert_int_equal(rh_store_check(artifact, true, &err), RH_OK);
    rh_free(other);
    rh_free(artifact);
}

static void commit_takes_only_what_was_sealed_under_that_name(void **state)
{
    struct fixture *f = *state;
    struct rh_error err = {0};
    assert_int_equal(rh_store_commit(f->staging, f->job, "fetch", 3, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "not sealed"));
    seal(f->staging);
    assert_int_equal(rh_store_commit(f->staging, f->job, "fetch", 4, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_store_commit(f->staging, f->job, "pack", 3, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_store_commit(f->staging, f->job, "../x", 3, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_store_seal(f->staging, "a/b", 3, "abc", NULL, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_store_seal(f->staging, "fetch", -1, "abc", NULL, &err), RH_ERR_ARGUMENT);
    assert_true(rh_fs_exists(f->staging));
}

static void check_finds_every_kind_of_damage(void **state)
{
    struct fixture *f = *state;
    char *y = rh_fs_join(f->staging, "a/y");
    char *extra = rh_fs_join(f->staging, "a/extra");
    seal(f->staging);
    put(f->staging, "a/y", "yz");
    assert_int_equal(rh_store_check(f->staging, false, NULL), RH_OK);
    check_fails(f->staging, true, RH_ERR_FORMAT, "a/y has sha256");
    put(f->staging, "a/y", "yyy");
    check_fails(f->staging, false, RH_ERR_FORMAT, "a/y has 3 bytes, its manifest says 2");
    assert_int_equal(unlink(y), 0);
    check_fails(f->staging, false, RH_ERR_FORMAT, "a/y is missing");
    put(f->staging, "a/y", "yy");
    assert_int_equal(rh_store_check(f->staging, true, NULL), RH_OK);
    put(f->staging, "a/extra", "");
    check_fails(f->staging, false, RH_ERR_FORMAT, "a/extra is not in its manifest");
    assert_int_equal(unlink(extra), 0);
    assert_int_equal(symlink("y", extra), 0);
    check_fails(f->staging, false, RH_ERR_FORMAT, "neither file nor directory");
    rh_free(extra);
    rh_free(y);
}

static void hostile_manifests_are_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"../b", "/b", "a//y", "a/", "./b", "a/../b", "", ".."};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *text = rh_format("{\"schema\":\"roundhouse.artifact/1\",\"files\":"
                               "[{\"name\":\"%s\",\"size\":3,\"sha256\":\"\"}]}",
                               names[i]);
        put(f->staging, "MANIFEST.json", text);
        check_fails(f->staging, false, RH_ERR_FORMAT, "not plain and relative");
        rh_free(text);
    }
    put(f->staging, "MANIFEST.json",
        "{\"schema\":\"roundhouse.artifact/1\",\"files\":[{\"name\":\"b\"},{\"name\":\"b\"}]}");
    check_fails(f->staging, false, RH_ERR_FORMAT, "listed twice");
    put(f->staging, "MANIFEST.json", "{\"schema\":\"roundhouse.artifact/2\",\"files\":[]}");
    check_fails(f->staging, false, RH_ERR_UNSUPPORTED, "roundhouse.artifact/2");
    put(f->staging, "MANIFEST.json", "{\"schema\":\"roundhouse.artifact/1\",\"files\":[7]}");
    check_fails(f->staging, false, RH_ERR_FORMAT, "name");
    put(f->staging, "MANIFEST.json", "{");
    check_fails(f->staging, false, RH_ERR_FORMAT, "MANIFEST.json");
    check_fails("no-such-directory", false, RH_ERR_NOT_FOUND, "no-such-directory");
}

static int set_up(void **state)
{
    struct fixture *f = rh_alloc(sizeof(*f));
    strcpy(f->job, "test-store-XXXXXX");
    if (!mkdtemp(f->job))
        return -1;
    f->staging = rh_store_staging(f->job, "fetch", 3, 1);
    fill(f->staging);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    int rc = rh_fs_remove_tree(f->job, NULL);
    rh_free(f->staging);
    rh_free(f);
    return rc;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_are_those_of_the_header),
        TEST(a_manifest_lists_all_files_sorted_with_their_digests),
        TEST(sealing_again_gives_the_same_manifest),
        TEST(commit_moves_once_and_refuses_the_second),
        TEST(commit_takes_only_what_was_sealed_under_that_name),
        TEST(check_finds_every_kind_of_damage),
        TEST(hostile_manifests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
