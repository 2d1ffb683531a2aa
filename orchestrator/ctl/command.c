#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "command.h"
#include "ctl/format.h"
#include "recipe/model_reference.h"

bool rh_command_parse(const struct rh_command *command, int argc, char **argv,
                      const struct rh_option *options, const char **positionals, int min, int max,
                      int *count, int *code)
{
    const char *help = NULL;
    const struct rh_option *o = options;
    struct rh_error err = {0};
    enum rh_rc rc = rh_options_parse(argc, argv, options, positionals, max, count, &err);
    while (o->name && strcmp(o->name, "help") != 0)
        o++;
    if (o->name)
        help = *o->value;
    if (rc == RH_OK && !help && *count < min)
        rc = rh_fail(&err, RH_ERR_ARGUMENT, "%s: %s; usage: roundhouse %s %s", command->name,
                     min == 1 && max == 1 ? "one argument is needed" : "more arguments are needed",
                     command->name, command->arguments);
    if (rc != RH_OK) {
        *code = rh_command_fail(&err);
        return false;
    }
    if (!help)
        return true;
    char *table = rh_options_help(options);
    char *text = rh_format("roundhouse %s %s\n\n%s\n\n%s", command->name, command->arguments,
                           command->summary, table);
    *code = rh_command_print(text);
    rh_free(text);
    rh_free(table);
    return false;
}

int rh_command_fail(const struct rh_error *err)
{
    struct rh_strbuf clean = {0};
    rh_format_clean(&clean, err->message);
    fprintf(stderr, "roundhouse: %s\n", clean.text ? clean.text : "");
    rh_strbuf_done(&clean);
    return rh_exit_code(err);
}

static const char *text_of(const struct rh_json *object, const char *key)
{
    const char *text = rh_json_string(rh_json_get(object, key));
    return text ? text : "";
}

int rh_command_job_exit(const struct rh_json *job)
{
    struct rh_error err;
    const char *state = text_of(job, "state");
    const char *reason = text_of(job, "reason");
    if (strcmp(state, "done") == 0)
        return RH_EXIT_OK;
    (void)rh_fail(&err, RH_ERR_INTERNAL, "job %s %s%s%s", text_of(job, "id"), state,
                  *reason ? ": " : "", reason);
    return rh_command_fail(&err);
}

void rh_command_note_model(const struct rh_request *request, const char *given)
{
    if (request->hides_hub_model)
        fprintf(stderr, RH_MODEL_HIDES_NOTE, given, given);
}

int rh_command_print(const char *text)
{
    struct rh_error err;
    errno = 0;
    if (fputs(text, stdout) >= 0 && fflush(stdout) == 0 && !ferror(stdout))
        return RH_EXIT_OK;
    (void)rh_fail_errno(&err, errno ? errno : EIO, "could not write to standard output");
    return rh_command_fail(&err);
}

int rh_command_print_json(const struct rh_json *json)
{
    char *text = rh_json_text(json, true);
    char *line = rh_format("%s\n", text);
    int code = rh_command_print(line);
    rh_free(line);
    rh_free(text);
    return code;
}
