#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "command.h"

/* Verbs that need numbers belong to a stage program; this one becomes it. Its first word stays
 * "roundhouse", which is how the stage program knows what to call itself. */
static const struct {
    const char *verb, *program;
} homes[] = {{"plan", "rh-download"}, {"tokenize", "rh-calibrate"}, {"verify", "rh-publish"}};

int rh_command_stage(const struct rh_command *command, int argc, char **argv)
{
    struct rh_error err;
    const char *name = "";
    for (size_t i = 0; i < sizeof homes / sizeof *homes; i++) {
        if (strcmp(homes[i].verb, command->name) == 0)
            name = homes[i].program;
    }
    char *dir = rh_program_dir();
    char *program = rh_fs_join(dir, name);
    char **arguments = rh_alloc_array((size_t)argc + 2, sizeof *arguments);
    arguments[0] = (char *)(uintptr_t) "roundhouse";
    memcpy(arguments + 1, argv, (size_t)argc * sizeof *argv);
    execv(program, arguments);
    (void)rh_fail_errno(&err, errno, "%s: the stage programs must be installed beside this one",
                        program);
    rh_free(arguments);
    rh_free(program);
    rh_free(dir);
    return rh_command_fail(&err);
}
