/* The small parts: errors, maps, threads, UTF-8. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/hash_map.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "base/thread_pool.h"
#include "base/utf8.h"

static void an_error_keeps_its_class_and_gains_context(void **state)
{
    (void)state;
    struct rh_error err;
    assert_int_equal(rh_fail_errno(&err, ENOSPC, "could not write %s", "/x"), RH_ERR_NO_SPACE);
    assert_int_equal(err.failure, RH_FAILURE_RESOURCE);
    assert_int_equal(rh_error_prefix(&err, "block %d", 3), RH_ERR_NO_SPACE);
    assert_string_equal(err.message, "block 3: could not write /x: No space left on device");
    assert_int_equal(rh_fail(&err, RH_ERR_DEVICE, "gone"), RH_ERR_DEVICE);
    assert_int_equal(err.failure, RH_FAILURE_TRANSIENT);
    assert_int_equal(rh_fail(NULL, RH_ERR_FORMAT, "nobody listens"), RH_ERR_FORMAT);
}

static void a_long_error_is_cut_not_spilt(void **state)
{
    (void)state;
    struct rh_error err;
    char text[3000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(rh_fail(&err, RH_ERR_IO, "%s", text), RH_ERR_IO);
    (void)rh_error_prefix(&err, "front");
    assert_true(strlen(err.message) < sizeof err.message);
    assert_memory_equal(err.message, "front: aaa", 10);
}

static void a_map_keeps_the_order_of_many(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    static int values[COUNT];
    struct rh_hash_map *map = rh_hash_map_new();
    for (int i = 0; i < COUNT; i++) {
        char *key = rh_format("model.layers.%d.weight", i);
        assert_true(rh_hash_map_add(map, key, &values[i]));
        assert_false(rh_hash_map_add(map, key, NULL));
        rh_free(key);
    }
    assert_int_equal(rh_hash_map_count(map), COUNT);
    for (int i = 0; i < COUNT; i++) {
        char *key = rh_format("model.layers.%d.weight", i);
        assert_ptr_equal(rh_hash_map_find(map, key), &values[i]);
        assert_string_equal(rh_hash_map_key_at(map, (size_t)i), key);
        rh_free(key);
    }
    assert_null(rh_hash_map_find(map, "model.layers.5000.weight"));
    rh_hash_map_free(map);
}

struct visits {
    unsigned char seen[1000];
    int64_t grain;
    int threads;
};

static void visit(void *arg, int64_t begin, int64_t end, int thread)
{
    struct visits *v = arg;
    assert_true(begin % v->grain == 0 && end - begin <= v->grain);
    assert_true(thread >= 0 && thread < v->threads);
    for (int64_t i = begin; i < end; i++)
        v->seen[i]++;
}

static void every_index_is_visited_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        struct rh_thread_pool *pool = rh_thread_pool_new(threads);
        assert_int_equal(rh_thread_pool_size(pool), threads);
        for (int64_t count = 0; count <= 1000; count += 37) {
            struct visits v = {.grain = 1 + count % 7, .threads = threads};
            rh_parallel_for(pool, count, v.grain, visit, &v);
            for (int64_t i = 0; i < 1000; i++)
                assert_int_equal(v.seen[i], i < count);
        }
        rh_thread_pool_free(pool);
    }
}

#if defined(__x86_64__) || defined(__aarch64__)
#define FLUSHES true
#else
#define FLUSHES false
#endif

/* A product that is subnormal, and one of a factor that is; read at run time. */
struct small {
    volatile float x, y, subnormal;
    float product[64], same[64];
};

static void multiply(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    struct small *s = arg;
    for (int64_t i = begin; i < end; i++) {
        s->product[i] = s->x * s->y;
        s->same[i] = s->subnormal * 0x1p30F;
    }
}

static void subnormals_are_flushed_only_where_asked(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        struct rh_thread_pool *pool = rh_thread_pool_new(threads);
        struct small s = {.x = 0x1p-100F, .y = 0x1p-40F, .subnormal = 0x1p-140F};
        for (int flush = 0; flush <= 2; flush++) { /* off, on, off again */
            rh_thread_pool_flush_subnormals(pool, flush == 1);
            rh_parallel_for(pool, 64, 1, multiply, &s);
            bool kept = FLUSHES ? flush != 1 : true;
            for (int i = 0; i < 64; i++) {
                assert_true(s.product[i] == (kept ? 0x1p-140F : 0.0F));
                assert_true(s.same[i] == (kept ? 0x1p-110F : 0.0F));
            }
            assert_true(s.x * s.y == 0x1p-140F);
        }
        rh_thread_pool_free(pool);
    }
}

static void utf8_is_checked_to_the_byte(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int bad; /* -1: well-formed */
    } cases[] = {
        {"", -1},
        {"plain", -1},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF", -1},
        {"a\x80", 1},            /* a continuation alone */
        {"ab\xC1\xBF", 2},       /* overlong */
        {"\xE0\x9F\xBF", 0},     /* overlong */
        {"x\xED\xA0\x80", 1},    /* a surrogate */
        {"\xF4\x90\x80\x80", 0}, /* above 10FFFF */
        {"\xF0\x9F\x98", 0},     /* cut off */
        {"\xFF", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t bad = 99;
        bool valid = rh_utf8_valid(cases[i].text, strlen(cases[i].text), &bad);
        assert_int_equal(valid, cases[i].bad < 0);
        if (!valid)
            assert_int_equal(bad, cases[i].bad);
    }
}

static void a_text_grows(void **state)
{
    (void)state;
    struct rh_strbuf b = {0};
    for (int i = 0; i < 3000; i++)
        rh_strbuf_printf(&b, "%d,", i % 10);
    rh_strbuf_puts(&b, "end");
    assert_int_equal(b.size, 6003);
    char *text = rh_strbuf_take(&b);
    assert_string_equal(text + 6000, "end");
    rh_free(text);
    text = rh_strbuf_take(&b);
    assert_string_equal(text, "");
    rh_free(text);
}

static void sizes_from_input_can_fail(void **state)
{
    (void)state;
    struct rh_error err;
    void *memory = &err;
    assert_int_equal(rh_try_alloc(SIZE_MAX / 2, "activations of a block", &memory, &err),
                     RH_ERR_NO_MEMORY);
    assert_int_equal(err.failure, RH_FAILURE_RESOURCE);
    assert_non_null(strstr(err.message, "activations of a block"));
    assert_int_equal(rh_try_alloc(100, "little", &memory, &err), RH_OK);
    assert_int_equal((uintptr_t)memory % 64, 0);
    rh_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_keeps_its_class_and_gains_context),
        cmocka_unit_test(a_long_error_is_cut_not_spilt),
        cmocka_unit_test(a_map_keeps_the_order_of_many),
        cmocka_unit_test(every_index_is_visited_once),
        cmocka_unit_test(subnormals_are_flushed_only_where_asked),
        cmocka_unit_test(utf8_is_checked_to_the_byte),
        cmocka_unit_test(a_text_grows),
        cmocka_unit_test(sizes_from_input_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
