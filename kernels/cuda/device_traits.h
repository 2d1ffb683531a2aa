#ifndef RH_KERNELS_CUDA_DEVICE_TRAITS_H
#define RH_KERNELS_CUDA_DEVICE_TRAITS_H

#include <stddef.h>

#include <cuda_runtime.h>

/* The current device. Attributes are kept by the runtime; asking costs a fraction of a microsecond.
 */
static inline int rh_cuda_attribute(cudaDeviceAttr attribute)
{
    int device = 0, value = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess)
        return 0;
    return value;
}

static inline int rh_cuda_multiprocessors(void)
{
    int count = rh_cuda_attribute(cudaDevAttrMultiProcessorCount);
    return count > 0 ? count : 1;
}

/*
 * Shared memory of a block: 227 KiB on 9.0 and 10.0, 163 on 8.0, 99 on 8.6, 8.9 and 12.0. A kernel whose best shape
 * takes more than the last has another that does not.
 */
#define RH_SHARED_SM90  ((size_t)227 << 10)
#define RH_SHARED_SM80  ((size_t)163 << 10)
#define RH_SHARED_LEAST ((size_t)99 << 10)

/* Bytes; kernels take no more, whatever the device has. For tests, and by RH_CUDA_SHARED_KIB in the environment. */
extern size_t rh_cuda_shared_cap;

static inline bool rh_cuda_holds(size_t shared_bytes)
{
    return shared_bytes <= rh_cuda_shared_cap &&
           shared_bytes <= (size_t)rh_cuda_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

/* The shapes of sm_80 and mma.sync everywhere: for tests, and by RH_CUDA_NO_WGMMA in the
 * environment for comparisons. */
extern bool rh_cuda_forbid_wgmma;

/*
 * Whether kernels that ask for wgmma may be launched: on sm_90, and built for it. The emulation
 * takes them too, for their tile shapes.
 */
static inline bool rh_cuda_has_wgmma(void)
{
#ifdef RH_CUDA_EMU
    return !rh_cuda_forbid_wgmma && rh_cuda_holds(RH_SHARED_SM90);
#else
    constexpr int built[] = {__CUDA_ARCH_LIST__};
    bool found = false;
    for (int arch : built)
        found = found || arch == 900;
    return found && !rh_cuda_forbid_wgmma && rh_cuda_holds(RH_SHARED_SM90) &&
           rh_cuda_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
#endif
}

#endif
