#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "daemon/daemon.h"

/* -- Options ---------------------------------------------------------------------------------- */

struct given {
    const char *state, *quiet, *help;
    const char *set[2];
    int set_count;
    const char *words[2];
    int word_count;
};

static enum rh_rc parse(struct given *g, struct rh_error *err, int argc, const char *const argv[])
{
    char *copy[16] = {NULL};
    *g = (struct given){0};
    const struct rh_option options[] = {
        {.name = "state", .argument = "DIR", .value = &g->state, .help = "where"},
        {.name = "quiet", .value = &g->quiet, .help = "say less"},
        {.name = "set",
         .argument = "K=V",
         .values = g->set,
         .value_count = &g->set_count,
         .value_max = 2,
         .help = "change the recipe"},
        {.name = "help", .value = &g->help, .help = "this"},
        {0},
    };
    for (int i = 0; i < argc; i++)
        copy[i] = (char *)(uintptr_t)argv[i];
    return rh_options_parse(argc, copy, options, g->words, 2, &g->word_count, err);
}

#define PARSE(g, err, ...)                                                                         \
    parse(g, err, (int)(sizeof((const char *[]){"p", __VA_ARGS__}) / sizeof(char *)),              \
          (const char *const[]){"p", __VA_ARGS__})

static void options_and_words_mix_in_any_order(void **state)
{
    struct given g;
    (void)state;
    assert_int_equal(
        PARSE(&g, NULL, "one", "--state", "d", "--set=a=1", "-5", "--quiet", "--set", "b=2"),
        RH_OK);
    assert_string_equal(g.state, "d");
    assert_string_equal(g.quiet, "");
    assert_int_equal(g.set_count, 2);
    assert_string_equal(g.set[0], "a=1");
    assert_string_equal(g.set[1], "b=2");
    assert_int_equal(g.word_count, 2);
    assert_string_equal(g.words[0], "one");
    assert_string_equal(g.words[1], "-5");
    assert_null(g.help);
    assert_int_equal(PARSE(&g, NULL, "-h"), RH_OK);
    assert_non_null(g.help);
}

static void two_dashes_end_the_options(void **state)
{
    struct given g;
    (void)state;
    assert_int_equal(PARSE(&g, NULL, "--", "--quiet", "-"), RH_OK);
    assert_null(g.quiet);
    assert_string_equal(g.words[0], "--quiet");
    assert_string_equal(g.words[1], "-");
}

static void an_unknown_option_names_the_nearest(void **state)
{
    struct given g;
    struct rh_error err;
    (void)state;
    assert_int_equal(PARSE(&g, &err, "--sate", "d"), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "--sate"));
    assert_non_null(strstr(err.message, "nearest is --state"));
    assert_int_equal(PARSE(&g, &err, "--quit"), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "nearest is --quiet"));
    assert_int_equal(rh_exit_code(&err), RH_EXIT_USAGE);
}

static void a_wrong_command_line_is_refused(void **state)
{
    struct given g;
    struct rh_error err;
    (void)state;
    assert_int_equal(PARSE(&g, &err, "--state"), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "--state DIR"));
    assert_int_equal(PARSE(&g, &err, "--quiet=yes"), RH_ERR_ARGUMENT);
    assert_int_equal(PARSE(&g, &err, "-q"), RH_ERR_ARGUMENT);
    assert_int_equal(PARSE(&g, &err, "a", "b", "c"), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "c: one argument too many"));
    assert_int_equal(PARSE(&g, &err, "--set", "a", "--set", "b", "--set", "c"), RH_ERR_ARGUMENT);
    char huge[300];
    memset(huge, '-', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    assert_int_equal(PARSE(&g, &err, huge), RH_ERR_ARGUMENT);
}

static void help_lines_up(void **state)
{
    const struct rh_option options[] = {{.name = "state", .argument = "DIR", .help = "where"},
                                        {.name = "quiet", .help = "hush"},
                                        {0}};
    (void)state;
    char *text = rh_options_help(options);
    assert_string_equal(text, "  --state DIR  where\n  --quiet      hush\n");
    rh_free(text);
}

/* -- One instance per directory --------------------------------------------------------------- */

