/* Rows exchanged for the sake of starved experts, through the whole factory on nano. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "run.h"

#define SAMPLES RH_SOURCE_DIR "/tests/data/nano-samples.jsonl"
#define BLOCKS  4

#define SAMPLE "calibration.nsamples=8", "calibration.seqlen=64", "calibration.expert_floor=100"
#define TOP_UP SAMPLE, "calibration.top_up_rows=4", "calibration.top_up_pool=80"

/* "<state>/jobs/<the only job>/name"; owned by caller. NULL: there is no job yet. */
static char *in_job(const char *state, const char *name)
{
    char *jobs = rh_fs_join(state, "jobs");
    char **ids = NULL;
    char *path = NULL;
    size_t count = 0;
    if (rh_fs_exists(jobs) && rh_fs_list(jobs, &ids, &count, NULL) == RH_OK) {
        if (count == 1)
            path = rh_format("%s/%s/%s", jobs, ids[0], name);
        rh_fs_list_free(ids, count);
    }
    rh_free(jobs);
    return path;
}

static struct rh_json *report_of(const struct place *place, const char *run, const char *artifact)
{
    struct rh_error err;
    struct rh_json *json = NULL;
    char *state = rh_format("%s/%s.state", place->dir, run);
    char *name = rh_format("artifacts/%s/report.json", artifact);
    char *path = in_job(state, name);
    assert_non_null(path);
    if (rh_json_read(path, 1 << 20, &json, &err) != RH_OK)
        fail_msg("%s", err.message);
    rh_free(path);
    rh_free(name);
    rh_free(state);
    return json;
}

/* Experts that the tuning of all blocks found below the floor, and the fewest tokens of one. */
static int64_t starved(const struct place *place, const char *run, int64_t *tokens_min)
{
    int64_t below = 0;
    *tokens_min = INT64_MAX;
    for (int b = 0; b < BLOCKS; b++) {
        char *artifact = rh_format("tune-%05d", b);
        struct rh_json *report = report_of(place, run, artifact);
        const struct rh_json *experts = rh_json_get(report, "experts");
        below += (int64_t)rh_json_count(rh_json_get(experts, "below_floor"));
        for (const struct rh_json *t = rh_json_first(rh_json_get(experts, "tokens")); t;
             t = rh_json_next(t)) {
            int64_t n = (int64_t)rh_json_number(t, -1);
            *tokens_min = n < *tokens_min ? n : *tokens_min;
        }
        rh_json_free(report);
        rh_free(artifact);
    }
    return below;
}

static int64_t number(const struct rh_json *report, const char *part, const char *key)
{
    int64_t n = -1;
    assert_true(rh_json_int(rh_json_get(rh_json_get(report, part), key), &n));
    return n;
}

/* What the probe counted on the CPU is what the tuning counts, before and after. */
static void a_floor_that_the_sample_misses_is_met(void **state)
{
    (void)state;
    struct place place;
    struct rh_error err;
    char *card = NULL;
    size_t size = 0;
    int64_t least = 0;
    place_make(&place);
    must_run(&place, "without", (const char *[]){SAMPLE, NULL});
    must_run(&place, "with", (const char *[]){TOP_UP, NULL});
    struct rh_json *probe = report_of(&place, "with", "probe-00000");
    int64_t below = starved(&place, "without", &least);
    assert_true(below > 0 && least < 100);
    assert_int_equal(number(probe, "before", "below_floor"), below);
    assert_int_equal(number(probe, "before", "tokens_min"), least);
    assert_int_equal(starved(&place, "with", &least), 0);
    assert_true(least >= 100);
    assert_int_equal(number(probe, "after", "below_floor"), 0);
    assert_int_equal(number(probe, "after", "tokens_min"), least);
    assert_in_range(rh_json_count(rh_json_get(probe, "exchanged")), 1, 4);
    char *path = place_path(&place, "with/README.md");
    char *says = rh_format("Experts with fewer than 100 tokens, over all blocks: %lld before, 0 "
                           "after",
                           (long long)below);
    assert_int_equal(rh_fs_read(path, 1 << 20, &card, &size, &err), RH_OK);
    assert_non_null(strstr(card, says));
    rh_json_free(probe);
    rh_free(card);
    rh_free(says);
    rh_free(path);
    place_done(&place);
}

