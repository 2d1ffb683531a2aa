#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bench.h"

/* Who gets a tuning that a device was too small for, and what happens while nobody can have it. */

#define GB INT64_C(1000000000)

static void gpu(struct bench *b, const char *id, uint64_t incarnation, int64_t bytes)
{
    rh_sched_hello(b->s, b->now,
                   &(struct rh_sched_hello){.id = id,
                                            .incarnation = incarnation,
                                            .stage = RH_STAGE_QUANTIZE,
                                            .slots = 1,
                                            .host = "here",
                                            .device_bytes = bytes});
    rh_sched_dispatch(b->s, b->now);
}

/* "q" is a worker on a GPU of 24 GB, on which the tuning of the job is refused. */
static struct rh_sched_task *refused(struct bench *b, int64_t need, int64_t room)
{
    bench_setup(b, 0);
    gpu(b, "q", 2, 24 * GB);
    struct rh_sched_task *t = bench_start_tuning(b, 3);
    assert_string_equal(t->worker, "q");
    rh_sched_device_short(b->s, "q", t->id, t->epoch, need, room);
    rh_sched_result(b->s, b->now, "q", t->id, t->epoch, false, RH_FAILURE_RESOURCE,
                    "tuning does not fit", NULL);
    b->now += 5000;
    return t;
}

/* Fetches and the like come to their end; then the job is what it is. */
static void finish_what_runs(struct bench *b)
{
    for (size_t i = 0; i < b->job->task_count; i++) {
        if (b->job->tasks[i]->state == RH_TASK_LEASED && b->job->tasks[i]->op != RH_OP_TUNE)
            bench_finish(b, b->job->tasks[i], NULL);
    }
    rh_sched_dispatch(b->s, b->now);
}

static void beat(struct bench *b, const char *id, uint64_t incarnation, int64_t free, bool idle)
{
    rh_sched_beat(b->s, b->now, id, incarnation, NULL, 0);
    rh_sched_device(b->s, id, free, idle);
    rh_sched_dispatch(b->s, b->now);
}

/* What holds for a tuning holds for the probe before it. */
static void a_probe_that_is_refused_waits_like_a_tuning(void **state)
{
    struct bench b;
    (void)state;
    bench_setup(&b, 0);
    gpu(&b, "q", 2, 24 * GB);
    struct rh_graph *graph = rh_graph_new(3, 1, 2, 2);
    graph->probe = true;
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), graph);
    for (int64_t u = 0; u < 2; u++)
        bench_finish(&b, bench_task(&b, RH_OP_FETCH, u), NULL);
    bench_finish(&b, bench_task(&b, RH_OP_CALIBRATE, 0), NULL);
    struct rh_sched_task *probe = bench_task(&b, RH_OP_PROBE, 0);
    rh_sched_accept(b.s, b.now, "q", probe->id, probe->epoch);
    rh_sched_device_short(b.s, "q", probe->id, probe->epoch, 32 * GB, 23 * GB);
    rh_sched_result(b.s, b.now, "q", probe->id, probe->epoch, false, RH_FAILURE_RESOURCE,
                    "the probe does not fit", NULL);
    b.now += 5000;
    finish_what_runs(&b);
    assert_int_equal(probe->state, RH_TASK_WAITING);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "needs 32 GB of GPU memory"));
    gpu(&b, "big", 1, 80 * GB);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_string_equal(probe->worker, "big");
    bench_teardown(&b);
}

static void a_job_waits_for_a_larger_device_and_goes_on_by_itself(void **state)
{
    struct bench b;
    (void)state;
    struct rh_sched_task *t = refused(&b, 32500 * GB / 1000, 23 * GB);
    assert_int_equal(t->state, RH_TASK_WAITING);
    finish_what_runs(&b);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_string_equal(b.job->reason,
                        "tune needs 32.5 GB of GPU memory; the largest worker has 24 GB (q); it "
                        "goes on by itself when one with that much comes");
    for (int i = 0; i < 100; i++) { /* nor is it tried again on the same one */
        b.now += 10000;
        beat(&b, "q", 2, 24 * GB, true);
    }
    assert_int_equal(t->epoch, 1);
    assert_int_equal(t->attempts, 0);
    bench_clear(&b);
    gpu(&b, "small", 1, 30 * GB);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "30 GB (small)"));
    gpu(&b, "big", 1, 80 * GB);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_null(b.job->reason);
    assert_string_equal(t->worker, "big");
    assert_int_equal(t->state, RH_TASK_LEASED);
    bench_teardown(&b);
}

