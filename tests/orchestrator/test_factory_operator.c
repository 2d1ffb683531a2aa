/* What operators do with jobs and workers, and what the factory does by itself about tasks that
 * kill or hang. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "house.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, house_set_up, house_tear_down)

static void expect_reason(struct house *h, const char *id, const char *word)
{
    struct rh_json *job = house_job(h, id);
    const char *reason = rh_json_string(rh_json_get(job, "reason"));
    if (!reason || !strstr(reason, word))
        fail_msg("\"%s\" is not in the reason: %s", word, reason ? reason : "none");
    rh_json_free(job);
}

/* The id of the job's first task of an operation. */
static int64_t task_id(struct house *h, const char *job, const char *op)
{
    struct rh_json *tasks = NULL;
    struct rh_error err;
    int64_t id = 0;
    assert_int_equal(rh_factory_tasks(h->factory, job, &tasks, &err), RH_OK);
    const struct rh_json *t = rh_json_first(rh_json_get(tasks, "tasks"));
    while (t && strcmp(rh_json_string(rh_json_get(t, "op")), op) != 0)
        t = rh_json_next(t);
    assert_true(rh_json_int(rh_json_get(t, "id"), &id));
    rh_json_free(tasks);
    return id;
}

static enum rh_rc retry(struct house *h, const char *id, int64_t block, int64_t task,
                        struct rh_error *err)
{
    struct rh_json *job = NULL;
    enum rh_rc rc = rh_factory_retry(h->factory, id, block, task, &job, err);
    rh_json_free(job);
    return rc;
}

static int64_t pid_of(struct house *h, const char *worker)
{
    struct rh_json *workers = rh_factory_workers(h->factory);
    int64_t pid = 0;
    for (const struct rh_json *w = rh_json_first(rh_json_get(workers, "workers")); w;
         w = rh_json_next(w)) {
        if (strcmp(rh_json_string(rh_json_get(w, "id")), worker) == 0)
            assert_true(rh_json_int(rh_json_get(w, "pid"), &pid));
    }
    rh_json_free(workers);
    return pid;
}

/* -- Devices ---------------------------------------------------------------------------------- */

static void set_device(const struct house *h, const char *text)
{
    struct rh_error err;
    char *path = rh_fs_join(h->dir, "device");
    assert_int_equal(rh_fs_write(path, text, strlen(text), &err), RH_OK);
    setenv("FAKE_DEVICE", path, 1);
    rh_free(path);
}

static bool has_worker(struct house *h, void *stage)
{
    struct rh_json *json = rh_factory_workers(h->factory);
    bool there = false;
    for (const struct rh_json *w = rh_json_first(rh_json_get(json, "workers")); w;
         w = rh_json_next(w))
        there = there || (strcmp(rh_json_string(rh_json_get(w, "stage")), stage) == 0 &&
                          rh_json_bool(rh_json_get(w, "connected"), false));
    rh_json_free(json);
    return there;
}

struct wait_reason {
    const char *id, *word;
};

static bool reason_has(struct house *h, void *arg)
{
    const struct wait_reason *w = arg;
    struct rh_json *job = house_job(h, w->id);
    const char *reason = rh_json_string(rh_json_get(job, "reason"));
    bool has = reason && strstr(reason, w->word);
    rh_json_free(job);
    return has;
}

static void a_job_that_no_gpu_can_tune_waits_and_goes_on_by_itself(void **state)
{
    struct house *h = *state;
    h->sched.retry_ms = 50;
    set_device(h, "24e9 23e9");
    house_mark(h, "large");
    house_open(h);
    char *large = house_submit(h, "large");
    house_await(h, large, "blocked");
    expect_reason(h, large, "tune needs 32 GB of GPU memory; the largest worker has 24 GB (");
    house_unmark(h, "large");
    char *small = house_submit(h, "small"); /* the same model: only the marker makes it large */
    house_await(h, small, "done");
    house_mark(h, "large");
    expect_reason(h, large, "tune needs 32 GB of GPU memory");
    assert_int_equal(house_count(h, large, "task.started", "tune"), 1);
    /* What was found out outlives the orchestrator. */
    house_close(h);
    house_open(h);
    expect_reason(h, large, "tune needs 32 GB of GPU memory");
    house_wait(h, has_worker, (void *)(uintptr_t) "quantize", 30);
    expect_reason(h, large, "the largest worker has 24 GB (");
    assert_int_equal(house_count(h, large, "task.started", "tune"), 1);
    set_device(h, "80e9 9e9"); /* a larger card, of which another program has most */
    assert_int_equal(kill((pid_t)pid_of(h, "quantize-1"), SIGTERM), 0);
    house_wait(h, reason_has, &(struct wait_reason){large, "80 GB of the largest worker 9 GB"}, 30);
    set_device(h, "80e9 79e9"); /* and ends */
    house_await(h, large, "done");
    assert_int_equal(house_count(h, large, "block.done", NULL), 3);
    unsetenv("FAKE_DEVICE");
    rh_free(small);
    rh_free(large);
}

