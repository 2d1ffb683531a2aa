/* Files: whoever can see a name can read all of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"

static int make_dir(void **state)
{
    char *dir = rh_strdup("/tmp/rh-fs-XXXXXX");
    *state = mkdtemp(dir);
    return *state ? 0 : -1;
}

static int remove_dir(void **state)
{
    struct rh_error err;
    enum rh_rc rc = rh_fs_remove_tree(*state, &err);
    rh_free(*state);
    return rc;
}

static void expect_text(const char *path, const char *text)
{
    struct rh_error err;
    char *got = NULL;
    size_t size = 0;
    assert_int_equal(rh_fs_read(path, 1 << 20, &got, &size, &err), RH_OK);
    assert_int_equal(size, strlen(text));
    assert_string_equal(got, text);
    rh_free(got);
}

static size_t names_in(const char *dir)
{
    struct rh_error err;
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(rh_fs_list(dir, &names, &count, &err), RH_OK);
    rh_fs_list_free(names, count);
    return count;
}

static void a_file_appears_when_it_is_committed(void **state)
{
    struct rh_error err;
    struct rh_out *out = NULL;
    char digest[RH_SHA256_HEX_SIZE];
    char *path = rh_fs_join(*state, "a");
    assert_int_equal(rh_out_open(path, 4096, &out, &err), RH_OK);
    assert_int_equal(rh_out_write(out, "abc", 3, &err), RH_OK);
    assert_false(rh_fs_exists(path));
    assert_int_equal(rh_out_commit(out, digest, &err), RH_OK);
    expect_text(path, "abc"); /* and not the 4096 bytes that were reserved */
    assert_string_equal(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    rh_free(path);
}

static void an_aborted_file_leaves_nothing(void **state)
{
    struct rh_error err;
    struct rh_out *out = NULL;
    char *path = rh_fs_join(*state, "a");
    assert_int_equal(rh_fs_write(path, "old", 3, &err), RH_OK);
    assert_int_equal(rh_out_open(path, 0, &out, &err), RH_OK);
    assert_int_equal(rh_out_write(out, "new", 3, &err), RH_OK);
    rh_out_abort(out);
    expect_text(path, "old");
    assert_int_equal(names_in(*state), 1);
    rh_free(path);
}

static void a_file_without_room_fails_before_a_byte(void **state)
{
    struct rh_error err;
    struct rh_out *out = NULL;
    uint64_t free_bytes = 0;
    char *path = rh_fs_join(*state, "huge");
    assert_int_equal(rh_fs_free_bytes(*state, &free_bytes, &err), RH_OK);
    /* Far more than is there: other tests run beside this one and make room. */
    enum rh_rc rc = rh_out_open(path, free_bytes + ((uint64_t)1 << 40), &out, &err);
    assert_int_equal(rc, RH_ERR_NO_SPACE);
    assert_non_null(strstr(err.message, "are free")); /* it was not the attempt that told */
    assert_non_null(strstr(err.message, path));
    assert_int_equal(names_in(*state), 0);
    rh_free(path);
}

static void a_rename_never_replaces(void **state)
{
    struct rh_error err;
    char *a = rh_fs_join(*state, "a");
    char *b = rh_fs_join(*state, "b");
    assert_int_equal(rh_fs_mkdirs(a, &err), RH_OK);
    assert_int_equal(rh_fs_mkdirs(b, &err), RH_OK);
    assert_int_equal(rh_fs_rename_new(a, b, &err), RH_ERR_EXISTS);
    assert_non_null(strstr(err.message, b));
    assert_int_equal(rmdir(b), 0);
    assert_int_equal(rh_fs_rename_new(a, b, &err), RH_OK);
    assert_true(rh_fs_is_dir(b));
    assert_false(rh_fs_exists(a));
    rh_free(a);
    rh_free(b);
}

static void a_tree_is_removed_without_following_links(void **state)
{
    struct rh_error err;
    char *keep = rh_fs_join(*state, "keep");
    char *tree = rh_fs_join(*state, "tree/deep/deeper");
    char *link = rh_fs_join(*state, "tree/link");
    char *file = rh_fs_join(keep, "file");
    char *top = rh_fs_join(*state, "tree");
    assert_int_equal(rh_fs_mkdirs(keep, &err), RH_OK);
    assert_int_equal(rh_fs_mkdirs(tree, &err), RH_OK);
    assert_int_equal(rh_fs_write(file, "x", 1, &err), RH_OK);
    assert_int_equal(symlink(keep, link), 0);
    assert_int_equal(rh_fs_remove_tree(top, &err), RH_OK);
    assert_false(rh_fs_exists(top));
    expect_text(file, "x");
    assert_int_equal(rh_fs_remove_tree(top, &err), RH_OK); /* absent is fine */
    rh_free(keep);
    rh_free(tree);
    rh_free(link);
    rh_free(file);
    rh_free(top);
}

static void reading_is_bounded(void **state)
{
    struct rh_error err;
    char *text = NULL;
    size_t size = 0;
    char *path = rh_fs_join(*state, "a");
    assert_int_equal(rh_fs_write(path, "0123456789", 10, &err), RH_OK);
    assert_int_equal(rh_fs_read(path, 9, &text, &size, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_fs_read(path, 10, &text, &size, &err), RH_OK);
    rh_free(text);
    char *absent = rh_fs_join(*state, "absent");
    assert_int_equal(rh_fs_read(absent, 9, &text, &size, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, absent));
    rh_free(absent);
    rh_free(path);
}

static void names_come_sorted_by_bytes(void **state)
{
    static const char *const made[] = {"b", "a", "B", "10", "9", "\xC3\xA9"};
    static const char *const sorted[] = {"10", "9", "B", "a", "b", "\xC3\xA9"};
    struct rh_error err;
    for (size_t i = 0; i < 6; i++) {
        char *path = rh_fs_join(*state, made[i]);
        assert_int_equal(rh_fs_write(path, "", 0, &err), RH_OK);
        rh_free(path);
    }
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(rh_fs_list(*state, &names, &count, &err), RH_OK);
    assert_int_equal(count, 6);
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(names[i], sorted[i]);
    rh_fs_list_free(names, count);
}

static void a_copy_brings_its_digest(void **state)
{
    struct rh_error err;
    char copied[RH_SHA256_HEX_SIZE];
    char again[RH_SHA256_HEX_SIZE];
    uint64_t size = 0;
    char *a = rh_fs_join(*state, "a");
    char *b = rh_fs_join(*state, "b");
    char *bytes = rh_alloc(1 << 20);
    for (size_t i = 0; i < 1 << 20; i++)
        bytes[i] = (char)(i * 31 >> 3);
    assert_int_equal(rh_fs_write(a, bytes, 1 << 20, &err), RH_OK);
    assert_int_equal(rh_fs_copy(a, b, copied, &err), RH_OK);
    assert_int_equal(rh_sha256_file(b, again, &size, &err), RH_OK);
    assert_string_equal(copied, again);
    assert_int_equal(size, 1 << 20);
    rh_free(bytes);
    rh_free(a);
    rh_free(b);
}

#define FS_TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FS_TEST(a_file_appears_when_it_is_committed),
        FS_TEST(an_aborted_file_leaves_nothing),
        FS_TEST(a_file_without_room_fails_before_a_byte),
        FS_TEST(a_rename_never_replaces),
        FS_TEST(a_tree_is_removed_without_following_links),
        FS_TEST(reading_is_bounded),
        FS_TEST(names_come_sorted_by_bytes),
        FS_TEST(a_copy_brings_its_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
