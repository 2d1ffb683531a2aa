#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "quant/group.h"

#define N 8

static const float row[N] = {.5F, -.25F, .125F, -.75F, .0625F, .3125F, -.4375F, 0.0F};

static void grid_of(const struct rh_scheme *scheme, const float *w, int64_t n, float *alpha,
                    float *beta, struct rh_grid *grid)
{
    float lo = 0.0F;
    float hi = 0.0F;
    assert_int_equal(rh_group_range(scheme, w, n, &lo, &hi, NULL), RH_OK);
    rh_grid_make(scheme, lo, hi, alpha, beta, grid);
}

static void expect_codes(const float *w, float scale, const int q[N])
{
    const struct rh_scheme scheme = {4, true, N};
    uint8_t codes[N];
    uint16_t bits = 0;
    assert_int_equal(rh_round_to_nearest(&scheme, w, 1, N, false, codes, &bits, NULL, NULL), RH_OK);
    assert_true(rh_f16_to_f32(bits) == scale);
    for (int j = 0; j < N; j++)
        assert_int_equal(codes[j], q[j] + 8);
}

static void rounding_to_nearest_uses_the_full_range_with_a_signed_scale(void **state)
{
    (void)state;
    static const int q[N] = {5, -3, 1, -8, 1, 3, -5, 0};
    expect_codes(row, 0.09375F, q);
    float negated[N];
    for (int j = 0; j < N; j++)
        negated[j] = -row[j];
    expect_codes(negated, -0.09375F, q);
}

static void a_tie_takes_the_negative_scale_and_zeros_take_the_smallest(void **state)
{
    (void)state;
    const float tie[N] = {.5F, -.5F, .25F};
    expect_codes(tie, -0.0625F, (const int[N]){-8, 7, -4});
    const float zeros[N] = {0};
    expect_codes(zeros, RH_SCALE_MIN, (const int[N]){0});
    const float tiny[N] = {1e-6F, -2e-6F, 3e-6F, -4e-6F, 5e-6F, -6e-6F, 7e-6F, -8e-6F};
    expect_codes(tiny, RH_SCALE_MIN, (const int[N]){0, 0, 0, 0, 0, -1, 1, -1});
}

static void offsets_and_factors_change_the_grid_and_mask_the_clipped_weight(void **state)
{
    (void)state;
    const struct rh_scheme scheme = {4, true, N};
    const float v[N] = {.4F, -.3F, .1F, .2F, -.2F, .3F, -.4F, .5F};
    const float grad[N] = {1, -1, 2, -2, .5F, 1, -1, 3};
    float alpha = .9F;
    float beta = 1.0F;
    struct rh_grid grid;
    grid_of(&scheme, row, N, &alpha, &beta, &grid);
    assert_true(fabsf(grid.scale - 0.08435059F) < 1e-8F);
    uint8_t codes[N];
    rh_group_forward(&grid, row, v, N, NULL, codes);
    static const int q[N] = {6, -3, 2, -8, 1, 4, -6, 0};
    for (int j = 0; j < N; j++)
        assert_int_equal(codes[j], q[j] + 8);
    float dv[N];
    struct rh_group_sums sums;
    rh_group_backward(&grid, row, v, grad, N, dv, &sums);
    static const float factor[N] = {1, -1, 2, 0, .5F, 1, -1, 3};
    for (int j = 0; j < N; j++)
        assert_true(dv[j] == factor[j] * grid.scale);
    float dalpha = 0;
    float dbeta = 0;
    rh_grid_gradient(&scheme, &grid, &sums, -.75F, .5F, &dalpha, &dbeta);
    assert_true(dalpha == 1.72265625F);
    assert_true(dbeta == 0.0F);
}

static void factors_are_clamped_in_place(void **state)
{
    (void)state;
    const struct rh_scheme scheme = {4, true, N};
    float alpha = 1.25F;
    float beta = -0.5F;
    struct rh_grid grid;
    grid_of(&scheme, row, N, &alpha, &beta, &grid);
    assert_true(alpha == 1.0F && beta == 0.0F);
}

static void a_scale_below_the_threshold_stops_the_gradient_of_the_factors(void **state)
{
    (void)state;
    const struct rh_scheme scheme = {4, true, N};
    const float tiny[N] = {1e-6F, -2e-6F, 3e-6F};
    const float v[N] = {0};
    const float grad[N] = {100, 100, 100, 100, 100, 100, 100, 100};
    float alpha = 1.0F;
    float beta = 1.0F;
    struct rh_grid grid;
    grid_of(&scheme, tiny, N, &alpha, &beta, &grid);
    struct rh_group_sums sums;
    rh_group_backward(&grid, tiny, v, grad, N, NULL, &sums);
    float dalpha = 1;
    float dbeta = 1;
    rh_grid_gradient(&scheme, &grid, &sums, -2e-6F, 3e-6F, &dalpha, &dbeta);
    assert_true(dalpha == 0.0F && dbeta == 0.0F);
}