static bool is_late(struct house *h, void *at)
{
    (void)h;
    return rh_clock_ns() >= *(const int64_t *)at;
}

/* Files of finished jobs go for a job that waits for room on the disk, and for no other. */
static void nothing_is_collected_for_a_job_that_waits_for_a_gpu(void **state)
{
    struct house *h = *state;
    h->sched.retry_ms = 50;
    h->options.retain_bytes = INT64_C(1) << 40;
    set_device(h, "24e9 23e9");
    house_mark(h, "weights");
    house_mark(h, "large");
    house_open(h);
    char *large = house_submit(h, "large");
    house_await(h, large, "blocked");
    house_unmark(h, "large");
    char *small = house_submit(h, "small");
    house_await(h, small, "done");
    house_close(h);
    house_open(h);
    int64_t at = rh_clock_ns() + INT64_C(2000000000); /* a few ticks */
    house_wait(h, is_late, &at, 10);
    expect_reason(h, large, "tune needs 32 GB of GPU memory");
    assert_true(house_has(h, small, "artifacts/fetch-00000/tensors.safetensors"));
    unsetenv("FAKE_DEVICE");
    rh_free(small);
    rh_free(large);
}

/* -- Poison and hangs ------------------------------------------------------------------------- */

static void a_task_that_kills_its_worker_is_quarantined_and_the_queue_flows_on(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    h->sched.retry_ms = 50;
    house_mark(h, "poison-calibrate");
    house_open(h);
    char *sick = house_submit(h, "sick");
    house_await(h, sick, "held");
    expect_reason(h, sick, "calibrate 0 took its worker down 3 times");
    expect_reason(h, sick, "signal 11");
    assert_int_equal(house_count(h, sick, "task.quarantined", "calibrate"), 1);
    /* Held, it is in nobody's way, also across a restart. */
    house_close(h);
    house_open(h);
    house_unmark(h, "poison-calibrate");
    char *well = house_submit(h, "well");
    house_await(h, well, "done");
    expect_reason(h, sick, "calibrate 0 took its worker down 3 times");
    assert_int_equal(retry(h, sick, -1, task_id(h, sick, "plan"), &err), RH_ERR_EXISTS);
    assert_int_equal(retry(h, sick, -1, 999999, &err), RH_ERR_NOT_FOUND);
    assert_int_equal(retry(h, sick, -1, task_id(h, sick, "calibrate"), &err), RH_OK);
    house_await(h, sick, "done");
    rh_free(well);
    rh_free(sick);
}

static void a_compute_thread_that_hangs_is_seen_although_its_worker_beats(void **state)
{
    struct house *h = *state;
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        h->sched.stall_ms[i] = 1500;
    h->sched.grace_ms = 500;
    h->sched.retry_ms = 50;
    house_mark(h, "hang-tune");
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "task.stalled", "tune"), 1);
    assert_int_equal(house_count(h, id, "task.lost", "tune"), 1);
    assert_int_equal(house_count(h, id, "task.started", "tune"), 2);
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    char *text = house_event_text(h, "worker.gone");
    assert_non_null(strstr(text, "quantize-1 was ended"));
    rh_free(text);
    rh_free(id);
}

/* -- Holds, retries, drains ------------------------------------------------------------------- */

