#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/sha256.h"
#include "quant/pack.h"

/* Word vectors and digests were produced with auto-round's own packer, from formulas that this file
 * repeats. */

static void pack_one_row(const uint8_t *codes, int64_t count, int bits, int32_t *words)
{
    rh_pack_qweight(codes, 1, count, bits, words);
    uint8_t back[64];
    rh_unpack_qweight(words, 1, count, bits, back);
    assert_memory_equal(back, codes, (size_t)count);
}

static void four_bit_codes_fill_a_word_from_its_lowest_nibble(void **state)
{
    (void)state;
    static const uint8_t codes[8][8] = {
        {0, 2, 4, 6, 8, 10, 12, 15}, {0, 2, 4, 6, 8, 10, 12, 15}, {15, 0, 7, 9, 8, 8, 6, 10},
        {8, 8, 8, 8, 8, 8, 8, 8},    {0, 4, 6, 7, 9, 10, 12, 14}, {5, 5, 6, 6, 7, 7, 8, 0},
        {0, 12, 6, 14, 8, 11, 0, 8}, {8, 8, 8, 8, 8, 7, 9, 7},
    };
    static const int32_t expected[8] = {-56073184,  -56073184, -1500997873, -2004318072,
                                        -324438464, 142042709, -2135365952, 2037942408};
    int32_t words[8];
    rh_pack_qweight(codes[0], 8, 8, 4, words);
    assert_memory_equal(words, expected, sizeof words);
    uint8_t back[8][8];
    rh_unpack_qweight(words, 8, 8, 4, back[0]);
    assert_memory_equal(back, codes, sizeof codes);
}

static void other_widths_match_their_word_vectors(void **state)
{
    (void)state;
    static const uint8_t three[32] = {0, 5, 2, 7, 7, 4, 1, 6, 6, 3, 0, 5, 5, 2, 7, 4,
                                      4, 1, 6, 3, 3, 0, 5, 2, 2, 7, 4, 1, 1, 6, 3, 0};
    static const uint8_t two[16] = {0, 3, 2, 1, 1, 0, 3, 2, 2, 1, 0, 3, 3, 2, 1, 0};
    static const uint8_t eight[4] = {8, 127, 128, 255};
    int32_t words[3];
    pack_one_row(three, 32, 3, words);
    assert_int_equal((uint32_t)words[0], 0x1EC67EA8);
    assert_int_equal((uint32_t)words[1], 0x378C9D5A);
    assert_int_equal((uint32_t)words[2], 0x0F133A54);
    pack_one_row(two, 16, 2, words);
    assert_int_equal((uint32_t)words[0], 0x1BC6B16C);
    pack_one_row(eight, 4, 8, words);
    assert_int_equal((uint32_t)words[0], 0xFF807F08);
}

struct bulk_case {
    int bits;
    uint32_t first[4];
    const char *qweight;
    const char *qzeros;
};

static const struct bulk_case bulk_cases[] = {
    {2,
     {0x6C6C6C6C, 0x16C6F1B1, 0xC1AC5BC6, 0xBC16F05B},
     "dedb5de66e55644865626080660a2e4f498709d4468fb7b8ceceb28adeafb918",
     "3d9eae666b06b1a975071aca838b4bb5f27a8324eb2ddab0c8eccd71ceae6b50"},
    {3,
     {0x98ABC398, 0x0E7E1CC5, 0xBC35762A, 0x6AEC4357},
     "12265426e3e200009b35062ea0794ab235e97c66df5bc7fe3dc2cb7dcfe2b316",
     "3279730a2290f3d22269afaed942820e3826da8f183a22f6ddcb9ed68a36dde0"},
    {4,
     {0x52FC9630, 0xB741EB85, 0x1DA730DA, 0x730C952F},
     "c01794026bb19fe43f7df7872cf614ab3a32e1bd561732265014b9584d4a2c42",
     "d84a714f014043714e26aea7c3dd985ebea526d49e754c71b3d4aef640402bbb"},
    {8,
     {0x09060300, 0x0E0B0805, 0x13100D0A, 0x1915120F},
     "77d6c81ec24f5ec98f9464632311b6865f64375a80f76c114e0bc6fc7816acd9",
     "22527f13f62eb6f2d8cdc5800222cebe9fec473fbab698764198b94d0ab81a5f"},
};

#define BULK_OUT    64
#define BULK_IN     128
#define BULK_GROUPS 4

static void bulk_codes(int bits, uint8_t *codes)
{
    for (int o = 0; o < BULK_OUT; o++) {
        for (int i = 0; i < BULK_IN; i++)
            codes[o * BULK_IN + i] = (uint8_t)((5 * o + 3 * i + o * i / 7) % (1 << bits));
    }
}

