#ifndef RH_TENSOR_DTYPE_H
#define RH_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>

/* Element types of a safetensors file, in the order of its reference writer (widest first). */
enum rh_dtype {
    RH_DTYPE_NONE = 0,
    RH_U64,
    RH_I64,
    RH_F64,
    RH_F32,
    RH_U32,
    RH_I32,
    RH_BF16,
    RH_F16,
    RH_U16,
    RH_I16,
    RH_F8_E4M3,
    RH_F8_E5M2,
    RH_I8,
    RH_U8,
    RH_BOOL,
};

size_t rh_dtype_size(enum rh_dtype dtype); /* bytes */
const char *rh_dtype_name(enum rh_dtype dtype); /* "BF16", the safetensors spelling */
enum rh_dtype rh_dtype_parse(const char *name); /* RH_DTYPE_NONE: unknown */

/* Exact conversions; to 16 bit: round half to even, overflow to infinity, NaN stays NaN. */
float rh_bf16_to_f32(uint16_t x);
uint16_t rh_f32_to_bf16(float x);
float rh_f16_to_f32(uint16_t x);
uint16_t rh_f32_to_f16(float x);

/* Rows of elements to and from float; BF16, F16, F32 only (asserted by the caller). */
void rh_to_f32(enum rh_dtype dtype, const void *in, float *out, size_t count);
void rh_from_f32(enum rh_dtype dtype, const float *in, void *out, size_t count);

#endif
