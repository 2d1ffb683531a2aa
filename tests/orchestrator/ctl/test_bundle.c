#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "ctl/bundle.h"

static int set_up(void **state)
{
    char *dir = rh_strdup("/tmp/rh-bundle-XXXXXX");
    *state = dir;
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    int rc = rh_fs_remove_tree(*state, NULL);
    rh_free(*state);
    return rc;
}

static void what_goes_in_comes_out_of_tar_without_tokens(void **state)
{
    struct rh_bundle *b = NULL;
    struct rh_error err;
    char *path = rh_fs_join(*state, "b.tar");
    char *log = rh_fs_join(*state, "log");
    static const char text[] = "token hf_abcdefGHIJ1234 but not hf_short nor shelf_abcdefghijkl\n";
    assert_int_equal(rh_fs_write(log, "0123456789", 10, &err), RH_OK);
    assert_int_equal(rh_bundle_open(path, &b, &err), RH_OK);
    assert_int_equal(rh_bundle_add(b, "a/text", text, sizeof text - 1, &err), RH_OK);
    assert_int_equal(rh_bundle_add_file(b, "tail", log, 4, &err), RH_OK);
    assert_int_equal(rh_bundle_add_file(b, "absent", "/no/such/file", 4, &err), RH_OK);
    assert_false(rh_fs_exists(path));
    assert_int_equal(rh_bundle_close(b, &err), RH_OK);
    assert_int_equal(rh_bundle_open(path, &b, &err), RH_ERR_EXISTS);
    char *command =
        rh_format("cd %s && tar tf b.tar && tar xf b.tar && cat a/text tail", (const char *)*state);
    char out[512] = "";
    FILE *tar = popen(command, "r");
    assert_non_null(tar);
    assert_true(fread(out, 1, sizeof out - 1, tar) > 0);
    assert_int_equal(pclose(tar), 0);
    assert_string_equal(out, "a/text\ntail\ntoken hf_************** but not hf_short nor "
                             "shelf_abcdefghijkl\n6789");
    rh_free(command);
    rh_free(log);
    rh_free(path);
}

static void a_name_that_tar_cannot_hold_is_refused(void **state)
{
    struct rh_bundle *b = NULL;
    struct rh_error err;
    char name[120];
    char *path = rh_fs_join(*state, "b.tar");
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(rh_bundle_open(path, &b, &err), RH_OK);
    assert_int_equal(rh_bundle_add(b, name, "x", 1, &err), RH_ERR_ARGUMENT);
    rh_bundle_abort(b);
    assert_false(rh_fs_exists(path));
    rh_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_goes_in_comes_out_of_tar_without_tokens, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_name_that_tar_cannot_hold_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
