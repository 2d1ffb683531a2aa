#define _XOPEN_SOURCE 700 /* mkdtemp and realpath */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "ctl/place.h"

static void expect_absolute(const char *given, const char *wanted)
{
    char *got = rh_place_absolute(given);
    assert_string_equal(got, wanted);
    rh_free(got);
}

static void paths_become_absolute_by_name_alone(void **state)
{
    (void)state;
    expect_absolute("/", "/");
    expect_absolute("/a/b", "/a/b");
    expect_absolute("//a///b/", "/a/b");
    expect_absolute("/a/./b/../c", "/a/c");
    expect_absolute("/../..", "/");
    expect_absolute("/a/..", "/");
    expect_absolute("/...", "/...");
    char *here = realpath(".", NULL);
    char *below = rh_format("%s/x", here);
    expect_absolute("x", below);
    expect_absolute("./y/../x", below);
    expect_absolute(".", here);
    rh_free(below);
    free(here);
}

static void expect_state(const char *given, const char *wanted)
{
    char *got = rh_place_state(given);
    assert_string_equal(got, wanted);
    rh_free(got);
}

static void the_state_directory_is_the_nearest_that_was_named(void **state)
{
    (void)state;
    setenv("HOME", "/home/me", 1);
    unsetenv("XDG_STATE_HOME");
    unsetenv("ROUNDHOUSE_STATE");
    expect_state(NULL, "/home/me/.local/state/roundhouse");
    setenv("XDG_STATE_HOME", "relative/is/void", 1);
    expect_state(NULL, "/home/me/.local/state/roundhouse");
    setenv("XDG_STATE_HOME", "/xdg", 1);
    expect_state(NULL, "/xdg/roundhouse");
    setenv("ROUNDHOUSE_STATE", "/factory/", 1);
    expect_state(NULL, "/factory");
    expect_state("/given", "/given");
    unsetenv("ROUNDHOUSE_STATE");
}

static void the_hidden_state_lies_beside_the_output(void **state)
{
    (void)state;
    char *path = rh_place_hidden_state("/out/name");
    assert_string_equal(path, "/out/.name.roundhouse");
    rh_free(path);
    path = rh_place_hidden_state("/name");
    assert_string_equal(path, "/.name.roundhouse");
    rh_free(path);
}

static char *make_dir(void)
{
    char name[] = "/tmp/rh-place-XXXXXX";
    assert_non_null(mkdtemp(name));
    return rh_strdup(name);
}

static void short_paths_keep_their_sockets(void **state)
{
    (void)state;
    char *root = make_dir();
    char *where = rh_format("%s/s", root), *run = NULL, *wanted = rh_format("%s/s/run", root);
    struct rh_error err;
    assert_int_equal(rh_place_run_dir(where, false, &run, &err), RH_OK);
    assert_string_equal(run, wanted);
    assert_false(rh_fs_exists(where));
    rh_free(run);
    assert_int_equal(rh_place_run_dir(where, true, &run, &err), RH_OK);
    assert_true(rh_fs_is_dir(wanted));
    rh_free(run);
    assert_int_equal(rh_fs_remove_tree(root, &err), RH_OK);
    rh_free(wanted);
    rh_free(where);
    rh_free(root);
}

static void long_paths_get_a_short_private_directory(void **state)
{
    (void)state;
    char *root = make_dir(), *run = NULL, *again = NULL;
    char longer[120];
    struct rh_error err;
    struct stat st;
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    char *where = rh_format("%s/%s", root, longer);
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(rh_place_run_dir(where, false, &run, &err), RH_ERR_REMOTE);
    assert_null(run);
    assert_int_equal(rh_place_run_dir(where, true, &run, &err), RH_OK);
    assert_true(strlen(run) < 40);
    assert_int_equal(stat(run, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(rh_place_run_dir(where, false, &again, &err), RH_OK);
    assert_string_equal(again, run);
    rh_free(again);
    /* Others could write there: it is not trusted any more. */
    assert_int_equal(chmod(run, 0777), 0);
    assert_int_equal(rh_place_run_dir(where, false, &again, &err), RH_ERR_REMOTE);
    assert_int_equal(chmod(run, 0700), 0);
    rh_place_forget_run_dir(where);
    assert_false(rh_fs_exists(run));
    assert_int_equal(rh_fs_remove_tree(root, &err), RH_OK);
    rh_free(run);
    rh_free(where);
    rh_free(root);
}

static void only_short_directories_of_ours_are_removed(void **state)
{
    (void)state;
    char *root = make_dir();
    char *precious = rh_format("%s/precious", root), *file = rh_format("%s/run-dir", root);
    struct rh_error err;
    assert_int_equal(mkdir(precious, 0700), 0);
    assert_int_equal(rh_fs_write(file, precious, strlen(precious), &err), RH_OK);
    rh_place_forget_run_dir(root);
    assert_true(rh_fs_is_dir(precious));
    assert_int_equal(rh_fs_remove_tree(root, &err), RH_OK);
    rh_free(precious);
    rh_free(file);
    rh_free(root);
}

static void emptiness(void **state)
{
    (void)state;
    char *root = make_dir();
    char *absent = rh_format("%s/absent", root), *file = rh_format("%s/file", root);
    struct rh_error err;
    bool empty = false;
    assert_int_equal(rh_place_is_empty(absent, &empty, &err), RH_OK);
    assert_true(empty);
    assert_int_equal(rh_place_is_empty(root, &empty, &err), RH_OK);
    assert_true(empty);
    assert_int_equal(rh_fs_write(file, "x", 1, &err), RH_OK);
    assert_int_equal(rh_place_is_empty(root, &empty, &err), RH_OK);
    assert_false(empty);
    assert_int_equal(rh_place_is_empty(file, &empty, &err), RH_ERR_EXISTS);
    assert_non_null(strstr(err.message, file));
    assert_int_equal(rh_fs_remove_tree(root, &err), RH_OK);
    rh_free(absent);
    rh_free(file);
    rh_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_become_absolute_by_name_alone),
        cmocka_unit_test(the_state_directory_is_the_nearest_that_was_named),
        cmocka_unit_test(the_hidden_state_lies_beside_the_output),
        cmocka_unit_test(short_paths_keep_their_sockets),
        cmocka_unit_test(long_paths_get_a_short_private_directory),
        cmocka_unit_test(only_short_directories_of_ours_are_removed),
        cmocka_unit_test(emptiness),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
