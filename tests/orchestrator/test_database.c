#include <fcntl.h>
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
#include "database/database.h"

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

struct place {
    char *dir, *path;
    struct rh_database *db;
};

static int set_up(void **state)
{
    struct place *p = rh_alloc(sizeof *p);
    struct rh_error err;
    const char *tmp = getenv("TMPDIR");
    p->dir = rh_format("%s/rh-database-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(p->dir))
        return -1;
    p->path = rh_fs_join(p->dir, "roundhouse.db");
    *state = p;
    return rh_database_open(p->path, &p->db, &err);
}

static int tear_down(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    rh_database_close(p->db);
    enum rh_rc rc = rh_fs_remove_tree(p->dir, &err);
    rh_free(p->path);
    rh_free(p->dir);
    rh_free(p);
    return rc;
}

static void reopen(struct place *p)
{
    struct rh_error err;
    rh_database_close(p->db);
    check(rh_database_open(p->path, &p->db, &err), &err);
}

static void add_job(struct place *p, const char *id, const char *token, int64_t seq)
{
    struct rh_error err;
    struct rh_sched_job job = {.priority = -3, .seq = seq, .prefetch_blocks = 2};
    const struct rh_job_row row = {.id = id,
                                   .name = "n",
                                   .model = "file:/m",
                                   .output = "dir:/o",
                                   .recipe = "{}",
                                   .recipe_digest = "abc",
                                   .token = token,
                                   .created_unix_ns = 17};
    snprintf(job.id, sizeof job.id, "%s", id);
    check(rh_database_add_job(p->db, &row, &job, &err), &err);
}

struct seen {
    int count;
    char last[RH_JOB_ID_SIZE];
    struct rh_sched_job job;
    int64_t finished;
    char reason[64], token[64];
    struct rh_sched_task task;
    char error[64];
};

static enum rh_rc see_job(void *arg, const struct rh_job_row *row, const struct rh_sched_job *job,
                          struct rh_error *err)
{
    struct seen *s = arg;
    (void)err;
    s->count++;
    s->job = *job;
    s->finished = row->finished_unix_ns;
    memcpy(s->last, job->id, sizeof s->last);
    snprintf(s->reason, sizeof s->reason, "%s", job->reason ? job->reason : "(null)");
    snprintf(s->token, sizeof s->token, "%s", row->token ? row->token : "(null)");
    assert_string_equal(row->id, job->id);
    assert_string_equal(row->model, "file:/m");
    assert_string_equal(row->output, "dir:/o");
    assert_string_equal(row->recipe, "{}");
    assert_string_equal(row->recipe_digest, "abc");
    assert_int_equal(row->created_unix_ns, 17);
    return RH_OK;
}

static struct seen jobs(struct place *p, enum rh_job_choice choice, const char *key)
{
    struct seen s = {0};
    struct rh_error err;
    check(rh_database_jobs(p->db, choice, key, see_job, &s, &err), &err);
    return s;
}

static void see_task(void *arg, const struct rh_sched_task *task)
{
    struct seen *s = arg;
    s->count++;
    s->task = *task;
    snprintf(s->error, sizeof s->error, "%s", task->error ? task->error : "(null)");
}

static void a_job_comes_back_as_it_was_saved(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    char reason[] = "no room";
    struct rh_sched_job job = {.id = "01abc",
                               .priority = 5,
                               .desired = RH_DESIRED_PAUSE,
                               .state = RH_JOB_BLOCKED,
                               .reason = reason};
    add_job(p, "01abc", "t1", 4);
    assert_string_equal(jobs(p, RH_JOBS_ALL, NULL).reason, "(null)");
    check(rh_database_save_job(p->db, &job, 99, &err), &err);
    reopen(p);
    struct seen s = jobs(p, RH_JOBS_ALL, NULL);
    assert_int_equal(s.count, 1);
    assert_int_equal(s.job.priority, 5);
    assert_int_equal(s.job.seq, 4);
    assert_int_equal(s.job.prefetch_blocks, 2);
    assert_int_equal(s.job.desired, RH_DESIRED_PAUSE);
    assert_int_equal(s.job.state, RH_JOB_BLOCKED);
    assert_int_equal(s.finished, 99);
    assert_string_equal(s.reason, "no room");
    assert_string_equal(s.token, "t1");
}

static void jobs_are_found_by_state_beginning_and_token(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    add_job(p, "aa1", "t1", 1);
    add_job(p, "aa2", NULL, 2);
    add_job(p, "ab3", NULL, 3);
    struct rh_sched_job done = {.id = "aa2", .state = RH_JOB_DONE};
    check(rh_database_save_job(p->db, &done, 1, &err), &err);
    assert_int_equal(jobs(p, RH_JOBS_ALL, NULL).count, 3);
    assert_int_equal(jobs(p, RH_JOBS_ACTIVE, NULL).count, 2);
    assert_int_equal(jobs(p, RH_JOBS_ID, "aa").count, 2);
    assert_string_equal(jobs(p, RH_JOBS_ID, "aa2").last, "aa2");
    assert_int_equal(jobs(p, RH_JOBS_ID, "a%").count, 0);
    assert_string_equal(jobs(p, RH_JOBS_TOKEN, "t1").last, "aa1");
    assert_int_equal(jobs(p, RH_JOBS_TOKEN, "t2").count, 0);
    assert_string_equal(jobs(p, RH_JOBS_ALL, NULL).last, "ab3");
}

static void a_token_is_used_once(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct rh_sched_job job = {.id = "b", .seq = 2};
    const struct rh_job_row row = {.id = "b",
                                   .model = "m",
                                   .output = "o",
                                   .recipe = "{}",
                                   .recipe_digest = "d",
                                   .token = "t1"};
    add_job(p, "a", "t1", 1);
    assert_int_not_equal(rh_database_add_job(p->db, &row, &job, &err), RH_OK);
    assert_non_null(strstr(err.message, p->path));
}

static void a_task_comes_back_and_a_commit_under_way_counts_as_leased(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct seen s = {0};
    char text[] = "broken pipe";
    struct rh_sched_job job = {.id = "a"};
    struct rh_sched_task task = {.id = 7,
                                 .job = &job,
                                 .op = RH_OP_TUNE,
                                 .index = 0,
                                 .last = 3,
                                 .state = RH_TASK_COMMITTING,
                                 .epoch = 4,
                                 .attempts = 2,
                                 .crashes = 1,
                                 .next = 2,
                                 .failure = RH_FAILURE_TRANSIENT,
                                 .error = text,
                                 .worker = "quantize-1"};
    add_job(p, "a", NULL, 1);
    check(rh_database_save_task(p->db, &task, &err), &err);
    task.epoch = 5;
    check(rh_database_save_task(p->db, &task, &err), &err);
    reopen(p);
    check(rh_database_tasks(p->db, "a", see_task, &s, &err), &err);
    assert_int_equal(s.count, 1);
    assert_int_equal(s.task.id, 7);
    assert_int_equal(s.task.op, RH_OP_TUNE);
    assert_int_equal(s.task.last, 3);
    assert_int_equal(s.task.state, RH_TASK_LEASED);
    assert_int_equal(s.task.epoch, 5);
    assert_int_equal(s.task.attempts, 2);
    assert_int_equal(s.task.crashes, 1);
    assert_int_equal(s.task.next, 2);
    assert_int_equal(s.task.failure, RH_FAILURE_TRANSIENT);
    assert_string_equal(s.task.worker, "quantize-1");
    assert_string_equal(s.error, "broken pipe");
    int64_t seq = 0;
    int64_t id = 0;
    check(rh_database_next_numbers(p->db, &seq, &id, &err), &err);
    assert_int_equal(seq, 2);
    assert_int_equal(id, 8);
}

static int64_t add_event(struct place *p, const char *job, const char *type, int64_t block)
{
    struct rh_error err;
    struct rh_event_row row = {.unix_ns = 1,
                               .epoch = 3,
                               .job = job,
                               .type = type,
                               .worker = "w",
                               .pid = 12,
                               .index = -1,
                               .block = block,
                               .data = "{\"seconds\": 2.5}"};
    check(rh_database_add_event(p->db, &row, &err), &err);
    return row.seq;
}

static void events_are_numbered_and_read_in_pages(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct rh_json *events = NULL;
    assert_int_equal(rh_database_last_event(p->db), 0);
    int64_t first = add_event(p, "a", "job.queued", -1);
    int64_t second = add_event(p, "b", "block.done", 0);
    int64_t third = add_event(p, "a", "block.done", 4);
    assert_true(first < second && second < third);
    assert_int_equal(rh_database_last_event(p->db), third);
    check(rh_database_events(p->db, NULL, NULL, first, 1, &events, &err), &err);
    assert_int_equal(rh_json_count(events), 1);
    assert_string_equal(rh_json_string(rh_json_get(rh_json_first(events), "job")), "b");
    rh_json_free(events);
    check(rh_database_events(p->db, "a", "block.done", 0, 10, &events, &err), &err);
    assert_int_equal(rh_json_count(events), 1);
    const struct rh_json *e = rh_json_first(events);
    int64_t number = 0;
    assert_true(rh_json_int(rh_json_get(e, "block"), &number) && number == 4);
    assert_true(rh_json_int(rh_json_get(e, "pid"), &number) && number == 12);
    assert_true(rh_json_int(rh_json_get(e, "epoch"), &number) && number == 3);
    assert_null(rh_json_get(e, "index"));
    assert_true(rh_json_number(rh_json_get(rh_json_get(e, "data"), "seconds"), 0) == 2.5);
    rh_json_free(events);
}

static void what_was_rolled_back_is_not_there(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    check(rh_database_begin(p->db, &err), &err);
    add_job(p, "a", NULL, 1);
    rh_database_rollback(p->db);
    assert_int_equal(jobs(p, RH_JOBS_ALL, NULL).count, 0);
    check(rh_database_begin(p->db, &err), &err);
    add_job(p, "a", NULL, 1);
    check(rh_database_commit(p->db, &err), &err);
    rh_database_rollback(p->db);
    reopen(p);
    assert_int_equal(jobs(p, RH_JOBS_ALL, NULL).count, 1);
}

static void the_epoch_rises_and_the_factory_keeps_its_name(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    uint64_t one = 0;
    uint64_t two = 0;
    char *name = rh_strdup(rh_database_factory_id(p->db));
    assert_int_equal(strlen(name), 32);
    check(rh_database_next_epoch(p->db, &one, &err), &err);
    reopen(p);
    check(rh_database_next_epoch(p->db, &two, &err), &err);
    assert_int_equal(one, 1);
    assert_int_equal(two, 2);
    assert_string_equal(rh_database_factory_id(p->db), name);
    rh_free(name);
}

/* The header of an SQLite file, big endian: user_version at byte 60, application_id at 68. */
static void patch(struct place *p, off_t at, const void *bytes, size_t size)
{
    rh_database_close(p->db);
    p->db = NULL;
    int fd = open(p->path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, at), size);
    assert_int_equal(close(fd), 0);
}

