#include "recipe.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"

#include "dataset_spec.h"
#include "recipe_table.h"

#define FILE_MAX  (1u << 20)
#define PATH_SIZE 256

/* Member of a nested object by dotted path; NULL when absent. */
static const struct rh_json *get_path(const struct rh_json *root, const char *path)
{
    const struct rh_json *node = root;
    while (node && path) {
        char key[PATH_SIZE];
        size_t size = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)size, path);
        node = rh_json_get(node, key);
        path = path[size] ? path + size + 1 : NULL;
    }
    return node;
}

/* Sets it, making the objects on the way; `value` is adopted. */
static void set_path(struct rh_json *root, const char *path, struct rh_json *value)
{
    struct rh_json *node = root;
    for (;;) {
        char key[PATH_SIZE];
        size_t size = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)size, path);
        if (!path[size]) {
            rh_json_set(node, key, value);
            return;
        }
        struct rh_json *child = rh_json_get_mutable(node, key);
        if (!child || rh_json_type(child) != RH_JSON_OBJECT) {
            child = rh_json_new_object();
            rh_json_set(node, key, child);
        }
        node = child;
        path += size + 1;
    }
}

/* Every key is known and every section an object; values are checked later. */
static enum rh_rc check_keys(const struct rh_json *object, const char *prefix, const char *what,
                             struct rh_error *err)
{
    for (const struct rh_json *c = rh_json_first(object); c; c = rh_json_next(c)) {
        char path[PATH_SIZE];
        /* A key with a dot inside must not pass for a nested path. */
        bool dotted = strchr(rh_json_key(c), '.') != NULL;
        snprintf(path, sizeof path, "%s%.120s", prefix, rh_json_key(c));
        if (!*prefix && strcmp(path, "$schema") == 0)
            continue;
        if (!dotted && rh_recipe_row_find(path))
            continue;
        if (dotted || !rh_recipe_is_section(path))
            return rh_fail(err, RH_ERR_ARGUMENT, "%s: unknown key %s; did you mean %s?", what, path,
                           rh_recipe_nearest(path));
        if (rh_json_type(c) != RH_JSON_OBJECT)
            return rh_fail(err, RH_ERR_ARGUMENT, "%s: %s must be an object", what, path);
        snprintf(path, sizeof path, "%s%.120s.", prefix, rh_json_key(c));
        enum rh_rc rc = check_keys(c, path, what, err);
        if (rc != RH_OK)
            return rc;
    }
    return RH_OK;
}

/* Rules between keys. */
static enum rh_rc check_together(const struct rh_recipe *r, const char *what, struct rh_error *err)
{
    int64_t step = r->batch_size * r->gradient_accumulate_steps;
    if (r->iters > 0 && step > r->nsamples)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: one step takes quant.batch_size x quant.gradient_accumulate_steps = "
                       "%lld rows, but calibration.nsamples is %lld; lower the former or raise the "
                       "latter",
                       what, (long long)step, (long long)r->nsamples);
    if (r->top_up_rows > 0 && r->expert_floor == 0)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: calibration.top_up_rows is %lld, but calibration.expert_floor is 0; "
                       "experts are topped up to that floor, so give one",
                       what, (long long)r->top_up_rows);
    struct rh_dataset_specs specs = {0};
    int64_t rows[RH_DATASETS_MAX];
    enum rh_rc rc = rh_dataset_specs_parse(r->dataset, &specs, err);
    if (rc == RH_OK)
        rc = rh_dataset_specs_rows(&specs, r->nsamples, rows, err);
    rh_dataset_specs_done(&specs);
    return rc == RH_OK ? rc : rh_error_prefix(err, "%s", what);
}

static void make_digest(struct rh_recipe *r)
{
    struct rh_json *hashed = rh_json_copy(r->canonical);
    rh_json_remove(hashed, "resources");
    rh_json_remove(hashed, "name");
    char *text = rh_json_canonical(hashed);
    rh_sha256_of(text, strlen(text), r->digest);
    rh_free(text);
    rh_json_free(hashed);
}

enum rh_rc rh_recipe_from_json(const struct rh_json *object, const char *what,
                               struct rh_recipe **out, struct rh_error *err)
{
    *out = NULL;
    if (rh_json_type(object) != RH_JSON_OBJECT)
        return rh_fail(err, RH_ERR_ARGUMENT, "%s: a recipe is a JSON object", what);
    enum rh_rc rc = check_keys(object, "", what, err);
    if (rc != RH_OK)
        return rc;
    struct rh_recipe *r = rh_alloc(sizeof *r);
    r->canonical = rh_json_new_object();
    for (size_t i = 0; i < rh_recipe_row_count(); i++) {
        const struct rh_recipe_row *row = rh_recipe_row_at(i);
        const struct rh_json *given = get_path(object, row->path);
        struct rh_json *value = NULL;
        if (given)
            value = rh_json_copy(given);
        else
            RH_ASSERT(rh_json_parse(row->otherwise, strlen(row->otherwise), row->path, &value,
                                    NULL) == RH_OK);
        set_path(r->canonical, row->path, value);
        rc = rh_recipe_row_check(row, value, what, err);
        if (rc != RH_OK)
            goto out;
        rh_recipe_row_store(row, value, r);
    }
    rc = check_together(r, what, err);
    if (rc != RH_OK)
        goto out;
    make_digest(r);
    *out = r;
    r = NULL;
out:
    rh_recipe_free(r);
    return rc;
}

