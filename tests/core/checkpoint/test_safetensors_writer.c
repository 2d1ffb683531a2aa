#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"

static const char scales[] = "scales16";    /* F16 [4] */
static const char codes[] = "abcdefghijkl"; /* I32 [3] */
static const char bias[] = "bf";            /* BF16 [1] */

struct fixture {
    char dir[32];
    char *path;
};

static size_t files_in(const struct fixture *f)
{
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(rh_fs_list(f->dir, &names, &count, NULL), RH_OK);
    rh_fs_list_free(names, count);
    return count;
}

static struct rh_safetensors_writer *begin(const struct fixture *f)
{
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(f->path);
    assert_int_equal(rh_safetensors_writer_add(w, "l.scales", RH_F16, 1, (int64_t[]){4}), 0);
    assert_int_equal(rh_safetensors_writer_add(w, "l.codes", RH_I32, 2, (int64_t[]){3, 1}), 1);
    assert_int_equal(rh_safetensors_writer_add(w, "a \"quoted\\\n", RH_BF16, 0, NULL), 2);
    assert_int_equal(rh_safetensors_writer_add(w, "empty", RH_F32, 1, (int64_t[]){0}), 3);
    assert_int_equal(rh_safetensors_writer_begin(w, NULL), RH_OK);
    return w;
}

static void put(struct rh_safetensors_writer *w, size_t index, uint64_t at, const char *data,
                uint64_t size)
{
    struct rh_error err = {0};
    if (rh_safetensors_writer_put(w, index, at, data, size, &err) != RH_OK)
        fail_msg("%s", err.message);
}

/* Fills in the digest of the file. */
static void check_file(const struct fixture *f, char digest[RH_SHA256_HEX_SIZE])
{
    struct rh_safetensors *file = NULL;
    struct rh_error err = {0};
    char buffer[16];
    assert_int_equal(rh_sha256_file(f->path, digest, NULL, NULL), RH_OK);
    if (rh_safetensors_open(f->path, &file, &err) != RH_OK)
        fail_msg("%s", err.message);
    assert_int_equal(rh_safetensors_count(file), 4);
    static const char *const order[] = {"empty", "l.codes", "a \"quoted\\\n", "l.scales"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(rh_safetensors_at(file, i)->name, order[i]);
    assert_int_equal(rh_safetensors_at(file, 0)->offset % 8, 0);
    assert_int_equal(
        rh_safetensors_read(file, rh_safetensors_find(file, "l.codes"), 0, 12, buffer, NULL),
        RH_OK);
    assert_memory_equal(buffer, codes, 12);
    assert_int_equal(
        rh_safetensors_read(file, rh_safetensors_find(file, "l.scales"), 0, 8, buffer, NULL),
        RH_OK);
    assert_memory_equal(buffer, scales, 8);
    assert_int_equal(rh_tensor_elements(rh_safetensors_find(file, "l.codes")), 3);
    rh_safetensors_close(file);
}

static void every_order_of_writing_gives_the_same_file(void **state)
{
    struct fixture *f = *state;
    char first[RH_SHA256_HEX_SIZE];
    char second[RH_SHA256_HEX_SIZE];
    char third[RH_SHA256_HEX_SIZE];
    struct rh_safetensors_writer *w = begin(f);
    put(w, 1, 0, codes, 12);
    put(w, 2, 0, bias, 2);
    put(w, 0, 0, scales, 8);
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    rh_safetensors_writer_free(w);
    check_file(f, first);

    w = begin(f);
    put(w, 0, 0, scales, 8);
    put(w, 1, 0, codes, 12);
    put(w, 2, 0, bias, 2);
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    rh_safetensors_writer_free(w);
    check_file(f, second);
    assert_string_equal(first, second);

    w = begin(f);
    for (uint64_t i = 0; i < 8; i++)
        put(w, 0, 7 - i, scales + 7 - i, 1);
    for (uint64_t i = 0; i < 12; i += 2)
        put(w, 1, i, codes + i, 1);
    put(w, 2, 0, bias, 2);
    for (uint64_t i = 1; i < 12; i += 2)
        put(w, 1, i, codes + i, 1);
    put(w, 3, 0, bias, 0);
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    rh_safetensors_writer_free(w);
    check_file(f, third);
    assert_string_equal(first, third);
    assert_int_equal(files_in(f), 1);
}

/* The expected bytes and the order of the types below came out of the reference implementation
 * (safetensors for Python) when it was given the same tensors. */
static void the_bytes_are_those_of_the_reference_writer(void **state)
{
    struct fixture *f = *state;
    static const char expected[] =
        "\x90\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"},"
        "\"x\":{\"dtype\":\"I32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}}      123456789";
    char *text = NULL;
    size_t size = 0;
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(f->path);
    rh_safetensors_writer_add(w, "a", RH_U8, 0, NULL);
    rh_safetensors_writer_add(w, "x", RH_I32, 2, (int64_t[]){1, 2});
    assert_int_equal(rh_safetensors_writer_begin(w, NULL), RH_OK);
    put(w, 1, 0, "12345678", 8);
    put(w, 0, 0, "9", 1);
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    rh_safetensors_writer_free(w);
    assert_int_equal(rh_fs_read(f->path, 1000, &text, &size, NULL), RH_OK);
    assert_int_equal(size, sizeof expected - 1);
    assert_memory_equal(text, expected, size);
    rh_free(text);
}

