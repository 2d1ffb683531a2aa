/* What goes wrong around the factory: stages that fail and die, a killed orchestrator, a full disk,
 * strangers on the work socket. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "house.h"
#include "store/store.h"
#include "stranger.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, house_set_up, house_tear_down)

static void expect_reason(struct house *h, const char *id, const char *word)
{
    struct rh_json *job = house_job(h, id);
    const char *reason = rh_json_string(rh_json_get(job, "reason"));
    if (!reason || !strstr(reason, word))
        fail_msg("\"%s\" is not in the reason: %s", word, reason ? reason : "none");
    rh_json_free(job);
}

/* -- Stages ----------------------------------------------------------------------------------- */

static void a_failure_ends_the_job_with_its_words_and_it_can_be_taken_up_again(void **state)
{
    struct house *h = *state;
    house_mark(h, "fail-finalize");
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "failed");
    expect_reason(h, id, "the fake finalize was told to fail");
    assert_true(house_has(h, id, "artifacts/tune-00002/block.safetensors"));
    house_unmark(h, "fail-finalize");
    house_desire(h, id, "run");
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    rh_free(id);
}

static void a_plan_without_blocks_fails_the_job_and_is_not_committed(void **state)
{
    struct house *h = *state;
    house_mark(h, "odd-plan");
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "failed");
    expect_reason(h, id, "no unit of kind \"block\"");
    assert_false(house_has(h, id, "artifacts/plan-00000"));
    rh_free(id);
}

static void without_room_the_job_waits_and_says_why(void **state)
{
    struct house *h = *state;
    house_mark(h, "full-calibrate");
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "blocked");
    expect_reason(h, id, "no room");
    house_unmark(h, "full-calibrate");
    house_desire(h, id, "run");
    house_await(h, id, "done");
    rh_free(id);
}

static void a_stage_that_dies_is_started_again_and_its_task_too(void **state)
{
    struct house *h = *state;
    house_mark(h, "crash-tune");
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "done");
    char *text = house_event_text(h, "worker.gone");
    assert_non_null(strstr(text, "signal 9"));
    assert_int_equal(house_count(h, id, "task.lost", "tune"), 1);
    assert_int_equal(house_count(h, id, "task.started", "tune"), 2);
    rh_free(text);
    rh_free(id);
}

/* -- The orchestrator itself ------------------------------------------------------------------ */

static bool block_is_done(struct house *h, void *id)
{
    return house_count(h, id, "block.done", NULL) > 0;
}

static void a_restart_goes_on_at_the_block_it_was_at(void **state)
{
    struct house *h = *state;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, block_is_done, id, 30);
    house_close(h);
    house_open(h);
    assert_int_equal(rh_factory_epoch(h->factory), 2);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    assert_int_equal(house_count(h, id, "task.done", "plan"), 1);
    assert_int_equal(house_count(h, NULL, "factory.started", NULL), 2);
    rh_free(id);
}

/* A child process runs the factory and is killed at the named point. */
static void run_until_killed(struct house *h, const char *point)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        setenv("RH_CRASH_AT", point, 1);
        uv_loop_t loop;
        struct rh_error err;
        struct rh_json *job = NULL;
        uv_loop_init(&loop);
        if (rh_factory_new(&loop, &h->options, &h->factory, &err) != RH_OK)
            _exit(1);
        struct rh_json *request = house_request(h, "out", "token");
        if (rh_factory_submit(h->factory, request, &job, &err) != RH_OK)
            _exit(2);
        uv_run(&loop, UV_RUN_DEFAULT);
        _exit(3);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Commits in order: plan, then fetches, calibration, blocks. Wherever it dies, nothing is lost. */