static void damaged_weights_are_refused_by_place(void **state)
{
    (void)state;
    const struct rh_scheme scheme = {4, true, 4};
    float w[2 * N] = {0};
    w[13] = NAN;
    uint8_t codes[2 * N];
    uint16_t scales[4];
    struct rh_error err;
    assert_int_equal(rh_round_to_nearest(&scheme, w, 2, N, false, codes, scales, NULL, &err),
                     RH_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "row 1, group 1"));
    w[13] = 1e6F;
    assert_int_equal(rh_round_to_nearest(&scheme, w, 2, N, false, codes, scales, NULL, &err),
                     RH_ERR_NUMERIC);
}

static void a_short_last_group_has_a_scale_of_its_own(void **state)
{
    (void)state;
    const struct rh_scheme scheme = {4, true, 6};
    uint8_t codes[N];
    uint16_t scales[2];
    assert_int_equal(rh_scheme_groups(&scheme, N), 2);
    assert_int_equal(rh_round_to_nearest(&scheme, row, 1, N, false, codes, scales, NULL, NULL),
                     RH_OK);
    assert_true(rh_f16_to_f32(scales[0]) == 0.09375F);
    assert_true(rh_f16_to_f32(scales[1]) == 0.4375F / 8);
    assert_int_equal(codes[6], 0);
    assert_int_equal(codes[7], 8);
    const struct rh_scheme whole = {4, true, -1};
    assert_int_equal(rh_scheme_groups(&whole, 96), 1);
}

/* All weights but one lie on a grid of 3/4 of the range: clipping that one costs 1/16, and every
 * other candidate more. */
static void the_search_finds_the_range_of_the_lowest_error(void **state)
{
    (void)state;
    const struct rh_scheme scheme = {4, true, -1};
    float w[128];
    for (int j = 0; j < 128; j++)
        w[j] = 0.09375F * (float)(j % 16 - 8);
    w[0] = -1.0F;
    float factor = rh_group_search(&scheme, -1.0F, 0.65625F, w, 128, rh_group_error);
    assert_true(factor == 0.75F);
    uint8_t codes[128];
    uint16_t bits = 0;
    assert_int_equal(rh_round_to_nearest(&scheme, w, 1, 128, true, codes, &bits, NULL, NULL),
                     RH_OK);
    assert_true(rh_f16_to_f32(bits) == 0.09375F);
    for (int j = 0; j < 128; j++)
        assert_int_equal(codes[j], j % 16);
    struct rh_grid grid;
    float alpha = factor;
    float beta = factor;
    rh_grid_make(&scheme, -1.0F, 0.65625F, &alpha, &beta, &grid);
    assert_true(rh_group_error(&grid, w, 128) == 0.0625F);
}

static void the_search_takes_the_widest_of_equal_ranges(void **state)
{
    (void)state;
    for (int sym = 0; sym < 2; sym++) {
        const struct rh_scheme scheme = {4, sym == 1, -1};
        const float zeros[N] = {0};
        const float tiny[N] = {1e-9F, -2e-9F};
        assert_true(rh_group_search(&scheme, 0.0F, 0.0F, zeros, N, rh_group_error) == 1.0F);
        assert_true(rh_group_search(&scheme, -2e-9F, 1e-9F, tiny, N, rh_group_error) == 1.0F);
    }
}

/* Produced by auto-round's quant_tensor_sym and quant_tensor_asym with torch's autograd on the
 * numbers that golden_inputs() makes. */
struct golden {
    int bits;
    bool sym;
    uint32_t seed;
    float alpha, beta, shift;
    int scale_bits, zero;
    float grad_alpha, grad_beta;
    double grad_v_sum;
    const char *codes;
};

