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

/* Set by tests that compare the wgmma kernels with their mma.sync twins. */
extern bool rh_cuda_forbid_wgmma;

/* Whether kernels that ask for wgmma may be launched: on sm_90, and built for it. */
static inline bool rh_cuda_has_wgmma(void)
{
#ifdef __CUDA_ARCH_LIST__
    constexpr int built[] = {__CUDA_ARCH_LIST__};
    bool found = false;
    for (int arch : built)
        found = found || arch == 900;
    if (!found)
        return false;
#endif
    return !rh_cuda_forbid_wgmma && rh_cuda_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
}

#endif
