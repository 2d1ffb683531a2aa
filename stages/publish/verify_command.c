#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "publish/verify.h"

#define REDRAW_NS INT64_C(200000000)

struct bar {
    bool shown;
    int64_t drawn; /* when last, monotonic */
};

/* Notes go to stderr, and only when a person is there to read them. */
static enum rh_rc draw(void *arg, const char *phase, uint64_t done, uint64_t total,
                       struct rh_error *err)
{
    struct bar *bar = arg;
    int64_t now = rh_clock_ns();
    (void)err;
    if (total == 0 || now - bar->drawn < REDRAW_NS)
        return RH_OK;
    bar->drawn = now;
    bar->shown = true;
    fprintf(stderr, "\r%-10s %3.0f %%", phase, 100.0 * (double)done / (double)total);
    fflush(stderr);
    return RH_OK;
}

static void print_report(const struct rh_verify_report *r)
{
    for (int i = 0; i < RH_VERIFY_COUNT; i++) {
        const struct rh_verify_check *c = &r->checks[i];
        if (c->state != RH_VERIFY_FAILED) {
            printf("%-14s %-8s %s\n", c->name, rh_verify_state_name(c->state), c->detail);
            continue;
        }
        uint64_t shown = 0;
        printf("%-14s %-8s %s\n", c->name, "FAILED", c->detail);
        for (size_t k = 0; k < r->problem_count; k++) {
            if ((int)r->problems[k].check != i)
                continue;
            printf("  %s\n", r->problems[k].text);
            shown++;
        }
        if (shown < c->problems)
            printf("  and %llu more\n", (unsigned long long)(c->problems - shown));
    }
    char *bytes = rh_human_bytes((double)r->bytes);
    printf("%s: %llu tensors, %llu quantized linears, %s\n", r->ok ? "verified" : "NOT verified",
           (unsigned long long)r->tensors, (unsigned long long)r->quantized_linears, bytes);
    rh_free(bytes);
}

static void print_json(const struct rh_verify_report *r)
{
    struct rh_json *json = rh_verify_report_json(r);
    char *text = rh_json_text(json, true);
    puts(text);
    rh_free(text);
    rh_json_free(json);
}

int rh_verify_command(int argc, char **argv)
{
    const char *source = NULL, *json = NULL, *quick = NULL, *help = NULL, *dirs[1] = {NULL};
    int count = 0;
    const struct rh_option options[] = {
        {.name = "source",
         .argument = "DIR",
         .value = &source,
         .help = "compare with the unquantized checkpoint in DIR"},
        {.name = "json", .value = &json, .help = "one JSON document on stdout"},
        {.name = "quick", .value = &quick, .help = "headers and sizes only, read no values"},
        {.name = "help", .value = &help, .help = "show this text"},
        {.name = NULL},
    };
    const char *program = rh_program_name(argv);
    struct rh_error err = {0};
    enum rh_rc rc = rh_options_parse(argc - 1, argv + 1, options, dirs, 1, &count, &err);
    if (rc != RH_OK || help || count != 1) {
        char *text = rh_options_help(options);
        if (rc == RH_OK && help)
            printf("%s verify DIR [--source DIR]\n\nChecks a quantized checkpoint.\n\n%s", program,
                   text);
        else
            fprintf(stderr, "%s: verify: %s; --help says more\n", program,
                    rc != RH_OK ? err.message : "no DIR given");
        rh_free(text);
        return rc == RH_OK && help ? RH_EXIT_OK : RH_EXIT_USAGE;
    }
    struct bar bar = {0};
    struct rh_verify_options how = {.quick = quick != NULL, .arg = &bar};
    if (rh_tty_is_live(STDERR_FILENO))
        how.progress = draw;
    struct rh_verify_report report;
    rc = rh_verify_checkpoint(dirs[0], source, &how, &report, &err);
    if (bar.shown)
        fprintf(stderr, "\r%20s\r", "");
    int code = RH_EXIT_OK;
    if (rc != RH_OK) {
        fprintf(stderr, "%s: %s\n", program, err.message);
        code = rh_exit_code(&err);
    } else {
        if (json)
            print_json(&report);
        else
            print_report(&report);
        code = report.ok ? RH_EXIT_OK : RH_EXIT_FAILED;
    }
    rh_verify_report_done(&report);
    return code;
}
