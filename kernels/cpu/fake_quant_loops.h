/*
 * The loops over a group, written once for vectors of 16 lanes. The including file defines
 * struct rh_lanes, its operations and KERNEL_NAME before. Not a header in its own right.
 *
 * r stands second in the minimum and the maximum: of two zeros these return the second, and the
 * plain loops keep r as well, sign included.
 */

static void step(const struct rh_grid *grid, const float *w, float *v, const float *grad, int64_t n,
                 float rate, bool asymmetric, uint8_t *codes, struct rh_group_sums *sums)
{
    struct rh_lanes scale = lanes_set(grid->scale);
    struct rh_lanes low = lanes_set(grid->low);
    struct rh_lanes high = lanes_set(grid->high);
    struct rh_lanes zero = lanes_set(grid->zero);
    struct rh_lanes rates = lanes_set(rate);
    struct rh_lanes code = lanes_set(0.0F);
    struct rh_lanes weight = lanes_set(0.0F);
    struct rh_lanes value = lanes_set(0.0F);
    struct rh_lanes offset = lanes_set(0.0F);
    for (int64_t j = 0; j < n; j += 16) {
        struct rh_lanes g = lanes_load(grad + j);
        struct rh_lanes old = lanes_load(v + j);
        struct rh_lanes x = lanes_div(lanes_load(w + j), scale);
        struct rh_lanes r = lanes_round(lanes_add(x, old));
        struct rh_lanes d = lanes_min(high, lanes_max(low, r));
        struct rh_lanes dv = lanes_mul(lanes_keep_equal(g, r, d), scale);
        code = lanes_add(code, lanes_mul(g, d));
        weight = lanes_sub(weight, lanes_mul(dv, lanes_div(x, scale)));
        if (asymmetric) {
            value = lanes_add(value, lanes_mul(g, scale));
            offset = lanes_add(offset, dv);
        }
        if (codes)
            lanes_store_codes(codes + j, lanes_add(d, zero));
        lanes_store(v + j, lanes_sign_step(old, dv, rates));
    }
    sums->grad_code = lanes_sum(code);
    sums->grad_weight = lanes_sum(weight);
    sums->grad_value = lanes_sum(value);
    sums->grad_offset = lanes_sum(offset);
}

static float error(const struct rh_grid *grid, const float *w, int64_t n)
{
    struct rh_lanes scale = lanes_set(grid->scale);
    struct rh_lanes low = lanes_set(grid->low);
    struct rh_lanes high = lanes_set(grid->high);
    struct rh_lanes sum = lanes_set(0.0F);
    for (int64_t j = 0; j < n; j += 16) {
        struct rh_lanes x = lanes_load(w + j);
        struct rh_lanes r = lanes_round(lanes_div(x, scale));
        struct rh_lanes d = lanes_min(high, lanes_max(low, r));
        struct rh_lanes e = lanes_sub(lanes_mul(scale, d), x);
        sum = lanes_add(sum, lanes_mul(e, e));
    }
    return lanes_sum(sum);
}

static void forward(const struct rh_grid *grid, const float *w, const float *v, int64_t n,
                    float *weight_q, uint8_t *codes)
{
    struct rh_lanes scale = lanes_set(grid->scale);
    struct rh_lanes low = lanes_set(grid->low);
    struct rh_lanes high = lanes_set(grid->high);
    struct rh_lanes zero = lanes_set(grid->zero);
    for (int64_t j = 0; j < n; j += 16) {
        struct rh_lanes x = lanes_div(lanes_load(w + j), scale);
        struct rh_lanes r = lanes_round(lanes_add(x, lanes_load(v + j)));
        struct rh_lanes d = lanes_min(high, lanes_max(low, r));
        if (weight_q)
            lanes_store(weight_q + j, lanes_mul(scale, d));
        if (codes)
            lanes_store_codes(codes + j, lanes_add(d, zero));
    }
}

const struct rh_group_kernel KERNEL_SYMBOL = {KERNEL_NAME, true, step, error, forward};