static void a_kill_around_any_commit_is_healed_by_the_next_start(void **state)
{
    static const char *const points[] = {"after_commit_before_row", "after_commit_before_row:3",
                                         "before_commit:6", "after_commit_before_row:9"};
    struct house *h = *state;
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        run_until_killed(h, points[i]);
        house_open(h);
        struct rh_json *jobs = rh_factory_jobs(h->factory, true, NULL);
        const struct rh_json *list = rh_json_get(jobs, "jobs");
        assert_int_equal(rh_json_count(list), 1);
        char *id = rh_strdup(rh_json_string(rh_json_get(rh_json_first(list), "id")));
        rh_json_free(jobs);
        house_await(h, id, "done");
        struct rh_json *job = house_job(h, id);
        int64_t blocks = 0;
        assert_true(rh_json_int(rh_json_get(rh_json_get(job, "blocks"), "done"), &blocks));
        assert_int_equal(blocks, 3);
        rh_json_free(job);
        rh_free(id);
        house_close(h);
        struct rh_error err;
        assert_int_equal(rh_fs_remove_tree(h->state, &err), RH_OK);
    }
}

static void a_second_factory_on_the_directory_names_the_first(void **state)
{
    struct house *h = *state;
    struct rh_factory *second = NULL;
    struct rh_error err;
    h->options.spawn = false;
    house_open(h);
    assert_int_equal(rh_factory_new(&h->loop, &h->options, &second, &err), RH_ERR_EXISTS);
    assert_null(second);
    char *pid = rh_format("%d", (int)getpid());
    assert_non_null(strstr(err.message, pid));
    rh_free(pid);
}

static void a_run_directory_too_long_for_sockets_is_one_clear_error(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    char name[100];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    char *run = rh_fs_join(h->dir, name);
    h->options.spawn = false;
    h->options.run_dir = run;
    assert_int_equal(rh_factory_new(&h->loop, &h->options, &h->factory, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "--run"));
    assert_false(rh_fs_exists(run));
    rh_free(run);
}

static void a_missing_stage_program_is_named(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    char *path = rh_fs_join(h->bin, "rh-pack");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rh_factory_new(&h->loop, &h->options, &h->factory, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
    uv_run(&h->loop, UV_RUN_DEFAULT);
    rh_free(path);
}

/* Daemons that nobody supervises, as on another machine. */
static void start_daemons(const struct house *h, pid_t pids[5])
{
    static const char *const stages[] = {"download", "calibrate", "quantize", "pack", "publish"};
    char *endpoint = rh_format("ipc://%s/run/work.sock", h->state);
    for (int i = 0; i < 5; i++) {
        char *program = rh_format("%s/rh-%s", h->bin, stages[i]);
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            setenv("RH_LOG", "error", 1);
            execl(program, program, "--connect", endpoint, "--state", h->state, "--worker",
                  stages[i], (char *)NULL);
            _exit(127);
        }
        rh_free(program);
    }
    rh_free(endpoint);
}

static void stop_daemons(const pid_t pids[5])
{
    for (int i = 0; i < 5; i++)
        assert_int_equal(kill(pids[i], SIGKILL), 0);
    for (int i = 0; i < 5; i++)
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
}

static void a_daemon_works_on_while_the_orchestrator_is_away(void **state)
{
    struct house *h = *state;
    pid_t pids[5];
    house_mark(h, "slow");
    h->options.spawn = false;
    house_open(h);
    start_daemons(h, pids);
    char *id = house_submit(h, "out");
    house_wait(h, block_is_done, id, 30);
    house_close(h);
    nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    house_open(h);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "task.started", "tune"), 1);
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    stop_daemons(pids);
    rh_free(id);
}

