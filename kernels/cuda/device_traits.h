#ifndef RH_KERNELS_CUDA_DEVICE_TRAITS_H
#define RH_KERNELS_CUDA_DEVICE_TRAITS_H

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
    return !rh_cuda_forbid_wgmma;
#else
    constexpr int built[] = {__CUDA_ARCH_LIST__};
    bool found = false;
    for (int arch : built)
        found = found || arch == 900;
    return found && !rh_cuda_forbid_wgmma &&
           rh_cuda_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
#endif
}

#endif
