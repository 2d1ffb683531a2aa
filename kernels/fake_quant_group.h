#ifndef RH_KERNELS_FAKE_QUANT_GROUP_H
#define RH_KERNELS_FAKE_QUANT_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/grid.h"

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
    /* weight_q and codes may be NULL. */
    void (*forward)(const struct rh_grid *grid, const float *w, const float *v, int64_t n,
                    float *weight_q, uint8_t *codes);
};

extern const struct rh_group_kernel rh_group_kernel_plain;
extern const struct rh_group_kernel rh_group_kernel_avx2;
extern const struct rh_group_kernel rh_group_kernel_avx512;

#endif
