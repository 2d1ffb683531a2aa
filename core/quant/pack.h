#ifndef RH_QUANT_PACK_H
#define RH_QUANT_PACK_H

#include <stddef.h>
#include <stdint.h>

/*
 * Codes of a quantized linear, and the words that loaders read (docs/formats.md, auto_gptq
 * packing).
 *
 * Everywhere: `bits` is 2, 3, 4 or 8; codes and zero points are unsigned bytes below 2^bits with
 * the zero point added; in_features * bits and out_features * bits are multiples of 32, which holds
 * for every quantized linear since its rows and columns are multiples of 32 (asserted). Words are
 * native integers; the product runs on little-endian machines, whose bytes are those of the file.
 */

/* Words that hold `count` fields of `bits` bits. */
int64_t rh_pack_words(int64_t count, int bits);

/* codes [out_features, in_features] -> qweight [in_features * bits / 32, out_features], packed
 * along the input, lowest bits first; 3-bit fields straddle words like a plain bit stream. */
void rh_pack_qweight(const uint8_t *codes, int64_t out_features, int64_t in_features, int bits,
                     int32_t *qweight);
void rh_unpack_qweight(const int32_t *qweight, int64_t out_features, int64_t in_features, int bits,
                       uint8_t *codes);

/* zeros [out_features, groups], or NULL for the symmetric zero point 2^(bits - 1) ->
 * qzeros [groups, out_features * bits / 32]: zero point minus one, modulo 2^bits, packed along the
 * output. */
void rh_pack_qzeros(const uint8_t *zeros, int64_t out_features, int64_t groups, int bits,
                    int32_t *qzeros);
/* Zero point = stored field + 1: 2^bits where the field is all ones, hence 16 bit elements. */
void rh_unpack_qzeros(const int32_t *qzeros, int64_t out_features, int64_t groups, int bits,
                      uint16_t *zeros);

/* fp16 bits [out_features, groups] <-> [groups, out_features]. */
void rh_pack_scales(const uint16_t *scales, int64_t out_features, int64_t groups, uint16_t *packed);
void rh_unpack_scales(const uint16_t *packed, int64_t out_features, int64_t groups,
                      uint16_t *scales);

/*
 * How `L.codes` of block.safetensors stores rows: up to 4 bits two codes a byte, low nibble first,
 * rows padded to a whole byte; 8 bits one code a byte.
 */
int64_t rh_codes_row_bytes(int64_t in_features, int bits);
void rh_codes_store(const uint8_t *codes, int64_t out_features, int64_t in_features, int bits,
                    uint8_t *stored);
void rh_codes_load(const uint8_t *stored, int64_t out_features, int64_t in_features, int bits,
                   uint8_t *codes);

/* weights [out_features, in_features] = scale * (code - zero). scales: fp16 bits
 * [out_features, groups]; zeros as in rh_pack_qzeros(); group: length of a full group. */
void rh_dequantize(const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros,
                   int64_t out_features, int64_t in_features, int64_t group, int bits,
                   float *weights);

#endif
