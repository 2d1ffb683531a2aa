#ifndef RH_KERNELS_CUDA_DEVICE_CUH
#define RH_KERNELS_CUDA_DEVICE_CUH

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/*
 * The dialect in which the kernels are written, so that nvcc compiles them for a GPU and g++ for the
 * emulation of tests/support/cuda_emu, whose headers take the place of CUDA's:
 *   - launches only through RH_LAUNCH, dynamic shared memory only through RH_SHARED, static shared
 *     arrays only through RH_STATIC_SHARED;
 *   - blocks are whole warps; warp collectives name all lanes (RH_FULL) and are reached by all;
 *   - inline PTX only in tile.cuh;
 *   - kernels are in an unnamed namespace: templates of one name would be merged by the linker.
 */

/* kernel: a name, or a template-id in parentheses. */
#ifdef RH_CUDA_EMU
#define RH_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    rh_emu_launch(#kernel, grid, block, shared_bytes, stream, kernel, __VA_ARGS__)
#define RH_SHARED(name) unsigned char *const name = rh_emu_shared()
#define RH_STATIC_SHARED(type, ...) static type __VA_ARGS__
#else
#define RH_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    (kernel)<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define RH_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define RH_STATIC_SHARED(type, ...) __shared__ type __VA_ARGS__
#endif

#define RH_FULL 0xffffffffU
#define RH_WARP 32

/* Needed once for a kernel that takes more than 48 KiB of dynamic shared memory. */
template <class Kernel> inline cudaError_t rh_cuda_allow_shared(Kernel *kernel, size_t bytes)
{
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes);
}

/* The sum over the lanes of a warp, in every lane; the same tree every time. */
__device__ __forceinline__ float rh_warp_sum(float value)
{
#pragma unroll
    for (int step = RH_WARP / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(RH_FULL, value, step);
    return value;
}


__device__ __forceinline__ float rh_bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

__device__ __forceinline__ float rh_bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000U);
}

__device__ __forceinline__ uint32_t rh_bf16_pair(float low, float high)
{
    return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(low)) |
           (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(high)) << 16;
}

/* W neighbouring elements as floats: 8 in 16-byte accesses (aligned to 16 bytes), or 1 for sizes that allow
 * no more. */
template <int W> struct rh_span;

template <> struct rh_span<8> {
    static __device__ __forceinline__ void load(float out[8], const __nv_bfloat16 *from)
    {
        const uint4 v = *reinterpret_cast<const uint4 *>(from);
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out[2 * i] = rh_bf16_low(words[i]);
            out[2 * i + 1] = rh_bf16_high(words[i]);
        }
    }
    static __device__ __forceinline__ void load(float out[8], const float *from)
    {
        const float4 a = reinterpret_cast<const float4 *>(from)[0];
        const float4 b = reinterpret_cast<const float4 *>(from)[1];
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    }
    static __device__ __forceinline__ void store(__nv_bfloat16 *to, const float in[8])
    {
        uint4 v;
        v.x = rh_bf16_pair(in[0], in[1]);
        v.y = rh_bf16_pair(in[2], in[3]);
        v.z = rh_bf16_pair(in[4], in[5]);
        v.w = rh_bf16_pair(in[6], in[7]);
        *reinterpret_cast<uint4 *>(to) = v;
    }
};

template <> struct rh_span<1> {
    static __device__ __forceinline__ void load(float out[1], const __nv_bfloat16 *from)
    {
        out[0] = __bfloat162float(*from);
    }
    static __device__ __forceinline__ void load(float out[1], const float *from)
    {
        out[0] = *from;
    }
    static __device__ __forceinline__ void store(__nv_bfloat16 *to, const float in[1])
    {
        *to = __float2bfloat16_rn(in[0]);
    }
};

/* 1 / (1 + exp(-x)); right for any finite x. */
__device__ __forceinline__ float rh_sigmoid(float x)
{
    return 1.0F / (1.0F + __expf(-x));
}

/* What a value is after a trip through a bf16 tensor. */
__device__ __forceinline__ float rh_round_bf16(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* Blocks for a grid-stride loop over `items`: enough to fill any GPU a few times. */
inline unsigned rh_blocks(int64_t items, int items_per_block)
{
    const int64_t blocks = (items + items_per_block - 1) / items_per_block;
    return (unsigned)(blocks < 1 ? 1 : blocks < 8192 ? blocks : 8192);
}

#endif
