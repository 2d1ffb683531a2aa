#ifndef RH_CUDA_EMU_CUDA_FP16_H
#define RH_CUDA_EMU_CUDA_FP16_H

#include "cuda_runtime.h"

unsigned short rh_emu_half_from_float(float x); /* to nearest even */
float rh_emu_float_from_half(unsigned short bits);

struct __half {
    unsigned short bits;

    __half() = default;
    explicit __half(float x) : bits(rh_emu_half_from_float(x))
    {
    }
    explicit operator float() const
    {
        return rh_emu_float_from_half(bits);
    }
};
typedef __half half;

static inline __half __float2half_rn(float x)
{
    return __half(x);
}
static inline __half __float2half(float x)
{
    return __half(x);
}
static inline float __half2float(__half x)
{
    return (float)x;
}
static inline unsigned short __half_as_ushort(__half x)
{
    return x.bits;
}
static inline __half __ushort_as_half(unsigned short x)
{
    return rh_emu_cast<__half>(x);
}

#endif
