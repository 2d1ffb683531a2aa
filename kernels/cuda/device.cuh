#ifndef RH_KERNELS_CUDA_DEVICE_CUH
#define RH_KERNELS_CUDA_DEVICE_CUH

#include <cstdint>
#include <cstring>
#include <initializer_list>

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
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high); /* one instruction */
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/*
 * W neighbouring elements as floats, W = 8 or 4 in accesses of 16 or 8 bytes of bf16 (and 16 of float), or 1
 * where sizes or addresses allow no more; rh_aligned() tells. raw: as they stand in memory.
 */
template <int W> struct rh_span;

template <> struct rh_span<8> {
    typedef uint4 raw;
    static __device__ __forceinline__ void unpack(float out[8], const raw &v)
    {
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
    static __device__ __forceinline__ raw pack(const float in[8])
    {
        raw v;
        v.x = rh_bf16_pair(in[0], in[1]);
        v.y = rh_bf16_pair(in[2], in[3]);
        v.z = rh_bf16_pair(in[4], in[5]);
        v.w = rh_bf16_pair(in[6], in[7]);
        return v;
    }
    static __device__ __forceinline__ raw fetch(const __nv_bfloat16 *from)
    {
        return *reinterpret_cast<const raw *>(from);
    }
    static __device__ __forceinline__ void load(float out[8], const __nv_bfloat16 *from)
    {
        unpack(out, fetch(from));
    }
    static __device__ __forceinline__ void store(__nv_bfloat16 *to, const float in[8])
    {
        *reinterpret_cast<raw *>(to) = pack(in);
    }
};

template <> struct rh_span<4> {
    typedef uint2 raw;
    static __device__ __forceinline__ void unpack(float out[4], const raw &v)
    {
        out[0] = rh_bf16_low(v.x), out[1] = rh_bf16_high(v.x);
        out[2] = rh_bf16_low(v.y), out[3] = rh_bf16_high(v.y);
    }
    static __device__ __forceinline__ void load(float out[4], const float *from)
    {
        const float4 a = *reinterpret_cast<const float4 *>(from);
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    }
    static __device__ __forceinline__ raw fetch(const __nv_bfloat16 *from)
    {
        return *reinterpret_cast<const raw *>(from);
    }
    static __device__ __forceinline__ void load(float out[4], const __nv_bfloat16 *from)
    {
        unpack(out, fetch(from));
    }
    static __device__ __forceinline__ void store(__nv_bfloat16 *to, const float in[4])
    {
        raw v;
        v.x = rh_bf16_pair(in[0], in[1]);
        v.y = rh_bf16_pair(in[2], in[3]);
        *reinterpret_cast<raw *>(to) = v;
    }
};

template <> struct rh_span<1> {
    typedef __nv_bfloat16 raw;
    static __device__ __forceinline__ void unpack(float out[1], const raw &v)
    {
        out[0] = __bfloat162float(v);
    }
    static __device__ __forceinline__ void load(float out[1], const float *from)
    {
        out[0] = *from;
    }
    static __device__ __forceinline__ raw fetch(const __nv_bfloat16 *from)
    {
        return *from;
    }
    static __device__ __forceinline__ void load(float out[1], const __nv_bfloat16 *from)
    {
        unpack(out, fetch(from));
    }
    static __device__ __forceinline__ void store(__nv_bfloat16 *to, const float in[1])
    {
        *to = __float2bfloat16_rn(in[0]);
    }
};

/* Whether spans of `width` elements fit: all sizes and strides are multiples of it, all addresses (NULL too)
 * of 16 bytes. */
inline bool rh_aligned(int width, std::initializer_list<int64_t> sizes,
                       std::initializer_list<const void *> addresses)
{
    for (int64_t size : sizes) {
        if (size % width != 0)
            return false;
    }
    for (const void *address : addresses) {
        if ((uintptr_t)address % 16 != 0)
            return false;
    }
    return true;
}

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

/*
 * Work on rows cut into spans, without divisions: a block of RH_ROW_THREADS threads, x along a row, y over
 * rows. rh_row_grid() blocks of them cover all rows; a thread begins at (threadIdx.x, rh_row_index()) and goes
 * on in steps of blockDim.x spans.
 */
#define RH_ROW_THREADS 256

inline dim3 rh_row_block(int64_t spans)
{
    unsigned x = 1;
    while (x < spans && x < RH_ROW_THREADS)
        x *= 2;
    return dim3(x, RH_ROW_THREADS / x);
}

inline unsigned rh_row_grid(int64_t rows, int64_t spans)
{
    const int64_t each = rh_row_block(spans).y;
    return (unsigned)((rows + each - 1) / each);
}

__device__ __forceinline__ int64_t rh_row_index()
{
    return (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
}

/* The same for a warp per row: blocks of RH_ROW_THREADS threads, the row of the calling warp. */
inline unsigned rh_warp_grid(int64_t rows)
{
    return (unsigned)((rows + RH_ROW_THREADS / RH_WARP - 1) / (RH_ROW_THREADS / RH_WARP));
}

__device__ __forceinline__ int64_t rh_warp_index()
{
    return (int64_t)blockIdx.x * (RH_ROW_THREADS / RH_WARP) + threadIdx.x / RH_WARP;
}

__device__ __forceinline__ int rh_lane()
{
    return (int)(threadIdx.x % RH_WARP);
}

/* Blocks of a grid-stride loop over `items`: enough to fill any GPU a few times. */
inline unsigned rh_blocks(int64_t items, int items_per_block)
{
    const int64_t blocks = (items + items_per_block - 1) / items_per_block;
    return (unsigned)(blocks < 1 ? 1 : blocks < 8192 ? blocks : 8192);
}

#endif
