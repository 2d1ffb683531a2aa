#include "fake_quant_group.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__)
#error "compile this file with -mavx512f -mavx512bw -mf16c"
#endif

#include <immintrin.h>

/* Element j of a group belongs to lane j mod 16: one register. */
struct rh_lanes {
    __m512 x;
};

static inline struct rh_lanes lanes_set(float x)
{
    return (struct rh_lanes){_mm512_set1_ps(x)};
}

static inline struct rh_lanes lanes_load(const float *p)
{
    return (struct rh_lanes){_mm512_loadu_ps(p)};
}

static inline void lanes_store(float *p, struct rh_lanes a)
{
    _mm512_storeu_ps(p, a.x);
}

static inline struct rh_lanes lanes_add(struct rh_lanes a, struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_add_ps(a.x, b.x)};
}

static inline struct rh_lanes lanes_sub(struct rh_lanes a, struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_sub_ps(a.x, b.x)};
}

static inline struct rh_lanes lanes_mul(struct rh_lanes a, struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_mul_ps(a.x, b.x)};
}

static inline struct rh_lanes lanes_div(struct rh_lanes a, struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_div_ps(a.x, b.x)};
}

static inline struct rh_lanes lanes_min(struct rh_lanes a, struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_min_ps(a.x, b.x)};
}

static inline struct rh_lanes lanes_max(struct rh_lanes a, struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_max_ps(a.x, b.x)};
}

static inline struct rh_lanes lanes_round(struct rh_lanes a)
{
    return (struct rh_lanes){
        _mm512_roundscale_ps(a.x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

/* g where a equals b, else 0. */
static inline struct rh_lanes lanes_keep_equal(struct rh_lanes g, struct rh_lanes a,
                                               struct rh_lanes b)
{
    return (struct rh_lanes){_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.x, b.x, _CMP_EQ_OQ), g.x)};
}

/* p - rate * sign(gradient) */
static inline struct rh_lanes lanes_sign_step(struct rh_lanes p, struct rh_lanes gradient,
                                              struct rh_lanes rate)
{
    __m512 none = _mm512_setzero_ps();
    __mmask16 up = _mm512_cmp_ps_mask(gradient.x, none, _CMP_GT_OQ);
    __mmask16 down = _mm512_cmp_ps_mask(gradient.x, none, _CMP_LT_OQ);
    __m512 moved = _mm512_mask_sub_ps(p.x, up, p.x, rate.x);
    return (struct rh_lanes){_mm512_mask_add_ps(moved, down, p.x, rate.x)};
}

static inline void lanes_store_codes(uint8_t *p, struct rh_lanes a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.x)));
}

static inline float lanes_sum(struct rh_lanes a)
{
    float lanes[16];
    _mm512_storeu_ps(lanes, a.x);
    return rh_grid_lane_sum(lanes);
}

#define KERNEL_SYMBOL rh_group_kernel_avx512
#define KERNEL_NAME   "avx512"
#include "fake_quant_loops.h"
