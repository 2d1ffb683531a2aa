#include "quant/pack.h"

#include <string.h>

#include "base/error.h"
#include "tensor/dtype.h"

#define WORD_BITS 32

/* Rows that are packed together, so that the transposed writes fill whole cache lines. */
#define TILE 16

static void check_bits(int bits)
{
    RH_ASSERT(bits == 2 || bits == 3 || bits == 4 || bits == 8);
}

int64_t rh_pack_words(int64_t count, int bits)
{
    check_bits(bits);
    RH_ASSERT(count >= 0 && count * bits % WORD_BITS == 0);
    return count * bits / WORD_BITS;
}

/* A little-endian bit stream: fields of one vector into words that lie `stride` apart. */
static void pack_stream(const uint8_t *fields, int64_t count, int bits, int32_t *words,
                        int64_t stride)
{
    uint64_t buffer = 0;
    int filled = 0;
    uint32_t mask = (1U << bits) - 1U;
    for (int64_t i = 0; i < count; i++) {
        buffer |= (uint64_t)(fields[i] & mask) << filled;
        filled += bits;
        if (filled >= WORD_BITS) {
            *words = (int32_t)(uint32_t)buffer;
            words += stride;
            buffer >>= WORD_BITS;
            filled -= WORD_BITS;
        }
    }
}

static void unpack_stream(const int32_t *words, int64_t stride, int64_t count, int bits,
                          uint8_t *fields)
{
    uint64_t buffer = 0;
    int filled = 0;
    uint32_t mask = (1U << bits) - 1U;
    for (int64_t i = 0; i < count; i++) {
        if (filled < bits) {
            buffer |= (uint64_t)(uint32_t)*words << filled;
            words += stride;
            filled += WORD_BITS;
        }
        fields[i] = (uint8_t)(buffer & mask);
        buffer >>= bits;
        filled -= bits;
    }
}

static void pack_tile(const uint8_t *codes, int64_t rows, int64_t out_features, int64_t in_features,
                      int bits, int32_t *qweight)
{
    int64_t words = rh_pack_words(in_features, bits);
    /* The smallest run of fields that ends on a word boundary. */
    int64_t run = bits == 3 ? WORD_BITS : WORD_BITS / bits;
    int64_t run_words = rh_pack_words(run, bits);
    for (int64_t w = 0; w < words; w += run_words) {
        int64_t first = w / run_words * run;
        for (int64_t r = 0; r < rows; r++)
            pack_stream(codes + r * in_features + first, run, bits, qweight + w * out_features + r,
                        out_features);
    }
}

void rh_pack_qweight(const uint8_t *codes, int64_t out_features, int64_t in_features, int bits,
                     int32_t *qweight)
{
    check_bits(bits);
    for (int64_t o = 0; o < out_features; o += TILE) {
        int64_t rows = out_features - o < TILE ? out_features - o : TILE;
        pack_tile(codes + o * in_features, rows, out_features, in_features, bits, qweight + o);
    }
}

void rh_unpack_qweight(const int32_t *qweight, int64_t out_features, int64_t in_features, int bits,
                       uint8_t *codes)
{
    (void)rh_pack_words(in_features, bits);
    for (int64_t o = 0; o < out_features; o++)
        unpack_stream(qweight + o, out_features, in_features, bits, codes + o * in_features);
}

void rh_pack_qzeros(const uint8_t *zeros, int64_t out_features, int64_t groups, int bits,
                    int32_t *qzeros)
{
    int64_t words = rh_pack_words(out_features, bits);
    uint32_t mask = (1U << bits) - 1U;
    for (int64_t g = 0; g < groups; g++) {
        uint64_t buffer = 0;
        int filled = 0;
        int32_t *word = qzeros + g * words;
        for (int64_t o = 0; o < out_features; o++) {
            uint32_t zero = zeros ? zeros[o * groups + g] : 1U << (bits - 1);
            buffer |= (uint64_t)((zero - 1U) & mask) << filled;
            filled += bits;
            if (filled >= WORD_BITS) {
                *word++ = (int32_t)(uint32_t)buffer;
                buffer >>= WORD_BITS;
                filled -= WORD_BITS;
            }
        }
    }
}

