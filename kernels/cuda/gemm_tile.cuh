#ifndef RH_KERNELS_CUDA_GEMM_TILE_CUH
#define RH_KERNELS_CUDA_GEMM_TILE_CUH

#include "cuda/tile.cuh"
#include "cuda/wgmma.cuh"

/*
 * Matrix tiles in shared memory, bf16. A tile of ROWS x COLUMNS is cut into slabs of 64 columns,
 * one after another; a slab holds ROWS rows of 128 bytes, and 16-byte chunk c of row r sits at
 * place c ^ (r & 7). This is the 128-byte swizzle of wgmma, free of bank conflicts for ldmatrix
 * too, so that both read the same tiles. For wgmma, tiles begin at multiples of 1024 bytes.
 */
#define RH_SLAB 64

/* Byte offset of (row, column); column is a multiple of 8. */
template <int ROWS> __device__ __forceinline__ int rh_tile_at(int row, int column)
{
    return column / RH_SLAB * (ROWS * 128) + row * 128 + ((column / 8 ^ row) & 7) * 16;
}

/* The first place at or after `shared` where a tile may begin, at most RH_TILE_ROOM on. */
#define RH_TILE_ALIGN       1024
#define RH_TILE_ROOM(wgmma) ((wgmma) ? RH_TILE_ALIGN : 0)
template <bool WGMMA> __device__ __forceinline__ unsigned char *rh_tile_base(unsigned char *shared)
{
    if (!WGMMA)
        return shared;
#ifdef RH_CUDA_EMU
    return shared + (-(uintptr_t)shared & (RH_TILE_ALIGN - 1));
#else
    return shared + (-rh_shared_address(shared) & (RH_TILE_ALIGN - 1));
#endif
}

/* Which 128 threads of the block; a shuffle tells the compiler that a warp's lanes agree. */
__device__ __forceinline__ int rh_warpgroup()
{
    return __shfl_sync(RH_FULL, (int)threadIdx.x / 128, 0);
}

/*
 * Starts the copy of a tile by all THREADS threads: rows of `from`, ld elements apart. Elements at
 * row >= rows or column >= columns become zero; `columns` and ld are multiples of 8 and `from` is
 * aligned to 16 bytes.
 */
template <int ROWS, int COLUMNS, int THREADS>
__device__ __forceinline__ void rh_tile_load(unsigned char *tile, const __nv_bfloat16 *from,
                                             int64_t ld, int rows, int columns)
{
    constexpr int CHUNKS = COLUMNS / 8;
    constexpr int STEP = THREADS / CHUNKS; /* rows that the block copies at once */
    static_assert(THREADS % CHUNKS == 0 && ROWS % STEP == 0, "whole rounds");
    const int row = (int)threadIdx.x / CHUNKS;
    const int column = (int)threadIdx.x % CHUNKS * 8;
    const bool inside = column < columns;
    const __nv_bfloat16 *source = from + row * ld + column;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++)
        rh_cp_async_16(tile + rh_tile_at<ROWS>(row + i * STEP, column), source + i * STEP * ld,
                       inside && row + i * STEP < rows);
}

/*
 * Where a lane's row of an ldmatrix lies in a 16 x 16 part of a slab. A step of 16 along the
 * chunks is an exclusive or of 32 bytes, 16 rows on are 2048 bytes. rh_lane_a: a fragment of A
 * with k along the columns, or two n8 tiles of B with k along the rows (and _trans); rh_lane_b:
 * the other two.
 */
__device__ __forceinline__ int rh_lane_a()
{
    const int lane = (int)threadIdx.x & 31;
    return rh_tile_at<RH_SLAB>((lane & 7) + (lane >> 3 & 1) * 8, (lane >> 4) * 8);
}

__device__ __forceinline__ int rh_lane_b()
{
    const int lane = (int)threadIdx.x & 31;
    return rh_tile_at<RH_SLAB>((lane & 7) + (lane >> 4) * 8, (lane >> 3 & 1) * 8);
}

/* acc[j] (16 x 8 each) += A[16 rows of this warp][K] * B[8 * TILES rows][K]^T; both tiles have k as
 * columns. */
template <int TILES, int K, int A_ROWS, int B_ROWS>
__device__ __forceinline__ void rh_warp_nt(float (*acc)[4], const unsigned char *a,
                                           const unsigned char *b)
{
    const int lane_a = rh_lane_a();
    const int lane_b = rh_lane_b();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t fa[4];
        rh_ldmatrix_x4(fa, a + k / RH_SLAB * (A_ROWS * 128) + (lane_a ^ k % RH_SLAB * 2));
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            uint32_t fb[4];
            rh_ldmatrix_x4(fb, b + k / RH_SLAB * (B_ROWS * 128) + j * 1024 +
                                   (lane_b ^ k % RH_SLAB * 2));
            rh_mma_bf16(acc[j], fa, fb);
            rh_mma_bf16(acc[j + 1], fa, fb + 2);
        }
    }
}

/* acc[j] += A[16][K] * B[K][8 * TILES]; A as fragments a[K / 16], B a tile with k as rows. */
template <int TILES, int K>
__device__ __forceinline__ void rh_warp_rn(float (*acc)[4], const uint32_t (*a)[4],
                                           const unsigned char *b)
{
    const int lane_b = rh_lane_a();
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            uint32_t fb[4];
            rh_ldmatrix_x4_trans(fb, b + j / 8 * (K * 128) + k * 2048 + (lane_b ^ j % 8 * 16));
            rh_mma_bf16(acc[j], a[k], fb);
            rh_mma_bf16(acc[j + 1], a[k], fb + 2);
        }
    }
}

