#include "dataset_spec.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"

#define ROWS_MAX INT64_C(1048576) /* of calibration.nsamples */
/* Parts that are written as decimals need not add up to 1 exactly. */
#define SHARE_SLACK 1e-6

static enum rh_rc bad(const char *option, const char *why, struct rh_error *err)
{
    return rh_fail(err, RH_ERR_ARGUMENT, "calibration.dataset: %s: %s", option, why);
}

/* "num" of "num=3"; the value is NULL when there is no equals sign. */
static bool is_key(const char *option, const char *key, const char **value)
{
    size_t size = strlen(key);
    if (strncmp(option, key, size) != 0 || (option[size] && option[size] != '='))
        return false;
    *value = option[size] ? option + size + 1 : NULL;
    return true;
}

static bool is_true(const char *value)
{
    return !value || strcmp(value, "false") != 0;
}

static enum rh_rc read_num(const char *option, const char *value, int64_t *out,
                           struct rh_error *err)
{
    char *end = NULL;
    errno = 0;
    long long n = value ? strtoll(value, &end, 10) : 0;
    if (!value || end == value || *end || errno || n < 1 || n > ROWS_MAX)
        return bad(option, "num is a number of rows from 1 to 1048576", err);
    *out = n;
    return RH_OK;
}

static enum rh_rc read_share(const char *option, const char *value, double *out,
                             struct rh_error *err)
{
    char *end = NULL;
    double share = value ? strtod(value, &end) : 0;
    if (!value || end == value || *end || !(share > 0 && share <= 1))
        return bad(option, "share is a part of nsamples above 0 and up to 1, as in share=0.25",
                   err);
    *out = share;
    return RH_OK;
}

static enum rh_rc read_option(const char *option, struct rh_dataset_spec *spec,
                              struct rh_error *err)
{
    const char *value = NULL;
    if (is_key(option, "num", &value))
        return read_num(option, value, &spec->num, err);
    if (is_key(option, "share", &value))
        return read_share(option, value, &spec->share, err);
    if (is_key(option, "concat", &value)) {
        spec->concat_given = true;
        spec->concat = is_true(value);
        return RH_OK;
    }
    if (is_key(option, "column", &value)) {
        if (!value || !*value)
            return bad(option, "write it as column=NAME", err);
        rh_free(spec->column);
        spec->column = rh_strdup(value);
        return RH_OK;
    }
    if (is_key(option, "split", &value))
        return bad(option, "files have no splits; name the file of the split", err);
    if (is_key(option, "apply_chat_template", &value) && !is_true(value))
        return RH_OK;
    if (is_key(option, "apply_chat_template", &value) || is_key(option, "system_prompt", &value))
        return bad(option,
                   "chat templates are not run here; render the text first "
                   "(tokenizer.apply_chat_template(messages, tokenize=False))",
                   err);
    return bad(option, "unknown option; there are num, share, concat and column", err);
}

static bool is_option(const char *text, size_t size)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz_");
    return n > 0 && (n >= size || text[n] == '=');
}

/* Size of the name: options are what looks like one, from the end on. */
static size_t name_size(const char *text)
{
    size_t end = strlen(text);
    for (;;) {
        size_t option = end;
        while (option > 0 && text[option - 1] != ':')
            option--;
        if (option == 0 || !is_option(text + option, end - option))
            return end;
        end = option - 1;
    }
}

static enum rh_rc read_options(struct rh_dataset_spec *spec, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (const char *at = spec->options; *at && rc == RH_OK;) {
        size_t size = strcspn(at + 1, ":");
        char *option = rh_strndup(at + 1, size);
        rc = read_option(option, spec, err);
        rh_free(option);
        at += 1 + size;
    }
    return rc;
}

static enum rh_rc read_spec(const char *text, size_t size, struct rh_dataset_spec *spec,
                            struct rh_error *err)
{
    char *whole = rh_strndup(text, size);
    size_t named = name_size(whole);
    spec->name = rh_strndup(whole, named);
    spec->options = rh_strdup(whole + named);
    enum rh_rc rc = read_options(spec, err);
    if (rc == RH_OK && named == 0)
        rc = bad(size ? whole : "two commas", "a data set without a name", err);
    if (rc == RH_OK && spec->num > 0 && spec->share > 0)
        rc = bad(whole, "num and share exclude each other", err);
    rh_free(whole);
    return rc;
}

