#ifndef RH_DOWNLOAD_HUB_TREE_H
#define RH_DOWNLOAD_HUB_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

#define RH_HUB_COMMIT_SIZE 41 /* 40 hexadecimal digits and the NUL */
#define RH_HUB_DIGEST_SIZE 65
#define RH_HUB_FILES_MAX   100000

/* A file of a repository's top folder. */
struct rh_hub_file {
    char *name; /* plain: no slash, no leading dot */
    uint64_t size;
    char digest[RH_HUB_DIGEST_SIZE]; /* 64 digits: sha256 (LFS); 40: git's name (rh_git_hash) */
};

/* What a commit holds. The checkpoint is flat: files in folders and hidden ones are left out. */
struct rh_hub_tree {
    char commit[RH_HUB_COMMIT_SIZE];
    struct rh_hub_file *files;
    size_t count;
};

/* The commit out of the Hub's answer about a model or a revision. */
RH_MUST_USE enum rh_rc rh_hub_commit_parse(const char *text, size_t size, const char *what,
                                           char out[RH_HUB_COMMIT_SIZE], struct rh_error *err);
/*
 * Adds one page of the Hub's listing. RH_ERR_FORMAT for whatever is no listing: a name that leads
 * out of the folder, an impossible size or digest, too many files. The tree stays one that
 * rh_hub_tree_done() takes.
 */
RH_MUST_USE enum rh_rc rh_hub_tree_add(struct rh_hub_tree *tree, const char *text, size_t size,
                                       const char *what, struct rh_error *err);
/* Sorts by name when all pages are there; a name that came twice is RH_ERR_FORMAT. */
RH_MUST_USE enum rh_rc rh_hub_tree_finish(struct rh_hub_tree *tree, const char *what,
                                          struct rh_error *err);
void rh_hub_tree_done(struct rh_hub_tree *tree);
/* Of a finished tree; NULL: no such file. */
const struct rh_hub_file *rh_hub_tree_find(const struct rh_hub_tree *tree, const char *name);
/* Takes a file over that has been found elsewhere; the digest has 40 or 64 digits. */
void rh_hub_tree_take(struct rh_hub_tree *tree, const char *name, uint64_t size,
                      const char *digest);

/* The tree as it is kept in a plan's source.json, "roundhouse.hub-source/1". */
struct rh_json *rh_hub_tree_to_json(const struct rh_hub_tree *tree, const char *repo);
RH_MUST_USE enum rh_rc rh_hub_tree_from_json(const struct rh_json *json, const char *what,
                                             struct rh_hub_tree *out, struct rh_error *err);

/* The next page's address out of a Link header ("<url>; rel=\"next\""); owned by caller, NULL: the
 * last page. */
char *rh_hub_next_page(const char *link);

/* Exactly `digits` lower-case hexadecimal digits. */
bool rh_hub_is_hex(const char *text, size_t digits);

#endif
