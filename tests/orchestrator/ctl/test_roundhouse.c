/* The command line of the roundhouse program, as scripts meet it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "database/database.h"
#include "proc.h"
#include "recipe/recipe.h"

#define NANO    RH_SOURCE_DIR "/tests/data/nano"
#define SAMPLES "calibration.dataset=" RH_SOURCE_DIR "/tests/data/nano-samples.jsonl"
#define SECONDS 60

static int setup(void **state)
{
    char name[] = "/tmp/rh-ctl-XXXXXX";
    if (!mkdtemp(name))
        return -1;
    *state = rh_strdup(name);
    return 0;
}

static int teardown(void **state)
{
    struct rh_error err;
    enum rh_rc rc = rh_fs_remove_tree(*state, &err);
    rh_free(*state);
    return rc;
}

#define ARGS(...) ((const char *const[]){"roundhouse", __VA_ARGS__, NULL})

/* Exit code, one error line with the text, nothing on stdout. */
static void refuse(const char *const *arguments, int code, const char *text)
{
    struct proc p;
    proc_run(&p, SECONDS, arguments);
    if (p.status != code || !strstr(p.err, text) || strncmp(p.err, "roundhouse: ", 12) != 0)
        fail_msg("%s: exit code %d (%d), \"%s\" wanted in: %s", arguments[1], p.status, code, text,
                 p.err);
    assert_ptr_equal(strchr(p.err, '\n'), p.err + strlen(p.err) - 1);
    assert_string_equal(p.out, "");
    proc_done(&p);
}

static struct rh_json *ask(const char *const *arguments)
{
    struct proc p;
    struct rh_json *json = NULL;
    struct rh_error err;
    if (proc_run(&p, SECONDS, arguments) != 0)
        fail_msg("%s: exit code %d: %s", arguments[1], p.status, p.err);
    if (rh_json_parse(p.out, strlen(p.out), arguments[1], &json, &err) != RH_OK)
        fail_msg("%s", err.message);
    proc_done(&p);
    return json;
}

static void wrong_command_lines_end_with_2(void **state)
{
    (void)state;
    refuse(ARGS("lst"), 2, "lst");
    refuse(ARGS("help", "lst"), 2, "lst");
    refuse(ARGS("run"), 2, "usage: roundhouse run MODEL");
    refuse(ARGS("run", NANO), 2, "--recipe");
    refuse(ARGS("run", NANO, "--recipe", "tiny"), 2, "--output");
    refuse(ARGS("run", NANO, "--reciepe", "tiny"), 2, "--recipe");
    refuse(ARGS("run", NANO, "--recipe", "tiny", "--output", "/tmp/x", "--progress", "loud"), 2,
           "auto, plain, json, none");
    refuse(ARGS("submit", NANO, "--recipe", "tiny", "--set", SAMPLES, "--output", "/tmp/x",
                "--priority", "high"),
           2, "high");
    refuse(ARGS("show", "x", "--tasks", "--events"), 2, "--tasks");
    refuse(ARGS("priority", "high", "x", "--state", "/tmp"), 2, "high");
    refuse(ARGS("retry", "--from", "soon", "x", "--state", "/tmp"), 2, "soon");
    refuse(ARGS("retry", "--from", "1", "--task", "2", "x", "--state", "/tmp"), 2, "--from or");
    refuse(ARGS("retry", "--task", "2", "x", "y", "--state", "/tmp"), 2, "one job");
    refuse(ARGS("pause", "--from", "1", "x"), 2, "--from");
    refuse(ARGS("gc", "--retain", "lots", "--state", "/tmp"), 2, "lots");
    refuse(ARGS("gc", "--failed", "30x", "--state", "/tmp"), 2, "30x");
    refuse(ARGS("drain", "--state", "/tmp"), 2, "WORKER");
    refuse(ARGS("backup"), 2, "FILE");
    refuse(ARGS("export"), 2, "JOB");
    refuse(ARGS("plan"), 2, "MODEL");
    refuse(ARGS("verify"), 2, "DIR");
    refuse(ARGS("tokenize"), 2, "TOKENIZER_JSON");
}

