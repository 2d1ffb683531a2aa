/* Looking after a state directory: doctor, gc, what is retained, what is kept as evidence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "house.h"
#include "upkeep/doctor.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, house_set_up, house_tear_down)

static struct rh_json *examine(struct house *h, bool deep, bool fix)
{
    struct rh_json *report = NULL;
    struct rh_error err;
    const struct rh_doctor_options options = {.deep = deep, .fix = fix};
    if (rh_doctor(h->state, &options, &report, &err) != RH_OK)
        fail_msg("%s", err.message);
    return report;
}

/* How many problems there are, and how many of them say `word` or concern such a path. */
static size_t problems(struct house *h, bool deep, bool fix, const char *word)
{
    size_t count = 0;
    struct rh_json *report = examine(h, deep, fix);
    const struct rh_json *list = rh_json_get(report, "problems");
    for (const struct rh_json *p = rh_json_first(list); p; p = rh_json_next(p)) {
        char *text = rh_json_text(p, false);
        count += strstr(text, word) != NULL;
        if (fix)
            assert_true(rh_json_bool(rh_json_get(p, "fixed"), false));
        rh_free(text);
    }
    if (!*word)
        assert_int_equal(count, rh_json_count(list));
    rh_json_free(report);
    return count;
}

/* A job that came as far as it can without its end. */
static char *unfinished_job(struct house *h)
{
    house_mark(h, "fail-finalize");
    house_open(h);
    char *id = house_submit(h, "out");
    house_await(h, id, "failed");
    house_unmark(h, "fail-finalize");
    return id;
}

static void overwrite(struct house *h, const char *id, const char *below, const char *text)
{
    struct rh_error err;
    char *path = rh_format("%s/jobs/%s/%s", h->state, id, below);
    if (rh_fs_write(path, text, strlen(text), &err) != RH_OK)
        fail_msg("%s", err.message);
    rh_free(path);
}

/* -- Doctor ----------------------------------------------------------------------------------- */

static void a_sound_directory_has_no_problems(void **state)
{
    struct house *h = *state;
    char *id = unfinished_job(h);
    assert_int_equal(problems(h, true, false, ""), 0); /* at work */
    house_desire(h, id, "run");
    house_await(h, id, "done");
    house_close(h);
    assert_int_equal(problems(h, true, false, ""), 0);
    rh_free(id);
}

static void damage_is_found_and_what_was_damaged_done_again(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    struct rh_json *report = NULL;
    const struct rh_doctor_options fix = {.fix = true};
    char *id = unfinished_job(h);
    overwrite(h, id, "artifacts/shard-00001/model.safetensors", "SHARD"); /* of equal size */
    overwrite(h, id, "artifacts/tune-00001/block.safetensors", "blo");
    assert_int_equal(problems(h, false, false, ""), 1);
    assert_int_equal(problems(h, true, false, ""), 2);
    assert_int_equal(rh_doctor(h->state, &fix, &report, &err), RH_ERR_EXISTS);
    house_close(h);
    report = examine(h, true, false);
    assert_int_equal(rh_doctor_errors(report), 2);
    rh_json_free(report);
    assert_int_equal(problems(h, true, true, ""), 2);
    assert_int_equal(problems(h, true, false, ""), 0);
    house_open(h);
    house_desire(h, id, "run");
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "task.done", "shard"), 3);
    assert_int_equal(house_count(h, id, "task.done", "publish"), 1);
    rh_free(id);
}

static void what_belongs_to_nobody_is_found_and_deleted(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    char *id = unfinished_job(h);
    house_close(h);
    overwrite(h, id, "staging/pack-00000.99", "x");
    overwrite(h, id, "artifacts/publish-00000", "x");
    char *nobody = rh_format("%s/jobs/nobody/artifacts", h->state);
    assert_int_equal(rh_fs_mkdirs(nobody, &err), RH_OK);
    rh_free(nobody);
    assert_int_equal(problems(h, false, false, "staging directory"), 1);
    assert_int_equal(problems(h, false, false, "no finished task"), 1);
    assert_int_equal(problems(h, false, false, "without a job"), 1);
    assert_int_equal(problems(h, false, true, ""), 3);
    assert_int_equal(problems(h, false, false, ""), 0);
    rh_free(id);
}