static bool has_left(struct house *h, void *arg)
{
    siginfo_t info = {0};
    (void)h;
    assert_int_equal(waitid(P_PID, (id_t) * (pid_t *)arg, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid != 0;
}

/* Nobody kills a daemon that was started by hand; it sees for itself that it is of no use. */
static void a_daemon_whose_thread_hangs_leaves_by_itself(void **state)
{
    struct house *h = *state;
    pid_t pids[5];
    int status = 0;
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        h->sched.stall_ms[i] = 1500;
    h->sched.grace_ms = 500;
    h->options.spawn = false;
    house_mark(h, "hang-tune");
    house_open(h);
    start_daemons(h, pids);
    char *id = house_submit(h, "out");
    house_wait(h, has_left, &pids[2], 30);
    assert_int_equal(waitpid(pids[2], &status, 0), pids[2]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 75);
    assert_int_equal(house_count(h, id, "task.stalled", "tune"), 1);
    for (int i = 0; i < 5; i++) {
        if (i == 2)
            continue;
        assert_int_equal(kill(pids[i], SIGKILL), 0);
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
    }
    rh_free(id);
}

static bool five_joined(struct house *h, void *arg)
{
    (void)arg;
    return house_count(h, NULL, "worker.joined", NULL) == 5;
}

static void note_stop(void *arg)
{
    *(bool *)arg = true;
}

static void a_second_request_to_stop_does_not_wait_for_a_frozen_stage(void **state)
{
    struct house *h = *state;
    bool stopped = false;
    int64_t pid = 0;
    house_open(h);
    house_wait(h, five_joined, NULL, 20);
    struct rh_json *workers = rh_factory_workers(h->factory);
    assert_true(
        rh_json_int(rh_json_get(rh_json_first(rh_json_get(workers, "workers")), "pid"), &pid));
    rh_json_free(workers);
    assert_int_equal(kill((pid_t)pid, SIGSTOP), 0);
    int64_t started = rh_clock_ns();
    rh_factory_stop(h->factory, note_stop, &stopped);
    rh_factory_stop(h->factory, note_stop, &stopped);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_true(stopped);
    assert_true(rh_clock_ns() - started < INT64_C(10000000000));
    rh_factory_free(h->factory);
    h->factory = NULL;
}

/* -- A database that cannot grow -------------------------------------------------------------- */

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static bool is_stuck(struct house *h, void *arg)
{
    const char *why = NULL;
    (void)arg;
    return !rh_factory_ready(h->factory, &why) && strstr(why, "roundhouse.db") != NULL;
}

static bool is_ready(struct house *h, void *arg)
{
    const char *why = NULL;
    (void)arg;
    return rh_factory_ready(h->factory, &why);
}

static void while_nothing_can_be_stored_nothing_is_promised(void **state)
{
    struct house *h = *state;
    struct rh_json *job = NULL;
    struct rh_error err;
    house_mark(h, "slow");
    signal(SIGXFSZ, SIG_IGN);
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, block_is_done, id, 30);
    int done = house_count(h, id, "block.done", NULL);
    limit_files(4096);
    struct rh_json *request = house_request(h, "other", NULL);
    house_wait(h, is_stuck, NULL, 30);
    expect_reason(h, id, "roundhouse.db");
    assert_int_not_equal(rh_factory_submit(h->factory, request, &job, &err), RH_OK);
    assert_int_equal(house_count(h, id, "block.done", NULL), done);
    limit_files(RLIM_INFINITY);
    house_wait(h, is_ready, NULL, 30);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    assert_int_equal(rh_factory_submit(h->factory, request, &job, &err), RH_OK);
    rh_json_free(job);
    rh_json_free(request);
    rh_free(id);
}

static char *fill_disk(const char *dir)
{
    char *path = rh_fs_join(dir, "filler");
    char *bytes = rh_alloc(1 << 16);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    setbuf(file, NULL);
    for (size_t size = 1 << 16; size >= 512;)
        size = fwrite(bytes, 1, size, file) == size ? size : size / 2;
    fclose(file);
    rh_free(bytes);
    return path;
}

static bool has_ballast(struct house *h, void *wanted)
{
    char *path = rh_fs_join(h->state, "ballast");
    bool there = rh_fs_exists(path);
    rh_free(path);
    return there == *(const bool *)wanted;
}

static bool takes_up_room(struct house *h, void *path)
{
    uint64_t size = 0;
    (void)h;
    return rh_fs_size(path, &size, NULL) == RH_OK && size > 0;
}

/* The last byte of the disk is taken, and what operators want is stored all the same. */
static void on_a_full_disk_the_ballast_lets_rows_be_stored(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    bool yes = true;
    bool no = false;
    assert_int_equal(rh_fs_mkdirs(h->state, &err), RH_OK);
    if (mount("tmpfs", h->state, "tmpfs", 0, "size=64m") != 0)
        skip(); /* needs root */
    h->options.spawn = false;
    h->sched.headroom = -1;
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, has_ballast, &yes, 10);
    char *filler = fill_disk(h->state);
    for (int i = 0; i < 10; i++) {
        house_desire(h, id, i % 2 == 0 ? "hold" : "run");
        assert_true(is_ready(h, NULL));
    }
    house_wait(h, has_ballast, &no, 10);
    assert_int_equal(unlink(filler), 0);
    house_wait(h, has_ballast, &yes, 10);
    house_close(h);
    /* It is there for a start, too. */
    rh_free(filler);
    filler = fill_disk(h->state);
    house_open(h);
    house_wait(h, has_ballast, &no, 10);
    assert_int_equal(unlink(filler), 0);
    house_wait(h, has_ballast, &yes, 10);
    house_close(h);
    /* A crash has left one that takes up nothing. */
    char *ballast = rh_fs_join(h->state, "ballast");
    assert_int_equal(truncate(ballast, 0), 0);
    house_open(h);
    house_wait(h, takes_up_room, ballast, 10);
    rh_free(ballast);
    assert_int_equal(house_count(h, id, "job.desired", NULL), 10);
    house_close(h);
    assert_int_equal(umount(h->state), 0);
    rh_free(filler);
    rh_free(id);
}

