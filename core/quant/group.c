#include "quant/group.h"

#include <math.h>
#include <string.h>

#define HALF_MAX 65504.0F

bool rh_scheme_valid(const struct rh_scheme *scheme)
{
    int b = scheme->bits;
    return (b == 2 || b == 3 || b == 4 || b == 8) &&
           (scheme->group_size == -1 || scheme->group_size > 0);
}

int64_t rh_scheme_group(const struct rh_scheme *scheme, int64_t in_features)
{
    bool whole = scheme->group_size < 0 || scheme->group_size > in_features;
    return whole ? in_features : scheme->group_size;
}

int64_t rh_scheme_groups(const struct rh_scheme *scheme, int64_t in_features)
{
    int64_t group = rh_scheme_group(scheme, in_features);
    return group > 0 ? (in_features + group - 1) / group : 0;
}

enum rh_rc rh_group_range(const struct rh_scheme *scheme, const float *w, int64_t n, float *out_lo,
                          float *out_hi, struct rh_error *err)
{
    float lo = 0.0F;
    float hi = 0.0F;
    for (int64_t j = 0; j < n; j++) {
        if (!isfinite(w[j]))
            return rh_fail(err, RH_ERR_NUMERIC,
                           "weight %lld of a group is %f, the source tensor is damaged",
                           (long long)j, (double)w[j]);
        lo = w[j] < lo ? w[j] : lo;
        hi = w[j] > hi ? w[j] : hi;
    }
    float largest = -lo > hi ? -lo : hi;
    float reach = scheme->sym ? largest / (float)(1 << (scheme->bits - 1))
                              : (hi - lo) / (float)((1 << scheme->bits) - 1);
    if (!(reach <= HALF_MAX))
        return rh_fail(err, RH_ERR_NUMERIC, "weight of magnitude %g needs a scale beyond fp16",
                       (double)largest);
    *out_lo = lo;
    *out_hi = hi;
    return RH_OK;
}

static float on_grid(const struct rh_grid *grid, float r)
{
    return r < grid->low ? grid->low : r > grid->high ? grid->high : r;
}

void rh_group_forward(const struct rh_grid *grid, const float *w, const float *v, int64_t n,
                      float *weight_q, uint8_t *codes)
{
    for (int64_t j = 0; j < n; j++) {
        float d = on_grid(grid, rintf(w[j] / grid->scale + (v ? v[j] : 0.0F)));
        if (weight_q)
            weight_q[j] = grid->scale * d;
        if (codes)
            codes[j] = (uint8_t)(d + grid->zero);
    }
}

float rh_group_error(const struct rh_grid *grid, const float *w, int64_t n)
{
    float sum[16] = {0};
    for (int64_t j = 0; j < n; j++) {
        float e = grid->scale * on_grid(grid, rintf(w[j] / grid->scale)) - w[j];
        sum[j % 16] += e * e;
    }
    return rh_grid_lane_sum(sum);
}

float rh_group_search(const struct rh_scheme *scheme, float lo, float hi, const float *w, int64_t n,
                      float (*error)(const struct rh_grid *grid, const float *w, int64_t n))
{
    float best = 1.0F;
    float least = INFINITY;
    for (int i = 0; i < RH_FACTOR_COUNT; i++) {
        float alpha = rh_grid_factor(i);
        float beta = alpha;
        struct rh_grid grid;
        rh_grid_make(scheme, lo, hi, &alpha, &beta, &grid);
        float found = error(&grid, w, n);
        best = found < least ? alpha : best;
        least = found < least ? found : least;
    }
    return best;
}

void rh_group_backward(const struct rh_grid *grid, const float *w, const float *v,
                       const float *grad, int64_t n, float *grad_v, struct rh_group_sums *sums)
{
    float code[16] = {0};
    float weight[16] = {0};
    float value[16] = {0};
    float offset[16] = {0};
    for (int64_t j = 0; j < n; j++) {
        float x = w[j] / grid->scale;
        float r = rintf(x + v[j]);
        bool inside = r >= grid->low && r <= grid->high;
        float dv = (inside ? grad[j] : 0.0F) * grid->scale;
        code[j % 16] += grad[j] * on_grid(grid, r);
        weight[j % 16] -= dv * (x / grid->scale);
        value[j % 16] += grad[j] * grid->scale;
        offset[j % 16] += dv;
        if (grad_v)
            grad_v[j] = dv;
    }
    sums->grad_code = rh_grid_lane_sum(code);
    sums->grad_weight = rh_grid_lane_sum(weight);
    sums->grad_value = rh_grid_lane_sum(value);
    sums->grad_offset = rh_grid_lane_sum(offset);
}

enum rh_rc rh_round_to_nearest(const struct rh_scheme *scheme, const float *w, int64_t out_features,
                               int64_t in_features, bool search, uint8_t *codes,
                               uint16_t *scales, uint8_t *zeros, struct rh_error *err)
{
    RH_ASSERT(rh_scheme_valid(scheme) && (scheme->sym || zeros));
    int64_t group = rh_scheme_group(scheme, in_features);
    int64_t groups = rh_scheme_groups(scheme, in_features);
    for (int64_t o = 0; o < out_features; o++) {
        for (int64_t g = 0; g < groups; g++) {
            int64_t at = o * in_features + g * group;
            int64_t n = in_features - g * group < group ? in_features - g * group : group;
            float lo = 0.0F;
            float hi = 0.0F;
            enum rh_rc rc = rh_group_range(scheme, w + at, n, &lo, &hi, err);
            if (rc != RH_OK)
                return rh_error_prefix(err, "row %lld, group %lld", (long long)o, (long long)g);
            float alpha =
                search ? rh_group_search(scheme, lo, hi, w + at, n, rh_group_error) : 1.0F;
            float beta = alpha;
            struct rh_grid grid;
            rh_grid_make(scheme, lo, hi, &alpha, &beta, &grid);
            rh_group_forward(&grid, w + at, NULL, n, NULL, codes + at);
            scales[o * groups + g] = grid.scale_bits;
            if (!scheme->sym)
                zeros[o * groups + g] = (uint8_t)grid.zero;
        }
    }
    return RH_OK;
}
