#ifndef RH_KERNELS_CPU_VECTOR_H
#define RH_KERNELS_CPU_VECTOR_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

/*
 * One register of floats, as wide as the instruction set of the including file has it. Element-wise
 * arithmetic gives the same bits whatever the width; sums run over RH_LANES lanes everywhere, spread
 * over as many registers as they take. (One wider vector type would do, but GCC splits those
 * through memory.) Functions are inlined: such vectors never cross a call.
 */
#define RH_LANES 16
#if defined(__AVX512F__)
#define RH_WIDTH 16
#elif defined(__AVX__)
#define RH_WIDTH 8
#else
#define RH_WIDTH 4
#endif
#define RH_PARTS  (RH_LANES / RH_WIDTH)
#define RH_INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * RH_WIDTH)));
typedef int32_t veci __attribute__((vector_size(4 * RH_WIDTH)));

RH_INLINE vec load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

RH_INLINE void store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

#if RH_WIDTH == 8
/* All ones in the first `count` lanes. */
RH_INLINE __m256i first_lanes(int64_t count)
{
    const veci lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return (__m256i)(lane < (int32_t)count);
}
#elif RH_WIDTH == 16
RH_INLINE __mmask16 first_lanes(int64_t count)
{
    return (__mmask16)(count < RH_WIDTH ? (1U << count) - 1U : 0xffffU);
}
#endif

/* The first `count` lanes, at most RH_WIDTH; the others are 0. */
RH_INLINE vec load_part(const float *p, int64_t count)
{
#if RH_WIDTH == 16
    return (vec)_mm512_maskz_loadu_ps(first_lanes(count), p);
#elif RH_WIDTH == 8
    return (vec)_mm256_maskload_ps(p, first_lanes(count));
#else
    float all[RH_WIDTH] = {0};
    for (int64_t i = 0; i < count && i < RH_WIDTH; i++)
        all[i] = p[i];
    return load(all);
#endif
}

RH_INLINE void store_part(float *p, vec v, int64_t count)
{
#if RH_WIDTH == 16
    _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v);
#elif RH_WIDTH == 8
    _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
#else
    float all[RH_WIDTH];
    store(all, v);
    for (int64_t i = 0; i < count && i < RH_WIDTH; i++)
        p[i] = all[i];
#endif
}

typedef float four __attribute__((vector_size(16)));
#if RH_WIDTH > 4
typedef float eight __attribute__((vector_size(32)));
#endif

/* Halves added to halves: the same tree everywhere. */
RH_INLINE float sum_lanes(const vec parts[RH_PARTS])
{
#if RH_WIDTH == 4
    four x = (parts[0] + parts[2]) + (parts[1] + parts[3]);
#else
#if RH_WIDTH == 16
    eight e = __builtin_shufflevector(parts[0], parts[0], 0, 1, 2, 3, 4, 5, 6, 7) +
              __builtin_shufflevector(parts[0], parts[0], 8, 9, 10, 11, 12, 13, 14, 15);
#else
    eight e = parts[0] + parts[1];
#endif
    four x = __builtin_shufflevector(e, e, 0, 1, 2, 3) + __builtin_shufflevector(e, e, 4, 5, 6, 7);
#endif
    return (x[0] + x[2]) + (x[1] + x[3]);
}

/* mask: all ones or all zeros in a lane */
RH_INLINE vec select_lanes(veci mask, vec yes, vec no)
{
    return (vec)(((veci)yes & mask) | ((veci)no & ~mask));
}

/* x y + z with one rounding, on every processor. */
RH_INLINE vec fma_lanes(vec x, vec y, vec z)
{
#if RH_WIDTH == 16
    return (vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z);
#elif RH_WIDTH == 8
    return (vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z);
#else
    for (int i = 0; i < RH_WIDTH; i++)
        z[i] = __builtin_fmaf(x[i], y[i], z[i]);
    return z;
#endif
}

/* The larger and the smaller one; the second where either is no number. */
RH_INLINE vec max_lanes(vec x, vec y)
{
#if RH_WIDTH == 16
    return (vec)_mm512_max_ps((__m512)x, (__m512)y);
#elif RH_WIDTH == 8
    return (vec)_mm256_max_ps((__m256)x, (__m256)y);
#else
    return select_lanes(x > y, x, y);
#endif
}

RH_INLINE vec min_lanes(vec x, vec y)
{
#if RH_WIDTH == 16
    return (vec)_mm512_min_ps((__m512)x, (__m512)y);
#elif RH_WIDTH == 8
    return (vec)_mm256_min_ps((__m256)x, (__m256)y);
#else
    return select_lanes(x < y, x, y);
#endif
}

RH_INLINE vec all_lanes(float x)
{
    return (vec){0} + x;
}

/*
 * exp, relative error below 2e-7: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor to r^7, n put into the
 * exponent. Below -87 the result is 0, above 88 it stays at exp(88).
 */
RH_INLINE vec exp_lanes(vec x)
{
    const vec round_magic = all_lanes(12582912.0F); /* 1.5 * 2^23: adding it rounds to an integer */
    const vec low = all_lanes(-87.0F);
    veci is_low = x < low;
    x = min_lanes(all_lanes(88.0F), max_lanes(low, x));
    vec shifted = fma_lanes(x, all_lanes(1.44269504F), round_magic);
    vec n = shifted - round_magic;
    vec r = fma_lanes(n, all_lanes(-0.693145752F), x);
    r = fma_lanes(n, all_lanes(-1.42860677e-6F), r);
    vec p = fma_lanes(r, all_lanes(1.98412698e-4F), all_lanes(1.38888889e-3F));
    p = fma_lanes(p, r, all_lanes(8.33333333e-3F));
    p = fma_lanes(p, r, all_lanes(4.16666667e-2F));
    p = fma_lanes(p, r, all_lanes(1.66666667e-1F));
    p = fma_lanes(p, r, all_lanes(0.5F));
    p = fma_lanes(p, r * r, r) + 1.0F;
    /* The low bits of `shifted` are n. */
    veci exponent = (veci)shifted << 23;
    p = (vec)((veci)p + exponent);
    return (vec)((veci)p & ~is_low);
}

RH_INLINE vec sigmoid_lanes(vec x)
{
    return 1.0F / (1.0F + exp_lanes(-x));
}

#endif
