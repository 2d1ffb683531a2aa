#ifndef RH_STORE_STORE_H
#define RH_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "base/sha256.h"

/*
 * A job's directory. Artifacts are immutable directories, each with a MANIFEST.json; they appear by
 * rename, complete or not at all. docs/architecture.md lists what each operation puts into its own.
 *
 *   <job>/artifacts/<op>-<index %05d>/MANIFEST.json ...
 *   <job>/staging/<op>-<index>.<epoch>/            written by exactly one lease
 *   <job>/scratch/                                 kept between leases; no artifact depends on it
 */
#define RH_STORE_SCRATCH "scratch"

char *rh_store_artifact(const char *job_dir, const char *op, int64_t index); /* owned by caller */
char *rh_store_staging(const char *job_dir, const char *op, int64_t index, int64_t epoch);
bool rh_store_has(const char *job_dir, const char *op, int64_t index);

/* Digests every file below dir, syncs them and writes MANIFEST.json:
 * {schema, op, index, recipe, files: [{name, size, sha256}], meta}. meta borrowed, may be NULL. */
RH_MUST_USE enum rh_rc rh_store_seal(const char *dir, const char *op, int64_t index,
                                     const char *recipe_digest, const struct rh_json *meta,
                                     struct rh_error *err);
/* Renames a sealed directory to its final place. RH_ERR_EXISTS when it is there already;
 * RH_ERR_ARGUMENT when it is not sealed or sealed as another op or index. */
RH_MUST_USE enum rh_rc rh_store_commit(const char *sealed_dir, const char *job_dir, const char *op,
                                       int64_t index, struct rh_error *err);
/* Sizes (and, when deep, digests) of a sealed directory against its MANIFEST.json; a missing and an
 * extra file are RH_ERR_FORMAT too. */
RH_MUST_USE enum rh_rc rh_store_check(const char *dir, bool deep, struct rh_error *err);
/* As rh_store_check(), but the file may_miss (NULL: none) need not be there. *bytes: sum of the
 * sizes of what is; may be NULL. */
RH_MUST_USE enum rh_rc rh_store_check_except(const char *dir, bool deep, const char *may_miss,
                                             uint64_t *bytes, struct rh_error *err);
/* A sealed directory `to` of the same files: hard links, so it costs no space and lives on when the
 * original goes. To be committed like any other. Files of the manifest that are gone stay gone. */
RH_MUST_USE enum rh_rc rh_store_clone(const char *artifact, const char *to, struct rh_error *err);
/* Digest of what an artifact's manifest lists: names, sizes and digests of its files. */
RH_MUST_USE enum rh_rc rh_store_digest(const char *job_dir, const char *op, int64_t index,
                                       char out[RH_SHA256_HEX_SIZE], struct rh_error *err);

#endif
