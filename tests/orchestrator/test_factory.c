/* What an operator asks of the factory, with five fake daemons as real processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "house.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, house_set_up, house_tear_down)

static int64_t int_of(const struct rh_json *object, const char *key)
{
    int64_t value = -1;
    (void)rh_json_int(rh_json_get(object, key), &value);
    return value;
}

static const struct rh_json *first_done(const struct rh_json *events, const char *op)
{
    for (const struct rh_json *e = rh_json_first(rh_json_get(events, "events")); e;
         e = rh_json_next(e)) {
        const char *its_op = rh_json_string(rh_json_get(e, "op"));
        if (strcmp(rh_json_string(rh_json_get(e, "type")), "task.done") == 0 && its_op &&
            strcmp(its_op, op) == 0)
            return e;
    }
    fail_msg("no %s was done", op);
    return NULL;
}

static void five_processes_finish_a_job_and_the_log_shows_it(void **state)
{
    static const char *const ops[] = {"fetch", "calibrate", "tune", "pack", "publish"};
    static const char *const workers[] = {"download-1", "calibrate-1", "quantize-1", "pack-1",
                                          "publish-1"};
    struct house *h = *state;
    struct rh_json *events = NULL;
    struct rh_error err;
    int64_t pids[5];
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "done");
    assert_int_equal(rh_factory_events(h->factory, id, 0, 1000, &events, &err), RH_OK);
    for (int i = 0; i < 5; i++) {
        const struct rh_json *e = first_done(events, ops[i]);
        pids[i] = int_of(e, "pid");
        assert_true(pids[i] > 1 && pids[i] != getpid());
        assert_string_equal(rh_json_string(rh_json_get(e, "worker")), workers[i]);
        for (int j = 0; j < i; j++)
            assert_int_not_equal(pids[i], pids[j]);
    }
    assert_int_equal(house_count(h, id, "block.done", "tune"), 3);
    assert_int_equal(house_count(h, id, "task.done", "fetch"), 5);
    assert_int_equal(house_count(h, id, "job.submitted", NULL), 1);
    assert_true(h->stored >= (int)rh_json_count(rh_json_get(events, "events")));
    rh_json_free(events);
    rh_free(id);
}

static void a_finished_job_is_described_in_full(void **state)
{
    struct house *h = *state;
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "done");
    struct rh_json *job = house_job(h, id);
    assert_true(rh_json_number(rh_json_get(job, "progress"), 0) == 1);
    assert_true(rh_json_is_null(rh_json_get(job, "eta_s")));
    assert_true(rh_json_number(rh_json_get(job, "finished_unix_ns"), 0) >=
                rh_json_number(rh_json_get(job, "created_unix_ns"), 1));
    assert_int_equal(int_of(rh_json_get(job, "blocks"), "done"), 3);
    assert_int_equal(int_of(rh_json_get(job, "blocks"), "total"), 3);
    const struct rh_json *pack = rh_json_get(rh_json_get(job, "stages"), "pack");
    assert_int_equal(int_of(pack, "total"), 5 + 2 + 1);
    assert_int_equal(int_of(pack, "done"), 5 + 2 + 1);
    const struct rh_json *metrics = rh_json_get(job, "block_metrics");
    assert_int_equal(rh_json_count(metrics), 3);
    assert_int_equal(int_of(rh_json_first(metrics), "best_iter"), 7);
    const struct rh_json *experts = rh_json_get(rh_json_first(metrics), "experts");
    assert_int_equal(int_of(experts, "count"), 8);
    assert_int_equal(int_of(experts, "below_floor"), 2);
    assert_int_equal(int_of(experts, "tokens_median"), 700);
    assert_true(rh_json_number(rh_json_get(rh_json_first(metrics), "seconds"), 0) == 0.25);
    rh_json_free(job);
    rh_free(id);
}

static bool is_pruned(struct house *h, void *id)
{
    return !house_has(h, id, "staging");
}

static void a_finished_job_keeps_its_reports_and_gives_back_its_space(void **state)
{
    struct house *h = *state;
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "done");
    house_wait(h, is_pruned, id, 20);
    assert_true(house_has(h, id, "artifacts/plan-00000/plan.json"));
    assert_true(house_has(h, id, "artifacts/publish-00000/receipt.json"));
    assert_true(house_has(h, id, "artifacts/tune-00000/report.json"));
    assert_true(house_has(h, id, "artifacts/digest-00000/digest.json"));
    assert_false(house_has(h, id, "artifacts/fetch-00000/tensors.safetensors"));
    assert_false(house_has(h, id, "artifacts/tune-00002/chain.safetensors"));
    assert_false(house_has(h, id, "artifacts/shard-00000/model.safetensors"));
    rh_free(id);
}

static bool two_blocks_done(struct house *h, void *id)
{
    return house_count(h, id, "block.done", NULL) >= 2;
}

static void a_chain_goes_once_the_next_block_is_committed(void **state)
{
    struct house *h = *state;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, two_blocks_done, id, 30);
    assert_false(house_has(h, id, "artifacts/tune-00000/chain.safetensors"));
    assert_true(house_has(h, id, "artifacts/tune-00000/block.safetensors"));
    assert_true(house_has(h, id, "artifacts/tune-00001/chain.safetensors"));
    house_await(h, id, "done");
    rh_free(id);
}

struct watch {
    const char *id;
    double highest;
    bool saw_eta, saw_iteration, saw_tuner;
};

static bool watch_until_done(struct house *h, void *arg)
{
    struct watch *w = arg;
    struct rh_json *job = house_job(h, w->id);
    double progress = rh_json_number(rh_json_get(job, "progress"), -1);
    assert_true(progress >= w->highest && progress <= 1);
    w->highest = progress;
    double eta = rh_json_number(rh_json_get(job, "eta_s"), -1);
    /* Three blocks of a quarter of a second each. */
    w->saw_eta = w->saw_eta || (eta > 0 && eta <= 0.5);
    w->saw_iteration = w->saw_iteration || int_of(rh_json_get(job, "blocks"), "iters") == 30;
    for (const struct rh_json *r = rh_json_first(rh_json_get(job, "running")); r;
         r = rh_json_next(r)) {
        if (strcmp(rh_json_string(rh_json_get(r, "op")), "tune") == 0)
            w->saw_tuner = w->saw_tuner || int_of(r, "pid") > 1;
    }
    bool done = strcmp(rh_json_string(rh_json_get(job, "state")), "done") == 0;
    rh_json_free(job);
    return done;
}

