#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/mem.h"
#include "ctl/format.h"

static struct rh_json *parse(const char *text)
{
    struct rh_json *json = NULL;
    struct rh_error err;
    if (rh_json_parse(text, strlen(text), "test", &json, &err) != RH_OK)
        fail_msg("%s", err.message);
    return json;
}

static void expect_clean(const char *text, const char *wanted)
{
    struct rh_strbuf out = {0};
    rh_format_clean(&out, text);
    assert_string_equal(out.text ? out.text : "", wanted);
    rh_strbuf_done(&out);
}

static void control_characters_become_question_marks(void **state)
{
    (void)state;
    expect_clean(NULL, "");
    expect_clean("plain text, 100 %", "plain text, 100 %");
    expect_clean("\x1b[2Jmodel\r\n\t\x7f", "?[2Jmodel????");
    expect_clean("caf\xc3\xa9 \xe6\xa8\xa1\xe5\x9e\x8b", "caf\xc3\xa9 \xe6\xa8\xa1\xe5\x9e\x8b");
    /* C1: CSI in one character, in UTF-8. */
    expect_clean("a\xc2\x9b"
                 "31mb",
                 "a?31mb");
    /* U+00A0 is the first that is none. */
    expect_clean("\xc2\xa0", "\xc2\xa0");
    expect_clean("\xc2", "\xc2");
}

static bool has_control(const char *text)
{
    for (; *text; text++) {
        if (((unsigned char)*text < 0x20 && *text != '\n') || *text == 0x7f)
            return true;
    }
    return false;
}

typedef void format_fn(struct rh_strbuf *out, const struct rh_json *json);

static char *formatted(format_fn *format, const char *text)
{
    struct rh_strbuf out = {0};
    struct rh_json *json = parse(text);
    format(&out, json);
    rh_json_free(json);
    char *result = rh_strbuf_take(&out);
    assert_false(has_control(result));
    return result;
}

#define EVIL "evil\\u001b[31m"

static void no_field_of_a_document_steers_the_terminal(void **state)
{
    (void)state;
    static const char job[] =
        "{\"id\":\"" EVIL "\",\"name\":\"" EVIL "\",\"state\":\"" EVIL "\",\"reason\":\"" EVIL
        "\",\"model\":\"" EVIL "\",\"output\":\"dir:" EVIL "\",\"recipe_digest\":\"" EVIL
        "\",\"priority\":1,\"stages\":{\"" EVIL "\":{\"done\":1,\"total\":2}},\"progress\":0.5,"
        "\"blocks\":{\"done\":1,\"total\":4}}";
    char *text = formatted(rh_format_job, job);
    assert_non_null(strstr(text, "evil?[31m"));
    assert_non_null(strstr(text, "50 %"));
    rh_free(text);
    char *list = rh_format("{\"jobs\":[%s]}", job);
    text = formatted(rh_format_jobs, list);
    assert_non_null(strstr(text, "evil?[31m"));
    rh_free(text);
    rh_free(list);
    rh_free(formatted(rh_format_tasks,
                      "{\"tasks\":[{\"id\":1,\"op\":\"" EVIL "\",\"index\":2,\"state\":\"" EVIL
                      "\",\"attempts\":0,\"worker\":\"" EVIL "\",\"error\":\"" EVIL "\"}]}"));
    rh_free(formatted(rh_format_event,
                      "{\"time\":\"" EVIL "\",\"job\":\"" EVIL "\",\"type\":\"" EVIL
                      "\",\"op\":\"" EVIL "\",\"index\":1,\"text\":\"a\\nb" EVIL "\"}"));
    rh_free(formatted(rh_format_workers,
                      "{\"workers\":[{\"id\":\"" EVIL "\",\"stage\":\"" EVIL "\",\"host\":\"" EVIL
                      "\",\"pid\":1,\"slots\":2,\"leases\":1,\"connected\":true}]}"));
}

static void an_event_is_one_line(void **state)
{
    (void)state;
    char *text = formatted(rh_format_event,
                           "{\"time\":\"T\",\"job\":\"J\",\"type\":\"task.lost\",\"op\":\"tune\","
                           "\"index\":0,\"block\":2,\"text\":\"line\\nbreak\"}");
    assert_string_equal(text, "T  J  task.lost  tune 0  block 2  line?break\n");
    rh_free(text);
}

