#include "hub_tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define SCHEMA "roundhouse.hub-source/1"

bool rh_hub_is_hex(const char *text, size_t digits)
{
    return strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

enum rh_rc rh_hub_commit_parse(const char *text, size_t size, const char *what,
                               char out[RH_HUB_COMMIT_SIZE], struct rh_error *err)
{
    struct rh_json *json = NULL;
    const char *sha = NULL;
    enum rh_rc rc = rh_json_parse(text, size, what, &json, err);
    if (rc == RH_OK)
        rc = rh_json_want_string(json, "sha", what, &sha, err);
    if (rc == RH_OK && !rh_hub_is_hex(sha, RH_HUB_COMMIT_SIZE - 1))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: \"sha\" is \"%.80s\", which is no commit", what, sha);
    if (rc == RH_OK)
        memcpy(out, sha, RH_HUB_COMMIT_SIZE);
    rh_json_free(json);
    return rc;
}

/* A path relative to the top of a repository: no empty part, no "." and "..", nothing that another
 * system would take for a separator or a drive. */
static bool is_path(const char *path)
{
    for (const char *part = path;; part = strchr(part, '/') + 1) {
        size_t size = strcspn(part, "/");
        bool dots = (size == 1 && part[0] == '.') || (size == 2 && memcmp(part, "..", 2) == 0);
        if (size == 0 || size > 255 || dots)
            return false;
        if (part[size] == '\0')
            break;
    }
    for (const char *c = path; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f || *c == '\\')
            return false;
    }
    return path[1] != ':';
}

static bool is_ours(const char *path)
{
    return path[0] != '.' && !strchr(path, '/');
}

void rh_hub_tree_take(struct rh_hub_tree *tree, const char *name, uint64_t size, const char *digest)
{
    /* Room grows by doubling, when the count is a power of two. */
    if ((tree->count & (tree->count - 1)) == 0)
        tree->files =
            rh_realloc_array(tree->files, tree->count ? tree->count * 2 : 1, sizeof *tree->files);
    struct rh_hub_file *file = &tree->files[tree->count++];
    *file = (struct rh_hub_file){.name = rh_strdup(name), .size = size};
    memcpy(file->digest, digest, strlen(digest) + 1);
}

/* Size and digest of an entry of the Hub's listing, or of source.json. */
static enum rh_rc content_of(const struct rh_json *entry, const char *what, const char *path,
                             int64_t *size, const char **digest, struct rh_error *err)
{
    const struct rh_json *lfs = rh_json_get(entry, "lfs");
    int64_t big = 0;
    if (rh_json_is_null(lfs))
        lfs = NULL;
    enum rh_rc rc = rh_json_want_int(entry, "size", what, size, err);
    if (rc == RH_OK)
        rc = rh_json_want_string(lfs ? lfs : entry, "oid", what, digest, err);
    if (rc == RH_OK && lfs)
        rc = rh_json_want_int(lfs, "size", what, &big, err);
    if (rc != RH_OK)
        return rc;
    if (*size < 0 || (lfs && big != *size))
        return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s cannot have %lld bytes", what, path,
                       (long long)*size);
    if (!rh_hub_is_hex(*digest, lfs ? 64 : 40))
        return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s has \"%.80s\" for a digest", what, path,
                       *digest);
    return RH_OK;
}

static enum rh_rc add_entry(struct rh_hub_tree *tree, const struct rh_json *entry, const char *what,
                            struct rh_error *err)
{
    const char *type = NULL, *path = NULL, *digest = NULL;
    int64_t size = 0;
    enum rh_rc rc = rh_json_want_string(entry, "type", what, &type, err);
    if (rc == RH_OK)
        rc = rh_json_want_string(entry, "path", what, &path, err);
    if (rc != RH_OK)
        return rc;
    if (!is_path(path))
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: \"%.200s\" leads out of the repository, or is no file name", what,
                       path);
    if (strcmp(type, "file") != 0 || !is_ours(path))
        return RH_OK;
    if (tree->count == RH_HUB_FILES_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: more than %d files", what, RH_HUB_FILES_MAX);
    rc = content_of(entry, what, path, &size, &digest, err);
    if (rc == RH_OK)
        rh_hub_tree_take(tree, path, (uint64_t)size, digest);
    return rc;
}

static enum rh_rc add_entries(struct rh_hub_tree *tree, const struct rh_json *list,
                              const char *what, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    if (rh_json_type(list) != RH_JSON_ARRAY)
        return rh_fail(err, RH_ERR_FORMAT, "%s is no list of files", what);
    for (const struct rh_json *e = rh_json_first(list); e && rc == RH_OK; e = rh_json_next(e))
        rc = add_entry(tree, e, what, err);
    return rc;
}

