/* The whole factory on nano: five daemons, real files, real processes. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "run.h"

/* The first event of that kind; -1 stands for any index or block. */
static int64_t seq_of(const struct rh_json *event)
{
    int64_t seq = -1;
    assert_true(rh_json_int(rh_json_get(event, "seq"), &seq));
    return seq;
}

static void expect_between(const struct rh_json *log, const struct rh_json *event, int64_t block)
{
    int64_t from = seq_of(find_event(log, "block.started", NULL, -1, block));
    int64_t to = seq_of(find_event(log, "block.done", NULL, -1, block));
    assert_true(from < to);
    assert_in_range(seq_of(event), from, to);
}

static void expect_five_processes(const struct rh_json *log)
{
    static const char *const ops[] = {"fetch", "calibrate", "tune", "pack", "publish"};
    int64_t pids[5];
    for (int i = 0; i < 5; i++) {
        const struct rh_json *event = find_event(log, "task.done", ops[i], -1, -1);
        assert_true(rh_json_int(rh_json_get(event, "pid"), &pids[i]));
        assert_true(pids[i] > 1);
        for (int j = 0; j < i; j++)
            assert_int_not_equal(pids[i], pids[j]);
    }
}

/* Unit of block b is b + 1: while block 1 is tuned, block 2 is fetched and block 0 packed. */
static void one_command_publishes_a_verified_checkpoint_and_stages_overlap(void **state)
{
    (void)state;
    struct place place;
    struct proc p;
    place_make(&place);
    run_whole(&place, "out", NULL, &p);
    expect_exit(&p, 0);
    assert_null(strchr(p.out, '\x1b'));
    assert_null(strchr(p.err, '\x1b'));
    proc_done(&p);
    char *out = place_path(&place, "out");
    proc_run(&p, 60, (const char *[]){"roundhouse", "verify", out, "--source", place.model, NULL});
    expect_exit(&p, 0);
    proc_done(&p);
    struct rh_json *log = event_log(&place, "out");
    expect_five_processes(log);
    expect_between(log, find_event(log, "task.done", "fetch", 3, -1), 1);
    expect_between(log, find_event(log, "task.done", "pack", 1, -1), 1);
    rh_json_free(log);
    rh_free(out);
    place_done(&place);
}

static void the_number_of_threads_never_changes_a_byte(void **state)
{
    (void)state;
    static const char *const threads[] = {"resources.threads=1", "resources.threads=2",
                                          "resources.threads=3"};
    struct place place;
    place_make(&place);
    char *first = NULL;
    for (int i = 0; i < 3; i++) {
        struct proc p;
        const char *name = (const char *[]){"one", "two", "three"}[i];
        run_whole(&place, name, (const char *[]){threads[i], NULL}, &p);
        expect_exit(&p, 0);
        proc_done(&p);
        char *digest = weights_digest(&place, name);
        if (first)
            assert_string_equal(digest, first);
        else
            first = rh_strdup(digest);
        rh_free(digest);
    }
    rh_free(first);
    place_done(&place);
}

/* Without an orchestrator of its own to ask, "list" starts one, and in a loop it would keep the run
 * from its own state directory. */
static bool somebody_answers(const char *state_dir)
{
    char *socket = rh_format("%s/run/api.sock", state_dir);
    bool there = rh_fs_exists(socket);
    rh_free(socket);
    return there;
}

/* Asks the running factory whether that block is under way. */
static bool is_being_tuned(const char *state_dir, int64_t block)
{
    if (!somebody_answers(state_dir))
        return false;
    struct proc p;
    struct rh_json *jobs = NULL;
    int64_t current = -1;
    int64_t iter = 0;
    proc_run(&p, 60, (const char *[]){"roundhouse", "list", "--json", "--state", state_dir, NULL});
    if (p.status == 0 && rh_json_parse(p.out, strlen(p.out), "list", &jobs, NULL) == RH_OK) {
        const struct rh_json *job = rh_json_first(rh_json_get(jobs, "jobs"));
        (void)rh_json_int(rh_json_get(rh_json_get(job, "blocks"), "current"), &current);
        (void)rh_json_int(rh_json_get(rh_json_get(job, "blocks"), "iter"), &iter);
    }
    rh_json_free(jobs);
    proc_done(&p);
    return current == block && iter > 0;
}

static bool block_2_is_being_tuned(void *state_dir)
{
    return is_being_tuned(state_dir, 2);
}

static bool the_mtp_head_is_being_tuned(void *state_dir)
{
    return is_being_tuned(state_dir, 4);
}

