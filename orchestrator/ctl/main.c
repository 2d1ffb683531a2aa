#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "command.h"

static int print_help(const struct rh_command *command, int argc, char **argv);
static int print_version(const struct rh_command *command, int argc, char **argv);

static const struct rh_command commands[] = {
    {"run", "MODEL --recipe RECIPE --output DIR [--set KEY=VALUE]...",
     "Quantizes one model with a factory of its own; run it again to go on after an interruption.",
     rh_command_run},
    {"submit", "MODEL --recipe RECIPE --output DIR [--set KEY=VALUE]...",
     "Queues a job with a running orchestrator and prints its id.", rh_command_submit},
    {"list", "[--all]", "Active jobs, or all of them.", rh_command_list},
    {"show", "JOB [--tasks | --events | --recipe]", "One job; the beginning of its id will do.",
     rh_command_show},
    {"watch", "[JOB]", "Follows a job to its end, or all that happens.", rh_command_watch},
    {"cancel", "JOB...", "Ends jobs; what is done is kept, retry takes them up again.",
     rh_command_change},
    {"pause", "JOB...", "Stops jobs at their last durable block.", rh_command_change},
    {"hold", "JOB...", "Lets what runs of jobs end, and starts nothing more of them.",
     rh_command_change},
    {"resume", "JOB...", "Lets paused and held jobs go on.", rh_command_change},
    {"retry", "[--from BLOCK | --task ID] JOB...",
     "Takes up failed, held or cancelled jobs again; or one task, or all from a block on.",
     rh_command_change},
    {"priority", "N JOB...", "Sets the priority of jobs; higher goes first.", rh_command_change},
    {"timeline", "[JOB...]", "What ran when, and how long the tuner had nothing to do.",
     rh_command_timeline},
    {"workers", "", "The stage daemons at work.", rh_command_workers},
    {"drain", "WORKER...", "Gives workers nothing new, across restarts too.", rh_command_drain},
    {"undrain", "WORKER...", "Gives drained workers tasks again.", rh_command_drain},
    {"doctor", "[--deep] [--fix]", "Checks a state directory, at work or not.", rh_command_doctor},
    {"gc", "[--dry-run]", "Deletes files of ended jobs that nobody needs.", rh_command_gc},
    {"export", "JOB [--output FILE]", "What a bug report needs of a job, in one tar file.",
     rh_command_export},
    {"backup", "FILE", "Copies the database, also while it is written to.", rh_command_backup},
    {"plan", "MODEL --recipe RECIPE [--set KEY=VALUE]...",
     "What would come out, and what it would take; reads headers only.", rh_command_stage},
    {"verify", "DIR [--source DIR]", "Checks a quantized checkpoint.", rh_command_stage},
    {"tokenize", "TOKENIZER_JSON", "Token ids of the text on standard input.", rh_command_stage},
    {"schema", "", "JSON Schema of recipes.", rh_command_schema},
    {"version", "[--json]", "The version.", print_version},
    {"help", "[COMMAND]", "This text, or that of a command.", print_help},
};

#define COMMAND_COUNT (sizeof commands / sizeof *commands)

static const struct rh_command *find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int refuse(const char *name)
{
    struct rh_error err;
    (void)rh_fail(&err, RH_ERR_ARGUMENT, "\"%.80s\" is no command; \"roundhouse help\" lists them",
                  name);
    return rh_command_fail(&err);
}

static char *help_text(void)
{
    struct rh_strbuf text = {0};
    rh_strbuf_puts(&text, "roundhouse: turns Hugging Face checkpoints into INT4 checkpoints.\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        rh_strbuf_printf(&text, "  %-9s %s\n", commands[i].name, commands[i].summary);
    rh_strbuf_puts(&text,
                   "\n\"roundhouse help COMMAND\" says more. The orchestrator is found by --state, "
                   "else by\n$ROUNDHOUSE_STATE, else in $XDG_STATE_HOME/roundhouse or "
                   "~/.local/state/roundhouse.\n\n"
                   "Exit codes: 0 done; 1 the job or the check failed; 2 wrong command line or "
                   "recipe;\n3 no orchestrator answers; 4 no such thing; 5 refused in this state; "
                   "6 not allowed;\n7 timed out; 8 some of several failed; 9 doctor found "
                   "problems; 130 interrupted.\n");
    return rh_strbuf_take(&text);
}

static int print_help(const struct rh_command *command, int argc, char **argv)
{
    (void)command;
    if (argc > 1 && argv[1][0] != '-') {
        const struct rh_command *wanted = find(argv[1]);
        char help[] = "--help";
        char *arguments[] = {argv[1], help, NULL};
        return wanted && wanted->run != print_help ? wanted->run(wanted, 2, arguments)
               : wanted                            ? print_help(wanted, 1, arguments)
                                                   : refuse(argv[1]);
    }
    char *text = help_text();
    int code = rh_command_print(text);
    rh_free(text);
    return code;
}

static int print_version(const struct rh_command *command, int argc, char **argv)
{
    const char *json = NULL, *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "json", .value = &json, .help = "one JSON document"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, NULL, 0, 0, &count, &code))
        return code;
    if (!json)
        return rh_command_print("roundhouse " RH_VERSION "\n");
    struct rh_json *version = rh_json_new_object();
    rh_json_set_string(version, "schema", "roundhouse.version/1");
    rh_json_set_string(version, "version", RH_VERSION);
    code = rh_command_print_json(version);
    rh_json_free(version);
    return code;
}

int main(int argc, char **argv)
{
    rh_log_init("roundhouse");
    if (argc < 2) {
        char *text = help_text();
        fputs(text, stderr);
        rh_free(text);
        return RH_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0)
        name = "version";
    else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    const struct rh_command *command = find(name);
    return command ? command->run(command, argc - 1, argv + 1) : refuse(name);
}
