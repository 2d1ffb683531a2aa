/* A job that tunes its MTP head: one more step of the session, behind the last block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench.h"

#define BLOCKS 2

/* Head, two blocks, tail, MTP head. */
static struct rh_graph *graph(const char *kind, const char *step)
{
    struct rh_error err;
    struct rh_json *plan = NULL;
    struct rh_graph *g = NULL;
    char *text =
        rh_format("{\"units\": [{\"kind\": \"head\"}, {\"kind\": \"block\", \"step\": 0}, "
                  "{\"kind\": \"block\", \"step\": 1}, {\"kind\": \"tail\"}, "
                  "{\"kind\": \"%s\"%s}], \"files\": [{}], \"shards\": [{}, {}], "
                  "\"outputs\": [{\"unit\": 0, \"shard\": 0}, {\"unit\": 1, \"shard\": 0}, "
                  "{\"unit\": 2, \"shard\": 0}, {\"unit\": 3, \"shard\": 0}, "
                  "{\"unit\": 4, \"shard\": 1, \"bytes\": 300}]}",
                  kind, step);
    assert_int_equal(rh_json_parse(text, strlen(text), "plan", &plan, &err), RH_OK);
    if (rh_graph_from_plan(plan, "plan", &g, &err) != RH_OK)
        assert_non_null(strstr(err.message, "as step 2"));
    rh_json_free(plan);
    rh_free(text);
    return g;
}

static struct rh_sched_task *start(struct bench *b, int64_t prefetch)
{
    bench_setup(b, prefetch);
    bench_finish(b, bench_task(b, RH_OP_PLAN, 0), graph("mtp", ", \"step\": 2"));
    bench_finish(b, bench_task(b, RH_OP_CALIBRATE, 0), NULL);
    bench_finish(b, bench_task(b, RH_OP_FETCH, 0), NULL);
    bench_finish(b, bench_task(b, RH_OP_FETCH, 1), NULL);
    struct rh_sched_task *t = bench_task(b, RH_OP_TUNE, 0);
    rh_sched_accept(b->s, b->now, t->worker, t->id, t->epoch);
    return t;
}

static void the_plan_says_whether_it_is_tuned(void **state)
{
    (void)state;
    struct rh_graph *tuned = graph("mtp", ", \"step\": 2");
    assert_true(tuned->blocks == BLOCKS && tuned->steps == 3 && tuned->mtp == 4);
    assert_int_equal(rh_graph_unit_of(tuned, 1), 2);
    assert_int_equal(rh_graph_unit_of(tuned, 2), 4);
    assert_int_equal(rh_graph_unit_of(tuned, 3), -1);
    assert_int_equal(rh_graph_step_of(tuned, 3), -1);
    assert_int_equal(rh_graph_step_of(tuned, 4), 2);
    rh_graph_free(tuned);
    struct rh_graph *rounded = graph("mtp", "");
    assert_true(rounded->steps == BLOCKS && rounded->mtp == -1);
    assert_int_equal(rh_graph_step_of(rounded, 4), -1);
    rh_graph_free(rounded);
    assert_null(graph("mtp", ", \"step\": 3"));
    assert_null(graph("visual", ", \"step\": 2"));
}

static void all_it_takes_is_fetched_during_the_last_block(void **state)
{
    (void)state;
    struct bench b;
    start(&b, 1);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 2), NULL);
    assert_false(rh_sched_ready(bench_task(&b, RH_OP_FETCH, 3), b.now));
    bench_finish(&b, bench_task(&b, RH_OP_DIGEST, 0), NULL); /* both slots are free */
    bench_checkpoint(&b, 0);
    /* The final norm and the head itself. */
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 3)->state, RH_TASK_LEASED);
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 4)->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void a_session_ends_with_it_and_its_packing_waits(void **state)
{
    (void)state;
    struct bench b;
    struct rh_sched_task *t = start(&b, 0);
    assert_int_equal(t->last, 2);
    for (int64_t u = 2; u < 5; u++)
        bench_finish(&b, bench_task(&b, RH_OP_FETCH, u), NULL);
    bench_checkpoint(&b, 0);
    bench_clear(&b);
    bench_checkpoint(&b, 1);
    assert_non_null(bench_find_event(&b, "block.started")); /* its source is there */
    assert_int_equal(t->started_block, 2);
    assert_false(rh_sched_ready(bench_task(&b, RH_OP_PACK, 4), b.now));
    assert_int_equal(bench_task(&b, RH_OP_PACK, 4)->state, RH_TASK_WAITING);
    assert_true(rh_sched_unwritten(b.job) >= 600); /* its codes, and its packed tensors */
    bench_checkpoint(&b, 2);
    rh_sched_result(b.s, b.now, t->worker, t->id, t->epoch, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(t->state, RH_TASK_DONE);
    for (int64_t u = 0; u < 4; u++) {
        rh_sched_dispatch(b.s, b.now);
        bench_finish(&b, bench_task(&b, RH_OP_PACK, u), NULL);
    }
    assert_int_equal(bench_task(&b, RH_OP_PACK, 4)->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void a_lost_session_goes_on_with_it(void **state)
{
    (void)state;
    struct bench b;
    struct rh_sched_task *t = start(&b, 0);
    for (int64_t u = 2; u < 5; u++)
        bench_finish(&b, bench_task(&b, RH_OP_FETCH, u), NULL);
    bench_checkpoint(&b, 0);
    bench_checkpoint(&b, 1);
    rh_sched_worker_gone(b.s, b.now, "q", true, "signal 9");
    assert_int_equal(t->next, 2);
    b.now += rh_sched_defaults.retry_max_ms;
    bench_hello(&b, "q", RH_STAGE_QUANTIZE, 1, 2);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_LEASED);
    bench_checkpoint(&b, 2);
    assert_int_equal(t->next, 3);
    bench_teardown(&b);
}

static void going_back_drops_it_too(void **state)
{
    (void)state;
    struct bench b;
    struct rh_error err;
    struct rh_sched_task *t = start(&b, 0);
    for (int64_t u = 2; u < 5; u++)
        bench_finish(&b, bench_task(&b, RH_OP_FETCH, u), NULL);
    for (int64_t step = 0; step < 3; step++)
        bench_checkpoint(&b, step);
    rh_sched_result(b.s, b.now, t->worker, t->id, t->epoch, true, RH_FAILURE_PERMANENT, NULL, NULL);
    rh_sched_dispatch(b.s, b.now);
    for (int64_t u = 0; u < 5; u++)
        bench_finish(&b, bench_task(&b, RH_OP_PACK, u), NULL);
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_CANCEL, &err), RH_OK);
    b.now += rh_sched_defaults.grace_ms;
    rh_sched_tick(b.s, b.now);
    assert_int_equal(rh_sched_rewind(b.s, b.now, b.job, 3, &err), RH_ERR_ARGUMENT);
    assert_int_equal(rh_sched_rewind(b.s, b.now, b.job, 2, &err), RH_OK);
    assert_int_equal(t->next, 2);
    assert_int_equal(bench_task(&b, RH_OP_PACK, 4)->state, RH_TASK_WAITING);
    assert_int_equal(bench_task(&b, RH_OP_PACK, 2)->state, RH_TASK_DONE);
    bench_teardown(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_says_whether_it_is_tuned),
        cmocka_unit_test(all_it_takes_is_fetched_during_the_last_block),
        cmocka_unit_test(a_session_ends_with_it_and_its_packing_waits),
        cmocka_unit_test(a_lost_session_goes_on_with_it),
        cmocka_unit_test(going_back_drops_it_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
