#include "tensor/dtype.h"

#include <stdbool.h>
#include <string.h>

#include "base/error.h"

/* Rows are converted in blocks of constant length, so that the compiler can vectorise the inner
 * loop without a scalar remainder in it. */
enum { BLOCK = 64 };

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [RH_F64] = {"F64", 8},   [RH_I64] = {"I64", 8},         [RH_U64] = {"U64", 8},
    [RH_F32] = {"F32", 4},   [RH_I32] = {"I32", 4},         [RH_U32] = {"U32", 4},
    [RH_BF16] = {"BF16", 2}, [RH_F16] = {"F16", 2},         [RH_I16] = {"I16", 2},
    [RH_U16] = {"U16", 2},   [RH_F8_E5M2] = {"F8_E5M2", 1}, [RH_F8_E4M3] = {"F8_E4M3", 1},
    [RH_I8] = {"I8", 1},     [RH_U8] = {"U8", 1},           [RH_BOOL] = {"BOOL", 1},
};

static const int dtype_count = (int)(sizeof(dtypes) / sizeof(dtypes[0]));

size_t rh_dtype_size(enum rh_dtype dtype)
{
    return (int)dtype > 0 && (int)dtype < dtype_count ? dtypes[dtype].size : 0;
}

const char *rh_dtype_name(enum rh_dtype dtype)
{
    return (int)dtype > 0 && (int)dtype < dtype_count ? dtypes[dtype].name : "NONE";
}

enum rh_dtype rh_dtype_parse(const char *name)
{
    for (int i = 1; name && i < dtype_count; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return (enum rh_dtype)i;
    return RH_DTYPE_NONE;
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Written with masks: the compiler's own choice would be branches, which do not vectorise. */
static inline uint32_t choose(bool condition, uint32_t yes, uint32_t no)
{
    uint32_t mask = 0u - (uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

static inline float widen_bf16(uint16_t x)
{
    return float_of((uint32_t)x << 16);
}

static inline uint16_t narrow_bf16(float x)
{
    uint32_t bits = bits_of(x);
    uint32_t high = bits >> 16;
    uint32_t rounded = (bits + 0x7fffu + (high & 1u)) >> 16;
    /* A NaN keeps the payload that fits; one whose payload would vanish becomes quiet. */
    uint32_t nan = high | ((high & 0x7fu) == 0 ? 0x40u : 0u);
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

static inline float widen_f16(uint16_t x)
{
    uint32_t magnitude = x & 0x7fffu;
    /* Exponent bias 15 against 127: 112 more; all ones (infinity, NaN) move by 112 once again. */
    uint32_t normal = (magnitude << 13) + (112u << 23);
    uint32_t special = (magnitude << 13) + (224u << 23);
    /* A subnormal is a multiple of 2^-24; the product is exact and no subnormal float occurs. */
    uint32_t subnormal = bits_of((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = choose((int32_t)magnitude < 0x0400, subnormal, normal);
    bits = choose((int32_t)magnitude >= 0x7c00, special, bits);
    return float_of(bits | (uint32_t)(x & 0x8000u) << 16);
}

static inline uint16_t narrow_f16(float x)
{
    uint32_t bits = bits_of(x);
    uint32_t magnitude = bits & 0x7fffffffu;
    bool is_small = (int32_t)magnitude < 0x38800000;  /* 2^-14, the smallest normal number of f16 */
    bool is_large = (int32_t)magnitude >= 0x47800000; /* 2^16 */
    bool is_nan = (int32_t)magnitude > 0x7f800000;
    uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    /* The sum with 0.5 has an ulp of 2^-24, the step of f16's subnormals: the addition itself
     * rounds half to even. */
    float small = float_of(choose(is_small, magnitude, 0));
    uint32_t subnormal = bits_of(small + 0.5f) - 0x3f000000u;
    /* A NaN keeps the payload that fits; one whose payload would vanish becomes quiet. */
    uint32_t payload = magnitude >> 13 & 0x3ffu;
    uint32_t nan = 0x7c00u | choose(payload == 0, 0x200u, payload);
    uint32_t out = choose(is_small, subnormal, normal);
    out = choose(is_large, 0x7c00u, out);
    out = choose(is_nan, nan, out);
    return (uint16_t)(out | (bits >> 16 & 0x8000u));
}

float rh_bf16_to_f32(uint16_t x)
{
    return widen_bf16(x);
}

uint16_t rh_f32_to_bf16(float x)
{
    return narrow_bf16(x);
}

float rh_f16_to_f32(uint16_t x)
{
    return widen_f16(x);
}

uint16_t rh_f32_to_f16(float x)
{
    return narrow_f16(x);
}

static void widen_bf16_row(const uint16_t *restrict in, float *restrict out, size_t count)
{
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            out[i + j] = widen_bf16(in[i + j]);
    for (; i < count; i++)
        out[i] = widen_bf16(in[i]);
}

static void narrow_bf16_row(const float *restrict in, uint16_t *restrict out, size_t count)
{
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            out[i + j] = narrow_bf16(in[i + j]);
    for (; i < count; i++)
        out[i] = narrow_bf16(in[i]);
}

static void widen_f16_row(const uint16_t *restrict in, float *restrict out, size_t count)
{
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            out[i + j] = widen_f16(in[i + j]);
    for (; i < count; i++)
        out[i] = widen_f16(in[i]);
}

static void narrow_f16_row(const float *restrict in, uint16_t *restrict out, size_t count)
{
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            out[i + j] = narrow_f16(in[i + j]);
    for (; i < count; i++)
        out[i] = narrow_f16(in[i]);
}

void rh_to_f32(enum rh_dtype dtype, const void *in, float *out, size_t count)
{
    RH_ASSERT(dtype == RH_BF16 || dtype == RH_F16 || dtype == RH_F32);
    if (dtype == RH_BF16)
        widen_bf16_row(in, out, count);
    else if (dtype == RH_F16)
        widen_f16_row(in, out, count);
    else if (count)
        memmove(out, in, count * sizeof(float));
}

void rh_from_f32(enum rh_dtype dtype, const float *in, void *out, size_t count)
{
    RH_ASSERT(dtype == RH_BF16 || dtype == RH_F16 || dtype == RH_F32);
    if (dtype == RH_BF16)
        narrow_bf16_row(in, out, count);
    else if (dtype == RH_F16)
        narrow_f16_row(in, out, count);
    else if (count)
        memmove(out, in, count * sizeof(float));
}
