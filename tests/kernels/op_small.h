#ifndef RH_TESTS_OP_SMALL_H
#define RH_TESTS_OP_SMALL_H

#include <stddef.h>

extern size_t rh_cuda_shared_cap;
/* There in emulated programs only. */
void rh_emu_set_shared(size_t bytes) __attribute__((weak));

/* From now on a GPU of compute capability 8.6, 8.9 or 12.0: 99 KiB of shared memory a block. The emulation reports and
 * enforces it; on a GPU with more, kernels are chosen as if there were no more. */
static inline void rh_small_gpu(void)
{
    const size_t bytes = (size_t)99 << 10;
    if (rh_emu_set_shared)
        rh_emu_set_shared(bytes);
    else
        rh_cuda_shared_cap = bytes;
}

#endif
