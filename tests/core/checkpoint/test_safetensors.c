#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "checkpoint/safetensors.h"

#define NANO RH_SOURCE_DIR "/tests/data/nano/model-00001-of-00001.safetensors"

/* Two tensors, written out of order, 24 bytes of data. */
static const char valid[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[8,24]},"
                            "\"__metadata__\":{\"format\":\"pt\"},"
                            "\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]}}  ";

static void put_length(struct rh_strbuf *b, uint64_t length)
{
    for (int i = 0; i < 8; i++) {
        char byte = (char)(unsigned char)(length >> (8 * i));
        rh_strbuf_append(b, &byte, 1);
    }
}

static enum rh_rc parse(const char *header, uint64_t data_bytes, struct rh_safetensors **out,
                        struct rh_error *err)
{
    struct rh_strbuf b = {0};
    put_length(&b, strlen(header));
    rh_strbuf_puts(&b, header);
    /* An exact heap copy lets the address sanitizer see every byte read too far. */
    char *copy = rh_alloc(b.size);
    memcpy(copy, b.text, b.size);
    enum rh_rc rc = rh_safetensors_parse(copy, b.size, b.size + data_bytes, "memory", out, err);
    rh_free(copy);
    rh_strbuf_done(&b);
    return rc;
}

static void refuses(const char *header, uint64_t data_bytes, enum rh_rc expected, const char *text)
{
    struct rh_safetensors *file = NULL;
    struct rh_error err = {0};
    enum rh_rc rc = parse(header, data_bytes, &file, &err);
    if (rc != expected || !strstr(err.message, text))
        print_error("%s\n  gave %d, \"%s\"; expected \"%s\"\n", header, rc, err.message, text);
    assert_int_equal(rc, expected);
    assert_null(file);
    assert_non_null(strstr(err.message, "memory"));
    assert_non_null(strstr(err.message, text));
}

static void a_valid_header_lists_its_tensors_by_offset(void **state)
{
    (void)state;
    struct rh_safetensors *file = NULL;
    struct rh_error err = {0};
    assert_int_equal(parse(valid, 24, &file, &err), RH_OK);
    assert_int_equal(rh_safetensors_count(file), 2);
    const struct rh_tensor_info *a = rh_safetensors_at(file, 0);
    const struct rh_tensor_info *b = rh_safetensors_at(file, 1);
    assert_string_equal(a->name, "a");
    assert_int_equal(a->dtype, RH_BF16);
    assert_int_equal(a->rank, 1);
    assert_int_equal(a->offset, 8 + strlen(valid));
    assert_string_equal(b->name, "b");
    assert_int_equal(b->bytes, 16);
    assert_int_equal(b->shape[0] * 10 + b->shape[1], 22);
    assert_int_equal(rh_tensor_elements(b), 4);
    assert_ptr_equal(rh_safetensors_find(file, "b"), b);
    assert_null(rh_safetensors_find(file, "c"));
    char buffer[8];
    assert_int_equal(rh_safetensors_read(file, a, 0, 8, buffer, &err), RH_ERR_IO);
    rh_safetensors_close(file);
}

static void scalars_and_empty_tensors_are_accepted(void **state)
{
    (void)state;
    struct rh_safetensors *file = NULL;
    assert_int_equal(parse("{\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                           "\"e\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[4,4]}}",
                           4, &file, NULL),
                     RH_OK);
    assert_int_equal(rh_tensor_elements(rh_safetensors_find(file, "s")), 1);
    assert_int_equal(rh_tensor_elements(rh_safetensors_find(file, "e")), 0);
    rh_safetensors_close(file);
    assert_int_equal(parse("{}", 0, &file, NULL), RH_OK);
    assert_int_equal(rh_safetensors_count(file), 0);
    rh_safetensors_close(file);
}

