#include "cuda_fp16.h"

/* Scaling by powers of two is exact, so one fp32 operation does the rounding; no table, no loop. */
unsigned short rh_emu_half_from_float(float x)
{
    unsigned sign = __float_as_uint(x) >> 16 & 0x8000U;
    float size = fabsf(x);
    if (isnan(size))
        return 0x7fff;
    if (size >= 65520.0F) /* rounds to beyond the largest half */
        return (unsigned short)(sign | 0x7c00U);
    if (size < 6.103515625e-05F) /* below 2^-14: multiples of 2^-24 */
        return (unsigned short)(sign | (unsigned)nearbyintf(size * 16777216.0F));
    unsigned u = __float_as_uint(size);
    u += 0xfffU + (u >> 13 & 1U); /* to nearest even at bit 13 */
    return (unsigned short)(sign | ((u >> 13) - (112U << 10)));
}

float rh_emu_float_from_half(unsigned short bits)
{
    float sign = bits & 0x8000U ? -1.0F : 1.0F;
    unsigned exponent = bits >> 10 & 0x1fU, fraction = bits & 0x3ffU;
    if (exponent == 0)
        return sign * (float)fraction * 5.9604644775390625e-08F;
    if (exponent == 0x1f)
        return fraction ? __uint_as_float(0x7fffffffU) : sign * INFINITY;
    return sign * __uint_as_float((exponent + 112U) << 23 | fraction << 13);
}