static void progress_rises_and_the_time_left_comes_from_finished_blocks(void **state)
{
    struct house *h = *state;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    struct watch w = {.id = id};
    house_wait(h, watch_until_done, &w, 30);
    assert_true(w.highest == 1);
    assert_true(w.saw_eta);
    assert_true(w.saw_iteration);
    assert_true(w.saw_tuner);
    /* Two a second at most, for less than two seconds. */
    assert_in_range(h->ticks, 1, 5);
    rh_free(id);
}

/* -- Submitting ------------------------------------------------------------------------------- */

static void a_token_brings_the_same_job_back(void **state)
{
    struct house *h = *state;
    struct rh_json *one = NULL;
    struct rh_json *two = NULL;
    struct rh_error err;
    house_open(h);
    struct rh_json *request = house_request(h, "out", "t");
    assert_int_equal(rh_factory_submit(h->factory, request, &one, &err), RH_OK);
    assert_int_equal(rh_factory_submit(h->factory, request, &two, &err), RH_OK);
    assert_string_equal(rh_json_string(rh_json_get(one, "id")),
                        rh_json_string(rh_json_get(two, "id")));
    rh_json_free(two);
    rh_json_set_string(request, "model", "file:/elsewhere");
    assert_int_equal(rh_factory_submit(h->factory, request, &two, &err), RH_ERR_EXISTS);
    assert_null(two);
    assert_non_null(strstr(err.message, rh_json_string(rh_json_get(one, "id"))));
    house_await(h, rh_json_string(rh_json_get(one, "id")), "done");
    rh_json_free(one);
    rh_json_free(request);
}

static void expect_bad_request(struct house *h, const char *key, const char *value,
                               const char *word)
{
    struct rh_json *request = house_request(h, "out", NULL);
    struct rh_json *json = NULL;
    struct rh_json *job = NULL;
    struct rh_error err = {0};
    assert_int_equal(rh_json_parse(value, strlen(value), key, &json, &err), RH_OK);
    rh_json_set(request, key, json);
    enum rh_rc rc = rh_factory_submit(h->factory, request, &job, &err);
    assert_true(rc == RH_ERR_ARGUMENT || rc == RH_ERR_FORMAT);
    assert_null(job);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" is not in: %s", word, err.message);
    rh_json_free(request);
}