static void a_job_submitted_on_hold_starts_when_it_is_resumed(void **state)
{
    struct house *h = *state;
    struct rh_json *job = NULL;
    struct rh_error err;
    house_open(h);
    struct rh_json *request = house_request(h, "out", NULL);
    rh_json_set_bool(request, "hold", true);
    assert_int_equal(rh_factory_submit(h->factory, request, &job, &err), RH_OK);
    char *id = rh_strdup(rh_json_string(rh_json_get(job, "id")));
    rh_json_free(job);
    rh_json_free(request);
    house_await(h, id, "held");
    char *other = house_submit(h, "other");
    house_await(h, other, "done");
    assert_int_equal(house_count(h, id, "task.started", NULL), 0);
    house_desire(h, id, "run");
    house_await(h, id, "done");
    rh_free(other);
    rh_free(id);
}

static bool two_blocks_done(struct house *h, void *id)
{
    return house_count(h, id, "block.done", NULL) >= 2;
}

static void tuning_can_be_done_again_from_a_block(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, two_blocks_done, id, 30);
    assert_int_equal(retry(h, id, 0, 0, &err), RH_ERR_EXISTS);
    assert_non_null(strstr(err.message, "pause it"));
    house_desire(h, id, "pause");
    house_await(h, id, "paused");
    int done = house_count(h, id, "block.done", NULL);
    /* Block 1 needs the chain of block 0, which is gone since block 1 was tuned: back to the start.
     */
    assert_int_equal(retry(h, id, 1, 0, &err), RH_OK);
    assert_false(house_has(h, id, "artifacts/tune-00001"));
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), done + 3);
    assert_int_equal(house_count(h, id, "job.rewound", NULL), 1);
    assert_int_equal(house_count(h, id, "task.done", "publish"), 1);
    assert_int_equal(retry(h, id, 0, 0, &err), RH_ERR_EXISTS); /* done */
    rh_free(id);
}

static void a_chain_that_somebody_deleted_costs_blocks_not_the_job(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, two_blocks_done, id, 30);
    house_desire(h, id, "pause");
    house_await(h, id, "paused");
    house_close(h);
    char *chain = rh_format("%s/jobs/%s/artifacts/tune-00001/chain.safetensors", h->state, id);
    assert_int_equal(rh_fs_remove_tree(chain, &err), RH_OK);
    rh_free(chain);
    house_open(h);
    house_desire(h, id, "run");
    house_await(h, id, "done");
    rh_free(id);
}

static bool calibrates(struct house *h, void *id)
{
    return house_count(h, id, "task.done", "calibrate") == 1;
}

static bool has_joined(struct house *h, void *arg)
{
    struct rh_json *workers = rh_factory_workers(h->factory);
    bool there = false;
    for (const struct rh_json *w = rh_json_first(rh_json_get(workers, "workers")); w;
         w = rh_json_next(w))
        there = there || (strcmp(rh_json_string(rh_json_get(w, "id")), arg) == 0 &&
                          rh_json_bool(rh_json_get(w, "connected"), false));
    rh_json_free(workers);
    return there;
}

static enum rh_rc drain(struct house *h, const char *worker, bool drained)
{
    struct rh_json *workers = NULL;
    struct rh_error err;
    enum rh_rc rc = rh_factory_drain(h->factory, worker, drained, "new disk", &workers, &err);
    rh_json_free(workers);
    return rc;
}

static void a_drained_worker_stays_so_across_restarts(void **state)
{
    struct house *h = *state;
    house_open(h);
    assert_int_equal(drain(h, "nobody", true), RH_ERR_NOT_FOUND);
    char worker[] = "quantize-1";
    house_wait(h, has_joined, worker, 20);
    assert_int_equal(drain(h, worker, true), RH_OK);
    char *id = house_submit(h, "out");
    house_wait(h, calibrates, id, 30);
    house_close(h);
    house_open(h);
    house_wait(h, has_joined, worker, 20);
    struct rh_json *workers = rh_factory_workers(h->factory);
    char *text = rh_json_text(workers, false);
    assert_non_null(strstr(text, "\"why\":\"new disk\""));
    rh_free(text);
    rh_json_free(workers);
    assert_int_equal(house_count(h, id, "task.started", "tune"), 0);
    assert_int_equal(drain(h, worker, false), RH_OK);
    house_await(h, id, "done");
    rh_free(id);
}

/* -- Leaving in good order -------------------------------------------------------------------- */

static bool a_block_is_done(struct house *h, void *id)
{
    return house_count(h, id, "block.done", NULL) >= 1;
}

/* SIGTERM to every daemon in the middle of the work, then to the whole: no block is tuned twice but
 * the one that was being tuned. */
