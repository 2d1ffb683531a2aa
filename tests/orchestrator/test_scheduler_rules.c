#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "bench.h"

/* Who is to blame for a crash, what is stuck, who waits for whom, what is made once more, and how
 * the disk is shared. */

/* -- Blame ------------------------------------------------------------------------------------ */

/* The worker dies with what it holds and comes back. */
static void crash(struct bench *b, const char *id, enum rh_stage_id stage, uint64_t incarnation)
{
    rh_sched_worker_gone(b->s, b->now, id, true, "signal 11");
    b->now += rh_sched_defaults.retry_max_ms;
    for (size_t i = 0; i < rh_sched_worker_count(b->s); i++) {
        const struct rh_sched_worker *w = rh_sched_worker_at(b->s, i);
        if (w->connected)
            rh_sched_beat(b->s, b->now, w->id, w->incarnation, NULL, 0);
    }
    bench_hello(b, id, stage, 1, incarnation);
    rh_sched_dispatch(b->s, b->now);
}

static void a_task_that_crashed_goes_to_another_worker(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    assert_string_equal(t->worker, "q");
    bench_hello(&b, "q2", RH_STAGE_QUANTIZE, 1, 1);
    crash(&b, "q", RH_STAGE_QUANTIZE, 2);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_string_equal(t->worker, "q2");
    assert_string_equal(t->crashed_on, "q");
    assert_int_equal(t->crashes, 1);
    crash(&b, "q2", RH_STAGE_QUANTIZE, 2);
    assert_string_equal(t->worker, "q");
    crash(&b, "q", RH_STAGE_QUANTIZE, 3);
    assert_int_equal(t->state, RH_TASK_QUARANTINED);
    assert_int_equal(b.job->state, RH_JOB_RUNNING); /* other tasks are at work */
    assert_int_equal(b.job->desired, RH_DESIRED_HOLD);
    assert_false(rh_sched_find_worker(b.s, "q")->drained);
    bench_teardown(&b);
}

