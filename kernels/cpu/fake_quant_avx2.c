#include "fake_quant_group.h"

#ifndef __AVX2__
#error "compile this file with -mavx2 -mf16c"
#endif

#include <immintrin.h>

/* Element j of a group belongs to lane j mod 16: two registers, so that sums are those of one
 * register of twice the width. */
struct rh_lanes {
    __m256 a, b;
};

static inline struct rh_lanes lanes_set(float x)
{
    return (struct rh_lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline struct rh_lanes lanes_load(const float *p)
{
    return (struct rh_lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline void lanes_store(float *p, struct rh_lanes x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

static inline struct rh_lanes lanes_add(struct rh_lanes x, struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}

static inline struct rh_lanes lanes_sub(struct rh_lanes x, struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}

static inline struct rh_lanes lanes_mul(struct rh_lanes x, struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}

static inline struct rh_lanes lanes_div(struct rh_lanes x, struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}

static inline struct rh_lanes lanes_min(struct rh_lanes x, struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}

static inline struct rh_lanes lanes_max(struct rh_lanes x, struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}

static inline struct rh_lanes lanes_round(struct rh_lanes x)
{
    return (struct rh_lanes){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                             _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

/* g where x equals y, else 0. */
static inline struct rh_lanes lanes_keep_equal(struct rh_lanes g, struct rh_lanes x,
                                               struct rh_lanes y)
{
    return (struct rh_lanes){_mm256_and_ps(g.a, _mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)),
                             _mm256_and_ps(g.b, _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ))};
}

static inline __m256 sign_step(__m256 p, __m256 gradient, __m256 rate)
{
    __m256 none = _mm256_setzero_ps();
    __m256 sign = _mm256_and_ps(gradient, _mm256_set1_ps(-0.0F));
    __m256 moves = _mm256_cmp_ps(gradient, none, _CMP_NEQ_OQ);
    __m256 moved = _mm256_sub_ps(p, _mm256_or_ps(rate, sign));
    return _mm256_blendv_ps(p, moved, moves);
}

/* p - rate * sign(gradient); rate >= 0 */
static inline struct rh_lanes lanes_sign_step(struct rh_lanes p, struct rh_lanes gradient,
                                              struct rh_lanes rate)
{
    return (struct rh_lanes){sign_step(p.a, gradient.a, rate.a),
                             sign_step(p.b, gradient.b, rate.b)};
}

static inline void lanes_store_codes(uint8_t *p, struct rh_lanes x)
{
    /* The packs work within 128-bit halves; the permutation puts the quarters back in order. */
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)p, bytes);
}

static inline float lanes_sum(struct rh_lanes x)
{
    float lanes[16];
    lanes_store(lanes, x);
    return rh_grid_lane_sum(lanes);
}

#define KERNEL_SYMBOL rh_group_kernel_avx2
#define KERNEL_NAME   "avx2"
#include "fake_quant_loops.h"