static void a_block_is_told_with_its_losses(void **state)
{
    (void)state;
    struct rh_strbuf out = {0};
    struct rh_json *blocks = parse("{\"done\":2,\"total\":4}");
    struct rh_json *m =
        parse("{\"block\":1,\"init_loss\":0.03579,\"best_loss\":0.01769,\"seconds\":8.12}");
    rh_format_block(&out, m, blocks);
    assert_string_equal(out.text, "block 2/4  loss 3.579e-02 -> 1.769e-02  8.1 s");
    rh_strbuf_done(&out);
    rh_json_free(m);
    m = parse("{\"block\":1,\"seconds\":8,\"experts\":{\"count\":256,\"floor\":512,"
              "\"below_floor\":3,\"tokens_min\":17,\"tokens_median\":900}}");
    rh_format_block(&out, m, blocks);
    assert_string_equal(out.text,
                        "block 2/4  8.0 s  3 of 256 experts saw fewer than 512 tokens, one 17");
    rh_strbuf_done(&out);
    rh_json_free(m);
    /* Numbers that are not there are left out. */
    m = parse("{\"block\":0,\"init_loss\":null,\"best_loss\":null,\"seconds\":null}");
    rh_format_block(&out, m, blocks);
    assert_string_equal(out.text, "block 1/4");
    rh_strbuf_done(&out);
    rh_json_free(m);
    rh_json_free(blocks);
}

/* Where the MTP head is tuned it is the last of the total, and no block. */
static void a_tuned_mtp_head_is_no_block(void **state)
{
    (void)state;
    struct rh_strbuf out = {0};
    struct rh_json *blocks = parse("{\"done\":4,\"total\":5,\"mtp\":true}");
    struct rh_json *m = parse("{\"block\":4,\"unit\":\"mtp\",\"seconds\":8}");
    rh_format_block(&out, m, blocks);
    rh_strbuf_puts(&out, ", ");
    rh_format_step(&out, blocks, 4);
    assert_string_equal(out.text, "mtp head  8.0 s, block 4/4");
    rh_strbuf_done(&out);
    rh_json_free(m);
    rh_json_free(blocks);
    char *text = formatted(
        rh_format_job, "{\"id\":\"a\",\"blocks\":{\"done\":4,\"total\":5,\"mtp\":true,"
                       "\"current\":4,\"iter\":3,\"iters\":9,\"loss\":0.5,\"loss_best\":0.25}}");
    assert_non_null(strstr(text, "4/5, mtp head: iteration 3/9 loss 5.000e-01 -> 2.500e-01"));
    rh_free(text);
}

static void columns_are_as_wide_as_what_stands_in_them(void **state)
{
    (void)state;
    char *text =
        formatted(rh_format_jobs,
                  "{\"jobs\":[{\"id\":\"a\",\"state\":\"running\",\"progress\":0.25,\"eta_s\":61,"
                  "\"priority\":-5,\"output\":\"dir:/out/x\",\"blocks\":{\"done\":1,\"total\":40}},"
                  "{\"id\":\"bcd\",\"state\":\"done\",\"progress\":1,\"eta_s\":null,\"priority\":0,"
                  "\"output\":\"hf:me/y\",\"blocks\":{\"done\":40,\"total\":40}},"
                  "{\"id\":\"e\",\"state\":\"blocked\",\"progress\":0,\"eta_s\":null,\"priority\":0,"
                  "\"reason\":\"tune needs\\n32 GB\",\"output\":\"dir:/z\",\"blocks\":{}}]}");
    assert_string_equal(text, "JOB  STATE    DONE   BLOCKS  ETA    PRI  OUTPUT\n"
                              "a    running  25 %   1/40    1m 1s  -5   /out/x\n"
                              "bcd  done     100 %  40/40   -      0    hf:me/y\n"
                              "e    blocked  0 %    0/0     -      0    /z\n"
                              "e: tune needs?32 GB\n");
    rh_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_characters_become_question_marks),
        cmocka_unit_test(no_field_of_a_document_steers_the_terminal),
        cmocka_unit_test(an_event_is_one_line),
        cmocka_unit_test(a_block_is_told_with_its_losses),
        cmocka_unit_test(a_tuned_mtp_head_is_no_block),
        cmocka_unit_test(columns_are_as_wide_as_what_stands_in_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
