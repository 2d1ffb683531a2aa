#ifndef RH_TESTS_KERNELS_ISA_H
#define RH_TESTS_KERNELS_ISA_H

#include "loops.h"

#define ISA_MAX 3

/* The loops that this build and this processor have, the plain ones first, wider ones later. */
static inline int isa_usable(const struct rh_loops *out[ISA_MAX])
{
    int count = 0;
    out[count++] = &rh_loops_plain;
#ifdef RH_X86_KERNELS
    if (rh_loops_best() != &rh_loops_plain)
        out[count++] = &rh_loops_avx2;
    if (rh_loops_best() == &rh_loops_avx512)
        out[count++] = &rh_loops_avx512;
#endif
    return count;
}

#endif