static bool has_data_suffix(const char *path)
{
    static const char *const suffixes[] = {".jsonl", ".json", ".txt", ".parquet", ".gz"};
    size_t size = strlen(path);
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t n = strlen(suffixes[i]);
        if (size > n && strcmp(path + size - n, suffixes[i]) == 0)
            return true;
    }
    return false;
}

/* Hub names are "owner/name"; everything else is a path. What the disk holds plays no part, so that
 * the same recipe means the same everywhere. */
static bool is_relative_path(const char *dataset)
{
    if (!*dataset || dataset[0] == '/')
        return false;
    if (dataset[0] == '.' || has_data_suffix(dataset))
        return true;
    const char *slash = strchr(dataset, '/');
    return !slash || strchr(slash + 1, '/');
}

/* base: an absolute folder. */
static char *anchored(const char *name, const void *base)
{
    if (!is_relative_path(name))
        return rh_strdup(name);
    while (strncmp(name, "./", 2) == 0)
        name += 2;
    return rh_fs_join(base, name);
}

/* Anchors the files of calibration.dataset at `dir`; NULL: the working directory. */
static enum rh_rc anchor_dataset(struct rh_json *object, const char *dir, struct rh_error *err)
{
    const char *dataset = rh_json_string(get_path(object, "calibration.dataset"));
    struct rh_dataset_specs specs = {0};
    char here[4096];
    if (!dataset)
        return RH_OK;
    if (!getcwd(here, sizeof here))
        return rh_fail_errno(err, errno, "could not find the working directory");
    enum rh_rc rc = rh_dataset_specs_parse(dataset, &specs, err);
    if (rc != RH_OK)
        return rc;
    bool absolute = dir && dir[0] == '/';
    char *base = dir && strcmp(dir, ".") != 0 && !absolute ? rh_fs_join(here, dir)
                                                           : rh_strdup(absolute ? dir : here);
    char *text = rh_dataset_specs_text(&specs, anchored, base);
    set_path(object, "calibration.dataset", rh_json_new_string(text));
    rh_free(text);
    rh_free(base);
    rh_dataset_specs_done(&specs);
    return RH_OK;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return rh_strdup(".");
    return slash == path ? rh_strdup("/") : rh_strndup(path, (size_t)(slash - path));
}

/* A file as JSON, without the keys that only files have; *extends: rh_free, NULL when absent. */
static enum rh_rc read_object(const char *path, struct rh_json **out, char **extends,
                              struct rh_error *err)
{
    char *text = NULL;
    size_t size = 0;
    char *dir = folder_of(path);
    enum rh_rc rc = rh_fs_read(path, FILE_MAX, &text, &size, err);
    if (rc == RH_OK)
        rc = rh_json_parse_commented(text, size, path, out, err);
    if (rc != RH_OK)
        goto out;
    if (rh_json_type(*out) != RH_JSON_OBJECT) {
        rc = rh_fail(err, RH_ERR_ARGUMENT, "%s: a recipe is a JSON object", path);
        goto out;
    }
    const struct rh_json *base = rh_json_get(*out, "extends");
    if (base && !rh_json_string(base)) {
        rc =
            rh_fail(err, RH_ERR_ARGUMENT, "%s: extends must be the name or path of a recipe", path);
        goto out;
    }
    *extends = rh_strdup(rh_json_string(base));
    rh_json_remove(*out, "extends");
    rh_json_remove(*out, "$schema");
    rc = check_keys(*out, "", path, err);
    if (rc == RH_OK)
        rc = anchor_dataset(*out, dir, err);
out:
    rh_free(text);
    rh_free(dir);
    return rc;
}

/* The base's values where `object` has none. */
static void merge_base(struct rh_json *object, const struct rh_json *base)
{
    for (size_t i = 0; i < rh_recipe_row_count(); i++) {
        const char *path = rh_recipe_row_at(i)->path;
        const struct rh_json *value = get_path(base, path);
        if (value && !get_path(object, path) && strcmp(path, "name") != 0)
            set_path(object, path, rh_json_copy(value));
    }
}

