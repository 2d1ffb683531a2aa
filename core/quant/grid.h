#ifndef RH_QUANT_GRID_H
#define RH_QUANT_GRID_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

#include "quant/scheme.h"
#include "tensor/dtype.h"

/* Device code defines it before the include, to have the same formulas there. */
#ifndef RH_GRID_FN
#define RH_GRID_FN static inline
#endif

/*
 * The scalar part of a group: from its range and the two range factors to the grid, and from sums
 * over the group back to the gradients of the factors (docs/numerics.md). Inline, because every
 * vectorised kernel runs it once or twice per group and all must run the same one.
 *
 * A weight w with rounding offset v lands on r = round_half_even(w / scale + v), the integer
 * d = clamp(r, low, high) and the value scale * d; its code is d + zero. That form covers int_sym
 * (zero = 2^(bits-1)) and int_asym alike.
 */
struct rh_grid {
    float scale; /* an fp16 number, never 0 */
    float zero;  /* an integer of 0..2^bits - 1 */
    float low, high;
    uint16_t scale_bits; /* scale in fp16 */
    bool passes;         /* false: |scale| was raised to the threshold, which stops its gradient */
    float below, above;  /* int_sym: -(lo * alpha), hi * beta; int_asym: lo * alpha, hi * beta */
};

/* Sums over a group, in fp32; G is the gradient of the quantized weight, dv that of v. */
struct rh_group_sums {
    float grad_code;   /* sum G * d */
    float grad_weight; /* sum -(dv * ((w / scale) / scale)) */
    float grad_value;  /* sum G * scale (int_asym) */
    float grad_offset; /* sum dv (int_asym) */
};

/* fp16(1e-5), the smallest |scale|. */
#define RH_SCALE_MIN_BITS 0x00A8U
#define RH_SCALE_MIN      0x1.5p-17F

/* fp32 -> fp16 -> fp32, half to even. */
RH_GRID_FN uint16_t rh_grid_half(float x)
{
#if defined(__CUDA_ARCH__)
    return __half_as_ushort(__float2half_rn(x));
#elif defined(__F16C__) && !defined(__CUDACC__)
    return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    return rh_f32_to_f16(x);
#endif
}

RH_GRID_FN float rh_grid_widen(uint16_t x)
{
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(x));
#elif defined(__F16C__) && !defined(__CUDACC__)
    return _cvtsh_ss(x);
#else
    return rh_f16_to_f32(x);
#endif
}

RH_GRID_FN float rh_grid_round_half(float x)
{
    return rh_grid_widen(rh_grid_half(x));
}

RH_GRID_FN float rh_grid_unit(float x)
{
    return x < 0.0F ? 0.0F : x > 1.0F ? 1.0F : x;
}

RH_GRID_FN void rh_grid_scale(struct rh_grid *grid, float raw)
{
    grid->scale_bits = rh_grid_half(raw);
    grid->scale = rh_grid_widen(grid->scale_bits);
    if (grid->scale < 0.0F) {
        grid->passes = grid->scale <= -RH_SCALE_MIN;
        if (!grid->passes) {
            grid->scale_bits = 0x8000U | RH_SCALE_MIN_BITS;
            grid->scale = -RH_SCALE_MIN;
        }
    } else {
        grid->passes = grid->scale >= RH_SCALE_MIN;
        if (!grid->passes) {
            grid->scale_bits = RH_SCALE_MIN_BITS;
            grid->scale = RH_SCALE_MIN;
        }
    }
}

/* lo = min(min w, 0), hi = max(max w, 0). alpha and beta are clamped to [0, 1] in place. */
RH_GRID_FN void rh_grid_make(const struct rh_scheme *scheme, float lo, float hi, float *alpha,
                                float *beta, struct rh_grid *grid)
{
    *alpha = rh_grid_unit(*alpha);
    *beta = rh_grid_unit(*beta);
    if (scheme->sym) {
        float half_range = (float)(1 << (scheme->bits - 1));
        grid->below = -(lo * *alpha);
        grid->above = hi * *beta;
        float largest = grid->below > grid->above ? grid->below : grid->above;
        rh_grid_scale(grid, (grid->above < grid->below ? largest : -largest) / half_range);
        grid->zero = half_range;
        grid->low = -half_range;
        grid->high = half_range - 1.0F;
    } else {
        float steps = (float)((1 << scheme->bits) - 1);
        grid->below = lo * *alpha;
        grid->above = hi * *beta;
        rh_grid_scale(grid, (grid->above - grid->below) / steps);
        grid->zero = rintf(-grid->below / grid->scale);
        grid->low = -grid->zero;
        grid->high = steps - grid->zero;
    }
}

/* Gradients of alpha and beta. The fp16 rounding of the scale's gradient is auto-round's. */
RH_GRID_FN void rh_grid_gradient(const struct rh_scheme *scheme, const struct rh_grid *grid,
                                    const struct rh_group_sums *sums, float lo, float hi,
                                    float *out_alpha, float *out_beta)
{
    float scale_grad = rh_grid_round_half(rh_grid_round_half(sums->grad_code) +
                                          rh_grid_round_half(sums->grad_weight));
    if (scheme->sym) {
        float largest_grad = grid->passes ? scale_grad / (float)(1 << (scheme->bits - 1)) : 0.0F;
        float d = grid->above < grid->below ? largest_grad : -largest_grad;
        float half = d / 2.0F;
        bool tie = grid->below == grid->above;
        *out_alpha = (grid->below > grid->above ? d : tie ? half : 0.0F) * -lo;
        *out_beta = (grid->above > grid->below ? d : tie ? half : 0.0F) * hi;
    } else {
        float zero_grad = sums->grad_offset - sums->grad_value;
        float through_zero = -(zero_grad * ((-grid->below / grid->scale) / grid->scale));
        scale_grad = rh_grid_round_half(scale_grad + rh_grid_round_half(through_zero));
        float range_grad = grid->passes ? scale_grad / (float)((1 << scheme->bits) - 1) : 0.0F;
        *out_alpha = (-range_grad - zero_grad / grid->scale) * lo;
        *out_beta = range_grad * hi;
    }
}

/*
 * The search of a range: both factors are one of these, the one whose grid has the lowest squared
 * error of rounding to nearest; the first of equals, so a wider range goes before a narrower one.
 */
#define RH_FACTOR_COUNT 33

RH_GRID_FN float rh_grid_factor(int index)
{
    return 1.0F - (float)index / 64.0F;
}

/* p - rate * sign(gradient); a NaN has no sign, as in torch. */
RH_GRID_FN float rh_grid_sign_step(float p, float gradient, float rate)
{
    return gradient > 0.0F ? p - rate : gradient < 0.0F ? p + rate : p;
}

/* Sixteen partial sums (element j belongs to lane j mod 16) in one fixed order: the order of every
 * implementation, whatever its vector width. */
RH_GRID_FN float rh_grid_lane_sum(const float lanes[16])
{
    float half[8];
    for (int i = 0; i < 8; i++)
        half[i] = lanes[i] + lanes[i + 8];
    return ((half[0] + half[4]) + (half[2] + half[6])) +
           ((half[1] + half[5]) + (half[3] + half[7]));
}

#endif
