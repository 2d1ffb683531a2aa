#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"

#include "recipe_table.h"

/* The folders that may hold shipped recipes, nearest first. */
struct folders {
    char **paths;
    size_t count;
};

static void folders_add(struct folders *f, char *path)
{
    f->paths = rh_realloc_array(f->paths, f->count + 1, sizeof *f->paths);
    f->paths[f->count++] = path;
}

static void folders_done(struct folders *f)
{
    for (size_t i = 0; i < f->count; i++)
        rh_free(f->paths[i]);
    rh_free(f->paths);
}

static void add_search_path(struct folders *f, const char *list)
{
    while (list && *list) {
        size_t size = strcspn(list, ":");
        if (size > 0)
            folders_add(f, rh_strndup(list, size));
        list += size + (list[size] == ':');
    }
}

/* From the program's folder upwards: an installation has share/roundhouse/recipes beside bin, a
 * checkout has configs/recipes some levels above its build directory. */
static void add_near_program(struct folders *f)
{
    enum { LEVELS = 6 };
    char path[4096];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return;
    path[size] = '\0';
    for (int level = 0; level < LEVELS; level++) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path)
            return;
        *slash = '\0';
        folders_add(f, rh_format("%s/share/roundhouse/recipes", path));
        folders_add(f, rh_format("%s/configs/recipes", path));
    }
}

static void list_names(const struct folders *f, struct rh_strbuf *out)
{
    static const char suffix[] = ".json";
    for (size_t i = 0; i < f->count; i++) {
        char **names = NULL;
        size_t count = 0;
        if (!rh_fs_is_dir(f->paths[i]) || rh_fs_list(f->paths[i], &names, &count, NULL) != RH_OK)
            continue;
        for (size_t k = 0; k < count; k++) {
            size_t size = strlen(names[k]);
            if (size > sizeof suffix - 1 && strcmp(names[k] + size - 5, suffix) == 0)
                rh_strbuf_printf(out, " %.*s", (int)(size - 5), names[k]);
        }
        rh_fs_list_free(names, count);
        return;
    }
}

static bool is_file(const char *path)
{
    return rh_fs_exists(path) && !rh_fs_is_dir(path);
}

enum rh_rc rh_recipe_find_file(const char *reference, char **out_path, struct rh_error *err)
{
    *out_path = NULL;
    if (!*reference)
        return rh_fail(err, RH_ERR_ARGUMENT, "a recipe needs a name or a path");
    if (is_file(reference)) {
        *out_path = rh_strdup(reference);
        return RH_OK;
    }
    if (strchr(reference, '/'))
        return rh_fail(err, RH_ERR_NOT_FOUND, "recipe %s: there is no such file", reference);
    struct folders f = {0};
    add_search_path(&f, getenv("RH_RECIPE_PATH"));
    add_near_program(&f);
    for (size_t i = 0; i < f.count && !*out_path; i++) {
        char *path = rh_format("%s/%s.json", f.paths[i], reference);
        if (is_file(path))
            *out_path = path;
        else
            rh_free(path);
    }
    enum rh_rc rc = RH_OK;
    if (!*out_path) {
        struct rh_strbuf names = {0};
        list_names(&f, &names);
        rc = rh_fail(
            err, RH_ERR_NOT_FOUND,
            "recipe %s: neither a file nor a shipped recipe; shipped are:%s (RH_RECIPE_PATH "
            "names further folders)",
            reference, names.text ? names.text : " none");
        rh_strbuf_done(&names);
    }
    folders_done(&f);
    return rc;
}
