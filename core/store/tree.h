#ifndef RH_STORE_TREE_H
#define RH_STORE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define RH_STORE_MANIFEST           "MANIFEST.json"
#define RH_STORE_SCHEMA             "roundhouse.artifact/1"
#define RH_STORE_MANIFEST_BYTES_MAX (UINT64_C(64) << 20)

/* What a directory holds, at any depth. Zero-initialise before rh_tree_walk(). */
struct rh_tree {
    char **files; /* relative to the top, '/' between parts, sorted by byte value */
    size_t file_count, file_capacity;
    char **dirs; /* absolute or relative as the top was given; children before parents */
    size_t dir_count, dir_capacity;
};

/* The top's own MANIFEST.json is left out. Anything but files and directories (links, sockets), and
 * more than 16 levels, is RH_ERR_FORMAT: an artifact must mean the same wherever it is copied. */
RH_MUST_USE enum rh_rc rh_tree_walk(const char *top, struct rh_tree *tree, struct rh_error *err);
void rh_tree_done(struct rh_tree *tree);

/* True for "a", "a/b"; false for "", "/a", "a//b", "a/", "./a", "a/../b". */
bool rh_tree_is_safe_name(const char *name);
/* True for 1 to 32 characters out of a-z. */
bool rh_tree_is_op(const char *op);

#endif
