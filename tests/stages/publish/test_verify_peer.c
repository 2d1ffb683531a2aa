#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "publish/verify.h"

/* RH_PEER_CHECKPOINT: a checkpoint that auto-round made of the model in RH_PEER_SOURCE. */
static void the_weights_of_auto_round_are_read_right(void **state)
{
    (void)state;
    struct rh_verify_report r;
    struct rh_error err = {0};
    if (rh_verify_checkpoint(getenv("RH_PEER_CHECKPOINT"), getenv("RH_PEER_SOURCE"), NULL, &r,
                             &err) != RH_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < r.problem_count; i++)
        printf("%s: %s\n", r.checks[r.problems[i].check].name, r.problems[i].text);
    /* Its 16-bit tensors may have another type; every packed one must be read right. */
    assert_int_equal(r.checks[RH_VERIFY_FILES].problems, 0);
    assert_int_equal(r.checks[RH_VERIFY_INVENTORY].problems, 0);
    assert_int_equal(r.checks[RH_VERIFY_VALUES].problems, 0);
    assert_int_equal(r.checks[RH_VERIFY_WEIGHTS].problems, 0);
    assert_true(r.checks[RH_VERIFY_WEIGHTS].count > 100);
    rh_verify_report_done(&r);
}

int main(void)
{
    if (!getenv("RH_PEER_CHECKPOINT") || !getenv("RH_PEER_SOURCE")) {
        puts("skipped: RH_PEER_CHECKPOINT and RH_PEER_SOURCE do not name an auto-round checkpoint "
             "and its source");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_weights_of_auto_round_are_read_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