static void a_directory_is_held_by_one_process_until_it_dies(void **state)
{
    char dir[] = "/tmp/rh-daemon-XXXXXX";
    int ready[2], fd = -1;
    char byte = 0;
    struct rh_error err;
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(pipe(ready), 0);
    pid_t holder = fork();
    if (holder == 0) {
        if (rh_lock_dir(dir, &fd, NULL) != RH_OK || write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(rh_lock_dir(dir, &fd, &err), RH_ERR_EXISTS);
    char *pid = rh_format("process %d ", (int)holder);
    assert_non_null(strstr(err.message, pid));
    assert_int_equal(rh_exit_code(&err), RH_EXIT_REFUSED);
    kill(holder, SIGKILL);
    assert_int_equal(waitpid(holder, NULL, 0), holder);
    assert_int_equal(rh_lock_dir(dir, &fd, &err), RH_OK);
    close(fd);
    close(ready[0]);
    close(ready[1]);
    rh_free(pid);
    assert_int_equal(rh_fs_remove_tree(dir, NULL), RH_OK);
}

/* -- For people ------------------------------------------------------------------------------- */

static void expect_text(char *text, const char *expected)
{
    assert_string_equal(text, expected);
    rh_free(text);
}

static void figures_read_well(void **state)
{
    (void)state;
    expect_text(rh_human_bytes(0), "0 B");
    expect_text(rh_human_bytes(1023), "1023 B");
    expect_text(rh_human_bytes(1024), "1.0 KiB");
    expect_text(rh_human_bytes(12.3 * 1024 * 1024), "12.3 MiB");
    expect_text(rh_human_bytes(1024.0 * 1024 - 1), "1.0 MiB");
    expect_text(rh_human_bytes(-1), "?");
    expect_text(rh_human_seconds(0.44), "0.4s");
    expect_text(rh_human_seconds(59.4), "59s");
    expect_text(rh_human_seconds(59.6), "1m 0s");
    expect_text(rh_human_seconds(83), "1m 23s");
    expect_text(rh_human_seconds(7384), "2h 3m");
    expect_text(rh_human_seconds(200000), "2d 7h");
    expect_text(rh_human_seconds(0.0 / 1.0 - 1.0), "?");
    expect_text(rh_human_count(0), "0");
    expect_text(rh_human_count(999), "999");
    expect_text(rh_human_count(1000), "1,000");
    expect_text(rh_human_count(19545968896), "19,545,968,896");
    expect_text(rh_human_count(-1000), "-1,000");
    expect_text(rh_human_count(INT64_MIN), "-9,223,372,036,854,775,808");
}

static void exit_codes_tell_the_kind_of_error(void **state)
{
    static const struct {
        enum rh_rc rc;
        int code;
    } rows[] = {{RH_OK, 0},         {RH_ERR_FORMAT, 1},    {RH_ERR_ARGUMENT, 2},
                {RH_ERR_REMOTE, 3}, {RH_ERR_NOT_FOUND, 4}, {RH_ERR_EXISTS, 5},
                {RH_ERR_AUTH, 6},   {RH_ERR_TIMEOUT, 7},   {RH_ERR_CANCELLED, 130}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct rh_error err = {.rc = rows[i].rc};
        assert_int_equal(rh_exit_code(&err), rows[i].code);
    }
}

static void a_pipe_is_no_terminal(void **state)
{
    int fds[2];
    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_false(rh_tty_is_live(fds[1]));
    setenv("COLUMNS", "132", 1);
    assert_int_equal(rh_tty_width(fds[1]), 132);
    setenv("COLUMNS", "no", 1);
    assert_int_equal(rh_tty_width(fds[1]), 80);
    close(fds[0]);
    close(fds[1]);
}

static void the_service_manager_is_told(void **state)
{
    char dir[] = "/tmp/rh-notify-XXXXXX";
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char got[32] = {0};
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(at.sun_path, sizeof at.sun_path, "%s/s", dir);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof at), 0);
    setenv("NOTIFY_SOCKET", at.sun_path, 1);
    rh_notify_service("READY=1");
    assert_int_equal(recv(fd, got, sizeof got - 1, MSG_DONTWAIT), 7);
    assert_string_equal(got, "READY=1");
    close(fd);
    assert_int_equal(rh_fs_remove_tree(dir, NULL), RH_OK);
    rh_notify_service("STOPPING=1"); /* nobody there: no harm */
    unsetenv("NOTIFY_SOCKET");
}

static void the_program_knows_where_it_lies(void **state)
{
    (void)state;
    char *dir = rh_program_dir();
    char *self = rh_fs_join(dir, "test_daemon");
    assert_true(rh_fs_exists(self));
    rh_free(self);
    rh_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_words_mix_in_any_order),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(an_unknown_option_names_the_nearest),
        cmocka_unit_test(a_wrong_command_line_is_refused),
        cmocka_unit_test(help_lines_up),
        cmocka_unit_test(a_directory_is_held_by_one_process_until_it_dies),
        cmocka_unit_test(figures_read_well),
        cmocka_unit_test(exit_codes_tell_the_kind_of_error),
        cmocka_unit_test(a_pipe_is_no_terminal),
        cmocka_unit_test(the_service_manager_is_told),
        cmocka_unit_test(the_program_knows_where_it_lies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