static void expect_refusal(struct place *p, enum rh_rc rc, const char *word)
{
    struct rh_error err;
    assert_int_equal(rh_database_open(p->path, &p->db, &err), rc);
    assert_null(p->db);
    assert_non_null(strstr(err.message, word));
    assert_non_null(strstr(err.message, p->path));
}

/* -- Older versions --------------------------------------------------------------------------- */

#define RELEASED_EVENTS 163

static void use_released(struct place *p, int version)
{
    struct rh_error err;
    rh_database_close(p->db);
    p->db = NULL;
    check(rh_fs_remove_tree(p->path, &err), &err);
    char *released =
        rh_format("%s/tests/orchestrator/released/schema-%d.db", RH_SOURCE_DIR, version);
    check(rh_fs_copy(released, p->path, NULL, &err), &err);
    rh_free(released);
}

struct census {
    int jobs, tasks, done, failed;
    bool fourth;
};

static void census_task(void *arg, const struct rh_sched_task *task)
{
    struct census *c = arg;
    c->tasks++;
    c->done += task->state == RH_TASK_DONE;
    c->failed += task->state == RH_TASK_FAILED;
    assert_string_equal(task->crashed_on, "");
}

static struct rh_database *census_db;

static enum rh_rc census_job(void *arg, const struct rh_job_row *row,
                             const struct rh_sched_job *job, struct rh_error *err)
{
    struct census *c = arg;
    c->jobs++;
    if (strcmp(row->name, "fourth") == 0)
        c->fourth = job->state == RH_JOB_PAUSED && job->desired == RH_DESIRED_PAUSE;
    return rh_database_tasks(census_db, row->id, census_task, c, err);
}

