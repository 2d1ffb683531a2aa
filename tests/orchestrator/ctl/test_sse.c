#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/mem.h"
#include "ctl/sse.h"

/* Everything that came, as "name=data;" in one text. */
static void collect(void *arg, const char *name, const char *data)
{
    rh_strbuf_printf(arg, "%s=%s;", name, data);
}

/* Feeds the stream in pieces of `step` bytes. */
static bool feed(struct rh_sse *sse, const char *stream, size_t size, size_t step)
{
    for (size_t at = 0; at < size; at += step) {
        size_t piece = size - at < step ? size - at : step;
        if (!rh_sse_feed(sse, stream + at, piece))
            return false;
    }
    return true;
}

static void expect(const char *stream, const char *events, const char *id)
{
    size_t size = strlen(stream);
    for (size_t step = 1; step <= size; step++) {
        struct rh_strbuf got = {0};
        struct rh_sse sse = {.on_event = collect, .arg = &got};
        assert_true(feed(&sse, stream, size, step));
        assert_string_equal(got.text ? got.text : "", events);
        assert_string_equal(sse.id.text ? sse.id.text : "", id);
        rh_sse_done(&sse);
        rh_strbuf_done(&got);
    }
}

static void events_come_whole_whatever_the_pieces(void **state)
{
    (void)state;
    expect("event: job\nid: 7-12\ndata: {\"a\":1}\n\n", "job={\"a\":1};", "7-12");
    expect("data: one\ndata: two\n\ndata: three\n\n", "message=one\ntwo;message=three;", "");
    expect("data:no space\n\n", "message=no space;", "");
    expect("data:  two spaces\n\n", "message= two spaces;", "");
}

static void all_three_line_ends_are_line_ends(void **state)
{
    (void)state;
    expect("event: a\r\ndata: 1\r\n\r\nevent: b\rdata: 2\r\rdata: 3\n\n", "a=1;b=2;message=3;", "");
}

static void what_is_no_event_is_passed_over(void **state)
{
    (void)state;
    expect(": alive\n\nretry: 2000\n\n", "", "");
    expect("event: lonely\n\ndata: x\n\n", "message=x;", "");
    expect("nonsense\nfoo: bar\ndata\n\n", "message=;", "");
    expect("data: unfinished", "", "");
    expect("id: 3\n\n", "", "3");
}

static void an_event_cut_off_does_not_run_into_the_next_connection(void **state)
{
    (void)state;
    struct rh_strbuf got = {0};
    struct rh_sse sse = {.on_event = collect, .arg = &got};
    static const char first[] = "id: 1-5\ndata: a\n\nevent: job\ndata: half";
    static const char second[] = "data: b\n\n";
    assert_true(rh_sse_feed(&sse, first, sizeof first - 1));
    rh_sse_restart(&sse);
    assert_string_equal(sse.id.text, "1-5");
    assert_true(rh_sse_feed(&sse, second, sizeof second - 1));
    assert_string_equal(got.text, "message=a;message=b;");
    rh_sse_done(&sse);
    rh_strbuf_done(&got);
}

static void endless_lines_and_zero_bytes_end_the_stream(void **state)
{
    (void)state;
    struct rh_strbuf got = {0};
    struct rh_sse sse = {.on_event = collect, .arg = &got};
    char *block = rh_alloc(1 << 16);
    memset(block, 'x', 1 << 16);
    size_t fed = 0;
    while (fed <= RH_SSE_MAX && rh_sse_feed(&sse, block, 1 << 16))
        fed += 1 << 16;
    assert_true(fed <= RH_SSE_MAX);
    rh_sse_done(&sse);
    /* The same in many lines of one event. */
    sse = (struct rh_sse){.on_event = collect, .arg = &got};
    memcpy(block, "data: ", 6);
    block[(1 << 16) - 1] = '\n';
    for (fed = 0; fed <= RH_SSE_MAX && rh_sse_feed(&sse, block, 1 << 16);)
        fed += 1 << 16;
    assert_true(fed <= RH_SSE_MAX);
    rh_sse_done(&sse);
    sse = (struct rh_sse){.on_event = collect, .arg = &got};
    assert_false(rh_sse_feed(&sse, "data: a\0b\n\n", 11));
    assert_null(got.text);
    rh_sse_done(&sse);
    rh_free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_whole_whatever_the_pieces),
        cmocka_unit_test(all_three_line_ends_are_line_ends),
        cmocka_unit_test(what_is_no_event_is_passed_over),
        cmocka_unit_test(an_event_cut_off_does_not_run_into_the_next_connection),
        cmocka_unit_test(endless_lines_and_zero_bytes_end_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