static void another_worker_with_the_memory_takes_it_at_once(void **state)
{
    struct bench b;
    (void)state;
    bench_setup(&b, 0);
    gpu(&b, "q", 2, 24 * GB);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    gpu(&b, "big", 1, 80 * GB);
    rh_sched_device_short(b.s, "q", t->id, t->epoch, 32 * GB, 23 * GB);
    rh_sched_result(b.s, b.now, "q", t->id, t->epoch, false, RH_FAILURE_RESOURCE, "no", NULL);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    b.now += 5000;
    beat(&b, "big", 1, 80 * GB, true);
    assert_string_equal(t->worker, "big");
    bench_teardown(&b);
}

/* The worker that a crash speaks against is the only one that is large enough. */
static void a_small_worker_is_no_substitute(void **state)
{
    struct bench b;
    (void)state;
    struct rh_sched_task *t = refused(&b, 32 * GB, 23 * GB);
    gpu(&b, "big", 1, 80 * GB);
    assert_string_equal(t->worker, "big");
    rh_sched_accept(b.s, b.now, "big", t->id, t->epoch);
    rh_sched_worker_gone(b.s, b.now, "big", true, "signal 9");
    assert_string_equal(t->crashed_on, "big");
    b.now += 60000;
    beat(&b, "q", 2, 24 * GB, true);
    gpu(&b, "big", 2, 80 * GB);
    assert_int_equal(t->state, RH_TASK_LEASED);
    assert_string_equal(t->worker, "big");
    bench_teardown(&b);
}

static void memory_that_somebody_else_has_is_waited_for(void **state)
{
    struct bench b;
    (void)state;
    struct rh_sched_task *t = refused(&b, 20 * GB, 9 * GB);
    finish_what_runs(&b);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_string_equal(b.job->reason,
                        "tune needs 20 GB of GPU memory; of the 24 GB of the largest worker "
                        "9 GB are free (q); it goes on by itself when they are");
    beat(&b, "q", 2, 23 * GB, false); /* while it holds a task, that says nothing */
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    beat(&b, "q", 2, 23 * GB, true);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_string_equal(t->worker, "q");
    bench_teardown(&b);
}

static void a_worker_without_a_device_takes_everything(void **state)
{
    struct bench b;
    (void)state;
    struct rh_sched_task *t = refused(&b, 32 * GB, 23 * GB);
    finish_what_runs(&b);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    bench_hello(&b, "cpu", RH_STAGE_QUANTIZE, 1, 1);
    rh_sched_dispatch(b.s, b.now);
    assert_string_equal(t->worker, "cpu");
    bench_teardown(&b);
}

static void nobody_waits_for_a_job_that_waits(void **state)
{
    struct bench b;
    (void)state;
    refused(&b, 32 * GB, 23 * GB);
    finish_what_runs(&b);
    struct rh_sched_job *other = bench_submit(&b, "J2", -1, 2, 0);
    struct rh_sched_job *third = bench_submit(&b, "J3", -1, 3, 0);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_int_equal(other->state, RH_JOB_RUNNING); /* one is tuned, one downloads */
    assert_int_equal(third->state, RH_JOB_RUNNING);
    bench_teardown(&b);
}

/* Disk that only its end would free is not kept for it: it cannot end. */
static void the_disk_is_for_those_that_can_go_on(void **state)
{
    struct bench b;
    (void)state;
    refused(&b, 32 * GB, 23 * GB);
    b.job->graph->output_bytes[3] = 1000; /* two kilobytes of it are still to come */
    rh_sched_space(b.s, rh_sched_defaults.headroom + 1500);
    finish_what_runs(&b);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    b.job = bench_submit(&b, "J2", -1, 2, 0);
    rh_sched_dispatch(b.s, b.now);
    struct rh_graph *graph = rh_graph_new(3, 1, 2, 2);
    graph->source_bytes[0] = 1000;
    bench_finish(&b, bench_task(&b, RH_OP_PLAN, 0), graph);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_true(b.job->reserved);
    bench_teardown(&b);
}