static void a_termination_of_any_daemon_loses_no_block(void **state)
{
    static char names[][16] = {"download-1", "calibrate-1", "quantize-1", "pack-1", "publish-1"};
    struct house *h = *state;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, a_block_is_done, id, 30);
    for (int i = 0; i < 5; i++) {
        house_wait(h, has_joined, names[i], 20);
        assert_int_equal(kill((pid_t)pid_of(h, names[i]), SIGTERM), 0);
    }
    house_close(h);
    house_open(h);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    assert_int_equal(house_count(h, id, "task.quarantined", NULL), 0);
    rh_free(id);
}

static bool a_second_block_has_begun(struct house *h, void *id)
{
    return house_count(h, id, "block.started", NULL) >= 2;
}

static bool has_stopped(struct house *h, void *id)
{
    return house_count(h, id, "task.stopped", "tune") >= 1;
}

/* How often a block was begun before the job was done, with a SIGTERM in the second one. */
static int64_t blocks_begun(struct house *h, int64_t grace_s)
{
    h->options.grace_s = grace_s;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, a_second_block_has_begun, id, 20);
    assert_int_equal(kill((pid_t)pid_of(h, "quantize-1"), SIGTERM), 0);
    house_wait(h, has_stopped, id, 20);
    int64_t tuned = house_count(h, id, "block.done", NULL);
    char *text = house_event_text(h, "task.stopped");
    assert_non_null(strstr(text, "the worker leaves"));
    rh_free(text);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    assert_int_equal(house_count(h, id, "task.started", "tune"), 2);
    assert_int_equal(house_count(h, id, "task.lost", "tune"), 0);
    text = house_event_text(h, "worker.gone"); /* whichever is heard of first */
    assert_true(strstr(text, "said goodbye") || strstr(text, "exit code 0"));
    rh_free(text);
    rh_free(id);
    return tuned;
}

static void a_daemon_that_is_terminated_ends_its_block(void **state)
{
    assert_int_equal(blocks_begun(*state, 30), 2);
}

static void without_time_it_goes_back_to_the_last_boundary(void **state)
{
    assert_int_equal(blocks_begun(*state, 0), 1);
}

/* The whole house is asked to leave: the block is stored before it does. */
static void a_house_that_closes_waits_for_the_block(void **state)
{
    struct house *h = *state;
    h->options.grace_s = 30;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, a_second_block_has_begun, id, 20);
    house_close(h);
    house_open(h);
    assert_int_equal(house_count(h, id, "block.done", NULL), 2);
    assert_int_equal(house_count(h, id, "task.stopped", "tune"), 1);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    rh_free(id);
}

/* -- Two orchestrators ------------------------------------------------------------------------ */

static void a_second_orchestrator_leaves_before_it_binds_anything(void **state)
{
    struct house *h = *state;
    int out[2];
    char text[4096] = "";
    char *program = rh_format("%s/roundhoused", RH_BIN_DIR);
    house_open(h);
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(out[1], 2);
        execl(program, program, "--state", h->state, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    size_t size = 0;
    ssize_t got;
    while ((got = read(out[0], text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)got;
    close(out[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 5);
    char *pid = rh_format("%d", (int)getpid());
    assert_non_null(strstr(text, pid));
    /* The first one still has its socket. */
    char worker[] = "pack-1";
    house_wait(h, has_joined, worker, 20);
    rh_free(pid);
    rh_free(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_that_no_gpu_can_tune_waits_and_goes_on_by_itself),
        TEST(nothing_is_collected_for_a_job_that_waits_for_a_gpu),
        TEST(a_task_that_kills_its_worker_is_quarantined_and_the_queue_flows_on),
        TEST(a_compute_thread_that_hangs_is_seen_although_its_worker_beats),
        TEST(a_job_submitted_on_hold_starts_when_it_is_resumed),
        TEST(tuning_can_be_done_again_from_a_block),
        TEST(a_chain_that_somebody_deleted_costs_blocks_not_the_job),
        TEST(a_drained_worker_stays_so_across_restarts),
        TEST(a_termination_of_any_daemon_loses_no_block),
        TEST(a_daemon_that_is_terminated_ends_its_block),
        TEST(without_time_it_goes_back_to_the_last_boundary),
        TEST(a_house_that_closes_waits_for_the_block),
        TEST(a_second_orchestrator_leaves_before_it_binds_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
