#ifndef RH_CALIBRATE_DOCUMENT_H
#define RH_CALIBRATE_DOCUMENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The text of a line of JSON Lines: a string, an object with one member, or an object with the
 * member "text". `what` names the line in errors. Owned by caller. */
RH_MUST_USE enum rh_rc rh_document_from_json(const char *line, size_t size, const char *what,
                                             char **out, struct rh_error *err);

/* Size of the text without white space at its end (Python's str.rstrip()). */
size_t rh_document_stripped(const char *text, size_t size);

#endif