/* The worker with the most room need not be the largest one. */
static void the_reason_names_the_largest_worker(void **state)
{
    struct bench b;
    (void)state;
    refused(&b, 32 * GB, 23 * GB);
    finish_what_runs(&b);
    const struct rh_sched_hello hello = {.id = "busy",
                                         .incarnation = 1,
                                         .stage = RH_STAGE_QUANTIZE,
                                         .slots = 1,
                                         .device_bytes = 80 * GB};
    rh_sched_hello(b.s, b.now, &hello);
    beat(&b, "busy", 1, 10 * GB, true);
    assert_non_null(strstr(b.job->reason, "of the 80 GB of the largest worker 10 GB are free (busy)"));
    bench_teardown(&b);
}

/* Before any worker has come after a start nothing is known; who was parked stays so. */
static void what_was_found_out_outlives_a_restart(void **state)
{
    struct bench b;
    (void)state;
    struct rh_sched_task row = *refused(&b, 32 * GB, 23 * GB);
    assert_int_equal(row.device_need, 32 * GB);
    finish_what_runs(&b);
    struct rh_sched_job parked = {.id = "J1", .seq = 1, .state = RH_JOB_BLOCKED};
    struct rh_sched_task rows[64];
    size_t count = b.job->task_count;
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++) {
        rows[i] = *b.job->tasks[i];
        rows[i].error = NULL;
    }
    bench_teardown(&b);
    b = (struct bench){.now = 1000, .s = rh_sched_new(&rh_sched_defaults)};
    b.job = rh_sched_load_job(b.s, &parked);
    for (size_t i = 0; i < count; i++)
        rh_sched_load_task(b.s, b.job, &rows[i]);
    rh_sched_loaded(b.s, b.now, b.job, rh_graph_new(3, 1, 2, 2));
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "tune needs 32 GB of GPU memory; no worker is here"));
    gpu(&b, "q", 3, 24 * GB);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    gpu(&b, "big", 1, 80 * GB);
    assert_int_equal(b.job->state, RH_JOB_RUNNING);
    assert_string_equal(bench_task(&b, RH_OP_TUNE, 0)->worker, "big");
    bench_teardown(&b);
}

static void resume_tries_it_all_the_same(void **state)
{
    struct bench b;
    struct rh_error err;
    (void)state;
    struct rh_sched_task *t = refused(&b, 32 * GB, 23 * GB);
    finish_what_runs(&b);
    assert_int_equal(rh_sched_set_desired(b.s, b.now, b.job, RH_DESIRED_RUN, &err), RH_OK);
    beat(&b, "q", 2, 24 * GB, true);
    assert_int_equal(t->device_need, 0);
    assert_string_equal(t->worker, "q");
    bench_teardown(&b);
}

/* A full disk is another matter: the device had the memory. */
static void a_full_disk_is_not_taken_for_a_small_device(void **state)
{
    struct bench b;
    (void)state;
    bench_setup(&b, 0);
    struct rh_sched_task *t = bench_start_tuning(&b, 3);
    rh_sched_result(b.s, b.now, "q", t->id, t->epoch, false, RH_FAILURE_RESOURCE, "disk full",
                    NULL);
    rh_sched_dispatch(b.s, b.now);
    assert_int_equal(b.job->state, RH_JOB_BLOCKED);
    assert_non_null(strstr(b.job->reason, "disk full"));
    bench_teardown(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_probe_that_is_refused_waits_like_a_tuning),
        cmocka_unit_test(a_job_waits_for_a_larger_device_and_goes_on_by_itself),
        cmocka_unit_test(another_worker_with_the_memory_takes_it_at_once),
        cmocka_unit_test(a_small_worker_is_no_substitute),
        cmocka_unit_test(memory_that_somebody_else_has_is_waited_for),
        cmocka_unit_test(a_worker_without_a_device_takes_everything),
        cmocka_unit_test(nobody_waits_for_a_job_that_waits),
        cmocka_unit_test(the_disk_is_for_those_that_can_go_on),
        cmocka_unit_test(the_reason_names_the_largest_worker),
        cmocka_unit_test(what_was_found_out_outlives_a_restart),
        cmocka_unit_test(resume_tries_it_all_the_same),
        cmocka_unit_test(a_full_disk_is_not_taken_for_a_small_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