static void without_an_orchestrator_it_is_3(void **state)
{
    const char *dir = *state;
    refuse(ARGS("list", "--state", dir), 3, "no orchestrator answers");
    refuse(ARGS("show", "x", "--state", dir), 3, dir);
    refuse(ARGS("watch", "--state", dir), 3, dir);
    refuse(ARGS("cancel", "x", "--state", dir), 3, dir);
    refuse(ARGS("timeline", "--state", dir), 3, dir);
    refuse(ARGS("gc", "--state", dir), 3, dir);
    refuse(ARGS("drain", "pack-1", "--state", dir), 3, dir);
    refuse(ARGS("export", "x", "--state", dir), 3, dir);
    refuse(ARGS("doctor", "--state", dir), 4, "no state directory");
    refuse(ARGS("backup", "/tmp/never", "--state", dir), 4, "is that a state directory");
    refuse(ARGS("submit", NANO, "--recipe", "tiny", "--set", SAMPLES, "--output", "/tmp/x",
                "--state", dir),
           3, dir);
    char **names = NULL;
    size_t count = 1;
    assert_int_equal(rh_fs_list(dir, &names, &count, NULL), RH_OK);
    assert_int_equal(count, 0);
    rh_fs_list_free(names, count);
}

static void what_is_not_there_is_4_and_what_is_in_the_way_is_5(void **state)
{
    const char *dir = *state;
    char *file = rh_fs_join(dir, "mine");
    char *hidden = rh_format("%s/.mine.roundhouse", dir);
    struct rh_error err;
    refuse(ARGS("run", "/no/model", "--recipe", "tiny", "--set", SAMPLES, "--output", file), 4,
           "/no/model");
    assert_int_equal(rh_fs_mkdirs(file, &err), RH_OK);
    char *content = rh_fs_join(file, "precious");
    assert_int_equal(rh_fs_write(content, "x", 1, &err), RH_OK);
    refuse(ARGS("run", NANO, "--recipe", "tiny", "--set", SAMPLES, "--output", file), 5, file);
    assert_true(rh_fs_exists(content));
    assert_false(rh_fs_exists(hidden));
    rh_free(content);
    rh_free(hidden);
    rh_free(file);
}

static void help_and_version_go_to_stdout(void **state)
{
    (void)state;
    static const char *const verbs[] = {
        "run",   "submit",   "list",    "show", "watch",  "cancel",   "pause",  "resume",
        "retry", "priority", "workers", "plan", "verify", "tokenize", "schema", "version"};
    struct proc p, all;
    assert_int_equal(proc_run(&all, SECONDS, ARGS("help")), 0);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_non_null(strstr(all.out, verbs[i]));
        if (proc_run(&p, SECONDS, ARGS("help", verbs[i])) != 0)
            fail_msg("help %s: %s", verbs[i], p.err);
        char *first = rh_format("roundhouse %s ", verbs[i]);
        if (strncmp(p.out, first, strlen(first)) != 0)
            fail_msg("help %s begins with: %s", verbs[i], p.out);
        assert_string_equal(p.err, "");
        rh_free(first);
        proc_done(&p);
    }
    proc_done(&all);
    assert_int_equal(proc_run(&p, SECONDS, ARGS("version")), 0);
    assert_int_equal(strncmp(p.out, "roundhouse ", 11), 0);
    proc_done(&p);
    struct rh_json *version = ask(ARGS("version", "--json"));
    assert_string_equal(rh_json_string(rh_json_get(version, "schema")), "roundhouse.version/1");
    rh_json_free(version);
}

static void the_shipped_schema_is_the_programs(void **state)
{
    (void)state;
    struct rh_json *printed = ask(ARGS("schema"));
    struct rh_json *shipped = NULL;
    struct rh_error err;
    assert_int_equal(
        rh_json_read(RH_SOURCE_DIR "/configs/schema/recipe.schema.json", 1 << 20, &shipped, &err),
        RH_OK);
    char *a = rh_json_canonical(printed), *b = rh_json_canonical(shipped);
    if (strcmp(a, b) != 0)
        fail_msg(
            "the recipe keys have changed: roundhouse schema >configs/schema/recipe.schema.json");
    rh_free(a);
    rh_free(b);
    rh_json_free(printed);
    rh_json_free(shipped);
}

/* -- With an orchestrator that has no stages -------------------------------------------------- */

static bool answers(void *dir)
{
    struct proc p;
    bool yes = proc_run(&p, SECONDS, ARGS("workers", "--state", dir)) == 0;
    proc_done(&p);
    return yes;
}