static void a_worker_on_which_two_tasks_crash_is_drained_and_they_are_not_blamed(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    bench_hello(&b, "d2", RH_STAGE_DOWNLOAD, 8, 1);
    bench_hello(&b, "q2", RH_STAGE_QUANTIZE, 1, 1);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    struct rh_sched_job *first = b.job;
    b.job = bench_submit(&b, "J2", 0, 2, 0);
    rh_sched_dispatch(b.s, b.now);
    crash(&b, "q", RH_STAGE_QUANTIZE, 2);
    assert_string_equal(t->worker, "q2");
    struct rh_sched_task *t2 = bench_start_tuning(&b, 2);
    assert_string_equal(t2->worker, "q");
    bench_clear(&b);
    crash(&b, "q", RH_STAGE_QUANTIZE, 3);
    const struct rh_sched_worker *q = rh_sched_find_worker(b.s, "q");
    assert_true(q->drained);
    assert_non_null(strstr(q->why, "2 tasks"));
    assert_non_null(bench_find(&b, RH_ACT_SAVE_WORKER));
    assert_non_null(bench_find_event(&b, "worker.suspect"));
    assert_int_equal(t2->crashes, 0);
    assert_int_equal(t2->state, RH_TASK_WAITING);
    /* It stays so across the worker's restarts, until somebody says otherwise. */
    crash(&b, "q", RH_STAGE_QUANTIZE, 4);
    assert_int_equal(t2->state, RH_TASK_WAITING);
    struct rh_error e;
    assert_int_equal(rh_sched_drain(b.s, "q", false, "checked", &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t2->state, RH_TASK_WAITING); /* it avoids q while q2 is there */
    rh_sched_worker_gone(b.s, b.now, "q2", false, "bye");
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(first->state, RH_JOB_RUNNING);
    assert_string_equal(t->worker, "q");
    bench_teardown(&b);
}

static void resuming_a_held_job_takes_up_its_quarantined_task(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    for (uint64_t i = 2; t->state != RH_TASK_QUARANTINED; i++) {
        assert_true(i < 9);
        crash(&b, "d", RH_STAGE_DOWNLOAD, i);
    }
    assert_int_equal(b.job->state, RH_JOB_HELD);
    assert_non_null(strstr(b.job->reason, "plan 0 took its worker down 3 times"));
    struct rh_error e;
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_RUN, &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(t->crashes, 0);
    bench_teardown(&b);
}

static void a_quarantined_task_can_be_retried_alone(void **state)
{
    (void)state;
    struct bench b;
    struct rh_error e;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    assert_int_equal(rh_sched_retry_task(b.s, b.now, t, &e), RH_ERR_ARGUMENT);
    for (uint64_t i = 2; t->state != RH_TASK_QUARANTINED && i < 9; i++)
        crash(&b, "d", RH_STAGE_DOWNLOAD, i);
    assert_int_equal(rh_sched_retry_task(b.s, b.now, t, &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    bench_teardown(&b);
}

/* -- Stuck ------------------------------------------------------------------------------------ */

static void beat_until_event(struct bench *b, struct rh_sched_progress *p, const char *event)
{
    for (int i = 0; i < 4000 && !bench_find_event(b, event); i++) {
        bench_clear(b);
        b->now += 5000;
        rh_sched_beat(b->s, b->now, "q", 1, p, 1);
        rh_sched_tick(b->s, b->now);
    }
    assert_non_null(bench_find_event(b, event));
}

static void a_stuck_task_is_asked_to_stop_then_taken_away_and_its_worker_killed(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    struct rh_sched_progress p = {t->id, t->epoch, 7, "block 0", 1, 2};
    int64_t epoch = t->epoch;
    beat_until_event(&b, &p, "task.stalled");
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_non_null(bench_find(&b, RH_ACT_REVOKE));
    assert_null(bench_find(&b, RH_ACT_KILL));
    beat_until_event(&b, &p, "task.lost");
    const struct rh_action *kill = bench_find(&b, RH_ACT_KILL);
    assert_non_null(kill);
    assert_string_equal(kill->worker, "q");
    assert_int_equal(kill->pid, 1001);
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(t->crashes, 1);
    b.now += rh_sched_defaults.grace_ms;
    bench_hello(&b, "q", RH_STAGE_QUANTIZE, 1, 2);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_int_equal(t->epoch, epoch + 1);
    bench_teardown(&b);
}

static void a_stalled_task_that_stops_when_asked_is_tried_again_later(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    struct rh_sched_progress p = {t->id, t->epoch, 7, "block 0", 1, 2};
    beat_until_event(&b, &p, "task.stalled");
    rh_sched_result(b.s, b.now, "q", t->id, t->epoch, false, RH_FAILURE_CANCELLED, "cancelled",
                    NULL);
    assert_int_equal(t->state, RH_TASK_WAITING);
    assert_int_equal(t->attempts, 1);
    assert_int_equal(t->crashes, 0);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    bench_teardown(&b);
}

static void a_session_that_hangs_behind_its_last_block_is_done(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 1);
    bench_checkpoint(&b, 0);
    struct rh_sched_progress p = {t->id, t->epoch, 7, "block 0", 1, 2};
    beat_until_event(&b, &p, "task.stalled");
    beat_until_event(&b, &p, "task.lost");
    assert_int_equal(t->state, RH_TASK_DONE);
    assert_non_null(bench_find_event(&b, "task.done"));
    bench_teardown(&b);
}

static void slow_and_steady_is_not_stuck(void **state)
{
    (void)state;
    struct bench b;
    int64_t limit = rh_sched_defaults.stall_ms[RH_STAGE_QUANTIZE];
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 2);
    struct rh_sched_progress p = {t->id, t->epoch, 0, "block 0", 1, 2};
    /* An iteration takes half the limit; one of twice the limit is still no cause for alarm. */
    for (int64_t waited = 0; waited < 12 * limit; waited += 5000) {
        b.now += 5000;
        p.progress_seq = waited < 10 * limit ? (uint64_t)(waited / (limit / 2)) : 20;
        rh_sched_beat(b.s, b.now, "q", 1, &p, 1);
        rh_sched_tick(b.s, b.now);
        assert_null(bench_find_event(&b, "task.stalled"));
        bench_clear(&b);
    }
    bench_teardown(&b);
}

/* -- Holds, limits, drains -------------------------------------------------------------------- */

static void a_held_job_finishes_what_runs_and_starts_nothing(void **state)
{
    (void)state;
    struct bench b;
    struct rh_error e;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_task(&b, RH_OP_PLAN, 0);
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_HOLD, &e), RH_OK);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    bench_clear(&b);
    bench_plan(&b, 2);
    assert_int_equal(t->state, RH_TASK_DONE);
    assert_int_equal(b.job->state, RH_JOB_HELD);
    assert_string_equal(b.job->reason, "held by the operator");
    assert_null(bench_find(&b, RH_ACT_ASSIGN));
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_RUN, &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 2);
    bench_teardown(&b);
}

