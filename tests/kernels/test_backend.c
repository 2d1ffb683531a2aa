/* Memory, queue and errors of the backends; "cuda" is the emulated GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "emu_control.h"
#include "kernels/backend.h"

static const char *const names[] = {"cpu", "reference", "cuda"};

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

static struct rh_backend *backend_new(const char *name)
{
    struct rh_error err;
    struct rh_backend *b = NULL;
    check(rh_backend_new(name, 1, &b, &err), &err);
    return b;
}

static void expect_refusal(const char *name, enum rh_rc rc, const char *word)
{
    struct rh_error err;
    struct rh_backend *b = NULL;
    assert_int_equal(rh_backend_new(name, 1, &b, &err), rc);
    assert_null(b);
    assert_non_null(strstr(err.message, word));
}

static void names_choose_the_backend(void **state)
{
    (void)state;
    static const char *const wrong[] = {"", "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "CPU"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect_refusal(wrong[i], RH_ERR_ARGUMENT, "unknown backend");
    expect_refusal("cuda:7", RH_ERR_DEVICE, "no GPU 7: the driver shows 1");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct rh_backend *b = backend_new(names[i]);
        bool gpu = i == 2;
        assert_string_equal(rh_backend_name(b), names[i]);
        assert_true(strlen(rh_backend_device(b)) > 0);
        assert_int_equal(rh_backend_dtype(b), gpu ? RH_BF16 : RH_F32);
        assert_int_equal(rh_backend_element_size(b), gpu ? 2 : 4);
        assert_true(gpu ? rh_backend_depth(b) > 1 : rh_backend_depth(b) == 1);
        rh_backend_free(b);
    }
    struct rh_backend *best = backend_new("auto");
    assert_string_equal(rh_backend_name(best), "cuda");
    rh_backend_free(best);
}

static void bytes_pass_through_the_queue(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct rh_backend *b = backend_new(names[i]);
        struct rh_error err;
        char in[64];
        char out[64];
        void *one = NULL;
        void *two = NULL;
        void *pinned = NULL;
        for (int j = 0; j < 64; j++)
            in[j] = (char)(j * 3 + 1);
        check(rh_backend_alloc(b, 64, "one", &one, &err), &err);
        check(rh_backend_alloc(b, 64, "two", &two, &err), &err);
        check(rh_backend_alloc_host(b, 64, "pinned", &pinned, &err), &err);
        assert_int_equal((uintptr_t)one % 64, 0);
        check(rh_backend_upload(b, one, in, 64, &err), &err);
        rh_backend_copy(b, two, one, 64);
        rh_backend_zero(b, one, 32);
        rh_backend_copy(b, pinned, two, 64);
        check(rh_backend_sync(b, &err), &err);
        assert_memory_equal(pinned, in, 64);
        check(rh_backend_download(b, out, one, 64, &err), &err);
        for (int j = 0; j < 64; j++)
            assert_int_equal(out[j], j < 32 ? 0 : in[j]);
        rh_backend_release(b, one);
        rh_backend_release(b, two);
        rh_backend_release_host(b, pinned);
        rh_backend_release(b, NULL);
        rh_backend_free(b);
    }
}

static void a_mark_brings_the_value_of_its_place_in_the_queue(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct rh_backend *b = backend_new(names[i]);
        struct rh_error err;
        struct rh_mark *marks[2];
        void *memory = NULL;
        const void *value = NULL;
        check(rh_backend_alloc(b, 16, "values", &memory, &err), &err);
        for (int k = 0; k < 2; k++)
            check(rh_mark_new(b, 16, &marks[k], &err), &err);
        check(rh_backend_upload(b, memory, "fifteen letters", 16, &err), &err);
        rh_mark_read(marks[0], memory);
        rh_backend_zero(b, memory, 16);
        rh_mark_read(marks[1], memory);
        check(rh_mark_wait(marks[0], &value, &err), &err);
        assert_string_equal(value, "fifteen letters");
        check(rh_mark_wait(marks[1], &value, &err), &err);
        assert_string_equal(value, "");
        for (int k = 0; k < 2; k++)
            rh_mark_free(marks[k]);
        rh_backend_release(b, memory);
        rh_backend_free(b);
    }
}

static void a_full_gpu_says_how_much_was_asked_for(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_backend *b = backend_new("cuda");
    size_t before = 0;
    size_t total = 0;
    void *memory = NULL;
    rh_backend_memory(b, &before, &total);
    assert_true(before > 0 && before <= total);
    assert_int_equal(rh_backend_alloc(b, total + 1, "far too much", &memory, &err),
                     RH_ERR_NO_MEMORY);
    assert_null(memory);
    assert_int_equal(err.failure, RH_FAILURE_RESOURCE);
    assert_non_null(strstr(err.message, "far too much"));
    check(rh_backend_sync(b, &err), &err); /* nothing is broken */
    check(rh_backend_alloc(b, 1000, "a little", &memory, &err), &err);
    rh_backend_release(b, memory);
    rh_backend_free(b);
}