void rh_unpack_qzeros(const int32_t *qzeros, int64_t out_features, int64_t groups, int bits,
                      uint16_t *zeros)
{
    int64_t words = rh_pack_words(out_features, bits);
    uint32_t mask = (1U << bits) - 1U;
    for (int64_t g = 0; g < groups; g++) {
        const int32_t *word = qzeros + g * words;
        uint64_t buffer = 0;
        int filled = 0;
        for (int64_t o = 0; o < out_features; o++) {
            if (filled < bits) {
                buffer |= (uint64_t)(uint32_t)*word++ << filled;
                filled += WORD_BITS;
            }
            zeros[o * groups + g] = (uint16_t)((buffer & mask) + 1U);
            buffer >>= bits;
            filled -= bits;
        }
    }
}

void rh_pack_scales(const uint16_t *scales, int64_t out_features, int64_t groups, uint16_t *packed)
{
    for (int64_t o = 0; o < out_features; o++) {
        for (int64_t g = 0; g < groups; g++)
            packed[g * out_features + o] = scales[o * groups + g];
    }
}

void rh_unpack_scales(const uint16_t *packed, int64_t out_features, int64_t groups,
                      uint16_t *scales)
{
    for (int64_t o = 0; o < out_features; o++) {
        for (int64_t g = 0; g < groups; g++)
            scales[o * groups + g] = packed[g * out_features + o];
    }
}

int64_t rh_codes_row_bytes(int64_t in_features, int bits)
{
    check_bits(bits);
    return bits <= 4 ? (in_features + 1) / 2 : in_features;
}

void rh_codes_store(const uint8_t *codes, int64_t out_features, int64_t in_features, int bits,
                    uint8_t *stored)
{
    int64_t bytes = rh_codes_row_bytes(in_features, bits);
    if (bits > 4) {
        memcpy(stored, codes, (size_t)(out_features * bytes));
        return;
    }
    for (int64_t o = 0; o < out_features; o++) {
        const uint8_t *row = codes + o * in_features;
        uint8_t *to = stored + o * bytes;
        for (int64_t i = 0; i + 1 < in_features; i += 2)
            to[i / 2] = (uint8_t)((row[i] & 15U) | (unsigned)(row[i + 1] & 15U) << 4);
        if (in_features % 2)
            to[bytes - 1] = row[in_features - 1] & 15U;
    }
}

void rh_codes_load(const uint8_t *stored, int64_t out_features, int64_t in_features, int bits,
                   uint8_t *codes)
{
    int64_t bytes = rh_codes_row_bytes(in_features, bits);
    if (bits > 4) {
        memcpy(codes, stored, (size_t)(out_features * bytes));
        return;
    }
    for (int64_t o = 0; o < out_features; o++) {
        const uint8_t *from = stored + o * bytes;
        for (int64_t i = 0; i < in_features; i++)
            codes[o * in_features + i] = (uint8_t)(i % 2 ? from[i / 2] >> 4 : from[i / 2] & 15U);
    }
}

void rh_dequantize(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros,
                   int64_t out_features, int64_t in_features, int64_t group, int bits,
                   float *weights)
{
    RH_ASSERT(group > 0);
    int64_t groups = (in_features + group - 1) / group;
    for (int64_t o = 0; o < out_features; o++) {
        for (int64_t i = 0; i < in_features; i++) {
            int64_t at = o * groups + i / group;
            int zero = zeros ? zeros[at] : 1 << (bits - 1);
            weights[o * in_features + i] =
                rh_f16_to_f32(scales[at]) * (float)((int)codes[o * in_features + i] - zero);
        }
    }
}
