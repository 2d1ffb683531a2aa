/* What one job has done is not done again for another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "house.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, house_set_up, house_tear_down)

/* A job that fails at its end, so that everything before it stays. */
static char *first_job(struct house *h)
{
    house_mark(h, "weights");
    house_mark(h, "fail-finalize");
    house_open(h);
    char *id = house_submit(h, "first");
    house_await(h, id, "failed");
    house_unmark(h, "fail-finalize");
    return id;
}

static ino_t inode(const struct house *h, const char *id, const char *below)
{
    struct stat st;
    char *path = rh_format("%s/jobs/%s/artifacts/%s", h->state, id, below);
    if (stat(path, &st) != 0)
        fail_msg("%s is not there", path);
    rh_free(path);
    return st.st_ino;
}

static char *submit_with(struct house *h, const char *output, int64_t iters)
{
    struct rh_json *request = house_request(h, output, NULL);
    struct rh_json *quant = rh_json_new_object();
    struct rh_json *job = NULL;
    struct rh_error err;
    rh_json_set_int(quant, "iters", iters);
    rh_json_set(rh_json_get_mutable(request, "recipe"), "quant", quant);
    if (rh_factory_submit(h->factory, request, &job, &err) != RH_OK)
        fail_msg("%s", err.message);
    char *id = rh_strdup(rh_json_string(rh_json_get(job, "id")));
    rh_json_free(job);
    rh_json_free(request);
    return id;
}

static void the_same_model_and_recipe_is_neither_fetched_nor_tuned_again(void **state)
{
    struct house *h = *state;
    char *first = first_job(h);
    /* Whoever made it may be gone: the files are held by both. */
    house_mark(h, "fail-finalize");
    char *second = house_submit(h, "second");
    house_await(h, second, "failed");
    assert_int_equal(house_count(h, second, "task.started", "fetch"), 0);
    assert_int_equal(house_count(h, second, "task.started", "tune"), 0);
    assert_int_equal(house_count(h, second, "task.started", "pack"), 0);
    assert_int_equal(house_count(h, second, "task.started", "shard"), 0);
    assert_int_equal(house_count(h, second, "task.started", "calibrate"), 1);
    assert_int_equal(house_count(h, second, "block.done", NULL), 3);
    assert_int_equal(house_count(h, second, "task.reused", "tune"), 1);
    assert_int_equal(inode(h, first, "fetch-00002/tensors.safetensors"),
                     inode(h, second, "fetch-00002/tensors.safetensors"));
    assert_int_equal(inode(h, first, "tune-00001/block.safetensors"),
                     inode(h, second, "tune-00001/block.safetensors"));
    house_unmark(h, "fail-finalize");
    house_desire(h, second, "run");
    house_await(h, second, "done");
    house_desire(h, first, "run");
    house_await(h, first, "done");
    rh_free(second);
    rh_free(first);
}

static void another_recipe_shares_the_source_alone(void **state)
{
    struct house *h = *state;
    char *first = first_job(h);
    char *second = submit_with(h, "second", 7);
    house_await(h, second, "done");
    assert_int_equal(house_count(h, second, "task.started", "fetch"), 0);
    assert_int_equal(house_count(h, second, "task.reused", "fetch"), 5);
    assert_int_equal(house_count(h, second, "task.started", "tune"), 1);
    assert_int_equal(house_count(h, second, "task.reused", "tune"), 0);
    rh_free(second);
    rh_free(first);
}