/* clang-format off */
static const struct golden goldens[] = {
    {2, true, 2U, 0.875F, 1.0F, 0.0F, 0xB55B, 2, 0x0.0p+0F, -0x1.9704000000000p-2F, 0x1.48b1200000000p+2,
     "0201030000000203000302030303000302000302030302020001010203010201"},
    {2, true, 12U, 1.0F, 0.75F, 0.25F, 0xB581, 2, 0x0.0p+0F, -0x1.6122d00000000p+0F, -0x1.39b9000000000p-3,
     "0101030102030102010001010000000202000003020103020103010302020102"},
    {2, true, 22U, 1.0F, 0.9375F, -0.25F, 0x3776, 2, -0x1.ce94000000000p-2F, 0x0.0p+0F, 0x1.e531b00000000p+1,
     "0203010101000201010003030101030101020203010202010002010202030203"},
    {2, false, 32U, 0.875F, 0.9375F, 0.0F, 0x36FB, 1, -0x1.0be6400000000p+1F, -0x1.1a30c00000000p-1F, -0x1.2794480000000p+2,
     "0202010102010001000100020203000201010002010200010202000002000101"},
    {2, false, 42U, 1.0F, 1.0F, 0.125F, 0x37BF, 1, 0x1.0d0e560000000p-1F, 0x1.855cac0000000p-1F, 0x1.d0a5040000000p+2,
     "0002010000020103030200020101000301010201020302000000030203020200"},
    {3, true, 3U, 0.875F, 1.0F, 0.0F, 0xB17C, 4, 0x0.0p+0F, 0x1.9d62800000000p+0F, -0x1.5f99900000000p+1,
     "0303000006020504070707050502070605050002070507010201070606040503"},
    {3, true, 13U, 1.0F, 0.75F, 0.25F, 0xB182, 4, 0x0.0p+0F, -0x1.fab8000000000p-2F, 0x1.65d5f00000000p+1,
     "0101060103000401000305030705050404050203050301010504000103060305"},
    {3, true, 23U, 1.0F, 0.9375F, -0.25F, 0x3372, 4, -0x1.830e000000000p-3F, 0x0.0p+0F, 0x1.42e1dc0000000p+2,
     "0504000305010105040503040305010302000002030401040504030103040306"},
    {3, false, 33U, 0.875F, 0.9375F, 0.0F, 0x31D4, 3, -0x1.6131540000000p+2F, 0x1.0c7eb60000000p-2F, 0x1.2ee1600000000p+1,
     "0605010300030007030105060002010402000400030504040200020405000303"},
    {3, false, 43U, 1.0F, 1.0F, 0.125F, 0x3241, 3, 0x1.38585a0000000p-1F, 0x1.9df45a0000000p-1F, -0x1.1e4fc80000000p+1,
     "0005030202060101010506070600030603070006050600040703010006060301"},
    {4, true, 4U, 0.875F, 1.0F, 0.0F, 0xADA6, 8, 0x0.0p+0F, 0x1.0f20000000000p-7F, 0x1.c167600000000p-2,
     "0608020e06060d040b00070c050d090f0c01070e0c0a070f0a0f0d030d0c0d07"},
    {4, true, 14U, 1.0F, 0.75F, 0.25F, 0xADEC, 8, 0x0.0p+0F, 0x1.7d67900000000p+1F, -0x1.95a6000000000p-4,
     "0205000000000c000b070107090206090a000d0007060c0d0006000a08000a0a"},
    {4, true, 24U, 1.0F, 0.9375F, -0.25F, 0x2F92, 8, -0x1.e4a0000000000p-3F, 0x0.0p+0F, -0x1.8326880000000p+0,
     "0b07010a010200010c090c060b040705030807080707060c070a0a080504030b"},
    {4, false, 34U, 0.875F, 0.9375F, 0.0F, 0x2D86, 7, 0x1.8375ee0000000p-1F, -0x1.cb9b340000000p+0F, -0x1.3ad6000000000p-3,
     "0f09010a05060f030b01010a070e0a08030801060b0b000f01020801090e0307"},
    {4, false, 44U, 1.0F, 1.0F, 0.125F, 0x2D5A, 6, -0x1.2f50880000000p-2F, -0x1.9d95de0000000p-2F, 0x1.6537800000000p-3,
     "000a04070b0b0e060807050d00070b0c04050b030e0d070e0b08040a0c070400"},
    {8, true, 8U, 0.875F, 1.0F, 0.0F, 0x9DDE, 128, 0x0.0p+0F, -0x0.0p+0F, -0x1.edf1a00000000p-5,
     "58e07d2516b2a9ff86ae5914460054342320455a48959dbd8d6717072cb29995"},
    {8, true, 18U, 1.0F, 0.75F, 0.25F, 0x9DCB, 128, 0x0.0p+0F, 0x1.151ed00000000p+3F, -0x1.a42bd80000000p-5,
     "0bae3521aa3f8fa7911c00ca854117000017906a004e00a0d3002267000064c8"},
    {8, true, 28U, 1.0F, 0.9375F, -0.25F, 0x1FE4, 128, -0x1.7aa8000000000p-6F, 0x0.0p+0F, -0x1.cd3b500000000p-4,
     "ae228b6755a3264309100524b01c9a10a8729e220079401d704359ac174a5a86"},
    {8, false, 38U, 0.875F, 0.9375F, 0.0F, 0x1D12, 126, -0x1.66bc220000000p+0F, -0x1.922da40000000p-1F, -0x1.4406500000000p-5,
     "0026e25abe091185e7762b4c7fc5ec30f27155ff16c5dc0714c634523cff7f4d"},
    {8, false, 48U, 1.0F, 1.0F, 0.125F, 0x1DAD, 102, 0x1.6afafc0000000p-7F, 0x1.10a0a20000000p-6F, -0x1.5f8b300000000p-5,
     "1e35f233ff5c08b0a1dd6676104bf060e74cedba47d94304b91500d36b7386fd"},
};
/* clang-format on */

