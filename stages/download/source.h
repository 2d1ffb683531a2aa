#ifndef RH_DOWNLOAD_SOURCE_H
#define RH_DOWNLOAD_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/*
 * Where a model comes from. A reference is "<scheme>:<rest>": "file:/dir" is a directory on this
 * machine, "hf:owner/name@revision" a model of the Hugging Face Hub. The checkpoint is flat: file
 * names have no directories, and hidden files are no part of it. Symbolic links are followed, since
 * hub caches consist of them.
 */
struct rh_source;
struct rh_source_file;

/* How a source is used; all of it may be 0 or NULL. */
struct rh_source_use {
    /* Where bytes that come from elsewhere are kept; NULL: in a temporary directory, as long as the
     * source is open. */
    const char *work_dir;
    /* rh_source_pin() of the source that a job was planned with: what was there then is taken. */
    const struct rh_json *pin;
    enum rh_rc (*check)(void *arg, struct rh_error *err); /* an error ends a download */
    /* Bytes of a file so far; total 0: a pause. */
    void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
    void *arg;
};

/* `use` may be NULL. RH_ERR_UNSUPPORTED for an unknown scheme, RH_ERR_NOT_FOUND when there is no
 * such model. */
RH_MUST_USE enum rh_rc rh_source_open(const char *reference, const struct rh_source_use *use,
                                      struct rh_source **out, struct rh_error *err);
void rh_source_close(struct rh_source *source);

/* A local directory that rh_model_plan_new() takes: config.json, the index, and at least the
 * headers of the weights. Belongs to the source. */
RH_MUST_USE enum rh_rc rh_source_plan_dir(struct rh_source *source, const char **out,
                                          struct rh_error *err);

/* What the source is, so that a job reads the same files to its end: repository, commit, sizes and
 * digests. Owned by caller; NULL: a local directory, of which nobody knows. */
struct rh_json *rh_source_pin(const struct rh_source *source);

/* Names of all files, sorted by byte value; free with rh_fs_list_free(). */
RH_MUST_USE enum rh_rc rh_source_list(const struct rh_source *source, char ***out_names,
                                      size_t *out_count, struct rh_error *err);

/* Size of a file, without opening it. */
RH_MUST_USE enum rh_rc rh_source_size(const struct rh_source *source, const char *name,
                                      uint64_t *out, struct rh_error *err);
/* The sha256 that whatever rh_source_file_open() opens has been checked against; NULL: none. */
const char *rh_source_sha256(const struct rh_source *source, const char *name);
/* The file is not needed again; what is kept of it in the work directory goes. */
void rh_source_drop(const struct rh_source *source, const char *name);

/* Fetches the file first where it is elsewhere: it is whole, and checked. The source must outlive
 * its files. */
RH_MUST_USE enum rh_rc rh_source_file_open(const struct rh_source *source, const char *name,
                                           struct rh_source_file **out, struct rh_error *err);
void rh_source_file_close(struct rh_source_file *file);
const char *rh_source_file_path(const struct rh_source_file *file); /* for people */
uint64_t rh_source_file_size(const struct rh_source_file *file);
/* Bytes [begin, begin + size); beyond the end is RH_ERR_IO. */
RH_MUST_USE enum rh_rc rh_source_file_read(const struct rh_source_file *file, uint64_t begin,
                                           size_t size, void *buffer, struct rh_error *err);

#endif