static void killing_the_tuner_in_block_2_costs_no_byte(void **state)
{
    (void)state;
    static const char *const settings[] = {"quant.iters=120", "quant.batch_size=2", NULL};
    struct place place;
    place_make(&place);
    must_run(&place, "calm", settings);
    must_run_killed(&place, "killed", settings, "rh-quantize", block_2_is_being_tuned, 120);

    char *calm = weights_digest(&place, "calm");
    char *killed = weights_digest(&place, "killed");
    assert_string_equal(calm, killed);
    struct rh_json *log = event_log(&place, "killed");
    const struct rh_json *lost = find_event(log, "task.lost", "tune", -1, -1);
    assert_non_null(strstr(rh_json_string(rh_json_get(lost, "text")), "signal 9"));
    expect_between(log, lost, 2);
    rh_json_free(log);
    rh_free(calm);
    rh_free(killed);
    place_done(&place);
}

static void killing_the_tuner_in_the_mtp_head_costs_no_byte(void **state)
{
    (void)state;
    static const char *const settings[] = {"mtp.method=tune", "quant.iters=80",
                                           "quant.batch_size=2", "resources.threads=1", NULL};
    static const char *const others[] = {"mtp.method=tune", "quant.iters=80", "quant.batch_size=2",
                                         "resources.threads=2", NULL};
    struct place place;
    struct proc p;
    place_make(&place);
    run_whole(&place, "calm", settings, &p);
    expect_exit(&p, 0);
    assert_non_null(strstr(p.err, "mtp head  loss "));
    proc_done(&p);

    must_run_killed(&place, "killed", others, "rh-quantize", the_mtp_head_is_being_tuned, 120);

    char *calm = weights_digest(&place, "calm");
    char *killed = weights_digest(&place, "killed");
    assert_string_equal(calm, killed);
    struct rh_json *log = event_log(&place, "killed");
    expect_between(log, find_event(log, "task.lost", "tune", -1, -1), 4);
    rh_json_free(log);

    /* And it is not what rounding to nearest gives. */
    run_whole(&place, "rounded", settings + 1, &p);
    expect_exit(&p, 0);
    assert_null(strstr(p.err, "mtp head"));
    proc_done(&p);
    char *rounded = weights_digest(&place, "rounded");
    assert_string_not_equal(calm, rounded);
    rh_free(rounded);
    rh_free(calm);
    rh_free(killed);
    place_done(&place);
}

static bool nobody_is_left(void *state_dir)
{
    return find_process("--state", state_dir) == 0;
}

/* Interrupted in the middle, and later killed without a word, the same command goes on; no process
 * of the factory outlives it. */
static void an_interrupted_run_goes_on_and_leaves_nobody_behind(void **state)
{
    (void)state;
    static const char *const settings[] = {"quant.iters=120", "quant.batch_size=2", NULL};
    struct place place;
    struct proc p;
    place_make(&place);
    char *job_state = place_path(&place, "out.state");
    char *out = place_path(&place, "out");
    run_start(&place, "out", settings, &p);
    assert_true(wait_until(block_2_is_being_tuned, job_state, 120));
    assert_int_equal(kill(p.pid, SIGINT), 0);
    proc_wait(&p, 120);
    expect_exit(&p, 130);
    expect_one_error(&p, (const char *[]){"interrupted", "goes on from here", job_state, NULL});
    proc_done(&p);
    assert_true(nobody_is_left(job_state));
    assert_false(rh_fs_exists(out));

    run_start(&place, "out", settings, &p);
    assert_true(wait_until(block_2_is_being_tuned, job_state, 120));
    assert_int_equal(kill(p.pid, SIGKILL), 0);
    proc_wait(&p, 120);
    expect_exit(&p, 128 + SIGKILL);
    proc_done(&p);
    assert_true(wait_until(nobody_is_left, job_state, 60));

    run_start(&place, "out", settings, &p);
    assert_true(wait_until(block_2_is_being_tuned, job_state, 120));
    pid_t factory = find_process("roundhoused", job_state);
    assert_true(factory > 0);
    assert_int_equal(kill(factory, SIGKILL), 0);
    proc_wait(&p, 300);
    expect_exit(&p, 0);
    assert_non_null(strstr(p.err, "starting it again"));
    proc_done(&p);
    /* Daemons of the killed one are nobody's children: they have 15 seconds to end what they are at. */
    assert_true(wait_until(nobody_is_left, job_state, 60));

    run_whole(&place, "calm", settings, &p);
    expect_exit(&p, 0);
    proc_done(&p);
    char *calm = weights_digest(&place, "calm");
    char *disturbed = weights_digest(&place, "out");
    assert_string_equal(calm, disturbed);
    rh_free(calm);
    rh_free(disturbed);
    rh_free(job_state);
    rh_free(out);
    place_done(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_command_publishes_a_verified_checkpoint_and_stages_overlap),
        cmocka_unit_test(the_number_of_threads_never_changes_a_byte),
        cmocka_unit_test(killing_the_tuner_in_block_2_costs_no_byte),
        cmocka_unit_test(killing_the_tuner_in_the_mtp_head_costs_no_byte),
        cmocka_unit_test(an_interrupted_run_goes_on_and_leaves_nobody_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