static void a_directory_that_is_none_is_said_so(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    struct rh_json *report = NULL;
    const struct rh_doctor_options options = {.deep = false};
    assert_int_equal(rh_doctor(h->model, &options, &report, &err), RH_ERR_NOT_FOUND);
    assert_false(house_has(h, "..", "../lock"));
}

/* -- Collecting ------------------------------------------------------------------------------- */

struct collecting {
    int wanted, got;
    struct rh_json *report; /* the last one */
};

static void collected(void *arg, const struct rh_json *report, const struct rh_error *err)
{
    struct collecting *c = arg;
    if (err)
        fail_msg("%s", err->message);
    rh_json_free(c->report);
    c->report = rh_json_copy(report);
    c->got++;
}

static bool all_collected(struct house *h, void *arg)
{
    const struct collecting *c = arg;
    (void)h;
    return c->got == c->wanted;
}

static struct rh_json *gc(struct house *h, bool dry, int64_t retain, int64_t failed)
{
    const struct rh_gc_options options = {dry, retain, failed};
    struct collecting c = {.wanted = 1};
    rh_factory_gc(h->factory, &options, collected, &c);
    assert_int_equal(c.got, 0); /* the loop is not kept waiting for the sizes */
    house_wait(h, all_collected, &c, 20);
    return c.report;
}

/* One after the other, and each is told of; the second finds nothing left. */
static void collections_wait_for_each_other(void **state)
{
    struct house *h = *state;
    char *id = unfinished_job(h);
    const struct rh_gc_options options = {.retain_bytes = -1, .failed_after_s = 0};
    struct collecting c = {.wanted = 2};
    rh_factory_gc(h->factory, &options, collected, &c);
    rh_factory_gc(h->factory, &options, collected, &c);
    house_wait(h, all_collected, &c, 20);
    assert_int_equal(rh_json_count(rh_json_get(c.report, "items")), 0);
    rh_json_free(c.report);
    rh_free(id);
}

/* A job that is taken up while its directory is measured keeps its files. */
static void a_job_taken_up_meanwhile_is_not_collected(void **state)
{
    struct house *h = *state;
    char *id = unfinished_job(h);
    const struct rh_gc_options options = {.retain_bytes = -1, .failed_after_s = 0};
    struct collecting c = {.wanted = 1};
    rh_factory_gc(h->factory, &options, collected, &c);
    house_desire(h, id, "run");
    house_wait(h, all_collected, &c, 20);
    assert_int_equal(rh_json_count(rh_json_get(c.report, "items")), 0);
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "task.done", "plan"), 1);
    rh_json_free(c.report);
    rh_free(id);
}

/* Nor does one that was taken up and has ended again: it failed just now. */
static void a_job_that_ended_again_meanwhile_is_not_collected(void **state)
{
    struct house *h = *state;
    char *id = unfinished_job(h);
    const struct rh_gc_options options = {.retain_bytes = -1, .failed_after_s = 0};
    struct collecting c = {.wanted = 1};
    house_close(h);
    h->options.spawn = false;
    house_open(h);
    rh_factory_gc(h->factory, &options, collected, &c);
    house_desire(h, id, "run");
    house_desire(h, id, "cancel");
    assert_int_equal(c.got, 0);
    house_wait(h, all_collected, &c, 20);
    assert_int_equal(rh_json_count(rh_json_get(c.report, "items")), 0);
    assert_true(house_has(h, id, "artifacts/fetch-00000/tensors.safetensors"));
    rh_json_free(c.report);
    rh_free(id);
}

