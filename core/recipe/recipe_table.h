#ifndef RH_RECIPE_TABLE_H
#define RH_RECIPE_TABLE_H

#include <stddef.h>

#include "base/error.h"
#include "base/json.h"

#include "recipe.h"

/* Private to the library: the rows of the recipe, and what is derived from them. */
enum rh_row_type {
    RH_ROW_STRING,
    RH_ROW_NAME,    /* string of letters, digits, '.', '_' and '-' */
    RH_ROW_STRINGS, /* array of non-empty strings */
    RH_ROW_CHOICE,  /* one of the strings in `choices`, stored as its position */
    RH_ROW_INT,     /* one of `numbers` when given, else within min..max */
    RH_ROW_NUMBER,
    RH_ROW_BOOL,
};

struct rh_recipe_row {
    const char *path; /* "quant.iters" */
    enum rh_row_type type;
    size_t offset, size; /* of the member of struct rh_recipe; size 0: not stored */
    double min, max;
    const char *const *choices; /* NULL-terminated */
    const int64_t *numbers;     /* 0-terminated */
    const char *otherwise;      /* default, as JSON */
    const char *help;
};

#define RH_RECIPE_SCHEMA_ID "roundhouse.recipe/1"

size_t rh_recipe_row_count(void);
const struct rh_recipe_row *rh_recipe_row_at(size_t index);
const struct rh_recipe_row *rh_recipe_row_find(const char *path); /* NULL: unknown */
/* True for "quant" and the like: a row's path begins with it and a dot. */
bool rh_recipe_is_section(const char *path);
/* The known path or section that is fewest edits away. */
const char *rh_recipe_nearest(const char *path);

/* Type and bounds of one value; `what` names the recipe. */
RH_MUST_USE enum rh_rc rh_recipe_row_check(const struct rh_recipe_row *row,
                                           const struct rh_json *value, const char *what,
                                           struct rh_error *err);
/* Stores a checked value into its member; strings and arrays are owned by the recipe. */
void rh_recipe_row_store(const struct rh_recipe_row *row, const struct rh_json *value,
                         struct rh_recipe *recipe);

/* Finds a recipe by path or shipped name; *out_path: rh_free. */
RH_MUST_USE enum rh_rc rh_recipe_find_file(const char *reference, char **out_path,
                                           struct rh_error *err);

#endif
