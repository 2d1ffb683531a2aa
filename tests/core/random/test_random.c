/* Sequences of CPython and numpy; made by tests/golden/make_random.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/sha256.h"
#include "random/minibatch.h"
#include "random/mt19937.h"
#include "random/pcg64.h"

static void draws_equal_those_of_cpython(void **state)
{
    (void)state;
    struct rh_mt19937 mt;
    rh_mt19937_seed(&mt, 42);
    assert_int_equal(rh_mt19937_u32(&mt), 2746317213U);
    rh_mt19937_seed(&mt, 1ULL << 40 | 7);
    assert_int_equal(rh_mt19937_u32(&mt), 2635837658U);
    assert_int_equal(rh_mt19937_below(&mt, 1ULL << 40), 1046707559811ULL);
    assert_int_equal(rh_mt19937_below(&mt, 1), 0);
}

static void a_shuffle_equals_that_of_cpython(void **state)
{
    (void)state;
    static const int64_t expected[10] = {7, 3, 2, 8, 5, 6, 9, 4, 0, 1};
    struct rh_mt19937 mt;
    int64_t items[10];
    for (int64_t i = 0; i < 10; i++)
        items[i] = i;
    rh_mt19937_seed(&mt, 42);
    rh_mt19937_shuffle(&mt, items, 10);
    assert_memory_equal(items, expected, sizeof items);
}

/* auto-round's first minibatches of blocks 0 to 3 with 8 iterations each of 8 of 64 rows. */
static void minibatches_come_in_auto_rounds_order(void **state)
{
    (void)state;
    static const int64_t expected[4][8] = {{23, 25, 7, 22, 45, 33, 19, 59},
                                           {9, 7, 0, 51, 5, 48, 36, 21},
                                           {2, 63, 12, 61, 8, 36, 22, 28},
                                           {47, 9, 56, 59, 5, 61, 6, 11}};
    struct rh_minibatch *m = rh_minibatch_new(42, 64, 8);
    for (int block = 0; block < 4; block++) {
        rh_minibatch_begin_block(m);
        for (int i = 0; i < 8; i++) {
            int64_t rows[8];
            assert_int_equal(rh_minibatch_next(m, rows), 8);
            if (i == 0)
                assert_memory_equal(rows, expected[block], sizeof rows);
        }
    }
    rh_minibatch_free(m);
}

static void fewer_rows_than_a_batch_are_one_batch(void **state)
{
    (void)state;
    struct rh_minibatch *m = rh_minibatch_new(1, 3, 8);
    int64_t rows[8];
    rh_minibatch_begin_block(m);
    assert_int_equal(rh_minibatch_next(m, rows), 3);
    assert_int_equal(rows[0] + rows[1] + rows[2], 3);
    rh_minibatch_free(m);
}

static void a_permutation_equals_that_of_numpy(void **state)
{
    (void)state;
    static const int64_t first[8] = {8132, 8268, 719, 8237, 4555, 6651, 5650, 9034};
    int64_t *items = rh_alloc_array(10000, sizeof *items);
    char hex[RH_SHA256_HEX_SIZE];
    rh_pcg64_permutation(42, items, 10000);
    assert_memory_equal(items, first, sizeof first);
    rh_sha256_of(items, 10000 * sizeof *items, hex);
    assert_string_equal(hex, "de99541b1eba9e3c8b59357a25dd603debb4a681617c4988faca4311237bf76a");
    rh_free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_equal_those_of_cpython),
        cmocka_unit_test(a_shuffle_equals_that_of_cpython),
        cmocka_unit_test(minibatches_come_in_auto_rounds_order),
        cmocka_unit_test(fewer_rows_than_a_batch_are_one_batch),
        cmocka_unit_test(a_permutation_equals_that_of_numpy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