/*
 * The same two products for a warpgroup of 64 rows, of which a warp owns 16: with wgmma they run
 * on until rh_group_finish. a: a tile of A_ROWS rows whose rows from a_row on belong to the
 * warpgroup. _nt sets acc, _rn adds.
 */
template <bool WGMMA, int N, int K, int A_ROWS>
__device__ __forceinline__ void rh_group_nt(float (*acc)[4], const unsigned char *a, int a_row,
                                            const unsigned char *b)
{
    if constexpr (WGMMA && RH_HAS_WGMMA) {
        static_assert(N == 64, "the shape of rh_wgmma_64x64");
        const uint32_t ma = rh_wgmma_matrix(a + a_row * 128, 0);
        const uint32_t mb = rh_wgmma_matrix(b, 0);
        rh_wgmma_fence();
#pragma unroll
        for (int k = 0; k < K; k += 16)
            rh_wgmma_64x64<0, 0>(acc, ma + (k / RH_SLAB * (A_ROWS * 128) + k % RH_SLAB * 2) / 16,
                                 mb + (k / RH_SLAB * (N * 128) + k % RH_SLAB * 2) / 16, k > 0);
        rh_wgmma_commit();
    } else {
#pragma unroll
        for (int j = 0; j < N / 8; j++)
            acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.0F;
        const int row = a_row + (int)threadIdx.x / RH_WARP % 4 * 16;
        rh_warp_nt<N / 8, K, A_ROWS, N>(acc, a + row * 128, b);
    }
}

template <bool WGMMA, int N, int K>
__device__ __forceinline__ void rh_group_rn(float (*acc)[4], const uint32_t (*a)[4],
                                            const unsigned char *b)
{
    if constexpr (WGMMA && RH_HAS_WGMMA) {
        static_assert(N == 256, "the shape of rh_wgmma_64x256_r");
        const uint32_t mb = rh_wgmma_matrix(b, K * 128);
        rh_wgmma_fence();
#pragma unroll
        for (int k = 0; k < K / 16; k++)
            rh_wgmma_64x256_r(acc, a[k], mb + k * 2048 / 16);
        rh_wgmma_commit();
    } else {
        rh_warp_rn<N / 8, K>(acc, a, b);
    }
}

/* Waits until at most PENDING of the warpgroup's products run; acc is one of the others. */
template <bool WGMMA, int N, int PENDING = 0>
__device__ __forceinline__ void rh_group_finish(float (*acc)[4])
{
    if constexpr (WGMMA && RH_HAS_WGMMA) {
        rh_wgmma_wait<PENDING>();
        rh_wgmma_hold<N / 8>(acc);
    }
}

/* Waits until all copies of this thread have come; after the next barrier all threads may use the
 * tiles. */
template <bool WGMMA> __device__ __forceinline__ void rh_tiles_arrived()
{
    rh_cp_async_wait<0>();
    if constexpr (WGMMA && RH_HAS_WGMMA)
        rh_wgmma_publish();
}

/* Two accumulators side by side (16 x 16) as a fragment of A in bf16. */
__device__ __forceinline__ void rh_fragment(uint32_t out[4], const float left[4],
                                            const float right[4])
{
    out[0] = rh_bf16_pair(left[0], left[1]);
    out[1] = rh_bf16_pair(left[2], left[3]);
    out[2] = rh_bf16_pair(right[0], right[1]);
    out[3] = rh_bf16_pair(right[2], right[3]);
}

/*
 * Four words a lane, word i of tile i, become the four words of tile t = lane % 4: the lanes of a
 * quad hold two columns of every tile before and eight columns of one tile after.
 */
__device__ __forceinline__ uint4 rh_quad_transpose(uint32_t w0, uint32_t w1, uint32_t w2,
                                                   uint32_t w3)
{
    const bool odd = threadIdx.x & 1;
    const bool high = threadIdx.x & 2;
    /* Pairs: after this (w0, w1) are words of tile (t & 1), (w2, w3) of tile 2 + (t & 1). */
    uint32_t x = __shfl_xor_sync(RH_FULL, odd ? w0 : w1, 1);
    uint32_t y = __shfl_xor_sync(RH_FULL, odd ? w2 : w3, 1);
    w0 = odd ? x : w0, w1 = odd ? w1 : x;
    w2 = odd ? y : w2, w3 = odd ? w3 : y;
    x = __shfl_xor_sync(RH_FULL, high ? w0 : w2, 2);
    y = __shfl_xor_sync(RH_FULL, high ? w1 : w3, 2);
    uint4 out;
    out.x = high ? x : w0, out.y = high ? y : w1;
    out.z = high ? w2 : x, out.w = high ? w3 : y;
    return out;
}

/*
 * Stores accumulators of 16 rows x 8 * TILES columns as bf16, times `factor`: row g of this warp
 * at to + g * ld. Rows >= rows and columns >= columns (a multiple of 8) are left out.
 */
template <int TILES>
__device__ __forceinline__ void rh_warp_store(__nv_bfloat16 *to, int64_t ld, int rows, int columns,
                                              const float (*acc)[4], float factor)
{
    const int lane = (int)threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < TILES; j += 4) {
        const int column = (j + lane % 4) * 8;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t w[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[i] =
                    rh_bf16_pair(acc[j + i][2 * half] * factor, acc[j + i][2 * half + 1] * factor);
            const uint4 v = rh_quad_transpose(w[0], w[1], w[2], w[3]);
            const int row = lane / 4 + half * 8;
            if (row < rows && column < columns)
                *reinterpret_cast<uint4 *>(to + row * ld + column) = v;
        }
    }
}

#endif
