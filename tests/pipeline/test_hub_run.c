/* The whole factory on a model of the Hub: tests/support/fake_hub.py serves nano. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "hub_server.h"
#include "run.h"

#define MODEL "acme/nano"

static void hub_place_make(struct place *place)
{
    place_make(place);
    char *home = place_path(place, "hf-home");
    setenv("HF_HOME", home, 1);
    unsetenv("HF_TOKEN");
    unsetenv("HF_HUB_OFFLINE");
    rh_free(home);
}

static void use_hub(struct place *place)
{
    rh_free(place->model);
    place->model = rh_strdup(MODEL);
}

/* All files but the two that name the source. */
static void expect_same_output(const struct place *place, const char *a, const char *b)
{
    struct rh_error err;
    char *ours = place_path(place, a), *theirs = place_path(place, b);
    char **names = NULL;
    size_t count = 0, compared = 0;
    if (rh_fs_list(ours, &names, &count, &err) != RH_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < count; i++) {
        char left[RH_SHA256_HEX_SIZE] = "", right[RH_SHA256_HEX_SIZE] = "";
        if (strcmp(names[i], "README.md") == 0 || strcmp(names[i], "MANIFEST.json") == 0)
            continue;
        char *from = rh_fs_join(ours, names[i]), *to = rh_fs_join(theirs, names[i]);
        if (rh_sha256_file(from, left, NULL, &err) != RH_OK ||
            rh_sha256_file(to, right, NULL, &err) != RH_OK)
            fail_msg("%s", err.message);
        assert_string_equal(left, right);
        compared++;
        rh_free(from);
        rh_free(to);
    }
    assert_int_equal(compared, 11);
    assert_int_equal(count_files(theirs, ""), count);
    rh_fs_list_free(names, count);
    rh_free(ours);
    rh_free(theirs);
}

static void a_model_of_the_hub_gives_the_bytes_of_the_local_one(void **state)
{
    struct place place;
    struct proc p;
    struct hub_server server;
    char *text = NULL;
    struct rh_error err;
    (void)state;
    hub_place_make(&place);
    must_run(&place, "local", NULL);
    use_hub(&place);
    hub_server_start(&server, place.dir, RH_SOURCE_DIR "/tests/data/nano", NULL);
    must_run(&place, "hub", NULL);
    expect_same_output(&place, "local", "hub");
    char *card = place_path(&place, "hub/README.md");
    if (rh_fs_read(card, 1 << 20, &text, NULL, &err) != RH_OK)
        fail_msg("%s", err.message);
    assert_non_null(strstr(text, "base_model: " MODEL "\n"));
    assert_non_null(strstr(text, "hf:" MODEL "@"));
    /* Nothing of the download is left in the state directory. */
    char *jobs = place_path(&place, "hub.state/jobs");
    proc_run(&p, 60, (const char *[]){"/usr/bin/find", jobs, "-name", "scratch", NULL});
    assert_string_equal(p.out, "");
    proc_done(&p);
    hub_server_stop(&server);
    rh_free(jobs);
    rh_free(text);
    rh_free(card);
    place_done(&place);
}

/* Is a megabyte of a partial file there? */
static bool a_part_is_here(void *state_dir)
{
    struct proc p;
    char *jobs = rh_fs_join(state_dir, "jobs");
    bool found = false;
    if (rh_fs_is_dir(jobs)) {
        proc_run(
            &p, 60,
            (const char *[]){"/usr/bin/find", jobs, "-name", "*.part", "-size", "+1000k", NULL});
        found = strstr(p.out, ".part") != NULL;
        proc_done(&p);
    }
    rh_free(jobs);
    return found;
}

static void
killing_the_download_in_the_middle_of_a_file_costs_no_byte_and_no_second_start(void **state)
{
    static const char *const slow[] = {
        "--faults",
        "[{\"at\": \"cdn\", \"file\": \"safetensors\", \"do\": \"drip\", \"rate\": 1500000}]",
        NULL};
    struct place place;
    struct hub_server server;
    (void)state;
    hub_place_make(&place);
    must_run(&place, "local", NULL);
    use_hub(&place);
    hub_server_start(&server, place.dir, RH_SOURCE_DIR "/tests/data/nano", slow);
    must_run_killed(&place, "hub", NULL, "rh-download", a_part_is_here, 60);
    expect_same_output(&place, "local", "hub");
    /* From the start once for the header and once for the whole; then from the middle. */
    assert_int_equal(hub_server_count(&server, "\"cdn\"", ".safetensors"), 3);
    assert_int_equal(hub_server_count(&server, "-6647119\"", "bytes=0-"), 2); /* hub and cdn */
    hub_server_stop(&server);
    place_done(&place);
}

static bool factory_answers(void *state_dir)
{
    char *socket = rh_format("%s/run/api.sock", (const char *)state_dir);
    bool there = rh_fs_exists(socket);
    rh_free(socket);
    return there;
}

/* Another recipe of the same commit: its tensors are there already. */
static void two_recipes_of_one_model_download_it_once(void **state)
{
    static const char *const bits[] = {"quant.bits=4", "quant.bits=3"};
    struct place place;
    struct proc factory, p;
    struct hub_server server;
    (void)state;
    hub_place_make(&place);
    char *job_state = place_path(&place, "state");
    hub_server_start(&server, place.dir, RH_SOURCE_DIR "/tests/data/nano", NULL);
    proc_start(&factory, (const char *[]){"roundhoused", "--state", job_state, "--spawn",
                                          "--retain", "1G", NULL});
    assert_true(wait_until(factory_answers, job_state, 60));
    for (int i = 0; i < 2; i++) {
        char *output = place_path(&place, bits[i]);
        proc_run(&p, 300,
                 (const char *[]){"roundhouse", "submit", MODEL, "--recipe", "tiny", "--set",
                                  "calibration.dataset=" RH_SOURCE_DIR
                                  "/tests/data/nano-samples.jsonl",
                                  "--set", "quant.iters=2", "--set", bits[i], "--output", output,
                                  "--state", job_state, "--wait", NULL});
        expect_exit(&p, 0);
        proc_done(&p);
        rh_free(output);
    }
    assert_int_equal(kill(factory.pid, SIGTERM), 0);
    proc_wait(&factory, 120);
    proc_done(&factory);
    assert_int_equal(hub_server_count(&server, "\"cdn\"", "bytes=0-6647119"), 1);
    hub_server_stop(&server);
    rh_free(job_state);
    place_done(&place);
}

static void a_gated_model_fails_with_what_to_do(void **state)
{
    static const char *const gated[] = {
        "--faults",
        "[{\"at\": \"info\", \"do\": \"status\", \"status\": 401, \"headers\": {\"X-Error-Code\": "
        "\"GatedRepo\"}}]",
        NULL};
    struct place place;
    struct proc p;
    struct hub_server server;
    (void)state;
    hub_place_make(&place);
    use_hub(&place);
    hub_server_start(&server, place.dir, RH_SOURCE_DIR "/tests/data/nano", gated);
    run_whole(&place, "hub", NULL, &p);
    expect_exit(&p, 1);
    expect_one_error(&p, (const char *[]){MODEL " is gated", "accept its terms", "HF_TOKEN", NULL});
    proc_done(&p);
    hub_server_stop(&server);
    place_done(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_of_the_hub_gives_the_bytes_of_the_local_one),
        cmocka_unit_test(
            killing_the_download_in_the_middle_of_a_file_costs_no_byte_and_no_second_start),
        cmocka_unit_test(two_recipes_of_one_model_download_it_once),
        cmocka_unit_test(a_gated_model_fails_with_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
