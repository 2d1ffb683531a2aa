/* Files that pyarrow wrote, and files with one lie each; tests/golden/make_parquet.py makes them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "parquet/parquet.h"

#define GOLDEN RH_SOURCE_DIR "/tests/golden/parquet/"

static struct rh_json *read_index(void)
{
    struct rh_json *index = NULL;
    struct rh_error err;
    if (rh_json_read(GOLDEN "index.json", 1 << 20, &index, &err) != RH_OK)
        fail_msg("%s", err.message);
    return index;
}

static struct rh_parquet *must_open(const char *path, const char *column)
{
    struct rh_parquet *p = NULL;
    struct rh_error err;
    if (rh_parquet_open(path, column, &p, &err) != RH_OK)
        fail_msg("%s", err.message);
    return p;
}

static void check_row(struct rh_parquet *p, int64_t row, const struct rh_json *expected)
{
    const char *want = rh_json_string(expected);
    const char *text = NULL;
    size_t size = 0;
    struct rh_error err;
    if (rh_parquet_get(p, row, &text, &size, &err) != RH_OK)
        fail_msg("%s", err.message);
    if (!want != !text || (want && (strlen(want) != size || memcmp(want, text, size) != 0)))
        fail_msg("row %lld is %.*s, not %s", (long long)row, (int)size, text ? text : "null",
                 want ? want : "null");
}

/* Forwards, then in an order that jumps between pages and row groups. */
static void check_rows(const char *path, const char *column, const struct rh_json *rows)
{
    struct rh_parquet *p = must_open(path, column);
    size_t count = rh_json_count(rows);
    const struct rh_json **expected = rh_alloc_array(count + 1, sizeof *expected);
    assert_int_equal(rh_parquet_rows(p), count);
    size_t n = 0;
    for (const struct rh_json *r = rh_json_first(rows); r; r = rh_json_next(r))
        expected[n++] = r;
    for (size_t i = 0; i < count; i++)
        check_row(p, (int64_t)i, expected[i]);
    for (size_t i = 0; i < count; i++)
        check_row(p, (int64_t)(i * 7919 % count), expected[i * 7919 % count]);
    rh_parquet_hold(p, 0); /* pages and dictionaries come and go */
    for (size_t i = 0; i < count; i++)
        check_row(p, (int64_t)(i * 7919 % count), expected[i * 7919 % count]);
    rh_free(expected);
    rh_parquet_close(p);
}

static void files_of_pyarrow_give_its_rows(void **state)
{
    (void)state;
    struct rh_json *index = read_index();
    int checked = 0;
    for (const struct rh_json *c = rh_json_first(index); c; c = rh_json_next(c)) {
        const struct rh_json *rows = rh_json_get(c, "rows");
        if (!rows)
            continue;
        char *path = rh_format(GOLDEN "%s", rh_json_string(rh_json_get(c, "file")));
        check_rows(path, rh_json_string(rh_json_get(c, "column")), rows);
        checked++;
        rh_free(path);
    }
    assert_true(checked >= 18);
    rh_json_free(index);
}

/* The error of opening, or else of the first row that cannot be read. */
static enum rh_rc first_failure(struct rh_parquet *p, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (int64_t i = 0; i < rh_parquet_rows(p) && rc == RH_OK; i++) {
        const char *text = NULL;
        size_t size = 0;
        rc = rh_parquet_get(p, i, &text, &size, err);
    }
    return rc;
}

static void what_is_not_covered_and_every_lie_is_refused_with_path_and_value(void **state)
{
    (void)state;
    struct rh_json *index = read_index();
    int checked = 0;
    for (const struct rh_json *c = rh_json_first(index); c; c = rh_json_next(c)) {
        const char *says = rh_json_string(rh_json_get(c, "says"));
        if (!says)
            continue;
        struct rh_parquet *p = NULL;
        struct rh_error err = {0};
        char *path = rh_format(GOLDEN "%s", rh_json_string(rh_json_get(c, "file")));
        enum rh_rc rc = rh_parquet_open(path, rh_json_string(rh_json_get(c, "column")), &p, &err);
        if (rc == RH_OK)
            rc = first_failure(p, &err);
        if (rc == RH_OK || !strstr(err.message, says) || !strstr(err.message, path))
            fail_msg("%s: \"%s\" does not say \"%s\"", path, err.message, says);
        rh_parquet_close(p);
        rh_free(path);
        checked++;
    }
    assert_true(checked >= 55);
    rh_json_free(index);
}

/* A row that was read well stays readable after one that was not. */
static void a_damaged_page_does_not_harm_the_others(void **state)
{
    (void)state;
    char *bytes = NULL;
    size_t size = 0;
    struct rh_error err;
    struct rh_parquet *p = NULL;
    const char *text = NULL;
    size_t length = 0;
    assert_int_equal(rh_fs_read(GOLDEN "none_checksums.parquet", 1 << 20, &bytes, &size, &err), 0);
    bytes[400] = (char)(bytes[400] ^ 1); /* in the first page */
    assert_int_equal(rh_parquet_open_bytes(bytes, size, "bytes", NULL, &p, &err), RH_OK);
    int bad = 0;
    for (int round = 0; round < 2; round++) {
        bad = 0;
        for (int64_t i = 0; i < rh_parquet_rows(p); i++) {
            if (rh_parquet_get(p, i, &text, &length, &err) != RH_OK) {
                assert_non_null(strstr(err.message, "checksum"));
                bad++;
            }
        }
    }
    assert_in_range(bad, 1, rh_parquet_rows(p) - 1);
    rh_parquet_close(p);
    rh_free(bytes);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    struct rh_parquet *p = NULL;
    struct rh_error err;
    assert_int_equal(rh_parquet_open("/nowhere/x.parquet", NULL, &p, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nowhere/x.parquet"));
    assert_int_equal(rh_parquet_open(RH_SOURCE_DIR, NULL, &p, &err), RH_ERR_UNSUPPORTED);
    assert_null(p);
}

static void columns_have_names(void **state)
{
    (void)state;
    struct rh_parquet *p = must_open(GOLDEN "one_string_column.parquet", NULL);
    assert_string_equal(rh_parquet_column(p), "body");
    rh_parquet_close(p);
    p = must_open(GOLDEN "members_of_structs.parquet", "meta.source");
    assert_string_equal(rh_parquet_column(p), "meta.source");
    rh_parquet_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_pyarrow_give_its_rows),
        cmocka_unit_test(what_is_not_covered_and_every_lie_is_refused_with_path_and_value),
        cmocka_unit_test(a_damaged_page_does_not_harm_the_others),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(columns_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
