/* Which rows are exchanged: known best answers, and every step against all exchanges there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "nano.h"
#include "random/mt19937.h"
#include "tuning/top_up.h"

static void choose(const struct rh_top_up *t, int64_t *chosen)
{
    struct rh_error err;
    nano_check(rh_top_up_choose(t, NULL, chosen, &err), &err);
}

static void expect(const struct rh_top_up *t, const int64_t *expected)
{
    int64_t chosen[8] = {0};
    assert_true(t->rows <= 8);
    choose(t, chosen);
    for (int64_t i = 0; i < t->rows; i++) {
        if (chosen[i] != expected[i])
            fail_msg("row %lld is %lld, not %lld", (long long)i, (long long)chosen[i],
                     (long long)expected[i]);
    }
}

/* Expert 2 gets nothing. Row 4 feeds it best; neither row 0 nor row 1 is missed: the first goes. */
static void a_starved_expert_is_fed_by_the_row_nobody_misses(void **state)
{
    (void)state;
    const int32_t tokens[] = {
        9, 1, 0, /* rows */
        9, 0, 0, /**/
        1, 9, 0, /**/
        5, 5, 0, /* candidates */
        2, 2, 6, /**/
        8, 0, 2,
    };
    struct rh_top_up t = {.blocks = 1,
                          .experts = 3,
                          .rows = 3,
                          .candidates = 3,
                          .tokens = tokens,
                          .floor = 6,
                          .limit = 3};
    expect(&t, (const int64_t[]){4, 1, 2});
    struct rh_top_up_coverage c = rh_top_up_coverage(&t, 0, NULL);
    assert_int_equal(c.below_floor, 1);
    assert_int_equal(c.without_tokens, 1);
    assert_int_equal(c.tokens_min, 0);
    assert_int_equal(c.missing, 6);
    c = rh_top_up_coverage(&t, 0, (const int64_t[]){4, 1, 2});
    assert_int_equal(c.below_floor, 0);
    assert_int_equal(c.tokens_min, 6);
    assert_int_equal(c.missing, 0);
}

/* Row 0 alone feeds expert 1 of block 0, so row 1 goes for the sake of expert 1 of block 1. */
static void blocks_count_together_and_what_is_needed_stays(void **state)
{
    (void)state;
    const int32_t tokens[] = {
        3, 5, /* block 0 */
        8, 0, /**/
        8, 0, /* candidates */
        8, 0, /**/
        8, 0, /* block 1 */
        8, 0, /**/
        6, 2, /**/
        4, 4,
    };
    struct rh_top_up t = {.blocks = 2,
                          .experts = 2,
                          .rows = 2,
                          .candidates = 2,
                          .tokens = tokens,
                          .floor = 4,
                          .limit = 2};
    expect(&t, (const int64_t[]){0, 3});
}

static void equal_exchanges_go_by_the_lowest_indices(void **state)
{
    (void)state;
    const int32_t tokens[] = {
        4, 0, /* rows */
        4, 0, /**/
        2, 2, /* candidates */
        2, 2, /**/
        2, 2,
    };
    struct rh_top_up t = {.blocks = 1,
                          .experts = 2,
                          .rows = 2,
                          .candidates = 3,
                          .tokens = tokens,
                          .floor = 2,
                          .limit = 2};
    expect(&t, (const int64_t[]){2, 1});
    t.floor = 4; /* both are needed */
    expect(&t, (const int64_t[]){2, 3});
    t.limit = 1;
    expect(&t, (const int64_t[]){2, 1});
    t.limit = 0;
    expect(&t, (const int64_t[]){0, 1});
}

