#include "run.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "base/strbuf.h"

#define RUN_SECONDS 300

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

void place_make(struct place *place)
{
    const char *tmp = getenv("TMPDIR");
    place->dir = rh_format("%s/rh-pipeline-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(place->dir))
        fail_msg("could not make a folder below %s", tmp ? tmp : "/tmp");
    place->model = rh_strdup(RH_SOURCE_DIR "/tests/data/nano");
}

void place_done(struct place *place)
{
    struct rh_error err;
    check(rh_fs_remove_tree(place->dir, &err), &err);
    rh_free(place->dir);
    rh_free(place->model);
}

char *place_path(const struct place *place, const char *name)
{
    return rh_fs_join(place->dir, name);
}

void place_own_model(struct place *place)
{
    struct rh_error err;
    char *to = place_path(place, "model");
    char **names = NULL;
    size_t count = 0;
    check(rh_fs_mkdirs(to, &err), &err);
    check(rh_fs_list(place->model, &names, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        char *a = rh_fs_join(place->model, names[i]);
        char *b = rh_fs_join(to, names[i]);
        check(rh_fs_copy(a, b, NULL, &err), &err);
        rh_free(a);
        rh_free(b);
    }
    rh_fs_list_free(names, count);
    rh_free(place->model);
    place->model = to;
}

void run_start(const struct place *place, const char *name, const char *const settings[],
               struct proc *p)
{
    char *output = place_path(place, name);
    char *state = rh_format("%s.state", output);
    const char *argv[40] = {"roundhouse",
                            "run",
                            place->model,
                            "--recipe",
                            "tiny",
                            "--output",
                            output,
                            "--state",
                            state,
                            "--set",
                            "calibration.dataset=" RH_SOURCE_DIR "/tests/data/nano-samples.jsonl",
                            "--set",
                            "quant.iters=6",
                            "--set",
                            "calibration.nsamples=8",
                            "--set",
                            "calibration.seqlen=128"};
    int n = 17;
    for (int i = 0; settings && settings[i]; i++) {
        argv[n++] = "--set";
        argv[n++] = settings[i];
    }
    argv[n] = NULL;
    proc_start(p, argv);
    rh_free(output);
    rh_free(state);
}

int run_whole(const struct place *place, const char *name, const char *const settings[],
              struct proc *p)
{
    run_start(place, name, settings, p);
    proc_wait(p, RUN_SECONDS);
    return p->status;
}

void must_run(const struct place *place, const char *name, const char *const settings[])
{
    struct proc p;
    run_whole(place, name, settings, &p);
    expect_exit(&p, 0);
    proc_done(&p);
}

void must_run_killed(const struct place *place, const char *name, const char *const settings[],
                     const char *program, bool (*condition)(void *), int seconds)
{
    struct proc p;
    char *state = rh_format("%s/%s.state", place->dir, name);
    run_start(place, name, settings, &p);
    assert_true(wait_until(condition, state, seconds));
    pid_t victim = find_process(program, state);
    assert_true(victim > 0);
    assert_int_equal(kill(victim, SIGKILL), 0);
    proc_wait(&p, RUN_SECONDS);
    expect_exit(&p, 0);
    proc_done(&p);
    rh_free(state);
}

void expect_exit(const struct proc *p, int code)
{
    if (p->status != code)
        fail_msg("exit code %d instead of %d\n%s%s", p->status, code, p->out, p->err);
}

void expect_one_error(const struct proc *p, const char *const words[])
{
    int errors = 0;
    char *text = rh_strdup(p->err);
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "roundhouse: ", 12) != 0)
            continue;
        errors++;
        for (int i = 0; words[i]; i++) {
            if (!strstr(line, words[i]))
                fail_msg("\"%s\" is not in: %s", words[i], line);
        }
    }
    rh_free(text);
    if (errors != 1)
        fail_msg("%d error lines instead of one:\n%s", errors, p->err);
}

char *weights_digest(const struct place *place, const char *name)
{
    struct rh_error err;
    struct rh_strbuf b = {0};
    char *dir = place_path(place, name);
    char **names = NULL;
    size_t count = 0;
    check(rh_fs_list(dir, &names, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        if (!strstr(names[i], ".safetensors"))
            continue;
        char hex[RH_SHA256_HEX_SIZE];
        char *path = rh_fs_join(dir, names[i]);
        check(rh_sha256_file(path, hex, NULL, &err), &err);
        rh_strbuf_printf(&b, "%s %s\n", hex, names[i]);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    rh_free(dir);
    assert_non_null(b.text);
    return rh_strbuf_take(&b);
}

static struct rh_json *ask(const char *const argv[])
{
    struct proc p;
    struct rh_json *json = NULL;
    struct rh_error err;
    proc_run(&p, 60, argv);
    expect_exit(&p, 0);
    check(rh_json_parse(p.out, strlen(p.out), argv[1], &json, &err), &err);
    proc_done(&p);
    return json;
}

struct rh_json *event_log(const struct place *place, const char *name)
{
    char *state = rh_format("%s/%s.state", place->dir, name);
    struct rh_json *jobs =
        ask((const char *[]){"roundhouse", "list", "--all", "--json", "--state", state, NULL});
    const struct rh_json *list = rh_json_get(jobs, "jobs");
    assert_int_equal(rh_json_count(list), 1);
    const char *id = rh_json_string(rh_json_get(rh_json_first(list), "id"));
    struct rh_json *events = ask(
        (const char *[]){"roundhouse", "show", id, "--events", "--json", "--state", state, NULL});
    rh_json_free(jobs);
    rh_free(state);
    return events;
}

const struct rh_json *find_event(const struct rh_json *log, const char *type, const char *op,
                                 int64_t index, int64_t block)
{
    for (const struct rh_json *e = rh_json_first(rh_json_get(log, "events")); e;
         e = rh_json_next(e)) {
        int64_t i = -1;
        int64_t b = -1;
        const char *its_op = rh_json_string(rh_json_get(e, "op"));
        rh_json_int(rh_json_get(e, "index"), &i);
        rh_json_int(rh_json_get(e, "block"), &b);
        if (strcmp(rh_json_string(rh_json_get(e, "type")), type) == 0 &&
            (!op || (its_op && strcmp(its_op, op) == 0)) && (index < 0 || i == index) &&
            (block < 0 || b == block))
            return e;
    }
    fail_msg("no event %s %s index %lld block %lld", type, op ? op : "", (long long)index,
             (long long)block);
    return NULL;
}

size_t count_files(const char *dir, const char *part)
{
    struct rh_error err;
    char **names = NULL;
    size_t count = 0;
    size_t found = 0;
    check(rh_fs_list(dir, &names, &count, &err), &err);
    for (size_t i = 0; i < count; i++)
        found += strstr(names[i], part) != NULL;
    rh_fs_list_free(names, count);
    return found;
}