/* Nor what the probe says of them. */
static void the_number_of_threads_changes_no_row(void **state)
{
    (void)state;
    static const char *const threads[] = {"resources.threads=1", "resources.threads=2",
                                          "resources.threads=3"};
    struct place place;
    char *first = NULL;
    place_make(&place);
    for (int i = 0; i < 3; i++) {
        const char *name = (const char *[]){"one", "two", "three"}[i];
        must_run(&place, name, (const char *[]){TOP_UP, threads[i], NULL});
        char *digest = weights_digest(&place, name);
        struct rh_json *probe = report_of(&place, name, "probe-00000");
        char *text = rh_json_canonical(probe);
        char *both = rh_format("%s%s", digest, text);
        if (first)
            assert_string_equal(both, first);
        else
            first = rh_strdup(both);
        rh_free(both);
        rh_free(text);
        rh_json_free(probe);
        rh_free(digest);
    }
    rh_free(first);
    place_done(&place);
}

/* The samples again and again, as plain text: rows enough to keep a probe busy. */
static char *write_text(const struct place *place)
{
    enum { COPIES = 2 };
    struct rh_error err;
    struct rh_strbuf text = {0};
    char *samples = NULL;
    size_t size = 0;
    char *path = place_path(place, "text.txt");
    assert_int_equal(rh_fs_read(SAMPLES, 1 << 20, &samples, &size, &err), RH_OK);
    for (int i = 0; i < COPIES; i++)
        rh_strbuf_append(&text, samples, size);
    assert_int_equal(rh_fs_write(path, text.text, text.size, &err), RH_OK);
    rh_strbuf_done(&text);
    rh_free(samples);
    return path;
}

static bool probe_has_begun(void *state)
{
    char *path = in_job(state, "staging");
    bool begun = path && rh_fs_exists(path) && count_files(path, "probe-") > 0;
    rh_free(path);
    return begun;
}

static void killing_the_probe_costs_no_byte(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    char *text = write_text(&place);
    char *dataset = rh_format("calibration.dataset=%s", text);
    const char *const settings[] = {SAMPLE,
                                    dataset,
                                    "calibration.top_up_rows=4",
                                    "calibration.top_up_pool=300",
                                    "resources.threads=1",
                                    NULL};
    must_run(&place, "calm", settings);
    must_run_killed(&place, "killed", settings, "rh-quantize", probe_has_begun, 120);
    char *calm = weights_digest(&place, "calm");
    char *killed = weights_digest(&place, "killed");
    assert_string_equal(calm, killed);
    struct rh_json *log = event_log(&place, "killed");
    const struct rh_json *lost = find_event(log, "task.lost", "probe", -1, -1);
    assert_non_null(strstr(rh_json_string(rh_json_get(lost, "text")), "signal 9"));
    struct rh_json *a = report_of(&place, "calm", "probe-00000");
    struct rh_json *b = report_of(&place, "killed", "probe-00000");
    char *text_a = rh_json_canonical(a);
    char *text_b = rh_json_canonical(b);
    assert_string_equal(text_a, text_b);
    assert_true(number(a, "before", "missing") > number(a, "after", "missing"));
    rh_free(text_a);
    rh_free(text_b);
    rh_json_free(a);
    rh_json_free(b);
    rh_json_free(log);
    rh_free(calm);
    rh_free(killed);
    rh_free(dataset);
    rh_free(text);
    place_done(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_floor_that_the_sample_misses_is_met),
        cmocka_unit_test(the_number_of_threads_changes_no_row),
        cmocka_unit_test(killing_the_probe_costs_no_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