static char *submit(const char *dir, const char *name)
{
    struct proc p;
    char *output = rh_fs_join(dir, name);
    if (proc_run(&p, SECONDS,
                 ARGS("submit", NANO, "--recipe", "tiny", "--set", SAMPLES, "--output", output,
                      "--priority", "3", "--token", name, "--state", dir)) != 0)
        fail_msg("submit: exit code %d: %s", p.status, p.err);
    char *id = rh_strndup(p.out, strcspn(p.out, "\n"));
    assert_int_equal(strlen(id), 26);
    proc_done(&p);
    rh_free(output);
    return id;
}

static void expect_job(const char *dir, const char *id, const char *key, const char *value)
{
    struct rh_json *job = ask(ARGS("show", id, "--json", "--state", dir));
    assert_string_equal(rh_json_string(rh_json_get(job, key)), value);
    rh_json_free(job);
}

static void change(const char *dir, const char *verb, const char *id)
{
    struct rh_json *jobs = ask(ARGS(verb, id, "--json", "--state", dir));
    assert_int_equal(rh_json_count(rh_json_get(jobs, "jobs")), 1);
    rh_json_free(jobs);
}

static void jobs_are_submitted_changed_and_listed(void **state)
{
    char *dir = *state;
    struct proc factory;
    proc_start(&factory, (const char *const[]){"roundhoused", "--state", dir, NULL});
    assert_true(wait_until(answers, dir, 30));
    char *a = submit(dir, "a"), *b = submit(dir, "b"), *again = submit(dir, "a");
    assert_string_equal(a, again);
    struct rh_json *list = ask(ARGS("list", "--json", "--state", dir));
    assert_int_equal(rh_json_count(rh_json_get(list, "jobs")), 2);
    rh_json_free(list);
    change(dir, "pause", a);
    expect_job(dir, a, "desired", "pause");
    change(dir, "resume", a);
    expect_job(dir, a, "desired", "run");
    change(dir, "cancel", a);
    expect_job(dir, a, "state", "cancelled");
    refuse(ARGS("priority", "1", a, "--state", dir), 5, "cancelled");
    refuse(ARGS("show", "nosuchjob", "--state", dir), 4, "nosuchjob");
    struct proc p;
    proc_run(&p, SECONDS, ARGS("priority", "9", b, "nosuchjob", "--state", dir));
    assert_int_equal(p.status, 8);
    assert_non_null(strstr(p.out, "priority 9"));
    assert_non_null(strstr(p.err, "nosuchjob"));
    proc_done(&p);
    /* A job that is over is waited for no longer, and its end is the exit code. */
    proc_run(&p, SECONDS, ARGS("watch", a, "--progress", "plain", "--state", dir));
    assert_int_equal(p.status, 1);
    assert_non_null(strstr(p.err, "cancelled"));
    proc_done(&p);
    kill(factory.pid, SIGTERM);
    proc_wait(&factory, SECONDS);
    assert_int_equal(factory.status, 0);
    proc_done(&factory);
    rh_free(a);
    rh_free(b);
    rh_free(again);
}

static void a_sleeping_state_directory_can_be_read_and_changed(void **state)
{
    char *dir = *state;
    struct proc factory;
    proc_start(&factory, (const char *const[]){"roundhoused", "--state", dir, NULL});
    assert_true(wait_until(answers, dir, 30));
    char *id = submit(dir, "a");
    kill(factory.pid, SIGTERM);
    proc_wait(&factory, SECONDS);
    proc_done(&factory);
    struct rh_json *recipe = ask(ARGS("show", id, "--recipe", "--state", dir));
    assert_non_null(rh_json_get(recipe, "quant"));
    rh_json_free(recipe);
    change(dir, "cancel", id);
    expect_job(dir, id, "state", "cancelled");
    /* Nothing stays behind. */
    assert_int_equal(find_process("roundhoused", dir), 0);
    refuse(ARGS("watch", id, "--state", dir), 3, "no orchestrator answers");
    rh_free(id);
}