/* -- Strangers -------------------------------------------------------------------------------- */

static void who_has_not_said_hello_is_asked_to(void **state)
{
    struct house *h = *state;
    struct stranger s;
    h->options.spawn = false;
    house_open(h);
    stranger_open(h, &s, "visitor#1");
    Rh__Beat beat = RH__BEAT__INIT;
    stranger_say(h, &s, RH_KIND_BEAT, &beat.base);
    assert_int_equal(s.answer, RH_KIND_ACK);
    assert_int_equal(s.code, RH__VERDICT__VERDICT_REHELLO);
    Rh__Result result = RH__RESULT__INIT;
    result.task = 1;
    result.epoch = 1;
    result.ok = true;
    stranger_say(h, &s, RH_KIND_RESULT, &result.base);
    assert_int_equal(s.code, RH__VERDICT__VERDICT_REHELLO);
    struct rh_json *workers = rh_factory_workers(h->factory);
    assert_int_equal(rh_json_count(rh_json_get(workers, "workers")), 0);
    rh_json_free(workers);
    stranger_close(h, &s);
}

static void expect_refusal(struct house *h, struct stranger *s, const Rh__Hello *m, int code,
                           const char *word)
{
    stranger_say(h, s, RH_KIND_HELLO, &m->base);
    assert_int_equal(s->answer, RH_KIND_REFUSE);
    assert_int_equal(s->code, code);
    if (!strstr(s->text, word))
        fail_msg("\"%s\" is not in: %s", word, s->text);
}

static void a_hello_that_does_not_fit_is_refused_with_the_reason(void **state)
{
    struct house *h = *state;
    struct stranger s;
    char other[] = "other-factory", odd[] = "no stage", empty[] = "";
    h->options.spawn = false;
    house_open(h);
    stranger_open(h, &s, "visitor#5");
    Rh__Hello m = stranger_hello(5);
    m.proto_min = m.proto_max = 900;
    expect_refusal(h, &s, &m, RH__REFUSE_CODE__REFUSE_VERSION, "900");
    m = stranger_hello(5);
    m.factory = other;
    expect_refusal(h, &s, &m, RH__REFUSE_CODE__REFUSE_FACTORY, "other-factory");
    m = stranger_hello(5);
    m.stage = odd;
    expect_refusal(h, &s, &m, RH__REFUSE_CODE__REFUSE_MALFORMED, "no stage");
    m = stranger_hello(5);
    m.worker = empty;
    expect_refusal(h, &s, &m, RH__REFUSE_CODE__REFUSE_MALFORMED, "name");
    m = stranger_hello(5);
    m.slots = 1000000;
    expect_refusal(h, &s, &m, RH__REFUSE_CODE__REFUSE_MALFORMED, "slots");
    m = stranger_hello(5);
    stranger_say(h, &s, RH_KIND_HELLO, &m.base);
    assert_int_equal(s.answer, RH_KIND_WELCOME);
    assert_true(s.session != 0);
    m = stranger_hello(4);
    expect_refusal(h, &s, &m, RH__REFUSE_CODE__REFUSE_SUPERSEDED, "younger");
    stranger_close(h, &s);
}

