#ifndef RH_BASE_FS_H
#define RH_BASE_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

/*
 * Files. Every durable write of the product goes through here: temporary name in the same
 * directory, full size reserved first when it is known (so that a full disk fails at once),
 * write, fsync, rename, fsync of the directory. Whoever can see a name can read all of it.
 */

/* Whole file into memory, NUL-terminated; larger than max_bytes is RH_ERR_FORMAT. *out: rh_free. */
RH_MUST_USE enum rh_rc rh_fs_read(const char *path, uint64_t max_bytes, char **out,
                                  size_t *out_size, struct rh_error *err);
/* Durable, atomic replacement of path. */
RH_MUST_USE enum rh_rc rh_fs_write(const char *path, const void *data, size_t size,
                                   struct rh_error *err);
RH_MUST_USE enum rh_rc rh_fs_mkdirs(const char *path,
                                    struct rh_error *err); /* mode 0777 & ~umask */
RH_MUST_USE enum rh_rc rh_fs_sync_dir(const char *path, struct rh_error *err);
/* Renames without ever replacing; RH_ERR_EXISTS when `to` is there. Syncs both parents. */
RH_MUST_USE enum rh_rc rh_fs_rename_new(const char *from, const char *to, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_fs_remove_tree(const char *path,
                                         struct rh_error *err); /* absent is fine */
/* Copies a whole file durably; the digest of what was copied comes back in hex. */
RH_MUST_USE enum rh_rc rh_fs_copy(const char *from, const char *to, char *out_sha256_hex,
                                  struct rh_error *err);
bool rh_fs_exists(const char *path);
bool rh_fs_is_dir(const char *path);
RH_MUST_USE enum rh_rc rh_fs_size(const char *path, uint64_t *out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_fs_free_bytes(const char *path, uint64_t *out, struct rh_error *err);
/* Size of the file system that holds the path. */
RH_MUST_USE enum rh_rc rh_fs_disk_bytes(const char *path, uint64_t *out, struct rh_error *err);
/* Names in a directory, sorted by byte value, without "." and ".."; free with rh_fs_list_free(). */
RH_MUST_USE enum rh_rc rh_fs_list(const char *path, char ***out_names, size_t *out_count,
                                  struct rh_error *err);
void rh_fs_list_free(char **names, size_t count);
/* "a/b"; owned by caller. */
char *rh_fs_join(const char *dir, const char *name);

/* A file being written: invisible under its final name until rh_out_commit(). */
struct rh_out;

/* size_hint > 0 reserves that many bytes at once (RH_ERR_NO_SPACE when they are not there). */
RH_MUST_USE enum rh_rc rh_out_open(const char *path, uint64_t size_hint, struct rh_out **out,
                                   struct rh_error *err);
RH_MUST_USE enum rh_rc rh_out_write(struct rh_out *o, const void *data, size_t size,
                                    struct rh_error *err); /* appends, hashed on the way */
/* fsync, rename, fsync of the directory; consumes o also on failure. Digest may be NULL. */
RH_MUST_USE enum rh_rc rh_out_commit(struct rh_out *o, char *out_sha256_hex, struct rh_error *err);
void rh_out_abort(struct rh_out *o); /* removes the temporary; NULL allowed */

#endif