static void a_whole_matrix_has_the_digest_of_the_reference_packer(void **state)
{
    (void)state;
    static uint8_t codes[BULK_OUT * BULK_IN];
    static uint8_t back[BULK_OUT * BULK_IN];
    static int32_t qweight[BULK_OUT * BULK_IN / 4];
    static int32_t qzeros[BULK_GROUPS * BULK_OUT / 4];
    uint16_t zeros[BULK_OUT * BULK_GROUPS];
    for (size_t c = 0; c < sizeof bulk_cases / sizeof bulk_cases[0]; c++) {
        const struct bulk_case *bulk = &bulk_cases[c];
        char digest[RH_SHA256_HEX_SIZE];
        bulk_codes(bulk->bits, codes);
        rh_pack_qweight(codes, BULK_OUT, BULK_IN, bulk->bits, qweight);
        assert_memory_equal(qweight, bulk->first, sizeof bulk->first);
        size_t words = (size_t)rh_pack_words(BULK_IN, bulk->bits) * BULK_OUT;
        rh_sha256_of(qweight, words * sizeof qweight[0], digest);
        assert_string_equal(digest, bulk->qweight);
        rh_unpack_qweight(qweight, BULK_OUT, BULK_IN, bulk->bits, back);
        assert_memory_equal(back, codes, sizeof codes);

        rh_pack_qzeros(NULL, BULK_OUT, BULK_GROUPS, bulk->bits, qzeros);
        words = (size_t)rh_pack_words(BULK_OUT, bulk->bits) * BULK_GROUPS;
        rh_sha256_of(qzeros, words * sizeof qzeros[0], digest);
        assert_string_equal(digest, bulk->qzeros);
        rh_unpack_qzeros(qzeros, BULK_OUT, BULK_GROUPS, bulk->bits, zeros);
        for (size_t i = 0; i < BULK_OUT * BULK_GROUPS; i++)
            assert_int_equal(zeros[i], 1 << (bulk->bits - 1));
    }
}

static void scales_are_transposed_and_have_the_reference_digest(void **state)
{
    (void)state;
    uint16_t scales[BULK_OUT * BULK_GROUPS];
    uint16_t packed[BULK_OUT * BULK_GROUPS];
    uint16_t back[BULK_OUT * BULK_GROUPS];
    for (int o = 0; o < BULK_OUT; o++) {
        for (int j = 0; j < BULK_GROUPS; j++) {
            /* (-1)^(o + j) * 2^(-8 + o mod 4) in fp16: sign, exponent + 15, no mantissa. */
            unsigned sign = (unsigned)(o + j) % 2;
            unsigned exponent = (unsigned)(15 - 8 + o % 4);
            scales[o * BULK_GROUPS + j] = (uint16_t)(sign << 15 | exponent << 10);
        }
    }
    rh_pack_scales(scales, BULK_OUT, BULK_GROUPS, packed);
    char digest[RH_SHA256_HEX_SIZE];
    rh_sha256_of(packed, sizeof packed, digest);
    assert_string_equal(digest, "d0f3cd5943e4283eeb24d80f890e97860ef08871c9304eeb6e360e55e8faac60");
    rh_unpack_scales(packed, BULK_OUT, BULK_GROUPS, back);
    assert_memory_equal(back, scales, sizeof scales);
}

static void zero_points_keep_their_place_and_lose_one(void **state)
{
    (void)state;
    uint8_t zeros[32 * 2];
    for (size_t i = 0; i < sizeof zeros; i++)
        zeros[i] = (uint8_t)(i * 7 % 16);
    int32_t packed[2 * 4];
    uint16_t back[32 * 2];
    rh_pack_qzeros(zeros, 32, 2, 4, packed);
    /* Output 0, group 0 has zero point 0, whose field wraps to 15. */
    assert_int_equal(packed[0] & 15, 15);
    assert_int_equal((packed[0] >> 4) & 15, zeros[2] - 1);
    assert_int_equal(packed[4] & 15, zeros[1] - 1);
    rh_unpack_qzeros(packed, 32, 2, 4, back);
    for (size_t i = 0; i < sizeof zeros; i++)
        assert_int_equal(back[i], zeros[i] == 0 ? 16 : zeros[i]);
}

static void stored_codes_come_back_for_every_width_and_odd_rows(void **state)
{
    (void)state;
    static const int widths[] = {2, 3, 4, 8};
    for (size_t w = 0; w < 4; w++) {
        int bits = widths[w];
        uint8_t codes[3 * 7];
        uint8_t stored[3 * 7];
        uint8_t back[3 * 7];
        for (size_t i = 0; i < sizeof codes; i++)
            codes[i] = (uint8_t)(i * 11 % (1U << bits));
        assert_int_equal(rh_codes_row_bytes(7, bits), bits == 8 ? 7 : 4);
        rh_codes_store(codes, 3, 7, bits, stored);
        rh_codes_load(stored, 3, 7, bits, back);
        assert_memory_equal(back, codes, sizeof codes);
    }
    uint8_t stored[1];
    rh_codes_store((const uint8_t[]){3, 12}, 1, 2, 4, stored);
    assert_int_equal(stored[0], 0xC3);
}

static void dequantizing_multiplies_by_the_scale_of_the_group(void **state)
{
    (void)state;
    static const uint8_t codes[6] = {15, 0, 7, 9, 8, 8};
    static const uint16_t scales[2] = {0xB000, 0x3400}; /* -0.125, 0.25 */
    float w[6];
    rh_dequantize(codes, scales, NULL, 1, 6, 4, 4, w);
    static const float expected[6] = {-0.875F, 1.0F, 0.125F, -0.125F, 0.0F, 0.0F};
    for (int i = 0; i < 6; i++)
        assert_true(w[i] == expected[i]);
    rh_dequantize(codes, scales, (const uint8_t[]){0, 3}, 1, 6, 4, 4, w);
    assert_true(w[0] == -1.875F && w[4] == 1.25F);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_bit_codes_fill_a_word_from_its_lowest_nibble),
        cmocka_unit_test(other_widths_match_their_word_vectors),
        cmocka_unit_test(a_whole_matrix_has_the_digest_of_the_reference_packer),
        cmocka_unit_test(scales_are_transposed_and_have_the_reference_digest),
        cmocka_unit_test(zero_points_keep_their_place_and_lose_one),
        cmocka_unit_test(stored_codes_come_back_for_every_width_and_odd_rows),
        cmocka_unit_test(dequantizing_multiplies_by_the_scale_of_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
