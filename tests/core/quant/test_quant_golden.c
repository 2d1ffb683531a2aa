/* The quantizers on whole matrices against auto-round's own, with torch's autograd; the cases and how
 * they were made: tests/golden/make_quant.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "checkpoint/safetensors.h"
#include "quant/group.h"

#define ROWS    8
#define COLUMNS 76

enum { WEIGHT, GRAD, V, ALPHA, BETA, WEIGHT_Q, SCALE, ZERO, GRAD_V, GRAD_ALPHA, GRAD_BETA, PARTS };

static const char *const parts[PARTS] = {"weight", "grad",   "v",          "alpha",
                                         "beta",   "weight_q", "scale",    "zero",
                                         "grad_v", "grad_alpha", "grad_beta"};

struct golden {
    struct rh_scheme scheme;
    float *value[PARTS]; /* scale: bits of fp16, two to a float */
};

static void golden_open(const struct rh_safetensors *file, struct golden *g)
{
    struct rh_error err;
    for (int p = 0; p < PARTS; p++) {
        char *name = rh_format("%s.%d.%lld.%s", g->scheme.sym ? "sym" : "asym", g->scheme.bits,
                               (long long)g->scheme.group_size, parts[p]);
        const struct rh_tensor_info *info = rh_safetensors_find(file, name);
        if (!info)
            fail_msg("no golden value %s", name);
        assert_int_equal(info->dtype, p == SCALE ? RH_F16 : RH_F32);
        g->value[p] = rh_alloc(info->bytes);
        if (rh_safetensors_read(file, info, 0, info->bytes, g->value[p], &err) != RH_OK)
            fail_msg("%s", err.message);
        rh_free(name);
    }
}

static void golden_close(struct golden *g)
{
    for (int p = 0; p < PARTS; p++)
        rh_free(g->value[p]);
}

/* fp16 sums of differently ordered fp32 sums: a unit of fp16 of the larger term. */
static bool close_to(float got, float expected, float terms)
{
    return fabsf(got - expected) <= 2e-3F * fabsf(expected) + 1e-3F * terms;
}

static void check_group(const struct golden *g, int64_t at, int64_t n, int64_t group)
{
    const float *w = g->value[WEIGHT] + at;
    float alpha = g->value[ALPHA][group];
    float beta = g->value[BETA][group];
    float lo = 0.0F;
    float hi = 0.0F;
    float w_q[COLUMNS];
    float dv[COLUMNS];
    uint8_t codes[COLUMNS];
    uint16_t scale = 0;
    struct rh_grid grid;
    struct rh_group_sums sums;
    assert_int_equal(rh_group_range(&g->scheme, w, n, &lo, &hi, NULL), RH_OK);
    rh_grid_make(&g->scheme, lo, hi, &alpha, &beta, &grid);
    memcpy(&scale, (const char *)g->value[SCALE] + 2 * group, sizeof scale);
    assert_int_equal(grid.scale_bits, scale);
    assert_true(grid.zero == g->value[ZERO][group]);
    rh_group_forward(&grid, w, g->value[V] + at, n, w_q, codes);
    for (int64_t j = 0; j < n; j++) {
        assert_true(w_q[j] == g->value[WEIGHT_Q][at + j]);
        assert_true(w_q[j] == grid.scale * ((float)codes[j] - grid.zero));
    }
    rh_group_backward(&grid, w, g->value[V] + at, g->value[GRAD] + at, n, dv, &sums);
    for (int64_t j = 0; j < n; j++)
        assert_true(dv[j] == g->value[GRAD_V][at + j]);
    float slopes[2];
    rh_grid_gradient(&g->scheme, &grid, &sums, lo, hi, &slopes[0], &slopes[1]);
    float terms = (fabsf(sums.grad_code) + fabsf(sums.grad_weight)) * fmaxf(-lo, hi) /
                  (float)(1 << (g->scheme.bits - 1));
    assert_true(close_to(slopes[0], g->value[GRAD_ALPHA][group], terms));
    assert_true(close_to(slopes[1], g->value[GRAD_BETA][group], terms));
}

static void check_case(const struct rh_safetensors *file, struct rh_scheme scheme)
{
    struct golden g = {.scheme = scheme};
    golden_open(file, &g);
    int64_t length = rh_scheme_group(&scheme, COLUMNS);
    int64_t groups = rh_scheme_groups(&scheme, COLUMNS);
    for (int64_t row = 0; row < ROWS; row++) {
        for (int64_t k = 0; k < groups; k++) {
            int64_t left = COLUMNS - k * length;
            check_group(&g, row * COLUMNS + k * length, left < length ? left : length,
                        row * groups + k);
        }
    }
    golden_close(&g);
}

static void every_scheme_is_auto_rounds(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t sizes[] = {32, 64, -1};
    struct rh_error err;
    struct rh_safetensors *file = NULL;
    if (rh_safetensors_open(RH_SOURCE_DIR "/tests/golden/quant.safetensors", &file, &err) != RH_OK)
        fail_msg("%s", err.message);
    for (int sym = 0; sym < 2; sym++) {
        for (int b = 0; b < 4; b++) {
            for (int s = 0; s < 3; s++)
                check_case(file, (struct rh_scheme){bits[b], sym, sizes[s]});
        }
    }
    rh_safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scheme_is_auto_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
