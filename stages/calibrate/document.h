#ifndef RH_CALIBRATE_DOCUMENT_H
#define RH_CALIBRATE_DOCUMENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* The text of a document in JSON: a string, an object with one member, or the member `column` of an
 * object (NULL: "text"). `what` names the document in errors. *out: owned by the tree. */
RH_MUST_USE enum rh_rc rh_document_text(const struct rh_json *document, const char *column,
                                        const char *what, const char **out, struct rh_error *err);
/* The same for a line of JSON Lines; *out is owned by the caller. */
RH_MUST_USE enum rh_rc rh_document_from_json(const char *line, size_t size, const char *column,
                                             const char *what, char **out, struct rh_error *err);

/* Size of the text without white space at its end (Python's str.rstrip()). */
size_t rh_document_stripped(const char *text, size_t size);

#endif
