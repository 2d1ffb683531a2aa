#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "tensor/dtype.h"

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void names_sizes_and_parsing_agree(void **state)
{
    (void)state;
    for (int d = RH_DTYPE_NONE + 1; d <= RH_BOOL; d++) {
        assert_true(rh_dtype_size((enum rh_dtype)d) > 0);
        assert_int_equal(rh_dtype_parse(rh_dtype_name((enum rh_dtype)d)), d);
    }
    assert_int_equal(rh_dtype_size(RH_BF16), 2);
    assert_int_equal(rh_dtype_size(RH_I64), 8);
    assert_int_equal(rh_dtype_parse("bf16"), RH_DTYPE_NONE);
    assert_int_equal(rh_dtype_parse("BF16 "), RH_DTYPE_NONE);
    assert_int_equal(rh_dtype_parse(""), RH_DTYPE_NONE);
    assert_int_equal(rh_dtype_parse(NULL), RH_DTYPE_NONE);
    assert_int_equal(rh_dtype_size(RH_DTYPE_NONE), 0);
}

/* The value of a 16-bit number computed from its fields, independent of the code under test. */
static double value_of(uint16_t x, int exponent_bits)
{
    int mantissa_bits = 15 - exponent_bits;
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (x >> mantissa_bits) & ((1 << exponent_bits) - 1);
    int mantissa = x & ((1 << mantissa_bits) - 1);
    double sign = x & 0x8000 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static void every_16_bit_number_widens_to_its_value_and_returns(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t x = (uint16_t)i;
        float bf16 = rh_bf16_to_f32(x);
        float f16 = rh_f16_to_f32(x);
        double expected_bf16 = value_of(x, 8);
        double expected_f16 = value_of(x, 5);
        if (isnan(expected_bf16))
            assert_true(isnan(bf16));
        else
            assert_true((double)bf16 == expected_bf16 && !signbit(bf16) == !(x & 0x8000));
        if (isnan(expected_f16))
            assert_true(isnan(f16));
        else
            assert_true((double)f16 == expected_f16 && !signbit(f16) == !(x & 0x8000));
        assert_int_equal(rh_f32_to_bf16(bf16), x);
        assert_int_equal(rh_f32_to_f16(f16), x);
    }
}

/* For neighbours a < b: the middle goes to the even one, its float neighbours to the nearer one. */
static void check_ties(uint16_t (*narrow)(float), int exponent_bits, uint16_t infinity)
{
    for (uint16_t a = 0; a + 1 < infinity; a++) {
        double low = value_of(a, exponent_bits);
        double high = value_of((uint16_t)(a + 1), exponent_bits);
        float middle = (float)((low + high) / 2);
        assert_true((double)middle == (low + high) / 2);
        uint16_t even = a & 1 ? (uint16_t)(a + 1) : a;
        assert_int_equal(narrow(middle), even);
        assert_int_equal(narrow(-middle), even | 0x8000);
        assert_int_equal(narrow(nextafterf(middle, 0)), a);
        assert_int_equal(narrow(nextafterf(middle, INFINITY)), a + 1);
    }
}

static void ties_go_to_the_even_neighbour_between_all_numbers(void **state)
{
    (void)state;
    check_ties(rh_f32_to_bf16, 8, 0x7f80);
    check_ties(rh_f32_to_f16, 5, 0x7c00);
}

static void too_large_numbers_become_infinite(void **state)
{
    (void)state;
    assert_int_equal(rh_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(rh_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(rh_f32_to_f16(-65536.0f), 0xfc00);
    assert_int_equal(rh_f32_to_f16(3e38f), 0x7c00);
    assert_int_equal(rh_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(rh_f32_to_bf16(float_of(0x7f7f7fff)), 0x7f7f);
    assert_int_equal(rh_f32_to_bf16(float_of(0x7f7f8000)), 0x7f80);
    assert_int_equal(rh_f32_to_bf16(float_of(0xff7fffff)), 0xff80);
    assert_int_equal(rh_f32_to_f16(float_of(1)), 0);
    assert_int_equal(rh_f32_to_f16(float_of(0x80000001)), 0x8000);
}

static void nan_stays_nan_whatever_its_payload(void **state)
{
    (void)state;
    for (int bit = 0; bit < 23; bit++) {
        uint32_t bits = 0x7f800000u | 1u << bit;
        assert_true(isnan(rh_bf16_to_f32(rh_f32_to_bf16(float_of(bits)))));
        assert_true(isnan(rh_f16_to_f32(rh_f32_to_f16(float_of(bits)))));
        assert_true(isnan(rh_f16_to_f32(rh_f32_to_f16(float_of(bits | 0x80000000u)))));
    }
}

/* Rows go through vector code with a scalar end; both must equal the single conversions. */
static void rows_equal_single_conversions_at_every_length(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    float values[COUNT];
    float wide[COUNT + 1];
    uint16_t narrow[COUNT + 1];
    uint32_t random = 12345;
    for (int i = 0; i < COUNT; i++) {
        random = random * 1664525u + 1013904223u;
        /* Every third number is in the range of f16, subnormals included. */
        values[i] = float_of(i % 3 ? random : (random & 0x8fffffffu) | 0x30000000u);
    }
    for (size_t n = 0; n <= COUNT; n++) {
        narrow[n] = 0x1234;
        rh_from_f32(RH_BF16, values, narrow, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(narrow[i], rh_f32_to_bf16(values[i]));
        rh_to_f32(RH_BF16, narrow, wide, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(bits_of(wide[i]), bits_of(rh_bf16_to_f32(narrow[i])));
        rh_from_f32(RH_F16, values, narrow, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(narrow[i], rh_f32_to_f16(values[i]));
        rh_to_f32(RH_F16, narrow, wide, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(bits_of(wide[i]), bits_of(rh_f16_to_f32(narrow[i])));
        assert_int_equal(narrow[n], 0x1234);
    }
    rh_to_f32(RH_F32, values, wide, COUNT);
    assert_memory_equal(wide, values, sizeof values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_sizes_and_parsing_agree),
        cmocka_unit_test(every_16_bit_number_widens_to_its_value_and_returns),
        cmocka_unit_test(ties_go_to_the_even_neighbour_between_all_numbers),
        cmocka_unit_test(too_large_numbers_become_infinite),
        cmocka_unit_test(nan_stays_nan_whatever_its_payload),
        cmocka_unit_test(rows_equal_single_conversions_at_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