#define GOLDEN_N 32

static float next_number(uint32_t *x)
{
    *x = *x * 1664525U + 1013904223U;
    return (float)((int)((*x >> 16) & 0x7FFU) - 1024);
}

static void golden_inputs(const struct golden *g, float *w, float *v, float *grad)
{
    uint32_t x = g->seed;
    for (int j = 0; j < GOLDEN_N; j++)
        w[j] = next_number(&x) / 1024.0F * 0.75F + g->shift;
    for (int j = 0; j < GOLDEN_N; j++)
        v[j] = next_number(&x) / 2048.0F;
    for (int j = 0; j < GOLDEN_N; j++)
        grad[j] = next_number(&x) / 256.0F;
}

/* fp16 sums of differently ordered fp32 sums may differ by one unit of fp16. */
static bool close_to(float x, float expected)
{
    return fabsf(x - expected) <= 2e-3F * fabsf(expected) + 1e-6F;
}

static void every_width_agrees_with_autograd(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        const struct golden *g = &goldens[i];
        const struct rh_scheme scheme = {g->bits, g->sym, GOLDEN_N};
        float w[GOLDEN_N];
        float v[GOLDEN_N];
        float grad[GOLDEN_N];
        golden_inputs(g, w, v, grad);
        float lo = 0.0F;
        float hi = 0.0F;
        float alpha = g->alpha;
        float beta = g->beta;
        struct rh_grid grid;
        assert_int_equal(rh_group_range(&scheme, w, GOLDEN_N, &lo, &hi, NULL), RH_OK);
        rh_grid_make(&scheme, lo, hi, &alpha, &beta, &grid);
        assert_int_equal(grid.scale_bits, g->scale_bits);
        assert_true(grid.zero == (float)g->zero);

        uint8_t codes[GOLDEN_N];
        char text[2 * GOLDEN_N + 1];
        rh_group_forward(&grid, w, v, GOLDEN_N, NULL, codes);
        for (int j = 0; j < GOLDEN_N; j++)
            (void)snprintf(text + 2 * j, 3, "%02x", codes[j]);
        assert_string_equal(text, g->codes);

        float dv[GOLDEN_N];
        struct rh_group_sums sums;
        double sum = 0;
        rh_group_backward(&grid, w, v, grad, GOLDEN_N, dv, &sums);
        for (int j = 0; j < GOLDEN_N; j++)
            sum += (double)dv[j];
        assert_true(fabs(sum - g->grad_v_sum) < 1e-9);
        float dalpha = 0;
        float dbeta = 0;
        rh_grid_gradient(&scheme, &grid, &sums, lo, hi, &dalpha, &dbeta);
        assert_true(close_to(dalpha, g->grad_alpha));
        assert_true(close_to(dbeta, g->grad_beta));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_to_nearest_uses_the_full_range_with_a_signed_scale),
        cmocka_unit_test(a_tie_takes_the_negative_scale_and_zeros_take_the_smallest),
        cmocka_unit_test(offsets_and_factors_change_the_grid_and_mask_the_clipped_weight),
        cmocka_unit_test(factors_are_clamped_in_place),
        cmocka_unit_test(a_scale_below_the_threshold_stops_the_gradient_of_the_factors),
        cmocka_unit_test(damaged_weights_are_refused_by_place),
        cmocka_unit_test(a_short_last_group_has_a_scale_of_its_own),
        cmocka_unit_test(the_search_finds_the_range_of_the_lowest_error),
        cmocka_unit_test(the_search_takes_the_widest_of_equal_ranges),
        cmocka_unit_test(every_width_agrees_with_autograd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