#define A(dtype, shape, offsets)                                                                   \
    "{\"w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void each_field_out_of_range_is_refused_by_name(void **state)
{
    (void)state;
    refuses(A("F31", "[2]", "[0,8]"), 8, RH_ERR_DTYPE, "tensor w: dtype F31");
    refuses(A("F32", "[3]", "[0,8]"), 8, RH_ERR_FORMAT,
            "span 8 bytes, its dtype and shape need 12");
    refuses(A("F32", "[-2]", "[0,8]"), 8, RH_ERR_FORMAT, "dimension 0");
    refuses(A("F32", "[1.5]", "[0,8]"), 8, RH_ERR_FORMAT, "dimension 0");
    refuses(A("F32", "[1,\"2\"]", "[0,8]"), 8, RH_ERR_FORMAT, "dimension 1");
    refuses(A("F32", "2", "[0,8]"), 8, RH_ERR_FORMAT, "shape is no array");
    refuses(A("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, RH_ERR_UNSUPPORTED, "rank 9");
    refuses(A("F32", "[4611686018427387904]", "[0,8]"), 8, RH_ERR_FORMAT, "dimension 0");
    refuses(A("F32", "[4294967296,4294967296]", "[0,0]"), 8, RH_ERR_FORMAT, "overflow");
    refuses(A("F32", "[2147483648,2147483648]", "[0,0]"), 8, RH_ERR_FORMAT, "overflow");
    refuses(A("F32", "[2]", "[0,9]"), 8, RH_ERR_FORMAT, "[0, 9] lie outside of the 8 bytes");
    refuses(A("F32", "[2]", "[8,0]"), 8, RH_ERR_FORMAT, "outside");
    refuses(A("F32", "[2]", "[-8,0]"), 8, RH_ERR_FORMAT, "outside");
    refuses(A("F32", "[2]", "[0]"), 8, RH_ERR_FORMAT, "no pair");
    refuses(A("F32", "[2]", "[0,8,8]"), 8, RH_ERR_FORMAT, "no pair");
    refuses(A("F32", "[2]", "[0,1e300]"), 8, RH_ERR_FORMAT, "no pair");
    refuses(A("F32", "[2]", "{\"a\":0,\"b\":8}"), 8, RH_ERR_FORMAT, "no pair");
    refuses("{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, RH_ERR_FORMAT,
            "dtype is no string");
    refuses("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, RH_ERR_FORMAT, "shape");
    refuses("{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, RH_ERR_FORMAT, "data_offsets");
    refuses("{\"w\":7}", 0, RH_ERR_FORMAT, "no object");
    refuses("{\"__metadata__\":7}", 0, RH_ERR_FORMAT, "__metadata__");
    refuses("{\"__metadata__\":{\"format\":7}}", 0, RH_ERR_FORMAT, "format");
}

#define TWO(first, second)                                                                         \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" first "},"                          \
    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" second "}}"

static void holes_overlaps_and_wrong_ends_are_refused(void **state)
{
    (void)state;
    refuses(TWO("[0,4]", "[5,9]"), 9, RH_ERR_FORMAT,
            "tensor b starts at byte 5 of the data, beyond");
    refuses(TWO("[0,4]", "[3,7]"), 7, RH_ERR_FORMAT,
            "tensor b starts at byte 3 of the data, before");
    refuses(TWO("[0,4]", "[0,4]"), 4, RH_ERR_FORMAT,
            "tensor b starts at byte 0 of the data, before");
    refuses(TWO("[1,5]", "[5,9]"), 9, RH_ERR_FORMAT, "tensor a starts at byte 1");
    refuses(TWO("[0,4]", "[4,8]"), 9, RH_ERR_FORMAT, "the tensors end at byte");
    refuses("{}", 1, RH_ERR_FORMAT, "the tensors end at byte");
}

static void a_name_given_twice_is_refused(void **state)
{
    (void)state;
    refuses("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
            "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
            8, RH_ERR_FORMAT, "a");
}

static void headers_that_are_no_json_object_are_refused(void **state)
{
    (void)state;
    refuses("", 0, RH_ERR_FORMAT, "'{'");
    refuses(" {}", 0, RH_ERR_FORMAT, "'{'");
    refuses("[]", 0, RH_ERR_FORMAT, "'{'");
    refuses("{", 0, RH_ERR_FORMAT, "");
    refuses("{}x", 0, RH_ERR_FORMAT, "");
}

static void impossible_header_lengths_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3,          100000001, UINT64_C(1) << 63,
                                       UINT64_MAX, 1000,      UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct rh_strbuf b = {0};
        struct rh_safetensors *file = NULL;
        struct rh_error err = {0};
        put_length(&b, lengths[i]);
        rh_strbuf_puts(&b, "{}");
        enum rh_rc rc = rh_safetensors_parse(b.text, b.size, b.size, "memory", &file, &err);
        assert_int_equal(rc, RH_ERR_FORMAT);
        assert_non_null(strstr(err.message, "header"));
        /* Bytes that a longer file would have are not in memory: refused as well. */
        rc = rh_safetensors_parse(b.text, b.size, UINT64_C(1) << 40, "memory", &file, &err);
        assert_int_equal(rc, RH_ERR_FORMAT);
        rh_strbuf_done(&b);
    }
}

static void a_header_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    struct rh_strbuf b = {0};
    put_length(&b, strlen(valid));
    rh_strbuf_puts(&b, valid);
    for (size_t size = 0; size < b.size; size++) {
        struct rh_safetensors *file = NULL;
        char *copy = rh_alloc(size);
        memcpy(copy, b.text, size);
        assert_int_equal(rh_safetensors_parse(copy, size, b.size + 24, "memory", &file, NULL),
                         RH_ERR_FORMAT);
        assert_null(file);
        rh_free(copy);
    }
    rh_strbuf_done(&b);
}

static void write_file(const char *path, size_t drop, uint64_t data_bytes)
{
    struct rh_strbuf b = {0};
    put_length(&b, strlen(valid));
    rh_strbuf_puts(&b, valid);
    for (uint64_t i = 0; i < data_bytes; i++) {
        char byte = (char)('A' + i);
        rh_strbuf_append(&b, &byte, 1);
    }
    assert_int_equal(rh_fs_write(path, b.text, b.size - drop, NULL), RH_OK);
    rh_strbuf_done(&b);
}

