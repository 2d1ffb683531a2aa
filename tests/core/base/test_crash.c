/* Crash points, on which the fault tests stand. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crash.h"
#include "base/fs.h"
#include "base/mem.h"

/* How a child ends that comes to the point twice; 0 when it lives. */
static int visit_twice(const char *crash_at)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        setenv("RH_CRASH_AT", crash_at, 1);
        rh_crash_point("elsewhere");
        rh_crash_point("here");
        rh_crash_point("here");
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void a_crash_point_kills_at_the_nth_visit(void **state)
{
    (void)state;
    assert_int_equal(visit_twice("here"), SIGKILL);
    assert_int_equal(visit_twice("here:2"), SIGKILL);
    assert_int_equal(visit_twice("here:3"), 0);
    assert_int_equal(visit_twice("her"), 0);
    assert_int_equal(visit_twice("here2"), 0);
    assert_int_equal(visit_twice("nowhere,here:2"), SIGKILL);
    assert_int_equal(visit_twice("here:3,elsewhere:2"), 0);
}

static void with_a_file_it_kills_only_once(void **state)
{
    (void)state;
    char dir[] = "/tmp/rh-crash-XXXXXX";
    struct rh_error err;
    assert_non_null(mkdtemp(dir));
    char *once = rh_format("here:2:%s/once", dir);
    assert_int_equal(visit_twice(once), SIGKILL);
    assert_int_equal(visit_twice(once), 0);
    char *nowhere = rh_format("here:1:%s/no/such/folder", dir);
    assert_int_equal(visit_twice(nowhere), 0);
    assert_int_equal(rh_fs_remove_tree(dir, &err), RH_OK);
    rh_free(once);
    rh_free(nowhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crash_point_kills_at_the_nth_visit),
        cmocka_unit_test(with_a_file_it_kills_only_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
