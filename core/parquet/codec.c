#include "codec.h"

#include <string.h>

#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

enum { UNCOMPRESSED = 0, SNAPPY = 1, GZIP = 2, ZSTD = 6 };

static const char *const names[] = {"UNCOMPRESSED", "SNAPPY", "GZIP", "LZO",
                                    "BROTLI",       "LZ4",    "ZSTD", "LZ4_RAW"};

static const char *name_of(int64_t codec)
{
    return codec >= 0 && codec < (int64_t)(sizeof names / sizeof names[0]) ? names[codec] : "?";
}

enum rh_rc codec_check(int64_t codec, const char *what, struct rh_error *err)
{
    if (codec == UNCOMPRESSED || codec == SNAPPY || codec == GZIP || codec == ZSTD)
        return RH_OK;
    return rh_fail(err, RH_ERR_UNSUPPORTED,
                   "%s: codec %lld (%s) is not supported; write the file with SNAPPY, GZIP, ZSTD "
                   "or none",
                   what, (long long)codec, name_of(codec));
}

/* Members of gzip may follow each other; zlib streams are taken too, as other readers do. */
static bool gunzip(const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    z_stream z = {0};
    if (inflateInit2(&z, 15 + 32) != Z_OK)
        return false;
    /* zlib's interface is not const. */
    memcpy(&z.next_in, &in, sizeof in);
    z.avail_in = (uInt)in_size;
    z.next_out = out;
    z.avail_out = (uInt)out_size;
    int rc = Z_OK;
    do {
        rc = inflate(&z, Z_FINISH);
    } while (rc == Z_STREAM_END && z.avail_in > 0 && inflateReset(&z) == Z_OK);
    bool whole = rc == Z_STREAM_END && z.avail_in == 0 && z.avail_out == 0;
    inflateEnd(&z);
    return whole;
}

static bool expand(int64_t codec, const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size)
{
    size_t size = out_size;
    switch (codec) {
    case UNCOMPRESSED:
        if (in_size != out_size)
            return false;
        memcpy(out, in, in_size);
        return true;
    case SNAPPY:
        /* The length comes first in the data and is believed only when it fits. */
        if (snappy_uncompressed_length((const char *)in, in_size, &size) != SNAPPY_OK ||
            size != out_size)
            return false;
        return snappy_uncompress((const char *)in, in_size, (char *)out, &size) == SNAPPY_OK &&
               size == out_size;
    case GZIP:
        return gunzip(in, in_size, out, out_size);
    default:
        return ZSTD_decompress(out, out_size, in, in_size) == out_size;
    }
}

enum rh_rc codec_expand(int64_t codec, const uint8_t *in, size_t in_size, uint8_t *out,
                        size_t out_size, const char *what, struct rh_error *err)
{
    if (out_size == 0 && in_size == 0)
        return RH_OK;
    if (expand(codec, in, in_size, out, out_size))
        return RH_OK;
    return rh_fail(err, RH_ERR_FORMAT,
                   "%s: %zu bytes of %s do not give the %zu bytes that the page's header announces",
                   what, in_size, name_of(codec), out_size);
}

uint32_t codec_crc32(const uint8_t *bytes, size_t size)
{
    return (uint32_t)crc32_z(0, bytes, size);
}
