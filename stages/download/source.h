#ifndef RH_DOWNLOAD_SOURCE_H
#define RH_DOWNLOAD_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * Where a model comes from. A reference is "<scheme>:<rest>"; "file:/dir" is a directory on this
 * machine. The checkpoint is flat: file names have no directories, and hidden files are no part of
 * it. Symbolic links are followed, since hub caches consist of them.
 */
struct rh_source;
struct rh_source_file;

/* RH_ERR_UNSUPPORTED for an unknown scheme, RH_ERR_NOT_FOUND when there is no such model. */
RH_MUST_USE enum rh_rc rh_source_open(const char *reference, struct rh_source **out,
                                      struct rh_error *err);
void rh_source_close(struct rh_source *source);

/* A local directory that rh_model_plan_new() takes: config.json, the index, and at least the
 * headers of the weights. Belongs to the source. */
const char *rh_source_plan_dir(const struct rh_source *source);

/* Names of all files, sorted by byte value; free with rh_fs_list_free(). */
RH_MUST_USE enum rh_rc rh_source_list(const struct rh_source *source, char ***out_names,
                                      size_t *out_count, struct rh_error *err);

/* The source must outlive its files. */
RH_MUST_USE enum rh_rc rh_source_file_open(const struct rh_source *source, const char *name,
                                           struct rh_source_file **out, struct rh_error *err);
void rh_source_file_close(struct rh_source_file *file);
const char *rh_source_file_path(const struct rh_source_file *file); /* for people */
uint64_t rh_source_file_size(const struct rh_source_file *file);
/* Bytes [begin, begin + size); beyond the end is RH_ERR_IO. */
RH_MUST_USE enum rh_rc rh_source_file_read(const struct rh_source_file *file, uint64_t begin,
                                           size_t size, void *buffer, struct rh_error *err);

#endif