enum rh_rc rh_hub_tree_add(struct rh_hub_tree *tree, const char *text, size_t size,
                           const char *what, struct rh_error *err)
{
    struct rh_json *json = NULL;
    enum rh_rc rc = rh_json_parse(text, size, what, &json, err);
    if (rc == RH_OK)
        rc = add_entries(tree, json, what, err);
    rh_json_free(json);
    return rc;
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct rh_hub_file *)a)->name, ((const struct rh_hub_file *)b)->name);
}

enum rh_rc rh_hub_tree_finish(struct rh_hub_tree *tree, const char *what, struct rh_error *err)
{
    if (tree->count > 1)
        qsort(tree->files, tree->count, sizeof *tree->files, compare);
    for (size_t i = 1; i < tree->count; i++) {
        if (strcmp(tree->files[i].name, tree->files[i - 1].name) == 0)
            return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s is listed twice", what,
                           tree->files[i].name);
    }
    return RH_OK;
}

void rh_hub_tree_done(struct rh_hub_tree *tree)
{
    for (size_t i = 0; i < tree->count; i++)
        rh_free(tree->files[i].name);
    rh_free(tree->files);
    *tree = (struct rh_hub_tree){0};
}

const struct rh_hub_file *rh_hub_tree_find(const struct rh_hub_tree *tree, const char *name)
{
    struct rh_hub_file key = {.name = (char *)(uintptr_t)name};
    return tree->count ? bsearch(&key, tree->files, tree->count, sizeof key, compare) : NULL;
}

/* Entries have the form of the Hub's listing, so that one reader does for both. */
struct rh_json *rh_hub_tree_to_json(const struct rh_hub_tree *tree, const char *repo)
{
    struct rh_json *root = rh_json_new_object(), *list = rh_json_new_array();
    rh_json_set_string(root, "schema", SCHEMA);
    rh_json_set_string(root, "repo", repo);
    rh_json_set_string(root, "commit", tree->commit);
    for (size_t i = 0; i < tree->count; i++) {
        const struct rh_hub_file *file = &tree->files[i];
        struct rh_json *entry = rh_json_new_object(), *holder = entry;
        rh_json_set_string(entry, "type", "file");
        rh_json_set_string(entry, "path", file->name);
        rh_json_set_int(entry, "size", (int64_t)file->size);
        if (strlen(file->digest) == 64) {
            holder = rh_json_new_object();
            rh_json_set_int(holder, "size", (int64_t)file->size);
            rh_json_set(entry, "lfs", holder);
        }
        rh_json_set_string(holder, "oid", file->digest);
        rh_json_append(list, entry);
    }
    rh_json_set(root, "files", list);
    return root;
}

enum rh_rc rh_hub_tree_from_json(const struct rh_json *json, const char *what,
                                 struct rh_hub_tree *out, struct rh_error *err)
{
    const char *schema = NULL, *commit = NULL;
    enum rh_rc rc = rh_json_want_string(json, "schema", what, &schema, err);
    if (rc == RH_OK && strcmp(schema, SCHEMA) != 0)
        rc = rh_fail(err, RH_ERR_UNSUPPORTED, "%s: schema %.40s is not " SCHEMA, what, schema);
    if (rc == RH_OK)
        rc = rh_json_want_string(json, "commit", what, &commit, err);
    if (rc == RH_OK && !rh_hub_is_hex(commit, RH_HUB_COMMIT_SIZE - 1))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: \"%.80s\" is no commit", what, commit);
    if (rc != RH_OK)
        return rc;
    memcpy(out->commit, commit, RH_HUB_COMMIT_SIZE);
    rc = add_entries(out, rh_json_get(json, "files"), what, err);
    return rc == RH_OK ? rh_hub_tree_finish(out, what, err) : rc;
}

char *rh_hub_next_page(const char *link)
{
    while (link && (link = strchr(link, '<'))) {
        const char *end = strchr(link, '>');
        if (!end)
            return NULL;
        size_t rest = strcspn(end, ",");
        char *parameters = rh_strndup(end, rest);
        bool next = strstr(parameters, "rel=\"next\"") || strstr(parameters, "rel=next");
        rh_free(parameters);
        if (next)
            return rh_strndup(link + 1, (size_t)(end - link - 1));
        link = end + rest;
    }
    return NULL;
}
