#ifndef RH_KERNELS_FAKE_QUANT_GROUP_H
#define RH_KERNELS_FAKE_QUANT_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/grid.h"

/* rh_grid_make() for a grid whose codes are stored as bytes. */
RH_GRID_FN void rh_fake_quant_grid(const struct rh_scheme *scheme, float lo, float hi, float *alpha,
                                   float *beta, struct rh_grid *grid)
{
    rh_grid_make(scheme, lo, hi, alpha, beta, grid);
    /* Near its threshold a scale rounded down can push the zero point of 8 bits to 256, one past
     * the last code and more than a byte holds. */
    float last = (float)((1 << scheme->bits) - 1);
    if (grid->zero > last) {
        grid->zero = last;
        grid->low = -last;
        grid->high = 0.0F;
    }
}

/*
 * The inner loops of the quantizer on one group, once per instruction set. Internal to the kernels.
 * The vector versions take groups whose length is a multiple of 16 only.
 */
struct rh_group_kernel {
    const char *name;
    bool multiple_of_16;
    /* v -= rate * sign(dL/dv), sums of the group; codes (may be NULL) of the old v. */
    void (*step)(const struct rh_grid *grid, const float *w, float *v, const float *grad, int64_t n,
                 float rate, bool asymmetric, uint8_t *codes, struct rh_group_sums *sums);
    /* rh_group_error() */
    float (*error)(const struct rh_grid *grid, const float *w, int64_t n);
    /* weight_q and codes may be NULL. */
    void (*forward)(const struct rh_grid *grid, const float *w, const float *v, int64_t n,
                    float *weight_q, uint8_t *codes);
};

extern const struct rh_group_kernel rh_group_kernel_plain;
extern const struct rh_group_kernel rh_group_kernel_avx2;
extern const struct rh_group_kernel rh_group_kernel_avx512;

#endif
