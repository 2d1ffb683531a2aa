#ifndef RH_PARQUET_HYBRID_H
#define RH_PARQUET_HYBRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Private to the library: runs of one value and bit-packed groups of eight, mixed (the encoding RLE
 * of parquet-format's Encodings.md). */
struct hybrid {
    const uint8_t *at, *end;
    unsigned width; /* bits of a value, 0..32 */
    uint64_t left;  /* of the run */
    bool packed;    /* kind of the run */
    uint32_t value; /* of a run of one value */
    unsigned bit;   /* of a packed run: next bit of *at */
};

struct hybrid hybrid_from(const uint8_t *bytes, size_t size, unsigned width);
/* False when the input is at its end or broken. */
bool hybrid_next(struct hybrid *h, uint32_t *out);

#endif
