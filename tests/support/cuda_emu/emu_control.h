#ifndef RH_CUDA_EMU_CONTROL_H
#define RH_CUDA_EMU_CONTROL_H

#include <stddef.h>
#include <stdint.h>

/* What a test may turn. C and C++. */
#ifdef __cplusplus
extern "C" {
#endif

/* The order of blocks, warps and lanes. 0: ascending; another number seeds a shuffle of each. */
void rh_emu_set_order(uint64_t seed);
/* The size of the pretended GPU; the default is 1 GiB. Frees nothing. */
void rh_emu_set_memory(size_t bytes);
/* What a block may have of shared memory: reported, and enforced from now on; at most, and by default, 227 KiB. */
void rh_emu_set_shared(size_t bytes);
size_t rh_emu_shared_limit(void);
/* Kernels launched since the start. */
uint64_t rh_emu_launches(void);
/* Bytes of device memory that are allocated now. */
size_t rh_emu_allocated(void);
/* The n-th CUDA call that can fail (allocation, copy, synchronisation) from now on, and all after it, answer
 * cudaErrorLaunchFailure; -1 never. */
void rh_emu_lose_device_after(int64_t calls);

#ifdef __cplusplus
}
#endif

#endif
