#ifndef RH_PARQUET_METADATA_H
#define RH_PARQUET_METADATA_H

#include <stddef.h>
#include <stdint.h>

#include "source.h"

/* Private to the library: the footer. */
struct footer {
    uint8_t *bytes;
    size_t size;
    uint64_t at; /* where it begins: pages end before it */
};

RH_MUST_USE enum rh_rc footer_read(const struct source *s, struct footer *out,
                                   struct rh_error *err);
void footer_done(struct footer *f);

/* A leaf of the schema that can be read. */
struct column {
    char *name;           /* with dots; owned */
    int64_t leaf;         /* its number among the leaves */
    uint32_t definitions; /* level of a value that is there; lower: null */
};

/* wanted: a name, NULL: see rh_parquet_open(). */
RH_MUST_USE enum rh_rc column_find(const struct footer *f, const char *what, const char *wanted,
                                   struct column *out, struct rh_error *err);

/* Where the pages of the column are in one row group. */
struct chunk {
    int64_t rows, codec;
    uint64_t begin, end;
};

/* *out: rh_free. Every range lies before the footer. */
RH_MUST_USE enum rh_rc chunks_read(const struct footer *f, const char *what,
                                   const struct column *column, struct chunk **out, size_t *count,
                                   struct rh_error *err);

#endif