static void a_job_submitted_on_hold_waits_without_standing_in_the_way(void **state)
{
    (void)state;
    struct bench b;
    bench_setup(&b, 0);
    struct rh_sched_job row = {.priority = 9, .seq = 2, .desired = RH_DESIRED_HOLD};
    memcpy(row.id, "J2", 3);
    struct rh_sched_job *held = rh_sched_load_job(b.s, &row);
    rh_sched_loaded(b.s, b.now, held, NULL);
    bench_submit(&b, "J3", 0, 3, 0);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(held->state, RH_JOB_HELD);
    assert_int_equal(rh_sched_find_job(b.s, "J3")->state, RH_JOB_RUNNING);
    bench_teardown(&b);
}

static void a_stage_has_no_more_leases_than_its_limit(void **state)
{
    (void)state;
    struct bench b;
    struct rh_sched_config config = rh_sched_defaults;
    config.stage_max[RH_STAGE_DOWNLOAD] = 1;
    bench_set_up_with(&b, &config, 0);
    bench_clear(&b);
    bench_plan(&b, 3);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 1);
    bench_teardown(&b);
}

static void a_drained_worker_gets_nothing_until_it_is_undrained(void **state)
{
    (void)state;
    struct bench b;
    struct rh_error e;
    bench_setup(&b, 0);
    assert_int_equal(rh_sched_drain(b.s, "nobody", true, "x", &e), RH_ERR_NOT_FOUND);
    assert_int_equal(rh_sched_drain(b.s, "d", true, "new disk", &e), RH_OK);
    bench_plan(&b, 2);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 0);
    assert_int_equal(bench_assigned(&b, RH_OP_CALIBRATE), 1);
    bench_hello(&b, "d", RH_STAGE_DOWNLOAD, 2, 2);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 0);
    assert_int_equal(rh_sched_drain(b.s, "d", false, "done", &e), RH_OK);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 2);
    bench_teardown(&b);
}

/* -- Once more -------------------------------------------------------------------------------- */

static size_t dropped(struct bench *b, enum rh_op_id op, int64_t index)
{
    size_t count = 0;
    bench_take(b);
    for (size_t i = 0; i < b->count; i++)
        count += b->notes[i].kind == RH_ACT_DROP_ARTIFACT && b->notes[i].op == op &&
                 b->notes[i].block == index;
    return count;
}

static void going_back_to_a_block_drops_it_and_what_was_made_of_it(void **state)
{
    (void)state;
    struct bench b;
    struct rh_error e;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 2), NULL);
    bench_checkpoint(&b, 0);
    bench_checkpoint(&b, 1);
    while (bench_task(&b, RH_OP_PACK, 2)->state != RH_TASK_DONE) {
        for (int64_t u = 0; u < 3; u++) {
            if (bench_task(&b, RH_OP_PACK, u)->state == RH_TASK_LEASED)
                bench_finish(&b, bench_task(&b, RH_OP_PACK, u), NULL);
        }
    }
    assert_int_equal(rh_sched_rewind(b.s, b.now, b.job, 1, &e), RH_ERR_ARGUMENT); /* it runs */
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_CANCEL, &e), RH_OK);
    b.now += rh_sched_defaults.grace_ms;
    rh_sched_tick(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_CANCELLED);
    assert_int_equal(rh_sched_rewind(b.s, b.now, b.job, 3, &e), RH_ERR_ARGUMENT);
    bench_clear(&b);
    assert_int_equal(rh_sched_rewind(b.s, b.now, b.job, 1, &e), RH_OK);
    assert_int_equal(t->next, 1);
    assert_int_equal(dropped(&b, RH_OP_TUNE, 1), 1);
    assert_int_equal(dropped(&b, RH_OP_TUNE, 0), 0);
    assert_int_equal(dropped(&b, RH_OP_PACK, 2), 1);
    assert_int_equal(dropped(&b, RH_OP_PACK, 1), 0);
    assert_int_equal(bench_task(&b, RH_OP_PACK, 2)->state, RH_TASK_WAITING);
    assert_int_equal(bench_task(&b, RH_OP_PACK, 1)->state, RH_TASK_DONE);
    assert_int_equal(b.job->state, RH_JOB_QUEUED);
    bench_teardown(&b);
}