static void bad_requests_are_named_and_leave_nothing(void **state)
{
    struct house *h = *state;
    h->options.spawn = false;
    house_open(h);
    expect_bad_request(h, "colour", "1", "colour");
    expect_bad_request(h, "model", "7", "model");
    expect_bad_request(h, "model", "\"models/x\"", "models/x");
    expect_bad_request(h, "model", "\"file:models/x\"", "relative");
    expect_bad_request(h, "output", "\"dir:\"", "output");
    expect_bad_request(h, "output", "\"dir:/a\\u000ab\"", "control");
    expect_bad_request(h, "priority", "1000001", "priority");
    expect_bad_request(h, "name", "\"\"", "name");
    expect_bad_request(h, "recipe", "null", "recipe");
    expect_bad_request(h, "recipe", "{\"quant\": {\"bitz\": 4}}", "bitz");
    expect_bad_request(h, "recipe", "{}", "dataset");
    struct rh_json *jobs = rh_factory_jobs(h->factory, true, NULL);
    assert_int_equal(rh_json_count(rh_json_get(jobs, "jobs")), 0);
    rh_json_free(jobs);
}

static void two_jobs_cannot_write_to_one_place(void **state)
{
    struct house *h = *state;
    struct rh_json *job = NULL;
    struct rh_error err;
    h->options.spawn = false;
    house_open(h);
    char *id = house_submit(h, "out");
    struct rh_json *request = house_request(h, "out", NULL);
    assert_int_equal(rh_factory_submit(h->factory, request, &job, &err), RH_ERR_EXISTS);
    assert_non_null(strstr(err.message, id));
    house_desire(h, id, "cancel");
    assert_int_equal(rh_factory_submit(h->factory, request, &job, &err), RH_OK);
    rh_json_free(job);
    /* Now the first one cannot be taken up again. */
    assert_int_equal(rh_factory_set_desired(h->factory, id, "run", &job, &err), RH_ERR_EXISTS);
    rh_json_free(request);
    rh_free(id);
}

/* -- Looking ---------------------------------------------------------------------------------- */

static size_t listed(struct house *h, bool all, const char *state)
{
    struct rh_json *jobs = rh_factory_jobs(h->factory, all, state);
    size_t count = rh_json_count(rh_json_get(jobs, "jobs"));
    rh_json_free(jobs);
    return count;
}

static void jobs_are_found_by_the_beginning_of_their_id(void **state)
{
    struct house *h = *state;
    struct rh_json *out = NULL;
    struct rh_error err;
    h->options.spawn = false;
    house_open(h);
    char *one = house_submit(h, "one");
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    char *two = house_submit(h, "two");
    assert_int_equal(strlen(one), 26);
    assert_true(strcmp(one, two) < 0);
    assert_int_equal(rh_factory_job(h->factory, "0", &out, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "2 jobs"));
    assert_int_equal(rh_factory_job(h->factory, "zzz", &out, &err), RH_ERR_NOT_FOUND);
    assert_int_equal(rh_factory_job(h->factory, "", &out, &err), RH_ERR_NOT_FOUND);
    char *begin = rh_strndup(two, 20);
    assert_int_equal(rh_factory_recipe(h->factory, begin, &out, &err), RH_OK);
    assert_int_equal(int_of(rh_json_get(out, "quant"), "bits"), 4);
    rh_json_free(out);
    assert_int_equal(rh_factory_tasks(h->factory, begin, &out, &err), RH_OK);
    assert_int_equal(rh_json_count(rh_json_get(out, "tasks")), 1);
    assert_string_equal(
        rh_json_string(rh_json_get(rh_json_first(rh_json_get(out, "tasks")), "state")), "waiting");
    rh_json_free(out);
    rh_free(begin);
    rh_free(one);
    rh_free(two);
}

static void lists_show_active_jobs_or_all_or_one_state(void **state)
{
    struct house *h = *state;
    h->options.spawn = false;
    house_open(h);
    char *one = house_submit(h, "one");
    char *two = house_submit(h, "two");
    house_desire(h, one, "cancel");
    assert_int_equal(listed(h, false, NULL), 1);
    assert_int_equal(listed(h, true, NULL), 2);
    assert_int_equal(listed(h, false, "cancelled"), 1);
    assert_int_equal(listed(h, false, "running"), 1);
    assert_int_equal(listed(h, true, "done"), 0);
    struct rh_json *snapshot = rh_factory_snapshot(h->factory);
    assert_int_equal(rh_json_count(rh_json_get(snapshot, "jobs")), 1);
    assert_int_equal(int_of(snapshot, "epoch"), 1);
    assert_true(int_of(snapshot, "seq") > 0);
    assert_true(rh_json_number(rh_json_get(snapshot, "disk_free_bytes"), 0) > 0);
    rh_json_free(snapshot);
    rh_free(one);
    rh_free(two);
}

