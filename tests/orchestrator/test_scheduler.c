#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench.h"

static void a_new_job_starts_with_its_plan_alone(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_int_equal(b.job->task_count, 1);
    assert_int_equal(bench_assigned(&b, RH_OP_PLAN), 1);
    const struct rh_action *save = bench_find(&b, RH_ACT_SAVE_TASK);
    assert_non_null(save);
    assert_int_equal(bench_task(&b, RH_OP_PLAN, 0)->epoch, 1);
    bench_teardown(&b);
}

static void a_committed_plan_unfolds_the_graph(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    bench_clear(&b);
    bench_plan(&b, 3);
    /* units: head, 3 blocks, 1 extra; 2 source files; 2 output shards */
    assert_int_equal(b.job->task_count, 1 + 5 + 1 + 1 + 5 + 2 + 1 + 2 + 1);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 2);
    assert_int_equal(bench_assigned(&b, RH_OP_CALIBRATE), 1);
    assert_int_equal(bench_assigned(&b, RH_OP_TUNE), 0);
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 0)->state, RH_TASK_LEASED);
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 1)->state, RH_TASK_LEASED);
    assert_int_equal(bench_task(&b, RH_OP_TUNE, 0)->last, 2);
    bench_teardown(&b);
}

static void fetching_stays_inside_the_prefetch_window(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 1);
    bench_start_tuning(&b, 4);
    /* Block 0 is tuned, so block 1 (unit 2) may come, block 2 (unit 3) may not. */
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 2)->state, RH_TASK_LEASED);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 2), NULL);
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 3)->state, RH_TASK_WAITING);
    assert_false(rh_sched_ready(bench_task(&b, RH_OP_FETCH, 3), b.now));
    /* The free download slot digests meanwhile. */
    assert_int_equal(bench_task(&b, RH_OP_DIGEST, 0)->state, RH_TASK_LEASED);
    assert_int_equal(bench_task(&b, RH_OP_DIGEST, 1)->state, RH_TASK_LEASED);
    bench_checkpoint(&b, 0);
    assert_true(rh_sched_ready(bench_task(&b, RH_OP_FETCH, 3), b.now));
    assert_false(rh_sched_ready(bench_task(&b, RH_OP_FETCH, 4), b.now));
    bench_teardown(&b);
}

/* It goes through all blocks before the first is tuned, so it lifts the window, and the window is
 * back behind it. */
static void a_probe_comes_before_the_tuning_and_sees_all_blocks(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 1);
    struct rh_graph *graph = rh_graph_new(4, 1, 2, 2);
    graph->probe = true;
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), graph);
    struct rh_sched_task *probe = bench_task(&b, RH_OP_PROBE, 0);
    struct rh_sched_task *tune = bench_task(&b, RH_OP_TUNE, 0);
    bench_finish(&b, bench_task(&b, RH_OP_CALIBRATE, 0), NULL);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 0), NULL);
    assert_int_equal(probe->state, RH_TASK_WAITING);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 1), NULL);
    assert_int_equal(probe->state, RH_TASK_LEASED);
    for (int64_t u = 2; u < 5; u++)
        bench_finish(&b, bench_task(&b, RH_OP_FETCH, u), NULL);
    assert_int_equal(bench_task(&b, RH_OP_FETCH, 5)->state, RH_TASK_LEASED);
    assert_false(rh_sched_ready(tune, b.now));
    bench_finish(&b, probe, NULL);
    assert_int_equal(tune->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void packing_a_block_waits_for_its_tuning_only(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    bench_start_tuning(&b, 3);
    /* The head has nothing to tune; block 0 has. */
    assert_int_equal(bench_task(&b, RH_OP_PACK, 0)->state, RH_TASK_LEASED);
    bench_finish(&b, bench_task(&b, RH_OP_PACK, 0), NULL);
    assert_false(rh_sched_ready(bench_task(&b, RH_OP_PACK, 1), b.now));
    bench_clear(&b);
    bench_checkpoint(&b, 0);
    assert_int_equal(bench_task(&b, RH_OP_PACK, 1)->state, RH_TASK_LEASED);
    const struct rh_action *done = bench_find_event(&b, "block.done");
    assert_non_null(done);
    assert_int_equal(done->block, 0);
    assert_string_equal(done->data, "{\"loss\":1}");
    assert_null(bench_find(&b, RH_ACT_DROP_CHAIN));
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 2), NULL);
    bench_checkpoint(&b, 1);
    const struct rh_action *drop = bench_find(&b, RH_ACT_DROP_CHAIN);
    assert_non_null(drop);
    assert_int_equal(drop->block, 0);
    bench_teardown(&b);
}