/* -- Disk ------------------------------------------------------------------------------------- */

/* Head, two blocks, tail; 1000 bytes of source and 300 of output each. */
static struct rh_graph *sized_graph(void)
{
    struct rh_graph *g = rh_graph_new(2, 1, 1, 1);
    for (int64_t u = 0; u < g->units; u++) {
        g->source_bytes[u] = 1000;
        g->output_bytes[u] = 300;
    }
    g->shard_bytes[0] = 1200;
    g->chain_bytes = 50;
    return g;
}

/* fetch 4000, pack 1200, codes of two blocks 600, two chains 100, shard 1200 */
#define SIZED_NEED 7100

static struct rh_sched_config roomy(void)
{
    struct rh_sched_config config = rh_sched_defaults;
    config.headroom = 100;
    return config;
}

static void what_a_job_still_writes_is_known_to_the_byte(void **state)
{
    (void)state;
    struct bench b;
    struct rh_sched_config config = roomy();
    bench_set_up_with(&b, &config, 0);
    assert_int_equal(rh_sched_unwritten(b.job), 0);
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), sized_graph());
    assert_int_equal(rh_sched_unwritten(b.job), SIZED_NEED);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 0), NULL);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 1), NULL);
    assert_int_equal(rh_sched_unwritten(b.job), SIZED_NEED - 2000);
    bench_finish(&b, bench_task(&b, RH_OP_CALIBRATE, 0), NULL);
    rh_sched_accept(b.s, b.now, "q", bench_task(&b, RH_OP_TUNE, 0)->id, 1);
    bench_checkpoint(&b, 0);
    assert_int_equal(rh_sched_unwritten(b.job), SIZED_NEED - 2000 - 300 - 50);
    bench_teardown(&b);
}

static void a_job_that_does_not_fit_is_parked_with_the_figures_and_goes_on_by_itself(void **state)
{
    (void)state;
    struct bench b;
    struct rh_sched_config config = roomy();
    bench_set_up_with(&b, &config, 0);
    rh_sched_space(b.s, SIZED_NEED + 100 - 1);
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), sized_graph());
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 0);
    assert_non_null(strstr(b.job->reason, "7100 bytes are still to be written; 7199 are free"));
    rh_sched_space(b.s, 700);
    rh_sched_dispatch(b.s, b.now);
    assert_non_null(strstr(b.job->reason, "700 are free"));
    rh_sched_space(b.s, SIZED_NEED + 100);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_null(b.job->reason);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 2);
    bench_teardown(&b);
}

static void what_is_promised_to_one_job_is_not_given_to_another(void **state)
{
    (void)state;
    struct bench b;
    struct rh_error e;
    struct rh_sched_config config = roomy();
    bench_set_up_with(&b, &config, 0);
    rh_sched_space(b.s, 2 * SIZED_NEED);
    struct rh_sched_job *first = b.job;
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), sized_graph());
    b.job = bench_submit(&b, "J2", 0, 2, 0);
    rh_sched_dispatch(b.s, b.now);
    /* The first job's fetches hold both slots. */
    for (size_t i = 0; i < first->task_count; i++) {
        if (first->tasks[i]->op == RH_OP_FETCH && first->tasks[i]->state == RH_TASK_LEASED)
            bench_finish(&b, first->tasks[i], NULL);
    }
    while (bench_task(&b, RH_OP_PLAN, 0)->state != RH_TASK_LEASED) {
        for (size_t i = 0; i < first->task_count; i++) {
            if (rh_op_stage(first->tasks[i]->op) == RH_STAGE_DOWNLOAD &&
                first->tasks[i]->state == RH_TASK_LEASED)
                bench_finish(&b, first->tasks[i], NULL);
        }
    }
    rh_sched_space(b.s, 2 * SIZED_NEED - 4000);
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), sized_graph());
    assert_int_equal(first->state, RH_JOB_RUNNING);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "3100 are promised to other jobs"));
    assert_int_equal(rh_sched_set_desired(b.s, b.now, first, RH_DESIRED_CANCEL, &e), RH_OK);
    b.now += rh_sched_defaults.grace_ms;
    rh_sched_tick(b.s, b.now);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    bench_teardown(&b);
}