/* -- Changing --------------------------------------------------------------------------------- */

static bool is_tuning(struct house *h, void *id)
{
    return house_count(h, id, "block.started", NULL) > 0;
}

static void a_paused_job_stops_at_a_block_and_goes_on_from_there(void **state)
{
    struct house *h = *state;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, is_tuning, id, 30);
    house_desire(h, id, "pause");
    house_await(h, id, "paused");
    int done = house_count(h, id, "block.done", NULL);
    assert_in_range(done, 1, 2);
    house_desire(h, id, "run");
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "block.done", NULL), 3);
    rh_free(id);
}

static void a_cancelled_job_ends_and_can_be_taken_up_again(void **state)
{
    struct house *h = *state;
    struct rh_json *job = NULL;
    struct rh_error err;
    house_mark(h, "slow");
    house_open(h);
    char *id = house_submit(h, "out");
    house_wait(h, is_tuning, id, 30);
    house_desire(h, id, "cancel");
    house_await(h, id, "cancelled");
    assert_int_equal(rh_factory_set_desired(h->factory, id, "pause", &job, &err), RH_ERR_EXISTS);
    assert_int_equal(rh_factory_set_priority(h->factory, id, 3, &job, &err), RH_ERR_EXISTS);
    assert_int_equal(rh_factory_set_desired(h->factory, id, "fly", &job, &err), RH_ERR_ARGUMENT);
    house_unmark(h, "slow");
    house_desire(h, id, "run");
    house_await(h, id, "done");
    assert_int_equal(rh_factory_set_desired(h->factory, id, "run", &job, &err), RH_ERR_EXISTS);
    rh_free(id);
}

static void a_job_of_higher_priority_goes_first(void **state)
{
    struct house *h = *state;
    struct rh_json *job = NULL;
    struct rh_error err;
    h->options.spawn = false;
    house_open(h);
    char *one = house_submit(h, "one");
    char *two = house_submit(h, "two");
    assert_int_equal(rh_factory_set_priority(h->factory, two, 9, &job, &err), RH_OK);
    assert_int_equal(int_of(job, "priority"), 9);
    rh_json_free(job);
    struct rh_json *snapshot = rh_factory_snapshot(h->factory);
    assert_string_equal(
        rh_json_string(rh_json_get(rh_json_first(rh_json_get(snapshot, "jobs")), "id")), two);
    rh_json_free(snapshot);
    rh_free(one);
    rh_free(two);
}

static bool said_idle(struct house *h, void *arg)
{
    (void)arg;
    return h->idle_calls > 0;
}

static void idleness_is_said_once_and_not_before_the_first_job(void **state)
{
    struct house *h = *state;
    h->options.exit_when_idle = true;
    house_open(h);
    assert_int_equal(h->idle_calls, 0);
    char *id = house_submit(h, "out");
    house_wait(h, said_idle, NULL, 30);
    house_await(h, id, "done");
    assert_int_equal(h->idle_calls, 1);
    rh_free(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(five_processes_finish_a_job_and_the_log_shows_it),
        TEST(a_finished_job_is_described_in_full),
        TEST(a_finished_job_keeps_its_reports_and_gives_back_its_space),
        TEST(a_chain_goes_once_the_next_block_is_committed),
        TEST(progress_rises_and_the_time_left_comes_from_finished_blocks),
        TEST(a_token_brings_the_same_job_back),
        TEST(bad_requests_are_named_and_leave_nothing),
        TEST(two_jobs_cannot_write_to_one_place),
        TEST(jobs_are_found_by_the_beginning_of_their_id),
        TEST(lists_show_active_jobs_or_all_or_one_state),
        TEST(a_paused_job_stops_at_a_block_and_goes_on_from_there),
        TEST(a_cancelled_job_ends_and_can_be_taken_up_again),
        TEST(a_job_of_higher_priority_goes_first),
        TEST(idleness_is_said_once_and_not_before_the_first_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
