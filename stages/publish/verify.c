#include "publish/verify.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "verify_internal.h"

#define PROBLEMS_KEPT 10

static const char *const check_names[RH_VERIFY_COUNT] = {
    [RH_VERIFY_MANIFEST] = "manifest",
    [RH_VERIFY_FILES] = "files",
    [RH_VERIFY_INDEX] = "index",
    [RH_VERIFY_CONFIG] = "config",
    [RH_VERIFY_SIDE_FILES] = "side files",
    [RH_VERIFY_INVENTORY] = "inventory",
    [RH_VERIFY_SHAPES] = "shapes",
    [RH_VERIFY_VALUES] = "values",
    [RH_VERIFY_PASS_THROUGH] = "pass-through",
    [RH_VERIFY_WEIGHTS] = "weights",
};

const char *rh_verify_state_name(enum rh_verify_state state)
{
    switch (state) {
    case RH_VERIFY_SKIPPED:
        return "skipped";
    case RH_VERIFY_PASSED:
        return "passed";
    case RH_VERIFY_FAILED:
        return "failed";
    }
    return "unknown";
}

void verify_problem(struct verify *v, enum rh_verify_id check, const char *format, ...)
{
    struct rh_verify_report *r = v->report;
    r->checks[check].problems++;
    r->checks[check].state = RH_VERIFY_FAILED;
    r->ok = false;
    size_t max = v->options.problem_max ? v->options.problem_max : PROBLEMS_KEPT;
    if (r->checks[check].problems > max)
        return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->problems = rh_realloc_array(r->problems, r->problem_count + 1, sizeof *r->problems);
    r->problems[r->problem_count++] = (struct rh_verify_problem){check, rh_strdup(text)};
}

void verify_ran(struct verify *v, enum rh_verify_id check, uint64_t count)
{
    struct rh_verify_check *c = &v->report->checks[check];
    c->count += count;
    if (c->state == RH_VERIFY_SKIPPED)
        c->state = RH_VERIFY_PASSED;
}

void verify_detail(struct verify *v, enum rh_verify_id check, const char *format, ...)
{
    struct rh_verify_check *c = &v->report->checks[check];
    va_list args;
    va_start(args, format);
    vsnprintf(c->detail, sizeof c->detail, format, args);
    va_end(args);
}

enum rh_rc verify_step(struct verify *v, const char *phase, uint64_t bytes, struct rh_error *err)
{
    v->done += bytes;
    if (!v->options.progress)
        return RH_OK;
    return v->options.progress(v->options.arg, phase, v->done, v->total, err);
}

bool verify_ends_with(const char *text, const char *suffix)
{
    size_t size = strlen(text), tail = strlen(suffix);
    return size >= tail && strcmp(text + size - tail, suffix) == 0;
}

void verify_set_add(struct verify_set *set, const char *name, struct rh_safetensors *file,
                    void (*twice)(void *arg, const struct verify_tensor *first,
                                  const struct verify_tensor *second),
                    void *arg)
{
    if (!set->by_name)
        set->by_name = rh_hash_map_new();
    size_t files = set->file_count + 1;
    set->names = rh_realloc_array(set->names, files, sizeof *set->names);
    set->files = rh_realloc_array(set->files, files, sizeof(struct rh_safetensors *));
    set->names[set->file_count] = rh_strdup(name);
    set->files[set->file_count++] = file;
    for (size_t i = 0; i < rh_safetensors_count(file); i++) {
        struct verify_tensor *t = rh_alloc(sizeof *t);
        *t = (struct verify_tensor){file, rh_safetensors_at(file, i), set->names[files - 1]};
        if (rh_hash_map_add(set->by_name, t->info->name, t))
            continue;
        if (twice)
            twice(arg, rh_hash_map_find(set->by_name, t->info->name), t);
        rh_free(t);
    }
}

const struct verify_tensor *verify_set_find(const struct verify_set *set, const char *name)
{
    return set->by_name ? rh_hash_map_find(set->by_name, name) : NULL;
}

size_t verify_set_count(const struct verify_set *set)
{
    return set->by_name ? rh_hash_map_count(set->by_name) : 0;
}

const struct verify_tensor *verify_set_at(const struct verify_set *set, size_t index)
{
    return rh_hash_map_value_at(set->by_name, index);
}

void verify_set_done(struct verify_set *set)
{
    for (size_t i = 0; i < verify_set_count(set); i++)
        rh_free(rh_hash_map_value_at(set->by_name, i));
    for (size_t i = 0; i < set->file_count; i++) {
        rh_safetensors_close(set->files[i]);
        rh_free(set->names[i]);
    }
    rh_free(set->names);
    rh_free(set->files);
    rh_hash_map_free(set->by_name);
    memset(set, 0, sizeof *set);
}

/* What the later parts need is there: well-formed files and a configuration. */
static bool can_go_deeper(const struct verify *v)
{
    return v->plan && v->report->checks[RH_VERIFY_FILES].state == RH_VERIFY_PASSED;
}