static void a_block_starts_when_its_source_is_there(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 1);
    bench_start_tuning(&b, 3);
    const struct rh_action *e = bench_find_event(&b, "block.started");
    assert_non_null(e);
    assert_int_equal(e->block, 0);
    assert_int_equal(e->pid, 1001);
    bench_clear(&b);
    bench_checkpoint(&b, 0);
    assert_null(bench_find_event(&b, "block.started")); /* unit 2 is still being fetched */
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 2), NULL);
    e = bench_find_event(&b, "block.started");
    assert_non_null(e);
    assert_int_equal(e->block, 1);
    bench_teardown(&b);
}

static void a_repeated_result_is_a_duplicate_and_an_old_one_is_stale(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    rh_sched_result(b.s, b.now, "d", t->id, 0, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(bench_find(&b, RH_ACT_ACK)->verdict, RH_VERDICT_STALE);
    assert_int_equal(t->state, RH_TASK_LEASED);
    bench_plan(&b, 2);
    bench_clear(&b);
    rh_sched_result(b.s, b.now, "d", t->id, 1, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(bench_find(&b, RH_ACT_ACK)->verdict, RH_VERDICT_DUPLICATE);
    assert_null(bench_find(&b, RH_ACT_COMMIT));
    bench_clear(&b);
    rh_sched_result(b.s, b.now, "stranger", t->id, 1, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(bench_find(&b, RH_ACT_ACK)->verdict, RH_VERDICT_REHELLO);
    bench_teardown(&b);
}

static void a_late_worker_keeps_its_task_until_somebody_else_has_it(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    int64_t epoch = t->epoch;
    b.now += rh_sched_defaults.lease_ms + 1;
    rh_sched_tick(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(t->crashes, 1);
    /* Heard of again before anybody else took it: the same epoch goes on. */
    bench_hello(&b, "q", RH_STAGE_QUANTIZE, 1, 1);
    assert_int_equal(t->state, RH_TASK_WAITING); /* it does not claim it */
    b.now += 10 * rh_sched_defaults.retry_ms;
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(t->epoch, epoch + 1);
    bench_clear(&b);
    rh_sched_checkpoint(b.s, b.now, "q", t->id, epoch, 0, NULL);
    assert_int_equal(bench_find(&b, RH_ACT_ACK)->verdict, RH_VERDICT_STALE);
    bench_teardown(&b);
}

static void a_lease_that_ran_out_is_claimed_back_under_its_epoch(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    int64_t epoch = t->epoch;
    b.now += rh_sched_defaults.lease_ms + 1;
    rh_sched_tick(b.s, b.now);
    bench_clear(&b);
    struct rh_sched_held held = {t->id, epoch};
    rh_sched_hello(b.s, b.now,
                   &(struct rh_sched_hello){.id = "q",
                                            .incarnation = 1,
                                            .stage = RH_STAGE_QUANTIZE,
                                            .slots = 1,
                                            .held = &held,
                                            .held_count = 1});
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(t->epoch, epoch);
    assert_true(bench_find(&b, RH_ACT_WELCOME)->held[0].keep);
    bench_checkpoint(&b, 0);
    assert_int_equal(t->next, 1);
    bench_teardown(&b);
}

static void a_lost_session_resumes_behind_its_last_checkpoint(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    bench_checkpoint(&b, 0);
    rh_sched_worker_gone(b.s, b.now, "q", true, "signal 9");
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(t->next, 1);
    bench_hello(&b, "q", RH_STAGE_QUANTIZE, 1, 2);
    b.now += rh_sched_defaults.retry_ms;
    bench_clear(&b);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(t->epoch, 2);
    assert_int_equal(t->expect, 1);
    bench_teardown(&b);
}

static void transient_failures_back_off_and_end_the_job_at_last(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    int64_t wait = 0, waits[4];
    for (int i = 0; i < rh_sched_defaults.attempts_max; i++) {
        assert_int_equal(t->state, RH_TASK_LEASED);
        rh_sched_result(b.s, b.now, "d", t->id, t->epoch, false, RH_FAILURE_TRANSIENT, "no route",
                        NULL);
        wait = t->not_before - b.now;
        if (i < 4)
            waits[i] = wait;
        b.now += wait;
        for (int stage = 0; stage < RH_STAGE_COUNT; stage++)
            bench_hello(&b, (const char *[]){"d", "c", "q", "p", "u"}[stage],
                        (enum rh_stage_id)stage, 1, 1);
        rh_sched_dispatch(b.s, b.now);
        bench_clear(&b);
    }
    assert_int_equal(waits[0], 2000);
    assert_int_equal(waits[1], 4000);
    assert_int_equal(waits[3], 16000);
    assert_int_equal(t->state, RH_TASK_FAILED);
    assert_int_equal(b.job->state, RH_JOB_FAILED);
    assert_string_equal(b.job->reason, "plan 0: no route");
    /* The operator may try again. */
    struct rh_error e;
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_RUN, &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_int_equal(t->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void a_full_disk_parks_the_job_until_there_is_room(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    bench_plan(&b, 2);
    struct rh_sched_task *t = bench_task(&b, RH_OP_FETCH, 0);
    rh_sched_accept(b.s, b.now, "d", bench_task(&b, RH_OP_FETCH, 1)->id, 1);
    rh_sched_result(b.s, b.now, "d", t->id, t->epoch, false, RH_FAILURE_RESOURCE, "disk full",
                    NULL);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "disk full"));
    bench_clear(&b);
    rh_sched_dispatch(b.s, b.now);
    assert_null(bench_find(&b, RH_ACT_ASSIGN));
    b.now += rh_sched_defaults.blocked_ms;
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        rh_sched_beat(b.s, b.now, (const char *[]){"d", "c", "q", "p", "u"}[i], 1, NULL, 0);
    rh_sched_tick(b.s, b.now);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_int_equal(t->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void a_permanent_failure_stops_the_others_and_names_itself(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *tune = bench_start_tuning(&b, 3);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PACK, 0);
    bench_clear(&b);
    rh_sched_result(b.s, b.now, "p", t->id, t->epoch, false, RH_FAILURE_PERMANENT, "bad header",
                    NULL);
    assert_int_equal(b.job->state, RH_JOB_RUNNING); /* winding down */
    assert_non_null(bench_find(&b, RH_ACT_REVOKE));
    assert_null(bench_find(&b, RH_ACT_JOB_ENDED));
    for (size_t i = 0; i < b.job->task_count; i++) {
        struct rh_sched_task *o = b.job->tasks[i];
        char worker[RH_WORKER_ID_SIZE];
        memcpy(worker, o->worker, sizeof worker);
        if (o->state == RH_TASK_LEASED)
            rh_sched_result(b.s, b.now, worker, o->id, o->epoch, false, RH_FAILURE_CANCELLED, NULL,
                            NULL);
    }
    assert_int_equal(tune->state, RH_TASK_WAITING);
    assert_int_equal(b.job->state, RH_JOB_FAILED);
    assert_string_equal(b.job->reason, "pack 0: bad header");
    assert_non_null(bench_find(&b, RH_ACT_JOB_ENDED));
    bench_teardown(&b);
}

static void a_cancelled_job_ends_even_if_its_worker_does_not_answer(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    bench_start_tuning(&b, 3);
    struct rh_error e;
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_CANCEL, &e), RH_OK);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    b.now += rh_sched_defaults.grace_ms;
    rh_sched_tick(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_CANCELLED);
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_PAUSE, &e),
                     RH_ERR_ARGUMENT);
    bench_teardown(&b);
}

static void a_paused_job_stops_tuning_at_the_next_block(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 1);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    struct rh_error e;
    bench_clear(&b);
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_PAUSE, &e), RH_OK);
    assert_null(bench_find(&b, RH_ACT_REVOKE));
    bench_checkpoint(&b, 0);
    assert_non_null(bench_find(&b, RH_ACT_REVOKE));
    rh_sched_result(b.s, b.now, "q", t->id, t->epoch, false, RH_FAILURE_CANCELLED, "paused", NULL);
    assert_int_equal(t->state, RH_TASK_WAITING);
    for (size_t i = 0; i < b.job->task_count; i++) {
        if (b.job->tasks[i]->state == RH_TASK_LEASED)
            bench_finish(&b, b.job->tasks[i], NULL);
    }
    assert_int_equal(b.job->state, RH_JOB_PAUSED);
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_RUN, &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(t->expect, 1);
    bench_teardown(&b);
}

