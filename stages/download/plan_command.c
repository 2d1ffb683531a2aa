#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "daemon/daemon.h"

#include "download_ops.h"
#include "plan_report.h"
#include "recipe/model_reference.h"
#include "source.h"

#define DEFAULT_TFLOPS 1.0

static const char usage[] =
    "plan MODEL --recipe RECIPE [--set KEY=VALUE]... [--tflops N] [--json]\n"
    "\n"
    "Says what quantizing MODEL by RECIPE would give and need; nothing is downloaded or written.\n"
    "The headers of the weight files suffice.\n"
    "\n"
    "  MODEL             directory of the checkpoint, or OWNER/NAME[@REVISION] on the Hugging Face "
    "Hub\n"
    "  --recipe RECIPE   path, or the name of a shipped recipe\n"
    "  --set KEY=VALUE   overrides a key of the recipe, may be repeated\n"
    "  --tflops N        10^12 operations a second that the machine is assumed to do (default 1)\n"
    "  --json            one JSON document instead of text\n";

struct options {
    const char *model, *recipe;
    const char **sets; /* [argc] */
    size_t set_count;
    double tflops;
    bool json, help;
};

static enum rh_rc read_rate(const char *text, double *out, struct rh_error *err)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value <= 0)
        return rh_fail(err, RH_ERR_ARGUMENT, "--tflops %.40s is no positive number", text);
    *out = value;
    return RH_OK;
}

static enum rh_rc take_option(struct options *o, const char *name, const char *value,
                              struct rh_error *err)
{
    if (!value)
        return rh_fail(err, RH_ERR_ARGUMENT, "%s needs a value", name);
    if (strcmp(name, "--recipe") == 0)
        o->recipe = value;
    else if (strcmp(name, "--set") == 0)
        o->sets[o->set_count++] = value;
    else
        return read_rate(value, &o->tflops, err);
    return RH_OK;
}

/* argv[2] and the following. */
static enum rh_rc read_options(int argc, char **argv, struct options *o, struct rh_error *err)
{
    static const char *const with_value[] = {"--recipe", "--set", "--tflops"};
    enum rh_rc rc = RH_OK;
    for (int i = 2; i < argc && rc == RH_OK; i++) {
        const char *arg = argv[i];
        bool takes_value = false;
        for (size_t k = 0; k < sizeof with_value / sizeof with_value[0]; k++)
            takes_value = takes_value || strcmp(arg, with_value[k]) == 0;
        if (takes_value)
            rc = take_option(o, arg, ++i < argc ? argv[i] : NULL, err);
        else if (strcmp(arg, "--json") == 0)
            o->json = true;
        else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)
            o->help = true;
        else if (arg[0] == '-')
            rc = rh_fail(err, RH_ERR_ARGUMENT, "unknown option %.60s", arg);
        else if (o->model)
            rc = rh_fail(err, RH_ERR_ARGUMENT, "one MODEL at a time, not %.200s and %.200s",
                         o->model, arg);
        else
            o->model = arg;
    }
    if (rc == RH_OK && !o->help && !o->model)
        rc = rh_fail(err, RH_ERR_ARGUMENT, "no MODEL given");
    if (rc == RH_OK && !o->help && !o->recipe)
        rc = rh_fail(err, RH_ERR_ARGUMENT, "no recipe given; add --recipe NAME");
    return rc;
}

static enum rh_rc load_recipe(const struct options *o, struct rh_recipe **out, struct rh_error *err)
{
    enum rh_rc rc = rh_recipe_load(o->recipe, out, err);
    for (size_t i = 0; i < o->set_count && rc == RH_OK; i++)
        rc = rh_recipe_set(*out, o->sets[i], err);
    return rc;
}

static char *reference_of(const char *model)
{
    bool hides = false;
    char *reference = rh_model_reference(model, &hides);
    if (hides)
        fprintf(stderr, RH_MODEL_HIDES_NOTE, model, model);
    return reference ? reference : rh_format("file:%s", model);
}

/* *files: rh_estimate_files() when the source is elsewhere, else 0. */
static enum rh_rc make_plan(const struct options *o, const struct rh_recipe *recipe,
                            struct rh_model_plan **out, uint64_t *files, struct rh_error *err)
{
    struct rh_source *source = NULL;
    const char *dir = NULL;
    char *reference = reference_of(o->model);
    enum rh_rc rc = rh_source_open(reference, NULL, &source, err);
    if (rc == RH_OK)
        rc = rh_source_plan_dir(source, &dir, err);
    if (rc == RH_OK)
        rc = rh_model_plan_new(dir, recipe, out, err);
    if (rc == RH_OK) {
        struct rh_json *pin = rh_source_pin(source);
        *files = pin ? rh_estimate_files(*out) : 0;
        rh_json_free(pin);
    }
    rh_source_close(source);
    rh_free(reference);
    return rc;
}

static void print_report(const struct options *o, const struct rh_recipe *recipe,
                         const struct rh_model_plan *plan, uint64_t files)
{
    struct rh_plan_report report = {
        .model = o->model, .recipe = recipe, .plan = plan, .tflops = o->tflops};
    rh_estimate_make(plan, recipe, &report.estimate);
    report.estimate.disk_files = files;
    report.estimate.disk_all += files;
    if (o->json) {
        struct rh_json *json = rh_plan_report_json(&report);
        char *text = rh_json_text(json, true);
        printf("%s\n", text);
        rh_free(text);
        rh_json_free(json);
    } else {
        char *text = rh_plan_report_text(&report);
        fputs(text, stdout);
        rh_free(text);
    }
}

static int plan_command(const struct options *o, struct rh_error *err)
{
    struct rh_recipe *recipe = NULL;
    struct rh_model_plan *plan = NULL;
    int code = RH_EXIT_OK;
    if (load_recipe(o, &recipe, err) != RH_OK) {
        code = RH_EXIT_USAGE;
    } else {
        uint64_t files = 0;
        enum rh_rc rc = make_plan(o, recipe, &plan, &files, err);
        if (rc == RH_ERR_NOT_FOUND)
            code = RH_EXIT_NOT_FOUND;
        else if (rc == RH_ERR_AUTH)
            code = RH_EXIT_DENIED;
        else if (rc != RH_OK)
            code = RH_EXIT_FAILED;
        else
            print_report(o, recipe, plan, files);
    }
    if (code == RH_EXIT_OK && (fflush(stdout) != 0 || ferror(stdout))) {
        (void)rh_fail(err, RH_ERR_IO, "could not write the report to standard output");
        code = RH_EXIT_FAILED;
    }
    rh_model_plan_free(plan);
    rh_recipe_free(recipe);
    return code;
}

int rh_download_command(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "plan") != 0)
        return -1;
    const char *program = rh_program_name(argv);
    struct options o = {.tflops = DEFAULT_TFLOPS};
    struct rh_error err = {0};
    int code = RH_EXIT_USAGE;
    o.sets = rh_alloc_array((size_t)argc, sizeof *o.sets);
    if (read_options(argc, argv, &o, &err) != RH_OK) {
        fprintf(stderr, "%s: plan: %s; --help says more\n", program, err.message);
    } else if (o.help) {
        printf("%s %s", program, usage);
        code = RH_EXIT_OK;
    } else {
        code = plan_command(&o, &err);
        if (code != RH_EXIT_OK)
            fprintf(stderr, "%s: %s\n", program, err.message);
    }
    rh_free(o.sets);
    return code;
}