enum rh_rc rh_dataset_specs_parse(const char *text, struct rh_dataset_specs *out,
                                  struct rh_error *err)
{
    *out = (struct rh_dataset_specs){.items = rh_alloc_array(RH_DATASETS_MAX, sizeof *out->items)};
    enum rh_rc rc = RH_OK;
    for (const char *at = text; *text && rc == RH_OK;) {
        size_t size = strcspn(at, ",");
        if (out->count == RH_DATASETS_MAX)
            rc = rh_fail(err, RH_ERR_ARGUMENT,
                         "calibration.dataset: more than %d data sets; merge some files",
                         RH_DATASETS_MAX);
        else
            rc = read_spec(at, size, &out->items[out->count++], err);
        if (!at[size])
            break;
        at += size + 1;
    }
    if (rc != RH_OK)
        rh_dataset_specs_done(out);
    return rc;
}

void rh_dataset_specs_done(struct rh_dataset_specs *specs)
{
    for (int i = 0; i < specs->count; i++) {
        rh_free(specs->items[i].name);
        rh_free(specs->items[i].options);
        rh_free(specs->items[i].column);
    }
    rh_free(specs->items);
    *specs = (struct rh_dataset_specs){0};
}

enum rh_rc rh_dataset_specs_rows(const struct rh_dataset_specs *specs, int64_t nsamples,
                                 int64_t *rows, struct rh_error *err)
{
    double shares = 0;
    int64_t total = 0;
    int open = 0;
    for (int i = 0; i < specs->count; i++) {
        const struct rh_dataset_spec *s = &specs->items[i];
        /* Rounded sums, so that the parts add up to the whole. */
        int64_t before = llround(shares * (double)nsamples);
        shares += s->share;
        rows[i] = s->share > 0 ? llround(shares * (double)nsamples) - before : s->num;
        total += rows[i];
        open += s->share <= 0 && s->num == 0;
        if (s->share > 0 && rows[i] == 0)
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "calibration.dataset: %s: share=%g of %lld rows is no row", s->name,
                           s->share, (long long)nsamples);
    }
    if (shares > 1 + SHARE_SLACK || total > nsamples)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "calibration.dataset asks for %lld rows, shares of %g, but "
                       "calibration.nsamples is %lld; lower num or share, or raise nsamples",
                       (long long)total, shares, (long long)nsamples);
    if (specs->count > 0 && total + open > nsamples)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "calibration.dataset: %lld of calibration.nsamples %lld rows are left for "
                       "%d data sets",
                       (long long)(nsamples - total), (long long)nsamples, open);
    if (specs->count > 0 && open == 0 && total < nsamples)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "calibration.dataset asks for %lld rows in all, but calibration.nsamples is "
                       "%lld; make them equal, or leave num and share away from one data set",
                       (long long)total, (long long)nsamples);
    return RH_OK;
}

char *rh_dataset_specs_text(const struct rh_dataset_specs *specs,
                            char *(*rename)(const char *name, const void *arg), const void *arg)
{
    struct rh_strbuf text = {0};
    for (int i = 0; i < specs->count; i++) {
        char *name = rename(specs->items[i].name, arg);
        rh_strbuf_printf(&text, "%s%s%s", i ? "," : "", name, specs->items[i].options);
        rh_free(name);
    }
    return rh_strbuf_take(&text);
}

static char *leaf_of(const char *name, const void *arg)
{
    const char *slash = strrchr(name, '/');
    (void)arg;
    return rh_strdup(name[0] == '/' && slash ? slash + 1 : name);
}

char *rh_dataset_public_text(const char *text)
{
    struct rh_dataset_specs specs = {0};
    if (rh_dataset_specs_parse(text, &specs, NULL) != RH_OK)
        return leaf_of(text, NULL);
    char *out = rh_dataset_specs_text(&specs, leaf_of, NULL);
    rh_dataset_specs_done(&specs);
    return out;
}