static void higher_priority_goes_first_then_submission_order(void **state)
{
    (void)state;
    struct bench b = {.now = 1000};
    b.s = rh_sched_new(&rh_sched_defaults);
    struct rh_sched_job *low = bench_submit(&b, "A", 0, 1, 0);
    struct rh_sched_job *later = bench_submit(&b, "B", 0, 2, 0);
    struct rh_sched_job *high = bench_submit(&b, "C", 5, 3, 0);
    bench_hello(&b, "d", RH_STAGE_DOWNLOAD, 1, 1);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(high->tasks[0]->state, RH_TASK_LEASED);
    assert_int_equal(low->state, RH_JOB_RUNNING); /* one job ahead of the tuning slots */
    assert_int_equal(later->state, RH_JOB_QUEUED);
    bench_teardown(&b);
}

static void an_assignment_that_is_not_accepted_is_taken_back(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    b.now += rh_sched_defaults.accept_ms;
    bench_clear(&b);
    rh_sched_tick(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(t->crashes, 0);
    rh_sched_accept(b.s, b.now, "d", t->id, 1);
    assert_int_equal(t->state, RH_TASK_WAITING);
    bench_teardown(&b);
}

static void work_without_progress_is_taken_for_hung(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    struct rh_sched_progress p = {t->id, t->epoch, 7, "block 0", 1, 2};
    for (int i = 0; i < 400 && t->state == RH_TASK_LEASED; i++) {
        b.now += 5000;
        rh_sched_beat(b.s, b.now, "q", 1, &p, 1);
        rh_sched_tick(b.s, b.now);
        bench_clear(&b);
    }
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(t->crashes, 1);
    assert_true(b.now >= 1000 + rh_sched_defaults.stall_ms[RH_STAGE_QUANTIZE]);
    bench_teardown(&b);
}

static void a_task_that_keeps_killing_its_worker_is_quarantined(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    for (uint64_t i = 1; t->state == RH_TASK_LEASED; i++) {
        assert_true(i < 20);
        rh_sched_worker_gone(b.s, b.now, "d", true, "signal 11");
        b.now += rh_sched_defaults.retry_max_ms;
        bench_hello(&b, "d", RH_STAGE_DOWNLOAD, 1, i + 1);
        rh_sched_dispatch(b.s, b.now);
        bench_clear(&b);
    }
    assert_int_equal(t->state, RH_TASK_QUARANTINED);
    assert_int_equal(t->crashes, rh_sched_defaults.crashes_max);
    assert_int_equal(b.job->state, RH_JOB_HELD);
    assert_non_null(strstr(b.job->reason, "signal 11"));
    bench_teardown(&b);
}

static void a_session_is_done_only_when_every_block_is_committed(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    rh_sched_result(b.s, b.now, "q", t->id, t->epoch, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(t->state, RH_TASK_LEASED);
    bench_checkpoint(&b, 0);
    rh_sched_checkpoint(b.s, b.now, "q", t->id, t->epoch, 1, NULL);
    rh_sched_result(b.s, b.now, "q", t->id, t->epoch, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(t->state, RH_TASK_LEASED);
    rh_sched_committed(b.s, b.now, t->id, t->epoch, 1, NULL, NULL, NULL);
    assert_int_equal(t->state, RH_TASK_DONE);
    assert_int_equal(rh_sched_current_block(b.job), 2);
    bench_teardown(&b);
}

static void a_failed_commit_is_made_again_under_a_new_epoch(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    rh_sched_result(b.s, b.now, "d", t->id, 1, true, RH_FAILURE_PERMANENT, NULL, NULL);
    struct rh_error e;
    assert_int_equal(rh_fail(&e, RH_ERR_NO_SPACE, "no room"), RH_ERR_NO_SPACE);
    rh_sched_committed(b.s, b.now, t->id, 1, -1, &e, NULL, NULL);
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    bench_teardown(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_job_starts_with_its_plan_alone),
        cmocka_unit_test(a_committed_plan_unfolds_the_graph),
        cmocka_unit_test(fetching_stays_inside_the_prefetch_window),
        cmocka_unit_test(a_probe_comes_before_the_tuning_and_sees_all_blocks),
        cmocka_unit_test(packing_a_block_waits_for_its_tuning_only),
        cmocka_unit_test(a_block_starts_when_its_source_is_there),
        cmocka_unit_test(a_repeated_result_is_a_duplicate_and_an_old_one_is_stale),
        cmocka_unit_test(a_late_worker_keeps_its_task_until_somebody_else_has_it),
        cmocka_unit_test(a_lease_that_ran_out_is_claimed_back_under_its_epoch),
        cmocka_unit_test(a_lost_session_resumes_behind_its_last_checkpoint),
        cmocka_unit_test(transient_failures_back_off_and_end_the_job_at_last),
        cmocka_unit_test(a_full_disk_parks_the_job_until_there_is_room),
        cmocka_unit_test(a_permanent_failure_stops_the_others_and_names_itself),
        cmocka_unit_test(a_cancelled_job_ends_even_if_its_worker_does_not_answer),
        cmocka_unit_test(a_paused_job_stops_tuning_at_the_next_block),
        cmocka_unit_test(higher_priority_goes_first_then_submission_order),
        cmocka_unit_test(an_assignment_that_is_not_accepted_is_taken_back),
        cmocka_unit_test(work_without_progress_is_taken_for_hung),
        cmocka_unit_test(a_task_that_keeps_killing_its_worker_is_quarantined),
        cmocka_unit_test(a_session_is_done_only_when_every_block_is_committed),
        cmocka_unit_test(a_failed_commit_is_made_again_under_a_new_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
