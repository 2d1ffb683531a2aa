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

static void assert_digest(const int64_t *items, size_t count, const char *expected)
{
    char hex[RH_SHA256_HEX_SIZE];
    rh_sha256_of(items, count * sizeof *items, hex);
    assert_string_equal(hex, expected);
}

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

static void random_equals_that_of_cpython(void **state)
{
    (void)state;
    static const double expected[3] = {0x1.b0580f98a7dbep-1, 0x1.84129978f9c1ap-1,
                                       0x1.aeaa51052e978p-2};
    struct rh_mt19937 mt;
    rh_mt19937_seed(&mt, 0);
    for (int i = 0; i < 3; i++) {
        double got = rh_mt19937_random(&mt);
        assert_memory_equal(&got, &expected[i], sizeof got);
    }
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

/* Long enough for many refills of the generator's state. */
static void long_shuffles_equal_those_of_cpython(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed;
        int64_t count;
        const char *digest;
        uint32_t next;
    } expected[] = {
        {42, 10000, "335f5286cbf20ddbd921f5c02560b9285bb9728f322a832757c960defacd26dd", 1414202149},
        {0, 1025, "0200f17ea5a26294014c1b75bc05c3cce7787e7c84ed98ec51b68274ffbb44fc", 3195163720},
    };
    for (size_t k = 0; k < sizeof expected / sizeof expected[0]; k++) {
        int64_t *items = rh_alloc_array((size_t)expected[k].count, sizeof *items);
        struct rh_mt19937 mt;
        rh_mt19937_seed(&mt, expected[k].seed);
        for (int64_t i = 0; i < expected[k].count; i++)
            items[i] = i;
        for (int i = 0; i < 3; i++)
            rh_mt19937_shuffle(&mt, items, expected[k].count);
        assert_digest(items, (size_t)expected[k].count, expected[k].digest);
        assert_int_equal(rh_mt19937_u32(&mt), expected[k].next);
        rh_free(items);
    }
}

static void a_shuffle_of_one_or_none_draws_nothing(void **state)
{
    (void)state;
    int64_t item = 5;
    struct rh_mt19937 mt;
    rh_mt19937_seed(&mt, 42);
    rh_mt19937_shuffle(&mt, &item, 1);
    rh_mt19937_shuffle(&mt, &item, 0);
    assert_int_equal(item, 5);
    assert_int_equal(rh_mt19937_u32(&mt), 2746317213U);
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

/* 20 rows in batches of 8: four rows of every pass are left out, and the list is shuffled again as
 * it stands. */
static void what_does_not_fill_a_batch_is_shuffled_again(void **state)
{
    (void)state;
    static const int64_t third[2][8] = {{6, 10, 13, 14, 7, 3, 1, 16}, {7, 2, 0, 11, 10, 15, 6, 12}};
    static const char *const digests[2] = {
        "7140bcce384a2d2424adc4e7b24580f649038caf43ea1898b6061212d7fc81a3",
        "b2243a927c7183bec9b26d7cd9a179c95122bee0729c2b510cbae9fc622db975"};
    struct rh_minibatch *m = rh_minibatch_new(7, 20, 8);
    for (int block = 0; block < 2; block++) {
        int64_t rows[9][8];
        rh_minibatch_begin_block(m);
        for (int i = 0; i < 9; i++)
            assert_int_equal(rh_minibatch_next(m, rows[i]), 8);
        assert_memory_equal(rows[2], third[block], sizeof third[block]);
        assert_digest(rows[0], sizeof rows / sizeof rows[0][0], digests[block]);
    }
    rh_minibatch_free(m);
}

static void skipping_a_block_is_going_through_it(void **state)
{
    (void)state;
    int64_t walked[8] = {0};
    int64_t skipped[8] = {0};
    for (int64_t iterations = 0; iterations <= 17; iterations++) {
        struct rh_minibatch *a = rh_minibatch_new(3, 20, 8);
        struct rh_minibatch *b = rh_minibatch_new(3, 20, 8);
        rh_minibatch_begin_block(a);
        for (int64_t i = 0; i < iterations; i++)
            rh_minibatch_next(a, walked);
        rh_minibatch_skip_block(b, iterations);
        rh_minibatch_begin_block(a);
        rh_minibatch_begin_block(b);
        rh_minibatch_next(a, walked);
        rh_minibatch_next(b, skipped);
        assert_memory_equal(walked, skipped, sizeof walked);
        rh_minibatch_free(a);
        rh_minibatch_free(b);
    }
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
    static const struct {
        uint64_t seed;
        int64_t count;
        const char *digest;
    } expected[] = {
        {42, 10000, "de99541b1eba9e3c8b59357a25dd603debb4a681617c4988faca4311237bf76a"},
        {0, 1, "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"},
        {0, 2, "9d34149fbd1fe777eb238799054c8cbfbce372255f219f8740838def9bfd02db"},
        {1, 64, "f8413f9a31d032d2d2eae63fa04916267396f9dca956942a3b29ba04e715cc13"},
        {4294967295, 4097, "02973b11b0714ba8ee16d29c0e12891a52bc47b6ff27b9de4398b9bfb860c649"},
        {1ULL << 40 | 7, 300, "d6d5132c9f8a532a4c062cd2bb642d3134228ae7edaf244180d517bad157e471"},
    };
    int64_t *items = rh_alloc_array(10000, sizeof *items);
    for (size_t k = 0; k < sizeof expected / sizeof expected[0]; k++) {
        rh_pcg64_permutation(expected[k].seed, items, expected[k].count);
        if (k == 0)
            assert_memory_equal(items, first, sizeof first);
        assert_digest(items, (size_t)expected[k].count, expected[k].digest);
    }
    rh_free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_equal_those_of_cpython),
        cmocka_unit_test(random_equals_that_of_cpython),
        cmocka_unit_test(a_shuffle_equals_that_of_cpython),
        cmocka_unit_test(long_shuffles_equal_those_of_cpython),
        cmocka_unit_test(a_shuffle_of_one_or_none_draws_nothing),
        cmocka_unit_test(minibatches_come_in_auto_rounds_order),
        cmocka_unit_test(what_does_not_fill_a_batch_is_shuffled_again),
        cmocka_unit_test(skipping_a_block_is_going_through_it),
        cmocka_unit_test(fewer_rows_than_a_batch_are_one_batch),
        cmocka_unit_test(a_permutation_equals_that_of_numpy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