/* The rows that a probe chose depend on the source and the calibration, not on how they are tuned. */
static void a_probe_is_reused_and_the_tuning_goes_by_its_rows(void **state)
{
    struct house *h = *state;
    house_mark(h, "probed");
    char *first = first_job(h);
    assert_int_equal(house_count(h, first, "task.started", "probe"), 1);
    house_mark(h, "fail-finalize");
    char *second = house_submit(h, "second");
    house_await(h, second, "failed");
    assert_int_equal(house_count(h, second, "task.started", "probe"), 0);
    assert_int_equal(house_count(h, second, "task.reused", "probe"), 1);
    assert_int_equal(house_count(h, second, "task.reused", "tune"), 1);
    house_unmark(h, "fail-finalize");
    char *third = submit_with(h, "third", 7);
    house_await(h, third, "done");
    assert_int_equal(house_count(h, third, "task.reused", "probe"), 1);
    assert_int_equal(house_count(h, third, "task.started", "tune"), 1);
    house_unmark(h, "probed"); /* the rows of calibrate itself are others */
    char *fourth = house_submit(h, "fourth");
    house_await(h, fourth, "done");
    assert_int_equal(house_count(h, fourth, "task.started", "probe"), 0);
    assert_int_equal(house_count(h, fourth, "task.started", "tune"), 1);
    rh_free(fourth);
    rh_free(third);
    rh_free(second);
    rh_free(first);
}

static void a_source_that_was_written_to_is_fetched_again(void **state)
{
    struct house *h = *state;
    char *first = first_job(h);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    house_mark(h, "weights");
    char *second = house_submit(h, "second");
    house_await(h, second, "done");
    assert_int_equal(house_count(h, second, "task.started", "fetch"), 5);
    assert_int_equal(house_count(h, second, "task.reused", "fetch"), 0);
    /* What was fetched is equal after all, and what comes of it is known. */
    assert_true(house_count(h, second, "task.reused", "pack") > 0);
    rh_free(second);
    rh_free(first);
}

/* The blocks are the same whatever becomes of the MTP head, and its tuning begins behind the last.
 */
static void an_mtp_head_is_tuned_behind_the_blocks_of_another_job(void **state)
{
    struct house *h = *state;
    char *first = first_job(h);
    house_mark(h, "with-mtp");
    house_mark(h, "fail-finalize");
    char *second = house_submit(h, "second");
    house_await(h, second, "failed");
    assert_int_equal(house_count(h, first, "block.done", NULL), 3);
    assert_int_equal(house_count(h, second, "block.started", NULL), 1);
    assert_int_equal(house_count(h, second, "block.done", NULL), 4);
    house_unmark(h, "fail-finalize");
    char *third = house_submit(h, "third");
    house_await(h, third, "done");
    assert_int_equal(house_count(h, third, "block.started", NULL), 0);
    assert_int_equal(house_count(h, third, "task.reused", "tune"), 1);
    assert_int_equal(house_count(h, third, "task.started", "pack"), 0);
    rh_free(third);
    rh_free(second);
    rh_free(first);
}

/* Tuned half way: the second job goes on where the first one stands. */
static void a_session_goes_on_behind_the_blocks_of_another_job(void **state)
{
    struct house *h = *state;
    house_mark(h, "weights");
    house_mark(h, "slow");
    house_open(h);
    char *first = house_submit(h, "first");
    char *second = NULL;
    for (int blocks = 0; blocks < 1;) {
        uv_run(&h->loop, UV_RUN_ONCE);
        blocks = house_count(h, first, "block.done", NULL);
    }
    house_desire(h, first, "pause");
    house_await(h, first, "paused");
    int done = house_count(h, first, "block.done", NULL);
    assert_true(done >= 1 && done <= 2);
    second = house_submit(h, "second");
    house_await(h, second, "done");
    assert_int_equal(house_count(h, second, "block.started", NULL), 3 - done);
    assert_int_equal(house_count(h, second, "block.done", NULL), 3);
    rh_free(second);
    rh_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_same_model_and_recipe_is_neither_fetched_nor_tuned_again),
        TEST(a_probe_is_reused_and_the_tuning_goes_by_its_rows),
        TEST(another_recipe_shares_the_source_alone),
        TEST(an_mtp_head_is_tuned_behind_the_blocks_of_another_job),
        TEST(a_source_that_was_written_to_is_fetched_again),
        TEST(a_session_goes_on_behind_the_blocks_of_another_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
