#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "timeline/timeline.h"

struct line {
    double at;
    const char *type, *op;
    int task, block;
};

static struct rh_json *log_of(const char *job, const struct line *lines, size_t count)
{
    struct rh_json *log = rh_json_new_array();
    for (size_t i = 0; i < count; i++) {
        struct rh_json *e = rh_json_new_object();
        rh_json_set_number(e, "unix_ns", (1000 + lines[i].at) * 1e9);
        rh_json_set_string(e, "type", lines[i].type);
        rh_json_set_string(e, "job", job);
        rh_json_set_string(e, "op", lines[i].op);
        rh_json_set_int(e, "task", lines[i].task);
        rh_json_set_int(e, "index", 0);
        rh_json_set_string(e, "worker", lines[i].op);
        if (lines[i].block >= 0)
            rh_json_set_int(e, "block", lines[i].block);
        rh_json_append(log, e);
    }
    return log;
}

static double at(const struct rh_json *timeline, const char *part, const char *key)
{
    return rh_json_number(rh_json_get(rh_json_get(timeline, part), key), -1);
}

static struct rh_json *two_jobs(void)
{
    struct rh_json *jobs = rh_json_new_array();
    static const char *const names[] = {"A", "B"};
    for (int i = 0; i < 2; i++) {
        struct rh_json *job = rh_json_new_object();
        rh_json_set_string(job, "id", names[i]);
        rh_json_append(jobs, job);
    }
    return jobs;
}

#define CLOSE(a, b) assert_true((a) - (b) < 1e-5 && (b) - (a) < 1e-5)

/* B is fetched while A is tuned; the tuner is idle for 2 of 18 seconds behind its first block. */
static void overlap_and_idleness_come_from_the_events(void **state)
{
    static const struct line a[] = {
        {0, "task.started", "fetch", 1, -1}, {2, "task.done", "fetch", 1, -1},
        {2, "task.started", "tune", 2, -1},  {2, "block.started", "tune", 2, 0},
        {10, "block.done", "tune", 2, 0},    {10, "block.started", "tune", 2, 1},
        {18, "block.done", "tune", 2, 1},    {20, "task.done", "tune", 2, -1},
    };
    static const struct line b[] = {
        {4, "task.started", "fetch", 3, -1}, {6, "task.done", "fetch", 3, -1},
        {20, "task.started", "tune", 4, -1}, {20, "block.started", "tune", 4, 0},
        {28, "block.done", "tune", 4, 0},    {28, "task.done", "tune", 4, -1},
    };
    (void)state;
    struct rh_json *logs[] = {log_of("A", a, 8), log_of("B", b, 6)};
    struct rh_json *jobs = two_jobs();
    struct rh_json *t = rh_timeline((const struct rh_json *const *)logs, jobs);
    assert_int_equal(rh_json_count(rh_json_get(t, "spans")), 4);
    assert_int_equal(rh_json_count(rh_json_get(t, "blocks")), 3);
    CLOSE(rh_json_number(rh_json_get(t, "overlap_s"), -1), 2);
    CLOSE(at(t, "tuner", "wall_s"), 18);
    CLOSE(at(t, "tuner", "busy_s"), 16);
    CLOSE(at(t, "tuner", "idle_share"), 2.0 / 18);
    CLOSE(rh_json_number(rh_json_get(rh_json_get(rh_json_get(t, "stages"), "download"), "busy_s"),
                         -1),
          4);
    rh_json_free(t);
    rh_json_free(jobs);
    rh_json_free(logs[0]);
    rh_json_free(logs[1]);
}

static void what_was_lost_and_what_still_runs_is_told_apart(void **state)
{
    static const struct line a[] = {
        {0, "task.started", "tune", 1, -1}, {1, "block.started", "tune", 1, 0},
        {3, "task.lost", "tune", 1, -1},    {4, "task.started", "tune", 1, -1},
        {4, "block.started", "tune", 1, 0}, {9, "task.started", "pack", 2, -1},
    };
    (void)state;
    struct rh_json *logs[] = {log_of("A", a, 6), rh_json_new_array()};
    struct rh_json *jobs = two_jobs();
    struct rh_json *t = rh_timeline((const struct rh_json *const *)logs, jobs);
    const struct rh_json *first = rh_json_first(rh_json_get(t, "blocks"));
    const struct rh_json *second = rh_json_next(first);
    assert_string_equal(rh_json_string(rh_json_get(first, "outcome")), "lost");
    CLOSE(rh_json_number(rh_json_get(first, "end_s"), -1), 3);
    assert_string_equal(rh_json_string(rh_json_get(second, "outcome")), "running");
    CLOSE(rh_json_number(rh_json_get(second, "end_s"), -1), 9);
    assert_true(rh_json_is_null(rh_json_get(rh_json_get(t, "tuner"), "idle_share")));
    rh_json_free(t);
    rh_json_free(jobs);
    rh_json_free(logs[0]);
    rh_json_free(logs[1]);
}

static void nothing_gives_an_empty_timeline(void **state)
{
    (void)state;
    struct rh_json *jobs = rh_json_new_array();
    struct rh_json *t = rh_timeline(NULL, jobs);
    assert_int_equal(rh_json_count(rh_json_get(t, "spans")), 0);
    CLOSE(rh_json_number(rh_json_get(t, "overlap_s"), -1), 0);
    rh_json_free(t);
    rh_json_free(jobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlap_and_idleness_come_from_the_events),
        cmocka_unit_test(what_was_lost_and_what_still_runs_is_told_apart),
        cmocka_unit_test(nothing_gives_an_empty_timeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