static void below_the_headroom_nothing_new_comes_in(void **state)
{
    (void)state;
    struct bench b;
    struct rh_sched_config config = roomy();
    bench_set_up_with(&b, &config, 0);
    rh_sched_space(b.s, 10 * SIZED_NEED);
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), sized_graph());
    bench_clear(&b);
    rh_sched_space(b.s, 99);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 0), NULL);
    assert_int_equal(bench_assigned(&b, RH_OP_FETCH), 0);
    assert_non_null(bench_find_event(&b, "space.low"));
    assert_int_equal(bench_task(&b, RH_OP_PACK, 0)->state, RH_TASK_LEASED);
    rh_sched_space(b.s, 24);
    bench_finish(&b, bench_task(&b, RH_OP_FETCH, 1), NULL);
    bench_finish(&b, bench_task(&b, RH_OP_CALIBRATE, 0), NULL);
    assert_int_equal(bench_task(&b, RH_OP_TUNE, 0)->state, RH_TASK_WAITING);
    rh_sched_space(b.s, 10 * SIZED_NEED);
    rh_sched_dispatch(b.s, b.now);
    assert_non_null(bench_find_event(&b, "space.enough"));
    assert_int_equal(bench_task(&b, RH_OP_TUNE, 0)->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void a_job_without_a_plan_says_what_it_waits_for(void **state)
{
    (void)state;
    struct bench b = {.now = 1000};
    struct rh_sched_config config = roomy();
    b.s = rh_sched_new(&config);
    rh_sched_space(b.s, 50);
    b.job = bench_submit(&b, "J1", 0, 1, 0);
    bench_hello(&b, "d", RH_STAGE_DOWNLOAD, 2, 1);
    rh_sched_dispatch(b.s, b.now);
    bench_take(&b);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "50 are free"));
    assert_non_null(strstr(b.job->reason, "100 stay free; make room"));
    rh_sched_tick(b.s, b.now); /* no flapping while nothing has changed */
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    rh_sched_space(b.s, 1000);
    rh_sched_tick(b.s, b.now);
    rh_sched_dispatch(b.s, b.now);
    bench_take(&b);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_int_equal(bench_task(&b, RH_OP_PLAN, 0)->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void what_stays_free_follows_the_disk(void **state)
{
    (void)state;
    assert_int_equal(rh_sched_headroom_for(UINT64_C(20) << 30), INT64_C(1) << 30);
    assert_int_equal(rh_sched_headroom_for(UINT64_MAX), INT64_C(1) << 30);
    assert_int_equal(rh_sched_headroom_for(3000000), 150000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_without_a_plan_says_what_it_waits_for),
        cmocka_unit_test(what_stays_free_follows_the_disk),
        cmocka_unit_test(a_task_that_crashed_goes_to_another_worker),
        cmocka_unit_test(a_worker_on_which_two_tasks_crash_is_drained_and_they_are_not_blamed),
        cmocka_unit_test(resuming_a_held_job_takes_up_its_quarantined_task),
        cmocka_unit_test(a_quarantined_task_can_be_retried_alone),
        cmocka_unit_test(a_stuck_task_is_asked_to_stop_then_taken_away_and_its_worker_killed),
        cmocka_unit_test(a_stalled_task_that_stops_when_asked_is_tried_again_later),
        cmocka_unit_test(a_session_that_hangs_behind_its_last_block_is_done),
        cmocka_unit_test(slow_and_steady_is_not_stuck),
        cmocka_unit_test(a_held_job_finishes_what_runs_and_starts_nothing),
        cmocka_unit_test(a_job_submitted_on_hold_waits_without_standing_in_the_way),
        cmocka_unit_test(a_stage_has_no_more_leases_than_its_limit),
        cmocka_unit_test(a_drained_worker_gets_nothing_until_it_is_undrained),
        cmocka_unit_test(going_back_to_a_block_drops_it_and_what_was_made_of_it),
        cmocka_unit_test(what_a_job_still_writes_is_known_to_the_byte),
        cmocka_unit_test(a_job_that_does_not_fit_is_parked_with_the_figures_and_goes_on_by_itself),
        cmocka_unit_test(what_is_promised_to_one_job_is_not_given_to_another),
        cmocka_unit_test(below_the_headroom_nothing_new_comes_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