/* Written by the first version: two jobs done, one failed, one paused at its second block. */
static void a_database_of_the_first_schema_is_brought_up_to_date(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct rh_json *events = NULL;
    struct rh_step_row step;
    struct census c = {0};
    use_released(p, 1);
    for (int i = 0; i < 2; i++) {
        check(rh_database_open(p->path, &p->db, &err), &err);
        memset(&c, 0, sizeof c);
        census_db = p->db;
        check(rh_database_jobs(p->db, RH_JOBS_ALL, NULL, census_job, &c, &err), &err);
        assert_int_equal(c.jobs, 4);
        assert_int_equal(c.tasks, 72);
        assert_int_equal(c.failed, 1);
        assert_true(c.fourth);
        check(rh_database_events(p->db, NULL, NULL, 0, 10000, &events, &err), &err);
        assert_int_equal(rh_json_count(events), RELEASED_EVENTS);
        rh_json_free(events);
        check(rh_database_find_step(p->db, "x", &step, &err), &err);
        assert_string_equal(step.job, "");
        rh_database_close(p->db);
        p->db = NULL;
    }
    /* The copy is what the old program left. */
    char *copy = rh_format("%s.v1", p->path);
    uint64_t size = 0;
    check(rh_fs_size(copy, &size, &err), &err);
    assert_true(size > 0);
    rh_free(p->path);
    p->path = copy;
    patch(p, 68, "RHOU", 4);
    check(rh_database_open(p->path, &p->db, &err), &err);
}

