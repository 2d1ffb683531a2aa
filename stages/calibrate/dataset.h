#ifndef RH_CALIBRATE_DATASET_H
#define RH_CALIBRATE_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * Documents of a file, in any order. The file's suffix says what it is:
 *   .parquet  a document a row of one string column; a null is an empty document
 *   .json     a list of documents, or an object whose values are the documents
 *   .txt      plain text, cut into documents of about 16 KiB where a line is blank
 *   others    JSON Lines: a document a line
 * A document in JSON is a string, an object with one member, or an object with the member "text".
 * Plain text and Parquet are taken as they are; from JSON, white space at the end is cut off
 * (str.rstrip()), as AutoRound does.
 */
struct rh_dataset;

/* column: the member or column that holds the text; NULL: as above. */
RH_MUST_USE enum rh_rc rh_dataset_open(const char *path, const char *column,
                                       struct rh_dataset **out, struct rh_error *err);
void rh_dataset_close(struct rh_dataset *d);
int64_t rh_dataset_count(const struct rh_dataset *d);
const char *rh_dataset_sha256(const struct rh_dataset *d); /* of the file, hex */
/* Documents are pieces of one running text, which lose their meaning when they are cut short. */
bool rh_dataset_is_running_text(const struct rh_dataset *d);
/* Owned by caller. Errors name the file and the place. */
RH_MUST_USE enum rh_rc rh_dataset_text(struct rh_dataset *d, int64_t index, char **out,
                                       size_t *out_size, struct rh_error *err);
/* "/x/a.jsonl line 7"; owned by caller. */
char *rh_dataset_where(const struct rh_dataset *d, int64_t index);

#endif