static void watching_everything_ends_with_130_when_interrupted(void **state)
{
    char *dir = *state;
    struct proc factory, watch;
    proc_start(&factory, (const char *const[]){"roundhoused", "--state", dir, NULL});
    assert_true(wait_until(answers, dir, 30));
    proc_start(&watch, ARGS("watch", "--progress", "json", "--state", dir));
    sleep_ms(500);
    char *id = submit(dir, "a");
    sleep_ms(500);
    kill(watch.pid, SIGINT);
    proc_wait(&watch, SECONDS);
    assert_int_equal(watch.status, 130);
    assert_non_null(strstr(watch.err, "interrupted"));
    assert_non_null(strstr(watch.out, "job.submitted"));
    assert_non_null(strstr(watch.out, id));
    for (char *rest = NULL, *line = strtok_r(watch.out, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        struct rh_json *event = NULL;
        struct rh_error err;
        assert_int_equal(rh_json_parse(line, strlen(line), "event", &event, &err), RH_OK);
        rh_json_free(event);
    }
    proc_done(&watch);
    kill(factory.pid, SIGTERM);
    proc_wait(&factory, SECONDS);
    proc_done(&factory);
    rh_free(id);
}

#define WITH_DIR(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* A state directory with one failed job, some bytes of it and many events. */
static void make_state(const char *dir, const char *id, int events)
{
    struct rh_error err;
    struct rh_database *db = NULL;
    char *path = rh_fs_join(dir, "roundhouse.db");
    char *artifact = rh_format("%s/jobs/%s/artifacts/fetch-00000", dir, id);
    char *file = rh_fs_join(artifact, "tensors.safetensors");
    assert_int_equal(rh_database_open(path, &db, &err), RH_OK);
    struct rh_sched_job job = {.seq = 1, .state = RH_JOB_FAILED};
    strncpy(job.id, id, sizeof job.id - 1);
    const struct rh_job_row row = {.id = id, .name = "n", .model = "file:/m", .output = "dir:/o",
                                   .recipe = "{}", .recipe_digest = "d", .created_unix_ns = 1};
    assert_int_equal(rh_database_begin(db, &err), RH_OK);
    assert_int_equal(rh_database_add_job(db, &row, &job, &err), RH_OK);
    for (int i = 0; i < events; i++) {
        struct rh_event_row event = {.unix_ns = i + 1, .epoch = 1, .job = id, .type = "task.retry",
                                     .index = -1, .block = -1};
        assert_int_equal(rh_database_add_event(db, &event, &err), RH_OK);
    }
    assert_int_equal(rh_database_commit(db, &err), RH_OK);
    rh_database_close(db);
    assert_int_equal(rh_fs_mkdirs(artifact, &err), RH_OK);
    assert_int_equal(rh_fs_write(file, "weights", 7, &err), RH_OK);
    rh_free(file);
    rh_free(artifact);
    rh_free(path);
}

static void an_export_has_every_event_and_gc_answers_when_it_has_measured(void **state)
{
    const char *dir = *state;
    char *home = rh_fs_join(dir, "kept");
    char *tar = rh_fs_join(dir, "report.tar");
    struct rh_error err;
    struct proc p;
    assert_int_equal(rh_fs_mkdirs(home, &err), RH_OK);
    make_state(home, "01m8bvqxpv1a5eenxs3g64hknr", 2300);
    proc_run(&p, SECONDS, ARGS("export", "01m8", "--state", home, "--output", tar));
    if (p.status != 0)
        fail_msg("%s", p.err);
    proc_done(&p);
    size_t size = 0;
    char *text = NULL;
    assert_int_equal(rh_fs_read(tar, 64 << 20, &text, &size, &err), RH_OK);
    size_t count = 0;
    static const char mark[] = "\"task.retry\"";
    for (size_t i = 0; i + sizeof mark <= size; i++)
        count += memcmp(text + i, mark, sizeof mark - 1) == 0;
    assert_int_equal(count, 2300);
    rh_free(text);
    struct rh_json *report =
        ask(ARGS("gc", "--failed", "0d", "--state", home, "--json"));
    assert_int_equal(rh_json_count(rh_json_get(report, "items")), 1);
    assert_true(rh_json_number(rh_json_get(report, "freed_bytes"), 0) > 0);
    rh_json_free(report);
    rh_free(tar);
    rh_free(home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_command_lines_end_with_2),
        WITH_DIR(without_an_orchestrator_it_is_3),
        WITH_DIR(what_is_not_there_is_4_and_what_is_in_the_way_is_5),
        cmocka_unit_test(help_and_version_go_to_stdout),
        cmocka_unit_test(the_shipped_schema_is_the_programs),
        WITH_DIR(jobs_are_submitted_changed_and_listed),
        WITH_DIR(a_sleeping_state_directory_can_be_read_and_changed),
        WITH_DIR(an_export_has_every_event_and_gc_answers_when_it_has_measured),
        WITH_DIR(watching_everything_ends_with_130_when_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
