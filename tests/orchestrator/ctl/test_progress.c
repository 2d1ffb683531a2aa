#define _POSIX_C_SOURCE 200809L /* open_memstream */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ctl/progress.h"

#define SECOND INT64_C(1000000000)

struct display {
    struct rh_progress *progress;
    FILE *file;
    char *text;
    size_t size;
};

static void open_display(struct display *d, enum rh_progress_mode mode, int width)
{
    *d = (struct display){0};
    d->file = open_memstream(&d->text, &d->size);
    assert_non_null(d->file);
    d->progress = rh_progress_new(mode, d->file, width);
}

static void show(struct display *d, const char *text, int64_t now_ns)
{
    struct rh_json *job = NULL;
    struct rh_error err;
    if (rh_json_parse(text, strlen(text), "job", &job, &err) != RH_OK)
        fail_msg("%s", err.message);
    rh_progress_job(d->progress, job, now_ns);
    rh_json_free(job);
    fflush(d->file);
}

static void close_display(struct display *d)
{
    rh_progress_free(d->progress);
    fclose(d->file);
    free(d->text);
}

#define QUEUED                                                                                     \
    "{\"id\":\"J\",\"state\":\"queued\",\"reason\":null,\"stages\":{},\"blocks\":{\"total\":0}}"
#define RUNNING(blocks, metrics, pack)                                                             \
    "{\"id\":\"J\",\"state\":\"running\",\"reason\":null,\"progress\":0.5,\"eta_s\":61,"           \
    "\"stages\":{\"pack\":{\"done\":" pack ",\"total\":3}},\"blocks\":{" blocks                    \
    ",\"total\":2},\"block_metrics\":[" metrics "],\"running\":[{\"op\":\"tune\",\"index\":0,"     \
    "\"phase\":\"block 0\",\"done\":5,\"total\":20,\"unit\":\"iterations\"}]}"
#define BLOCK_0 "{\"block\":0,\"init_loss\":0.5,\"best_loss\":0.25,\"seconds\":1}"
#define BLOCK_1 "{\"block\":1,\"init_loss\":0.5,\"best_loss\":0.125,\"seconds\":2}"
#define TUNING  "\"done\":0,\"current\":0,\"iter\":5,\"iters\":20,\"loss\":0.5,\"loss_best\":0.4"

static void plain_says_what_is_new_once(void **state)
{
    (void)state;
    struct display d;
    open_display(&d, RH_PROGRESS_PLAIN, 80);
    show(&d, QUEUED, SECOND);
    show(&d, QUEUED, 2 * SECOND);
    show(&d, RUNNING(TUNING, "", "1"), 3 * SECOND);
    show(&d, RUNNING("\"done\":1", BLOCK_0, "3"), 4 * SECOND);
    show(&d, RUNNING("\"done\":1", BLOCK_0, "3"), 5 * SECOND);
    show(&d, RUNNING("\"done\":2", BLOCK_0 "," BLOCK_1, "3"), 6 * SECOND);
    assert_string_equal(d.text, "job J  queued\n"
                                "job J  running\n"
                                "block 1/2  loss 5.000e-01 -> 2.500e-01  1.0 s\n"
                                "pack done  3 tasks\n"
                                "block 2/2  loss 5.000e-01 -> 1.250e-01  2.0 s\n");
    close_display(&d);
}

static void plain_gives_a_sign_of_life_in_a_long_block(void **state)
{
    (void)state;
    struct display d;
    open_display(&d, RH_PROGRESS_PLAIN, 80);
    show(&d, RUNNING(TUNING, "", "1"), SECOND);
    show(&d, RUNNING(TUNING, "", "1"), 60 * SECOND);
    assert_string_equal(d.text, "job J  running\n");
    show(&d, RUNNING(TUNING, "", "1"), 62 * SECOND);
    assert_string_equal(
        d.text, "job J  running\n"
                "block 1/2  iteration 5/20  loss 5.000e-01 -> 4.000e-01  50 %  ETA 1m 1s\n");
    close_display(&d);
}

static void a_run_taken_up_again_does_not_repeat_old_blocks(void **state)
{
    (void)state;
    struct display d;
    open_display(&d, RH_PROGRESS_PLAIN, 80);
    show(&d, RUNNING("\"done\":1", BLOCK_0, "1"), SECOND);
    assert_non_null(strstr(d.text, "going on after block 1/2\n"));
    assert_null(strstr(d.text, "loss"));
    close_display(&d);
}

/* What a terminal of the given height would show: cursor up, erase to the end of line or screen. */
struct screen {
    char rows[32][128];
    int row, column;
};