static void types_are_laid_out_as_by_the_reference_writer(void **state)
{
    struct fixture *f = *state;
    static const char *const order[] = {"U64",     "I64",     "F64", "F32", "U32",
                                        "I32",     "BF16",    "F16", "U16", "I16",
                                        "F8_E4M3", "F8_E5M2", "I8",  "U8",  "BOOL"};
    enum { COUNT = sizeof order / sizeof order[0] };
    struct rh_safetensors *file = NULL;
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(f->path);
    /* Declared in reverse. */
    for (size_t i = COUNT; i-- > 0;)
        rh_safetensors_writer_add(w, order[i], rh_dtype_parse(order[i]), 0, NULL);
    assert_int_equal(rh_safetensors_writer_begin(w, NULL), RH_OK);
    for (size_t i = 0; i < COUNT; i++)
        put(w, COUNT - 1 - i, 0, "12345678", rh_dtype_size(rh_dtype_parse(order[i])));
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    rh_safetensors_writer_free(w);
    assert_int_equal(rh_safetensors_open(f->path, &file, NULL), RH_OK);
    for (size_t i = 0; i < COUNT; i++)
        assert_string_equal(rh_safetensors_at(file, i)->name, order[i]);
    rh_safetensors_close(file);
}

static void missing_bytes_are_an_error_and_leave_no_file(void **state)
{
    struct fixture *f = *state;
    struct rh_error err = {0};
    struct rh_safetensors_writer *w = begin(f);
    put(w, 1, 0, codes, 12);
    put(w, 2, 0, bias, 2);
    put(w, 0, 0, scales, 5);
    put(w, 0, 6, scales + 6, 2);
    assert_int_equal(rh_safetensors_writer_finish(w, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "tensor l.scales: byte 5 of 8"));
    assert_false(rh_fs_exists(f->path));
    rh_safetensors_writer_free(w);
    assert_int_equal(files_in(f), 0);
}

static void writing_twice_or_too_far_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct rh_error err = {0};
    struct rh_safetensors_writer *w = begin(f);
    put(w, 0, 2, scales + 2, 4);
    assert_int_equal(rh_safetensors_writer_put(w, 0, 5, scales, 1, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "second time"));
    assert_int_equal(rh_safetensors_writer_put(w, 0, 0, scales, 3, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_safetensors_writer_put(w, 0, 0, scales, 8, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_safetensors_writer_put(w, 0, 3, scales, 1, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_safetensors_writer_put(w, 0, 1, scales, 8, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_safetensors_writer_put(w, 0, UINT64_MAX, scales, 2, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "tensor l.scales"));
    rh_safetensors_writer_free(w);
    assert_int_equal(files_in(f), 0);
}

static void the_name_appears_only_at_the_end(void **state)
{
    struct fixture *f = *state;
    struct rh_safetensors_writer *w = begin(f);
    assert_false(rh_fs_exists(f->path));
    put(w, 0, 0, scales, 8);
    put(w, 1, 0, codes, 12);
    put(w, 2, 0, bias, 2);
    assert_false(rh_fs_exists(f->path));
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    assert_true(rh_fs_exists(f->path));
    rh_safetensors_writer_free(w);
    assert_true(rh_fs_exists(f->path));
}

static void bad_declarations_are_refused_at_begin(void **state)
{
    struct fixture *f = *state;
    struct rh_error err = {0};
    static const struct {
        const char *name;
        int64_t shape[2];
        enum rh_rc rc;
    } cases[] = {
        {"first", {1, 1}, RH_ERR_ARGUMENT},
        {"__metadata__", {1, 1}, RH_ERR_ARGUMENT},
        {"w", {-1, 1}, RH_ERR_SHAPE},
        {"w", {INT64_C(1) << 62, 1}, RH_ERR_SHAPE},
        {"w", {INT64_C(1) << 40, INT64_C(1) << 40}, RH_ERR_SHAPE},
        {"w", {INT64_C(1) << 54, 1}, RH_ERR_SHAPE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rh_safetensors_writer *w = rh_safetensors_writer_new(f->path);
        rh_safetensors_writer_add(w, "first", RH_U8, 1, (int64_t[]){1});
        rh_safetensors_writer_add(w, cases[i].name, RH_F16, 2, cases[i].shape);
        assert_int_equal(rh_safetensors_writer_begin(w, &err), cases[i].rc);
        assert_non_null(strstr(err.message, cases[i].name));
        rh_safetensors_writer_free(w);
    }
    assert_int_equal(files_in(f), 0);
}

/* No disk of this age holds 2^52 bytes. */
static void a_file_that_cannot_fit_fails_at_begin(void **state)
{
    struct fixture *f = *state;
    struct rh_error err = {0};
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(f->path);
    rh_safetensors_writer_add(w, "w", RH_U8, 1, (int64_t[]){INT64_C(1) << 52});
    assert_int_equal(rh_safetensors_writer_begin(w, &err), RH_ERR_NO_SPACE);
    assert_int_equal(err.failure, RH_FAILURE_RESOURCE);
    assert_non_null(strstr(err.message, "could not reserve"));
    rh_safetensors_writer_free(w);
    assert_int_equal(files_in(f), 0);
}

static int set_up(void **state)
{
    struct fixture *f = rh_alloc(sizeof(*f));
    strcpy(f->dir, "test-writer-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    f->path = rh_fs_join(f->dir, "out.safetensors");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    int rc = rh_fs_remove_tree(f->dir, NULL);
    rh_free(f->path);
    rh_free(f);
    return rc;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_order_of_writing_gives_the_same_file),
        TEST(the_bytes_are_those_of_the_reference_writer),
        TEST(types_are_laid_out_as_by_the_reference_writer),
        TEST(missing_bytes_are_an_error_and_leave_no_file),
        TEST(writing_twice_or_too_far_is_an_error),
        TEST(the_name_appears_only_at_the_end),
        TEST(bad_declarations_are_refused_at_begin),
        TEST(a_file_that_cannot_fit_fails_at_begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
