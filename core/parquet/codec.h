#ifndef RH_PARQUET_CODEC_H
#define RH_PARQUET_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Private to the library: the door to snappy, zlib and zstd. */

/* RH_ERR_UNSUPPORTED with the codec's name unless codec_expand() can do it. */
RH_MUST_USE enum rh_rc codec_check(int64_t codec, const char *what, struct rh_error *err);
/* Fills all of out, or fails: too few and too many bytes are errors. */
RH_MUST_USE enum rh_rc codec_expand(int64_t codec, const uint8_t *in, size_t in_size, uint8_t *out,
                                    size_t out_size, const char *what, struct rh_error *err);
uint32_t codec_crc32(const uint8_t *bytes, size_t size);

#endif