static void draw_on(struct screen *s, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '\n') {
            s->row++;
            s->column = 0;
        } else if (*c == '\r') {
            s->column = 0;
        } else if (*c == '\033') {
            char *end = NULL;
            long n = strtol(c + 2, &end, 10);
            if (*end == 'A')
                s->row -= (int)n;
            else if (*end == 'K')
                s->rows[s->row][s->column] = '\0';
            else if (*end == 'J')
                for (int r = s->row; r < 32; r++)
                    s->rows[r][r == s->row ? s->column : 0] = '\0';
            else
                fail_msg("unexpected sequence ...%c", *end);
            assert_true(s->row >= 0);
            c = end;
        } else {
            assert_true(s->row < 32 && s->column < 127);
            s->rows[s->row][s->column++] = *c;
            s->rows[s->row][s->column] = '\0';
        }
    }
}

static void live_redraws_in_place_and_leaves_only_lines(void **state)
{
    (void)state;
    struct display d;
    struct screen s = {0};
    open_display(&d, RH_PROGRESS_LIVE, 100);
    show(&d, RUNNING(TUNING, "", "1"), SECOND);
    show(&d, RUNNING(TUNING, "", "1"), 2 * SECOND);
    draw_on(&s, d.text);
    assert_string_equal(s.rows[0], "job J  running");
    assert_non_null(strstr(s.rows[1], "[############------------]  50 %  block 1/2  ETA 1m 1s"));
    assert_string_equal(s.rows[2], "  pack 1/3");
    assert_non_null(strstr(s.rows[3], "  tune  block 1/2  iteration 5/20"));
    assert_string_equal(s.rows[4], "");
    size_t before = d.size;
    show(&d, RUNNING("\"done\":1", BLOCK_0, "1"), 3 * SECOND);
    draw_on(&s, d.text + before);
    assert_non_null(strstr(s.rows[1], "block 1/2  loss 5.000e-01 -> 2.500e-01"));
    assert_non_null(strstr(s.rows[2], "50 %"));
    before = d.size;
    rh_progress_free(d.progress);
    fflush(d.file);
    draw_on(&s, d.text + before);
    for (int r = 2; r < 32; r++)
        assert_string_equal(s.rows[r], "");
    fclose(d.file);
    free(d.text);
}

static void a_narrow_terminal_wraps_nothing(void **state)
{
    (void)state;
    struct display d;
    open_display(&d, RH_PROGRESS_LIVE, 40);
    show(&d, RUNNING(TUNING, "", "1"), SECOND);
    const char *line = strchr(d.text, '\n') + 1;
    while (*line) {
        const char *end = strstr(line, "\033[K\n");
        if (!end)
            break;
        assert_true(end - line <= 39);
        line = end + 4;
    }
    close_display(&d);
}

static void only_its_own_mode_prints(void **state)
{
    (void)state;
    struct display d;
    struct rh_json *event = rh_json_new_object();
    rh_json_set_string(event, "type", "job.done");
    open_display(&d, RH_PROGRESS_JSON, 80);
    show(&d, RUNNING(TUNING, "", "1"), SECOND);
    rh_progress_note(d.progress, "a note");
    rh_progress_event(d.progress, event);
    assert_string_equal(d.text, "{\"type\":\"job.done\"}\n");
    close_display(&d);
    open_display(&d, RH_PROGRESS_NONE, 80);
    show(&d, RUNNING(TUNING, "", "1"), SECOND);
    rh_progress_note(d.progress, "a note");
    rh_progress_event(d.progress, event);
    fflush(d.file);
    assert_int_equal(d.size, 0);
    close_display(&d);
    rh_json_free(event);
}

static void modes_have_names(void **state)
{
    (void)state;
    enum rh_progress_mode mode;
    struct rh_error err;
    FILE *file = tmpfile();
    assert_non_null(file);
    /* No terminal: plain. */
    assert_int_equal(rh_progress_mode_from(NULL, fileno(file), &mode, &err), RH_OK);
    assert_int_equal(mode, RH_PROGRESS_PLAIN);
    assert_int_equal(rh_progress_mode_from("json", fileno(file), &mode, &err), RH_OK);
    assert_int_equal(mode, RH_PROGRESS_JSON);
    assert_int_equal(rh_progress_mode_from("quiet", fileno(file), &mode, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "auto, plain, json, none"));
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_says_what_is_new_once),
        cmocka_unit_test(plain_gives_a_sign_of_life_in_a_long_block),
        cmocka_unit_test(a_run_taken_up_again_does_not_repeat_old_blocks),
        cmocka_unit_test(live_redraws_in_place_and_leaves_only_lines),
        cmocka_unit_test(a_narrow_terminal_wraps_nothing),
        cmocka_unit_test(only_its_own_mode_prints),
        cmocka_unit_test(modes_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
