#ifndef RH_PARQUET_PARQUET_H
#define RH_PARQUET_PARQUET_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * One string column of a Parquet file (github.com/apache/parquet-format), row by row in any order.
 * Covered: BYTE_ARRAY columns that are not inside a list; encodings PLAIN, PLAIN_DICTIONARY and
 * RLE_DICTIONARY; codecs UNCOMPRESSED, SNAPPY, GZIP and ZSTD; data pages of both versions; nulls;
 * page checksums. Everything else is refused by name. The file is not trusted: every offset, length
 * and count is checked before it is used.
 *
 * The places of the pages are kept in memory, and decoded pages up to 256 MiB.
 */
struct rh_parquet;

/* column: a name, with dots between the members of structs; NULL: "text" or, when the file has one
 * string column only, that one. Errors list what there is. */
RH_MUST_USE enum rh_rc rh_parquet_open(const char *path, const char *column,
                                       struct rh_parquet **out, struct rh_error *err);
/* The same over bytes, which must outlive the reader; `what` names them in errors. */
RH_MUST_USE enum rh_rc rh_parquet_open_bytes(const void *bytes, size_t size, const char *what,
                                             const char *column, struct rh_parquet **out,
                                             struct rh_error *err);
void rh_parquet_close(struct rh_parquet *p);

/* How many bytes of decoded pages to keep (256 MiB unless told); 0: no more than one page. */
void rh_parquet_hold(struct rh_parquet *p, uint64_t bytes);

int64_t rh_parquet_rows(const struct rh_parquet *p);
const char *rh_parquet_column(const struct rh_parquet *p); /* its full name */

/* The bytes of a row, which need not be UTF-8; *text is NULL for a null. Valid until the next call
 * or the closing. */
RH_MUST_USE enum rh_rc rh_parquet_get(struct rh_parquet *p, int64_t row, const char **text,
                                      size_t *size, struct rh_error *err);

#endif
