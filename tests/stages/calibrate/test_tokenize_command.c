/* The program as a person uses it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/mem.h"

#define NANO RH_SOURCE_DIR "/tests/data/nano/tokenizer.json"

/* `rh-calibrate tokenize ARGUMENTS` with printf's text as input; its output and exit code. */
static int tokenize(const char *arguments, const char *text, char *out, size_t size)
{
    char *command =
        rh_format("printf '%s' | '" RH_BIN_DIR "/rh-calibrate' tokenize %s 2>&1", text, arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n = fread(out, 1, size - 1, pipe);
    out[n] = '\0';
    int status = pclose(pipe);
    rh_free(command);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void ids_are_printed(void **state)
{
    (void)state;
    char out[256];
    assert_int_equal(tokenize("'" NANO "'", "Hi<|im_end|>\\n", out, sizeof out), 0);
    assert_string_equal(out, "39 72 2042 198\n");
}

static void ids_are_a_list_when_json_is_asked_for(void **state)
{
    (void)state;
    char out[256];
    assert_int_equal(tokenize("'" NANO "' --json", "Hi<|im_end|>\\n", out, sizeof out), 0);
    assert_string_equal(out, "[39, 72, 2042, 198]\n");
    assert_int_equal(tokenize("'" NANO "' --json", "", out, sizeof out), 0);
    assert_string_equal(out, "[]\n");
}

static void every_line_of_json_lines_has_its_ids(void **state)
{
    (void)state;
    char out[256];
    static const char lines[] = "{\"text\": \"Hi\"}\n\"<|im_end|>\"\n\"\"";
    assert_int_equal(tokenize("'" NANO "' --jsonl", lines, out, sizeof out), 0);
    assert_string_equal(out, "39 72\n2042\n\n");
    assert_int_equal(tokenize("'" NANO "' --jsonl --json", lines, out, sizeof out), 0);
    assert_string_equal(out, "[39, 72]\n[2042]\n[]\n");
    assert_int_not_equal(tokenize("'" NANO "' --jsonl", "\"a\"\nb\n", out, sizeof out), 0);
    assert_non_null(strstr(out, "line 2 of standard input"));
}

static void mistakes_are_told(void **state)
{
    (void)state;
    char out[1024];
    assert_int_not_equal(tokenize("/nowhere/t.json", "x", out, sizeof out), 0);
    assert_non_null(strstr(out, "/nowhere/t.json"));
    assert_int_not_equal(tokenize("", "x", out, sizeof out), 0);
    assert_non_null(strstr(out, "no TOKENIZER_JSON given"));
    assert_int_not_equal(tokenize("'" NANO "'", "ab\\377", out, sizeof out), 0);
    assert_non_null(strstr(out, "byte 2"));
    assert_int_not_equal(tokenize("'" NANO "' --yaml", "x", out, sizeof out), 0);
    assert_non_null(strstr(out, "yaml"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_printed),
        cmocka_unit_test(ids_are_a_list_when_json_is_asked_for),
        cmocka_unit_test(every_line_of_json_lines_has_its_ids),
        cmocka_unit_test(mistakes_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
