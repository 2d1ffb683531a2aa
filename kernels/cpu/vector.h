#ifndef RH_KERNELS_CPU_VECTOR_H
#define RH_KERNELS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>

/*
 * Sixteen floats. The compiler splits them into what the instruction set has; the arithmetic, and
 * so the bits, stay the same. Functions are inlined: such vectors never cross a call.
 */
#define RH_LANES  16
#define RH_INLINE static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));

RH_INLINE v16 load(const float *p)
{
    v16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

RH_INLINE void store(float *p, v16 v)
{
    memcpy(p, &v, sizeof v);
}

RH_INLINE v16 load_part(const float *p, int64_t count)
{
    float all[RH_LANES] = {0};
    memcpy(all, p, (size_t)count * sizeof *p);
    return load(all);
}

RH_INLINE void store_part(float *p, v16 v, int64_t count)
{
    float all[RH_LANES];
    store(all, v);
    memcpy(p, all, (size_t)count * sizeof *p);
}

typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));

/* Halves added to halves: the same tree everywhere. */
RH_INLINE float sum_lanes(v16 v)
{
    v8 eights[2];
    v4 fours[2];
    memcpy(eights, &v, sizeof v);
    eights[0] += eights[1];
    memcpy(fours, eights, sizeof fours);
    fours[0] += fours[1];
    return (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
}

/* mask: all ones or all zeros in a lane */
RH_INLINE v16 select_lanes(v16i mask, v16 yes, v16 no)
{
    v16i y, n;
    memcpy(&y, &yes, sizeof y);
    memcpy(&n, &no, sizeof n);
    y = (y & mask) | (n & ~mask);
    memcpy(&yes, &y, sizeof yes);
    return yes;
}

/*
 * exp, relative error below 2e-7: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor to r^7, n put into the
 * exponent. Below -87 the result is 0, above 88 it stays at exp(88).
 */
RH_INLINE v16 exp_lanes(v16 x)
{
    const float round_magic = 12582912.0F; /* 1.5 * 2^23: adding it rounds to an integer */
    const v16 low = (v16){0} - 87.0F;
    const v16 high = (v16){0} + 88.0F;
    v16i is_low = x < low;
    x = select_lanes(is_low, low, x);
    x = select_lanes(x > high, high, x);
    v16 n = (x * 1.44269504F + round_magic) - round_magic;
    v16 r = (x - n * 0.693145752F) - n * 1.42860677e-6F;
    v16 p = r * 1.98412698e-4F + 1.38888889e-3F;
    p = p * r + 8.33333333e-3F;
    p = p * r + 4.16666667e-2F;
    p = p * r + 1.66666667e-1F;
    p = p * r + 0.5F;
    p = p * (r * r) + r + 1.0F;
    v16i exponent = (__builtin_convertvector(n, v16i) + 127) << 23;
    v16 power;
    memcpy(&power, &exponent, sizeof power);
    p *= power;
    return select_lanes(is_low, (v16){0}, p);
}

RH_INLINE v16 sigmoid_lanes(v16 x)
{
    return 1.0F / (1.0F + exp_lanes(-x));
}

#endif