static void files_are_opened_read_and_checked(void **state)
{
    const char *path = *state;
    struct rh_safetensors *file = NULL;
    struct rh_error err = {0};
    char buffer[16] = {0};
    write_file(path, 0, 24);
    assert_int_equal(rh_safetensors_open(path, &file, &err), RH_OK);
    const struct rh_tensor_info *b = rh_safetensors_find(file, "b");
    assert_int_equal(rh_safetensors_read(file, b, 0, 16, buffer, &err), RH_OK);
    assert_memory_equal(buffer, "IJKLMNOPQRSTUVWX", 16);
    assert_int_equal(rh_safetensors_read(file, b, 15, 1, buffer, &err), RH_OK);
    assert_int_equal(buffer[0], 'X');
    assert_int_equal(rh_safetensors_read(file, b, 16, 1, buffer, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_safetensors_read(file, b, 1, UINT64_MAX, buffer, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "tensor b"));
    rh_safetensors_close(file);

    write_file(path, 1, 24);
    assert_int_equal(rh_safetensors_open(path, &file, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(rh_safetensors_open_header(path, &file, &err), RH_ERR_FORMAT);
    write_file(path, 0, 25);
    assert_int_equal(rh_safetensors_open(path, &file, &err), RH_ERR_FORMAT);
    write_file(path, strlen(valid) + 1, 0);
    assert_int_equal(rh_safetensors_open(path, &file, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_safetensors_open("no-such-file", &file, &err), RH_ERR_NOT_FOUND);
    assert_int_equal(rh_safetensors_open(".", &file, &err), RH_ERR_FORMAT);
}

static void a_file_of_only_a_header_opens_as_such(void **state)
{
    const char *path = *state;
    struct rh_safetensors *file = NULL;
    struct rh_error err = {0};
    char buffer[16];
    write_file(path, 0, 0);
    assert_int_equal(rh_safetensors_open(path, &file, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_safetensors_open_header(path, &file, &err), RH_OK);
    assert_int_equal(rh_safetensors_count(file), 2);
    const struct rh_tensor_info *b = rh_safetensors_find(file, "b");
    assert_int_equal(b->bytes, 16);
    assert_int_equal(rh_safetensors_read(file, b, 0, 16, buffer, &err), RH_ERR_IO);
    rh_safetensors_close(file);
    write_file(path, 0, 24);
    assert_int_equal(rh_safetensors_open_header(path, &file, &err), RH_OK);
    b = rh_safetensors_find(file, "b");
    assert_int_equal(rh_safetensors_read(file, b, 0, 16, buffer, &err), RH_OK);
    rh_safetensors_close(file);
}

static void the_sample_model_opens_with_its_counts(void **state)
{
    (void)state;
    struct rh_safetensors *file = NULL;
    struct rh_error err = {0};
    uint64_t bytes = 0;
    assert_int_equal(rh_safetensors_open(NANO, &file, &err), RH_OK);
    assert_int_equal(rh_safetensors_count(file), 124);
    assert_string_equal(rh_safetensors_path(file), NANO);
    for (size_t i = 0; i < rh_safetensors_count(file); i++)
        bytes += rh_safetensors_at(file, i)->bytes;
    assert_int_equal(bytes, 6632736);
    const struct rh_tensor_info *head = rh_safetensors_find(file, "lm_head.weight");
    assert_non_null(head);
    assert_int_equal(head->dtype, RH_BF16);
    assert_int_equal(head->shape[0], 2048);
    assert_int_equal(head->shape[1], 128);
    rh_safetensors_close(file);
}

static int make_path(void **state)
{
    static char dir[32];
    strcpy(dir, "test-safetensors-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    *state = rh_fs_join(dir, "m.safetensors");
    return 0;
}

static int remove_path(void **state)
{
    char *path = *state;
    *strrchr(path, '/') = '\0';
    int rc = rh_fs_remove_tree(path, NULL);
    rh_free(path);
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_valid_header_lists_its_tensors_by_offset),
        cmocka_unit_test(scalars_and_empty_tensors_are_accepted),
        cmocka_unit_test(each_field_out_of_range_is_refused_by_name),
        cmocka_unit_test(holes_overlaps_and_wrong_ends_are_refused),
        cmocka_unit_test(a_name_given_twice_is_refused),
        cmocka_unit_test(headers_that_are_no_json_object_are_refused),
        cmocka_unit_test(impossible_header_lengths_are_refused),
        cmocka_unit_test(a_header_cut_at_any_byte_is_refused),
        cmocka_unit_test_setup_teardown(files_are_opened_read_and_checked, make_path, remove_path),
        cmocka_unit_test_setup_teardown(a_file_of_only_a_header_opens_as_such, make_path,
                                        remove_path),
        cmocka_unit_test(the_sample_model_opens_with_its_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