static void a_reader_sees_what_is_stored_and_refuses_an_old_schema(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct rh_database *reader = NULL;
    struct census c = {0};
    uint64_t epoch = 0;
    char *nowhere = rh_format("%s/nothing.db", p->dir);
    assert_int_equal(rh_database_open_reader(nowhere, &reader, &err), RH_ERR_NOT_FOUND);
    rh_free(nowhere);
    add_job(p, "j1", NULL, 1);
    check(rh_database_open_reader(p->path, &reader, &err), &err);
    census_db = reader;
    check(rh_database_jobs(reader, RH_JOBS_ALL, NULL, census_job, &c, &err), &err);
    assert_int_equal(c.jobs, 1);
    assert_int_not_equal(rh_database_next_epoch(reader, &epoch, &err), RH_OK);
    rh_database_close(reader);
    use_released(p, 1);
    assert_int_equal(rh_database_open_reader(p->path, &reader, &err), RH_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "start roundhoused once"));
}

static void a_backup_is_whole_while_the_original_is_written_to(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct census c = {0};
    add_job(p, "j1", NULL, 1);
    char *copy = rh_format("%s/copy.db", p->dir);
    check(rh_database_backup(p->db, copy, &err), &err);
    assert_int_equal(rh_database_backup(p->db, copy, &err), RH_ERR_EXISTS);
    add_job(p, "j2", NULL, 2);
    rh_database_close(p->db);
    check(rh_database_open(copy, &p->db, &err), &err);
    census_db = p->db;
    check(rh_database_jobs(p->db, RH_JOBS_ALL, NULL, census_job, &c, &err), &err);
    assert_int_equal(c.jobs, 1);
    rh_free(copy);
}

