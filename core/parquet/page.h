#ifndef RH_PARQUET_PAGE_H
#define RH_PARQUET_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "source.h"

/* Private to the library: pages. */
enum page_kind { PAGE_DATA = 0, PAGE_INDEX = 1, PAGE_DICTIONARY = 2, PAGE_DATA_V2 = 3 };

struct page {
    uint64_t at;              /* of its bytes, after the header */
    uint32_t size, full_size; /* as stored; expanded */
    uint32_t values;          /* nulls included */
    enum page_kind kind;
    int32_t encoding;
    uint32_t level_bytes; /* PAGE_DATA_V2: levels, never compressed, in front of the values */
    bool plain;           /* PAGE_DATA_V2: the values are not compressed */
    bool has_crc;
    uint32_t crc;
    int64_t first_row; /* of the file; set by the index */
};

/* Reads the header at `at`, which lies before `end`; *next is where the next one begins. */
RH_MUST_USE enum rh_rc page_read_header(const struct source *s, uint64_t at, uint64_t end,
                                        const char *what, struct page *out, uint64_t *next,
                                        struct rh_error *err);

struct slice {
    uint32_t at, size; /* size NULL_SIZE: a null */
};
#define NULL_SIZE UINT32_MAX

/* A page's strings. */
struct strings {
    uint8_t *bytes; /* the expanded page, or with `borrowed` the dictionary's */
    bool borrowed;
    struct slice *slices;
    uint32_t count;
};

void strings_done(struct strings *s);

/* Expands and decodes. dictionary: NULL or that of the row group; the result borrows its bytes.
 * definitions: the level of a value that is there. */
RH_MUST_USE enum rh_rc page_decode(const struct source *s, const struct page *p, int64_t codec,
                                   uint32_t definitions, const struct strings *dictionary,
                                   const char *what, struct strings *out, struct rh_error *err);

#endif
