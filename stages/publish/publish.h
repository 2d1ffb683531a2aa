#ifndef RH_PUBLISH_PUBLISH_H
#define RH_PUBLISH_PUBLISH_H

#include "harness/stage.h"

/*
 * The publish stage: one operation, publish[0]. It gathers the shards and side files of a job in a
 * hidden directory beside the destination, adds MANIFEST.json and README.md, verifies the result
 * against the source and renames it into place; nothing is ever visible there that did not pass. A
 * destination that holds the very same result already counts as published.
 *
 * Destinations: "dir:/absolute/path". The artifact holds receipt.json
 * {schema, destination, files, bytes, manifest_sha256, verify}.
 */
extern const struct rh_stage rh_publish_stage;

#endif
