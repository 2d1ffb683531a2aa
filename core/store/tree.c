#include "tree.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/mem.h"

enum { DEPTH_MAX = 16 };

static void append(char ***list, size_t *count, size_t *capacity, char *owned)
{
    if (*count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 16;
        *list = rh_realloc_array(*list, *capacity, sizeof(**list));
    }
    (*list)[(*count)++] = owned;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* dir: the directory to list; prefix: its name below the top, "" for the top itself. */
static enum rh_rc walk(const char *dir, const char *prefix, int depth, struct rh_tree *tree,
                       struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    if (depth > DEPTH_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: more than %d levels of directories", dir,
                       DEPTH_MAX);
    enum rh_rc rc = rh_fs_list(dir, &names, &count, err);
    for (size_t i = 0; i < count && !rc; i++) {
        struct stat st;
        char *path = rh_fs_join(dir, names[i]);
        char *name = prefix[0] ? rh_fs_join(prefix, names[i]) : rh_strdup(names[i]);
        if (lstat(path, &st) != 0) {
            rc = rh_fail_errno(err, errno, "could not look at %s", path);
        } else if (S_ISDIR(st.st_mode)) {
            rc = walk(path, name, depth + 1, tree, err);
        } else if (!S_ISREG(st.st_mode)) {
            rc = rh_fail(err, RH_ERR_FORMAT, "%s is neither file nor directory, remove it", path);
        } else if (strcmp(name, RH_STORE_MANIFEST) != 0) {
            append(&tree->files, &tree->file_count, &tree->file_capacity, name);
            name = NULL;
        }
        rh_free(name);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    if (!rc)
        append(&tree->dirs, &tree->dir_count, &tree->dir_capacity, rh_strdup(dir));
    return rc;
}

enum rh_rc rh_tree_walk(const char *top, struct rh_tree *tree, struct rh_error *err)
{
    enum rh_rc rc = walk(top, "", 1, tree, err);
    if (!rc && tree->file_count)
        qsort(tree->files, tree->file_count, sizeof(*tree->files), compare_names);
    return rc;
}

void rh_tree_done(struct rh_tree *tree)
{
    for (size_t i = 0; i < tree->file_count; i++)
        rh_free(tree->files[i]);
    for (size_t i = 0; i < tree->dir_count; i++)
        rh_free(tree->dirs[i]);
    rh_free(tree->files);
    rh_free(tree->dirs);
    *tree = (struct rh_tree){0};
}

bool rh_tree_is_safe_name(const char *name)
{
    for (;;) {
        size_t part = strcspn(name, "/");
        if (part == 0 || (part == 1 && name[0] == '.') ||
            (part == 2 && name[0] == '.' && name[1] == '.'))
            return false;
        if (name[part] == '\0')
            return true;
        name += part + 1;
    }
}

bool rh_tree_is_op(const char *op)
{
    size_t size = strspn(op, "abcdefghijklmnopqrstuvwxyz");
    return size >= 1 && size <= 32 && op[size] == '\0';
}