static void a_lost_gpu_is_an_error_that_may_pass(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_backend *b = backend_new("cuda");
    struct rh_mark *mark = NULL;
    const void *value = NULL;
    void *memory = NULL;
    char byte = 0;
    check(rh_backend_alloc(b, 64, "memory", &memory, &err), &err);
    check(rh_mark_new(b, 8, &mark, &err), &err);
    rh_emu_lose_device_after(1);
    rh_backend_zero(b, memory, 64);
    rh_backend_copy(b, memory, memory, 0);
    rh_mark_read(mark, memory);
    assert_int_equal(rh_mark_wait(mark, &value, &err), RH_ERR_DEVICE);
    assert_int_equal(err.failure, RH_FAILURE_TRANSIENT);
    char first[1024];
    strcpy(first, err.message);
    assert_int_equal(rh_backend_upload(b, memory, &byte, 1, &err), RH_ERR_DEVICE);
    assert_string_equal(err.message, first); /* the first one stays */
    assert_int_equal(rh_backend_download(b, &byte, memory, 1, &err), RH_ERR_DEVICE);
    assert_int_equal(rh_backend_sync(b, &err), RH_ERR_DEVICE);
    rh_emu_lose_device_after(-1);
    rh_mark_free(mark);
    rh_backend_release(b, memory);
    rh_backend_free(b);
}

static void a_size_without_a_kernel_is_named(void **state)
{
    (void)state;
    struct rh_error err;
    struct rh_backend *b = backend_new("cuda");
    const struct rh_attention attention = {
        .batch = 1, .seq = 4, .heads = 1, .kv_heads = 1, .size = 264, .ldv = 264, .lddv = 264};
    rh_backend_ops(b)->attention(b, &attention);
    assert_int_equal(rh_backend_sync(b, &err), RH_ERR_DEVICE);
    assert_non_null(strstr(err.message, "head sizes are multiples of 8 up to 256"));
    rh_backend_free(b);
    b = backend_new("cuda");
    rh_backend_ops(b)->attention_backward(b, &attention);
    assert_int_equal(rh_backend_sync(b, &err), RH_ERR_DEVICE);
    rh_backend_free(b);
    b = backend_new("cuda");
    const struct rh_expert_matmul experts = {
        .form = RH_NT, .experts = 1, .n = 12, .k = 8, .ldx = 8, .ldy = 12, .w_stride = 96};
    rh_backend_ops(b)->expert_matmul(b, &experts);
    assert_int_equal(rh_backend_sync(b, &err), RH_ERR_DEVICE);
    assert_non_null(strstr(err.message, "multiples of 8"));
    rh_backend_free(b);
}

static void the_memory_of_a_device_is_known_without_opening_it(void **state)
{
    (void)state;
    static const char *const unknown[] = {"cpu", "reference", "cuda:7", "gpu"};
    size_t available = 1;
    size_t total = 1;
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        rh_backend_device_memory(unknown[i], &available, &total);
        assert_int_equal(available + total, 0);
    }
    rh_emu_set_memory((size_t)3 << 30);
    rh_backend_device_memory("auto", &available, &total);
    assert_int_equal(total, (size_t)3 << 30);
    struct rh_backend *b = backend_new("cuda");
    struct rh_error err;
    void *memory = NULL;
    rh_backend_device_memory("cuda:0", &available, &total);
    check(rh_backend_alloc(b, 1 << 20, "a test", &memory, &err), &err);
    size_t before = available;
    rh_backend_device_memory("cuda", &available, &total);
    assert_in_range(before - available, 1 << 20, (1 << 20) + 4096);
    rh_backend_release(b, memory);
    rh_backend_free(b);
    rh_emu_set_memory((size_t)1 << 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_choose_the_backend),
        cmocka_unit_test(the_memory_of_a_device_is_known_without_opening_it),
        cmocka_unit_test(bytes_pass_through_the_queue),
        cmocka_unit_test(a_mark_brings_the_value_of_its_place_in_the_queue),
        cmocka_unit_test(a_full_gpu_says_how_much_was_asked_for),
        cmocka_unit_test(a_lost_gpu_is_an_error_that_may_pass),
        cmocka_unit_test(a_size_without_a_kernel_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
