#include <string.h>

#include "base/mem.h"

#include "recipe_table.h"

static struct rh_json *strings_of(const char *const *choices)
{
    struct rh_json *array = rh_json_new_array();
    for (; *choices; choices++)
        rh_json_append(array, rh_json_new_string(*choices));
    return array;
}

static struct rh_json *numbers_of(const int64_t *numbers)
{
    struct rh_json *array = rh_json_new_array();
    for (; *numbers; numbers++)
        rh_json_append(array, rh_json_new_int(*numbers));
    return array;
}

static void describe_type(const struct rh_recipe_row *row, struct rh_json *property)
{
    switch (row->type) {
    case RH_ROW_STRING:
        rh_json_set_string(property, "type", "string");
        rh_json_set_int(property, "maxLength", 4096);
        break;
    case RH_ROW_NAME:
        rh_json_set_string(property, "type", "string");
        rh_json_set_string(property, "pattern", "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$");
        break;
    case RH_ROW_STRINGS: {
        struct rh_json *items = rh_json_new_object();
        rh_json_set_string(items, "type", "string");
        rh_json_set_int(items, "minLength", 1);
        rh_json_set_string(property, "type", "array");
        rh_json_set_int(property, "maxItems", 1024);
        rh_json_set(property, "items", items);
        break;
    }
    case RH_ROW_CHOICE:
        rh_json_set(property, "enum", strings_of(row->choices));
        break;
    case RH_ROW_INT:
        rh_json_set_string(property, "type", "integer");
        if (row->numbers) {
            rh_json_set(property, "enum", numbers_of(row->numbers));
            break;
        }
        rh_json_set_int(property, "minimum", (int64_t)row->min);
        rh_json_set_int(property, "maximum", (int64_t)row->max);
        break;
    case RH_ROW_NUMBER:
        rh_json_set_string(property, "type", "number");
        rh_json_set_number(property, "minimum", row->min);
        rh_json_set_number(property, "maximum", row->max);
        break;
    case RH_ROW_BOOL:
        rh_json_set_string(property, "type", "boolean");
        break;
    }
}

static struct rh_json *describe(const struct rh_recipe_row *row)
{
    struct rh_json *property = rh_json_new_object();
    struct rh_json *otherwise = NULL;
    rh_json_set_string(property, "description", row->help);
    describe_type(row, property);
    RH_ASSERT(rh_json_parse(row->otherwise, strlen(row->otherwise), row->path, &otherwise, NULL) ==
              RH_OK);
    rh_json_set(property, "default", otherwise);
    return property;
}

static struct rh_json *new_object_schema(struct rh_json **properties)
{
    struct rh_json *schema = rh_json_new_object();
    rh_json_set_string(schema, "type", "object");
    rh_json_set_bool(schema, "additionalProperties", false);
    *properties = rh_json_new_object();
    rh_json_set(schema, "properties", *properties);
    return schema;
}

static void add_file_key(struct rh_json *properties, const char *key, const char *help)
{
    struct rh_json *property = rh_json_new_object();
    rh_json_set_string(property, "description", help);
    rh_json_set_string(property, "type", "string");
    rh_json_set(properties, key, property);
}

struct rh_json *rh_recipe_schema(void)
{
    struct rh_json *top = NULL;
    struct rh_json *schema = new_object_schema(&top);
    rh_json_set_string(schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
    rh_json_set_string(schema, "title", "Roundhouse recipe");
    add_file_key(top, "$schema", "Where this schema lies, for editors.");
    add_file_key(top, "extends",
                 "A recipe, by path relative to this one or by shipped name, whose values count "
                 "where this one has none; one level.");
    for (size_t i = 0; i < rh_recipe_row_count(); i++) {
        const struct rh_recipe_row *row = rh_recipe_row_at(i);
        const char *dot = strchr(row->path, '.');
        if (!dot) {
            rh_json_set(top, row->path, describe(row));
            continue;
        }
        char *section = rh_strndup(row->path, (size_t)(dot - row->path));
        struct rh_json *inner = rh_json_get_mutable(top, section);
        struct rh_json *properties = inner ? rh_json_get_mutable(inner, "properties") : NULL;
        if (!properties)
            rh_json_set(top, section, new_object_schema(&properties));
        rh_json_set(properties, dot + 1, describe(row));
        rh_free(section);
    }
    return schema;
}