static void a_worker_that_says_goodbye_is_gone(void **state)
{
    struct house *h = *state;
    struct stranger s;
    char reason[] = "tired";
    h->options.spawn = false;
    house_open(h);
    stranger_open(h, &s, "visitor#1");
    Rh__Hello m = stranger_hello(1);
    stranger_say(h, &s, RH_KIND_HELLO, &m.base);
    assert_int_equal(s.answer, RH_KIND_WELCOME);
    Rh__Bye bye = RH__BYE__INIT;
    bye.reason = reason;
    assert_int_equal(rh_socket_send(s.socket, NULL, RH_KIND_BYE, &bye.base, NULL), RH_OK);
    Rh__Beat beat = RH__BEAT__INIT;
    beat.session = s.session;
    stranger_say(h, &s, RH_KIND_BEAT, &beat.base);
    assert_int_equal(s.answer, RH_KIND_ACK);
    char *text = house_event_text(h, "worker.gone");
    assert_non_null(strstr(text, "tired"));
    rh_free(text);
    stranger_close(h, &s);
}

/* The update of a fleet takes time: workers of the protocol before work on, and nothing of theirs
 * is taken for what only newer ones say. */
static void a_worker_one_protocol_behind_works(void **state)
{
    struct house *h = *state;
    struct stranger s;
    struct rh_error err;
    char stage[] = "download";
    h->options.spawn = false;
    house_open(h);
    char *id = house_submit(h, "out");
    stranger_open(h, &s, "visitor#1");
    Rh__Hello m = stranger_hello(1);
    m.stage = stage;
    m.proto_min = m.proto_max = RH_PROTO_MAX - 1;
    stranger_say(h, &s, RH_KIND_HELLO, &m.base);
    assert_int_equal(s.proto, RH_PROTO_MAX - 1);
    stranger_await(h, &s, RH_KIND_ASSIGN);
    char *dir = rh_format("%s/%s", h->state, s.staging);
    assert_int_equal(rh_fs_mkdirs(dir, &err), RH_OK);
    char *source = rh_fs_join(dir, "plan.json");
    static const char plan[] =
        "{\"units\": [{\"kind\": \"head\"}, {\"kind\": \"block\"}], \"files\": [{}], "
        "\"shards\": [{}], \"outputs\": [{\"unit\": 0, \"shard\": 0}]}";
    assert_int_equal(rh_fs_write(source, plan, sizeof plan - 1, &err), RH_OK);
    assert_int_equal(rh_store_seal(dir, "plan", 0, "digest", NULL, &err), RH_OK);
    Rh__Result result = RH__RESULT__INIT;
    result.task = s.task;
    result.epoch = s.epoch;
    result.ok = true;
    s.answer = (enum rh_kind)0;
    assert_int_equal(rh_socket_send(s.socket, NULL, RH_KIND_RESULT, &result.base, &err), RH_OK);
    stranger_await(h, &s, RH_KIND_ASSIGN); /* the first fetch */
    assert_int_equal(house_count(h, id, "task.done", "plan"), 1);
    stranger_close(h, &s);
    rh_free(source);
    rh_free(dir);
    rh_free(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_failure_ends_the_job_with_its_words_and_it_can_be_taken_up_again),
        TEST(a_plan_without_blocks_fails_the_job_and_is_not_committed),
        TEST(without_room_the_job_waits_and_says_why),
        TEST(a_stage_that_dies_is_started_again_and_its_task_too),
        TEST(a_restart_goes_on_at_the_block_it_was_at),
        TEST(a_kill_around_any_commit_is_healed_by_the_next_start),
        TEST(a_daemon_works_on_while_the_orchestrator_is_away),
        TEST(a_daemon_whose_thread_hangs_leaves_by_itself),
        TEST(a_second_request_to_stop_does_not_wait_for_a_frozen_stage),
        TEST(a_second_factory_on_the_directory_names_the_first),
        TEST(a_run_directory_too_long_for_sockets_is_one_clear_error),
        TEST(a_missing_stage_program_is_named),
        TEST(while_nothing_can_be_stored_nothing_is_promised),
        TEST(on_a_full_disk_the_ballast_lets_rows_be_stored),
        TEST(who_has_not_said_hello_is_asked_to),
        TEST(a_hello_that_does_not_fit_is_refused_with_the_reason),
        TEST(a_worker_that_says_goodbye_is_gone),
        TEST(a_worker_one_protocol_behind_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