static enum rh_rc apply_base(struct rh_json *object, const char *path, const char *extends,
                             struct rh_error *err)
{
    struct rh_json *base = NULL;
    char *base_path = NULL, *again = NULL;
    char *dir = folder_of(path);
    char *beside = extends[0] == '/' ? rh_strdup(extends) : rh_fs_join(dir, extends);
    enum rh_rc rc = RH_OK;
    if (rh_fs_exists(beside))
        base_path = rh_strdup(beside);
    else
        rc = rh_recipe_find_file(extends, &base_path, err);
    if (rc == RH_OK)
        rc = read_object(base_path, &base, &again, err);
    if (rc == RH_OK && again)
        rc = rh_fail(err, RH_ERR_ARGUMENT,
                     "%s extends %s itself; recipes extend one level only, so name its base here",
                     base_path, again);
    if (rc == RH_OK)
        merge_base(object, base);
    else
        rh_error_prefix(err, "%s: extends", path);
    rh_json_free(base);
    rh_free(base_path);
    rh_free(again);
    rh_free(dir);
    rh_free(beside);
    return rc;
}

/* "recipes/tiny.json" is called "tiny" unless it says otherwise. */
static void name_after_file(struct rh_json *object, const char *path)
{
    if (rh_json_get(object, "name"))
        return;
    const char *slash = strrchr(path, '/');
    const char *leaf = slash ? slash + 1 : path;
    size_t size = strlen(leaf);
    if (size > 5 && strcmp(leaf + size - 5, ".json") == 0)
        size -= 5;
    char *stem = rh_strndup(leaf, size);
    struct rh_json *value = rh_json_new_string(stem);
    if (rh_recipe_row_check(rh_recipe_row_find("name"), value, path, NULL) == RH_OK)
        rh_json_set(object, "name", value);
    else
        rh_json_free(value);
    rh_free(stem);
}

enum rh_rc rh_recipe_load(const char *reference, struct rh_recipe **out, struct rh_error *err)
{
    struct rh_json *object = NULL;
    char *path = NULL, *extends = NULL;
    *out = NULL;
    enum rh_rc rc = rh_recipe_find_file(reference, &path, err);
    if (rc == RH_OK)
        rc = read_object(path, &object, &extends, err);
    if (rc == RH_OK && extends)
        rc = apply_base(object, path, extends, err);
    if (rc == RH_OK) {
        name_after_file(object, path);
        rc = rh_recipe_from_json(object, path, out, err);
    }
    rh_json_free(object);
    rh_free(path);
    rh_free(extends);
    return rc;
}

enum rh_rc rh_recipe_set(struct rh_recipe *recipe, const char *assignment, struct rh_error *err)
{
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "--set %s: write it as key=value, as in quant.iters=200", assignment);
    char *key = rh_strndup(assignment, (size_t)(equals - assignment));
    struct rh_json *value = NULL, *object = NULL;
    struct rh_recipe *changed = NULL;
    enum rh_rc rc = RH_OK;
    const struct rh_recipe_row *row = rh_recipe_row_find(key);
    if (!row) {
        rc = rh_fail(err, RH_ERR_ARGUMENT, "--set %s: unknown key %s; did you mean %s?", assignment,
                     key, rh_recipe_nearest(key));
        goto out;
    }
    bool text =
        row->type == RH_ROW_STRING || row->type == RH_ROW_NAME || row->type == RH_ROW_CHOICE;
    if (rh_json_parse(equals + 1, strlen(equals + 1), key, &value, NULL) != RH_OK ||
        (text && !rh_json_string(value))) {
        rh_json_free(value);
        value = rh_json_new_string(equals + 1);
    }
    object = rh_json_copy(recipe->canonical);
    set_path(object, row->path, value);
    rc = anchor_dataset(object, NULL, err);
    if (rc == RH_OK)
        rc = rh_recipe_from_json(object, "--set", &changed, err);
    if (rc != RH_OK)
        goto out;
    struct rh_recipe swap = *recipe;
    *recipe = *changed;
    *changed = swap;
out:
    rh_recipe_free(changed);
    rh_json_free(object);
    rh_free(key);
    return rc;
}

enum rh_rc rh_recipe_check_complete(const struct rh_recipe *recipe, struct rh_error *err)
{
    if (recipe->dataset[0])
        return RH_OK;
    return rh_fail(err, RH_ERR_ARGUMENT,
                   "recipe %s names no calibration data; add --set calibration.dataset=PATH",
                   recipe->name);
}

void rh_recipe_free(struct rh_recipe *recipe)
{
    if (!recipe)
        return;
    for (int i = 0; i < recipe->ignore_layers_count; i++)
        rh_free(recipe->ignore_layers[i]);
    rh_free(recipe->ignore_layers);
    rh_free(recipe->name);
    rh_free(recipe->dataset);
    rh_json_free(recipe->canonical);
    rh_free(recipe);
}

bool rh_recipe_ignores(const struct rh_recipe *recipe, const char *layer_name)
{
    for (int i = 0; i < recipe->ignore_layers_count; i++) {
        const char *entry = recipe->ignore_layers[i];
        size_t size = strlen(entry);
        if (strcmp(entry, layer_name) == 0)
            return true;
        bool digit = isdigit((unsigned char)entry[size - 1]) != 0;
        for (const char *at = strstr(layer_name, entry); at; at = strstr(at + 1, entry)) {
            if (!digit || at[size] == '.')
                return true;
        }
    }
    return false;
}
