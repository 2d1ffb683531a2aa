#ifndef RH_CALIBRATE_CORPUS_H
#define RH_CALIBRATE_CORPUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * Documents of a JSON Lines file: a line is a string, an object with one member, or an object with
 * the member "text". Only offsets are kept in memory.
 */
struct rh_corpus;

RH_MUST_USE enum rh_rc rh_corpus_open(const char *path, struct rh_corpus **out,
                                      struct rh_error *err);
void rh_corpus_close(struct rh_corpus *corpus);
int64_t rh_corpus_count(const struct rh_corpus *corpus);
const char *rh_corpus_sha256(const struct rh_corpus *corpus); /* of the file, hex */
/* The text of a document without trailing white space (str.rstrip()). Owned by caller. Errors name
 * the file and the line. */
RH_MUST_USE enum rh_rc rh_corpus_text(struct rh_corpus *corpus, int64_t index, char **out,
                                      size_t *out_size, struct rh_error *err);
/* 1-based line of a document. */
int64_t rh_corpus_line(const struct rh_corpus *corpus, int64_t index);

#endif
