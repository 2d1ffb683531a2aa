#include "fake_quant_group.h"

#include <math.h>

#include "quant/group.h"

static void step(const struct rh_grid *grid, const float *w, float *v, const float *grad, int64_t n,
                 float rate, bool asymmetric, uint8_t *codes, struct rh_group_sums *sums)
{
    (void)asymmetric; /* all sums are made here; the fast versions leave two out when symmetric */
    if (codes)
        rh_group_forward(grid, w, v, n, NULL, codes);
    rh_group_backward(grid, w, v, grad, n, NULL, sums);
    for (int64_t j = 0; j < n; j++) {
        float r = rintf(w[j] / grid->scale + v[j]);
        bool inside = r >= grid->low && r <= grid->high;
        v[j] = rh_grid_sign_step(v[j], (inside ? grad[j] : 0.0F) * grid->scale, rate);
    }
}

static void forward(const struct rh_grid *grid, const float *w, const float *v, int64_t n,
                    float *weight_q, uint8_t *codes)
{
    rh_group_forward(grid, w, v, n, weight_q, codes);
}

const struct rh_group_kernel rh_group_kernel_plain = {"plain", false, step, rh_group_error,
                                                        forward};