static enum rh_rc run(struct verify *v, struct rh_error *err)
{
    enum rh_rc rc = verify_manifest(v, err);
    if (rc == RH_OK)
        rc = verify_files(v, err);
    if (rc == RH_OK)
        rc = verify_index(v, err);
    if (rc == RH_OK)
        rc = verify_config(v, err);
    if (rc == RH_OK)
        rc = verify_open_source(v, err);
    if (rc == RH_OK)
        rc = verify_side_files(v, err);
    if (rc == RH_OK)
        rc = verify_inventory(v, err);
    if (rc == RH_OK && can_go_deeper(v) && !v->options.quick)
        rc = verify_values(v, err);
    return rc;
}

/* Details were written before all problems were known. */
static void finish(const struct verify *v)
{
    bool no_source = !v->source_dir && !v->options.source_job;
    for (int i = 0; i < RH_VERIFY_COUNT; i++) {
        struct rh_verify_check *c = &v->report->checks[i];
        bool compares = i == RH_VERIFY_PASS_THROUGH || i == RH_VERIFY_WEIGHTS;
        if (c->state == RH_VERIFY_FAILED)
            snprintf(c->detail, sizeof c->detail, "%llu problem%s", (unsigned long long)c->problems,
                     c->problems == 1 ? "" : "s");
        else if (c->state == RH_VERIFY_SKIPPED && !c->detail[0])
            snprintf(c->detail, sizeof c->detail, "%s",
                     compares && no_source ? "no source to compare with"
                     : v->options.quick    ? "quick reads no values"
                                           : "earlier problems forbid it");
    }
}

enum rh_rc rh_verify_checkpoint(const char *dir, const char *source_dir,
                                const struct rh_verify_options *options,
                                struct rh_verify_report *report, struct rh_error *err)
{
    struct verify v = {.dir = dir, .source_dir = source_dir, .report = report};
    if (options)
        v.options = *options;
    memset(report, 0, sizeof *report);
    report->ok = true;
    for (int i = 0; i < RH_VERIFY_COUNT; i++)
        report->checks[i].name = check_names[i];
    if (!rh_fs_is_dir(dir))
        return rh_fail(err, RH_ERR_NOT_FOUND,
                       "%s is no directory; name the one that holds "
                       "config.json",
                       dir);
    if (source_dir && !rh_fs_is_dir(source_dir))
        return rh_fail(err, RH_ERR_NOT_FOUND, "source %s is no directory", source_dir);
    enum rh_rc rc = run(&v, err);
    finish(&v);
    verify_set_done(&v.output);
    verify_set_done(&v.source);
    rh_json_free(v.manifest);
    rh_json_free(v.config);
    rh_json_free(v.quantization);
    rh_recipe_free(v.recipe);
    rh_model_plan_free(v.plan);
    return rc;
}

void rh_verify_report_done(struct rh_verify_report *report)
{
    for (size_t i = 0; i < report->problem_count; i++)
        rh_free(report->problems[i].text);
    rh_free(report->problems);
    rh_free(report->error_max_name);
    memset(report, 0, sizeof *report);
}

struct rh_json *rh_verify_report_json(const struct rh_verify_report *report)
{
    struct rh_json *root = rh_json_new_object();
    struct rh_json *checks = rh_json_new_array();
    struct rh_json *problems = rh_json_new_array();
    for (int i = 0; i < RH_VERIFY_COUNT; i++) {
        const struct rh_verify_check *c = &report->checks[i];
        struct rh_json *node = rh_json_new_object();
        rh_json_set_string(node, "name", c->name);
        rh_json_set_string(node, "state", rh_verify_state_name(c->state));
        rh_json_set_int(node, "count", (int64_t)c->count);
        rh_json_set_int(node, "problems", (int64_t)c->problems);
        rh_json_set_string(node, "detail", c->detail);
        rh_json_append(checks, node);
    }
    for (size_t i = 0; i < report->problem_count; i++) {
        struct rh_json *node = rh_json_new_object();
        rh_json_set_string(node, "check", check_names[report->problems[i].check]);
        rh_json_set_string(node, "text", report->problems[i].text);
        rh_json_append(problems, node);
    }
    rh_json_set_string(root, "schema", "roundhouse.verify/1");
    rh_json_set_bool(root, "ok", report->ok);
    rh_json_set_int(root, "tensors", (int64_t)report->tensors);
    rh_json_set_int(root, "bytes", (int64_t)report->bytes);
    rh_json_set_int(root, "quantized_linears", (int64_t)report->quantized_linears);
    if (report->error_max_name) {
        struct rh_json *error = rh_json_new_object();
        rh_json_set_number(error, "mean", report->error_mean);
        rh_json_set_number(error, "max", report->error_max);
        rh_json_set_string(error, "max_linear", report->error_max_name);
        rh_json_set(root, "relative_error", error);
    }
    rh_json_set(root, "checks", checks);
    rh_json_set(root, "problems", problems);
    return root;
}