static void refused(void *arg, const struct rh_json *report, const struct rh_error *err)
{
    assert_null(report);
    *(enum rh_rc *)arg = err->rc;
}

static void on_stopped(void *arg)
{
    *(bool *)arg = true;
}

/* Whoever asks at the very end is told so at once: the API ends with the factory. */
static void none_begins_while_the_factory_stops(void **state)
{
    struct house *h = *state;
    const struct rh_gc_options options = {.retain_bytes = -1, .failed_after_s = 0};
    enum rh_rc rc = RH_OK;
    bool stopped = false;
    h->options.spawn = false;
    house_open(h);
    rh_factory_stop(h->factory, on_stopped, &stopped);
    rh_factory_gc(h->factory, &options, refused, &rc);
    assert_int_equal(rc, RH_ERR_CANCELLED);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_true(stopped);
    rh_factory_free(h->factory);
    h->factory = NULL;
}

static bool is_gone(struct house *h, void *id)
{
    return !house_has(h, id, "artifacts/fetch-00000/tensors.safetensors");
}

static void a_failed_job_without_its_files_starts_from_nothing(void **state)
{
    struct house *h = *state;
    char *id = unfinished_job(h);
    struct rh_json *report = gc(h, false, -1, 3600);
    assert_int_equal(rh_json_count(rh_json_get(report, "items")), 0); /* too young */
    rh_json_free(report);
    report = gc(h, true, -1, 0);
    assert_int_equal(rh_json_count(rh_json_get(report, "items")), 1);
    assert_true(rh_json_number(rh_json_get(report, "freed_bytes"), 0) > 0);
    assert_false(is_gone(h, id));
    rh_json_free(report);
    rh_json_free(gc(h, false, -1, 0));
    house_wait(h, is_gone, id, 10);
    house_desire(h, id, "run");
    house_await(h, id, "done");
    assert_int_equal(house_count(h, id, "task.done", "plan"), 2);
    rh_free(id);
}

static void what_is_retained_is_reused_and_goes_when_it_must(void **state)
{
    struct house *h = *state;
    h->options.retain_bytes = INT64_C(1) << 40;
    house_mark(h, "weights");
    house_open(h);
    char *first = house_submit(h, "first");
    house_await(h, first, "done");
    char *second = house_submit(h, "second");
    house_await(h, second, "done");
    assert_int_equal(house_count(h, second, "task.started", "tune"), 0);
    assert_int_equal(house_count(h, second, "task.started", "fetch"), 0);
    house_close(h);
    house_open(h);
    assert_true(house_has(h, first, "artifacts/tune-00000/block.safetensors"));
    rh_json_free(gc(h, false, 0, -1));
    house_wait(h, is_gone, first, 10);
    assert_true(house_has(h, first, "artifacts/publish-00000/receipt.json"));
    rh_free(second);
    rh_free(first);
}

static void what_failed_for_good_stays_as_evidence(void **state)
{
    struct house *h = *state;
    char *id = unfinished_job(h);
    assert_true(house_has(h, id, "staging/finalize-00000.1"));
    house_close(h);
    house_open(h);
    assert_true(house_has(h, id, "staging/finalize-00000.1"));
    house_desire(h, id, "run");
    house_await(h, id, "done");
    rh_free(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_sound_directory_has_no_problems),
        TEST(damage_is_found_and_what_was_damaged_done_again),
        TEST(what_belongs_to_nobody_is_found_and_deleted),
        TEST(a_directory_that_is_none_is_said_so),
        TEST(collections_wait_for_each_other),
        TEST(a_job_taken_up_meanwhile_is_not_collected),
        TEST(a_job_that_ended_again_meanwhile_is_not_collected),
        TEST(none_begins_while_the_factory_stops),
        TEST(a_failed_job_without_its_files_starts_from_nothing),
        TEST(what_is_retained_is_reused_and_goes_when_it_must),
        TEST(what_failed_for_good_stays_as_evidence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
