#include "command.h"
#include "recipe/recipe.h"

int rh_command_schema(const struct rh_command *command, int argc, char **argv)
{
    const char *help = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, NULL, 0, 0, &count, &code))
        return code;
    struct rh_json *schema = rh_recipe_schema();
    code = rh_command_print_json(schema);
    rh_json_free(schema);
    return code;
}
