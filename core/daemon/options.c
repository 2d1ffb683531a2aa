#include <ctype.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "daemon/daemon.h"

#define NAME_MAX_SIZE 64

/* Levenshtein distance; texts beyond NAME_MAX_SIZE are as far away as can be. */
static size_t distance(const char *a, const char *b)
{
    size_t na = strlen(a);
    size_t nb = strlen(b);
    size_t row[NAME_MAX_SIZE + 1];
    if (na > NAME_MAX_SIZE || nb > NAME_MAX_SIZE)
        return NAME_MAX_SIZE;
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

static enum rh_rc unknown_option(const struct rh_option *options, const char *given,
                                 const char *name, struct rh_error *err)
{
    const char *nearest = NULL;
    size_t best = 0;
    for (const struct rh_option *o = options; o->name; o++) {
        size_t d = distance(name, o->name);
        if (!nearest || d < best) {
            nearest = o->name;
            best = d;
        }
    }
    if (!nearest)
        return rh_fail(err, RH_ERR_ARGUMENT, "unknown option %.80s", given);
    return rh_fail(err, RH_ERR_ARGUMENT,
                   "unknown option %.80s; the nearest is --%s, and --help lists all", given,
                   nearest);
}

static enum rh_rc store(const struct rh_option *option, const char *value, struct rh_error *err)
{
    if (!option->values) {
        if (option->value)
            *option->value = value;
        return RH_OK;
    }
    if (*option->value_count >= option->value_max)
        return rh_fail(err, RH_ERR_ARGUMENT, "--%s may be given %d times at most", option->name,
                       option->value_max);
    option->values[(*option->value_count)++] = value;
    return RH_OK;
}

/* argv[*at] is an option; takes its value from there or from the next word. */
static enum rh_rc take_option(int argc, char **argv, int *at, const struct rh_option *options,
                              struct rh_error *err)
{
    char name[NAME_MAX_SIZE + 1] = "help";
    const char *given = argv[*at];
    const char *equals = NULL;
    const struct rh_option *o = options;
    if (strcmp(given, "-h") != 0) {
        if (given[1] != '-')
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "unknown option %.80s; options begin with two dashes, --help lists them",
                           given);
        equals = strchr(given, '=');
        size_t size = equals ? (size_t)(equals - given) - 2 : strlen(given) - 2;
        if (size > NAME_MAX_SIZE)
            return rh_fail(err, RH_ERR_ARGUMENT, "unknown option %.80s", given);
        memcpy(name, given + 2, size);
        name[size] = '\0';
    }
    while (o->name && strcmp(o->name, name) != 0)
        o++;
    if (!o->name)
        return unknown_option(options, given, name, err);
    if (!o->argument && equals)
        return rh_fail(err, RH_ERR_ARGUMENT, "--%s takes no value", name);
    if (!o->argument)
        return store(o, "", err);
    if (equals)
        return store(o, equals + 1, err);
    if (*at + 1 >= argc)
        return rh_fail(err, RH_ERR_ARGUMENT, "--%s needs a value: --%s %s", name, name,
                       o->argument);
    return store(o, argv[++*at], err);
}

static bool is_option(const char *word)
{
    return word[0] == '-' && word[1] != '\0' && !isdigit((unsigned char)word[1]);
}

enum rh_rc rh_options_parse(int argc, char **argv, const struct rh_option *options,
                            const char **positionals, int positional_max, int *positional_count,
                            struct rh_error *err)
{
    bool ended = false;
    *positional_count = 0;
    for (int i = 1; i < argc; i++) {
        if (!ended && strcmp(argv[i], "--") == 0) {
            ended = true;
        } else if (!ended && is_option(argv[i])) {
            enum rh_rc rc = take_option(argc, argv, &i, options, err);
            if (rc)
                return rc;
        } else if (*positional_count >= positional_max) {
            return rh_fail(err, RH_ERR_ARGUMENT, "%.200s: one argument too many", argv[i]);
        } else {
            positionals[(*positional_count)++] = argv[i];
        }
    }
    return RH_OK;
}

char *rh_options_help(const struct rh_option *options)
{
    struct rh_strbuf text = {0};
    size_t width = 0;
    for (const struct rh_option *o = options; o->name; o++) {
        size_t size = strlen(o->name) + (o->argument ? strlen(o->argument) + 1 : 0);
        width = size > width ? size : width;
    }
    for (const struct rh_option *o = options; o->name; o++) {
        int pad = (int)(width - strlen(o->name));
        char *argument = o->argument ? rh_format(" %s", o->argument) : rh_strdup("");
        rh_strbuf_printf(&text, "  --%s%-*s  %s\n", o->name, pad, argument, o->help);
        rh_free(argument);
    }
    return rh_strbuf_take(&text);
}