/* -- Workers and steps ------------------------------------------------------------------------ */

static void note_worker(void *arg, const char *id, enum rh_stage_id stage, const char *why)
{
    assert_int_equal(stage, RH_STAGE_PACK);
    assert_string_equal(id, "p1");
    assert_string_equal(why, "bad disk");
    ++*(int *)arg;
}

static void drained_workers_and_steps_are_remembered(void **state)
{
    struct place *p = *state;
    struct rh_error err;
    struct rh_step_row step;
    int workers = 0;
    add_job(p, "j1", NULL, 1);
    check(rh_database_save_worker(p->db, "p1", RH_STAGE_PACK, "new disk", &err), &err);
    check(rh_database_save_worker(p->db, "p1", RH_STAGE_PACK, "bad disk", &err), &err);
    check(rh_database_save_step(p->db, "key", "j1", "fetch", 3, &err), &err);
    reopen(p);
    check(rh_database_workers(p->db, note_worker, &workers, &err), &err);
    assert_int_equal(workers, 1);
    check(rh_database_find_step(p->db, "key", &step, &err), &err);
    assert_string_equal(step.job, "j1");
    assert_string_equal(step.op, "fetch");
    assert_int_equal(step.index, 3);
    check(rh_database_forget_steps(p->db, "j1", &err), &err);
    check(rh_database_find_step(p->db, "key", &step, &err), &err);
    assert_string_equal(step.job, "");
    check(rh_database_save_worker(p->db, "p1", RH_STAGE_PACK, NULL, &err), &err);
    check(rh_database_workers(p->db, note_worker, &workers, &err), &err);
    assert_int_equal(workers, 1);
}

static void a_newer_schema_is_refused(void **state)
{
    struct place *p = *state;
    patch(p, 60, "\0\0\0\x63", 4);
    expect_refusal(p, RH_ERR_UNSUPPORTED, "99");
}

static void a_database_of_another_program_is_refused(void **state)
{
    struct place *p = *state;
    patch(p, 68, "abcd", 4);
    expect_refusal(p, RH_ERR_FORMAT, "another program");
}

static void a_file_that_is_no_database_is_refused(void **state)
{
    struct place *p = *state;
    patch(p, 0, "this is not a database", 22);
    expect_refusal(p, RH_ERR_FORMAT, "not a database");
}

static void a_damaged_page_is_found_at_the_start(void **state)
{
    struct place *p = *state;
    char rubbish[1024];
    memset(rubbish, 0xA5, sizeof rubbish);
    add_job(p, "a", "t", 1);
    patch(p, 2 * 4096, rubbish, sizeof rubbish);
    expect_refusal(p, RH_ERR_FORMAT, "damaged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_job_comes_back_as_it_was_saved, set_up, tear_down),
        cmocka_unit_test_setup_teardown(jobs_are_found_by_state_beginning_and_token, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_token_is_used_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_task_comes_back_and_a_commit_under_way_counts_as_leased,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(events_are_numbered_and_read_in_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_rolled_back_is_not_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_epoch_rises_and_the_factory_keeps_its_name, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_database_of_the_first_schema_is_brought_up_to_date,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reader_sees_what_is_stored_and_refuses_an_old_schema,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_backup_is_whole_while_the_original_is_written_to, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(drained_workers_and_steps_are_remembered, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_newer_schema_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_database_of_another_program_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_is_no_database_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_damaged_page_is_found_at_the_start, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
