#ifndef RH_CTL_BUNDLE_H
#define RH_CTL_BUNDLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A tar file (ustar) being written; whole under its name, or not there. What looks like an access
 * token
 * ("hf_...") is blotted out of everything that goes in. */
struct rh_bundle;

RH_MUST_USE enum rh_rc rh_bundle_open(const char *path, struct rh_bundle **out,
                                      struct rh_error *err);
/* name: below 100 bytes. text is borrowed. */
RH_MUST_USE enum rh_rc rh_bundle_add(struct rh_bundle *b, const char *name, const char *text,
                                     size_t size, struct rh_error *err);
/* The last max_bytes of a file; one that is not there is left out. */
RH_MUST_USE enum rh_rc rh_bundle_add_file(struct rh_bundle *b, const char *name, const char *path,
                                          size_t max_bytes, struct rh_error *err);
/* Consumes b, also on failure. RH_ERR_EXISTS is told by rh_bundle_open(). */
RH_MUST_USE enum rh_rc rh_bundle_close(struct rh_bundle *b, struct rh_error *err);
void rh_bundle_abort(struct rh_bundle *b); /* NULL allowed */

#endif