/* Expert 1 of the block can never have ten: it gets what there is. Expert 2 is dead. */
static void an_impossible_floor_gets_what_there_is(void **state)
{
    (void)state;
    const int32_t tokens[] = {
        20, 0, 0, /* rows */
        20, 0, 0, /**/
        20, 0, 0, /**/
        19, 1, 0, /* candidates */
        18, 2, 0, /**/
        20, 0, 0,
    };
    struct rh_top_up t = {.blocks = 1,
                          .experts = 3,
                          .rows = 3,
                          .candidates = 3,
                          .tokens = tokens,
                          .floor = 10,
                          .limit = 3};
    expect(&t, (const int64_t[]){4, 3, 2});
    struct rh_top_up_coverage c = rh_top_up_coverage(&t, 0, (const int64_t[]){4, 3, 2});
    assert_int_equal(c.below_floor, 2);
    assert_int_equal(c.without_tokens, 1);
    assert_int_equal(c.missing, 17);
}

/* The second expert lacks a token, and whatever brings it costs another one. */
static void no_exchange_is_made_for_its_own_sake(void **state)
{
    (void)state;
    const int32_t tokens[] = {
        4, 0, /* rows */
        0, 3, /**/
        1, 3, /* candidates */
        3, 1, /**/
    };
    struct rh_top_up t = {.blocks = 1,
                          .experts = 2,
                          .rows = 2,
                          .candidates = 2,
                          .tokens = tokens,
                          .floor = 4,
                          .limit = 2};
    expect(&t, (const int64_t[]){0, 1});
}

static int64_t missing(const struct rh_top_up *t, const int64_t *chosen)
{
    int64_t sum = 0;
    for (int64_t b = 0; b < t->blocks; b++)
        sum += rh_top_up_coverage(t, b, chosen).missing;
    return sum;
}

/* The least that any one exchange leaves missing. */
static int64_t best_of_all(const struct rh_top_up *t, int64_t *chosen)
{
    int64_t best = missing(t, chosen);
    for (int64_t i = 0; i < t->rows; i++) {
        int64_t old = chosen[i];
        for (int64_t j = t->rows; old == i && j < t->rows + t->candidates; j++) {
            bool used = false;
            for (int64_t k = 0; k < t->rows; k++)
                used |= chosen[k] == j;
            chosen[i] = used ? old : j;
            int64_t now = missing(t, chosen);
            best = now < best ? now : best;
        }
        chosen[i] = old;
    }
    return best;
}

static void every_step_is_the_best_one(void **state)
{
    (void)state;
    enum { BLOCKS = 2, EXPERTS = 5, ROWS = 5, CANDIDATES = 7 };
    struct rh_mt19937 mt;
    int exchanged = 0;
    rh_mt19937_seed(&mt, 7);
    for (int trial = 0; trial < 200; trial++) {
        int32_t tokens[BLOCKS * (ROWS + CANDIDATES) * EXPERTS];
        int64_t before[ROWS] = {0, 1, 2, 3, 4};
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
            tokens[i] = (int32_t)rh_mt19937_below(&mt, i % EXPERTS == 0 ? 3 : 12);
        struct rh_top_up t = {.blocks = BLOCKS,
                              .experts = EXPERTS,
                              .rows = ROWS,
                              .candidates = CANDIDATES,
                              .tokens = tokens,
                              .floor = 1 + (int64_t)rh_mt19937_below(&mt, 40)};
        for (t.limit = 1; t.limit <= ROWS; t.limit++) {
            int64_t after[ROWS];
            choose(&t, after);
            assert_int_equal(missing(&t, after), best_of_all(&t, before));
            for (int i = 0; i < ROWS; i++) {
                exchanged += after[i] != before[i];
                before[i] = after[i];
            }
        }
    }
    assert_true(exchanged > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_starved_expert_is_fed_by_the_row_nobody_misses),
        cmocka_unit_test(blocks_count_together_and_what_is_needed_stays),
        cmocka_unit_test(equal_exchanges_go_by_the_lowest_indices),
        cmocka_unit_test(an_impossible_floor_gets_what_there_is),
        cmocka_unit_test(no_exchange_is_made_for_its_own_sake),
        cmocka_unit_test(every_step_is_the_best_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
