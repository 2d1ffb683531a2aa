#ifndef RH_KERNELS_CUDA_DELTA_CHUNK_CUH
#define RH_KERNELS_CUDA_DELTA_CHUNK_CUH

#include "cuda/device_traits.h"
#include "cuda/ops_cuda.h"
#include "cuda/tile.cuh"

/*
 * What the kernels of the gated delta rule share. Names of matrices as in docs/numerics.md; i, j
 * are rows of a chunk, D is the head size, rounded up to one that is compiled.
 *
 * Tiles, in shared memory and in the op's own device memory, are made of blocks of 8 x 8 bf16, each
 * 128 bytes in a row: a fragment is stored by a warp in whole lines, ldmatrix reads a block without
 * bank conflicts, transposed or not, and a tile is copied as it lies.
 */
#define RH_DELTA_CHUNK 64
#define RH_BLOCK_BYTES 128
#define RH_CHUNK_BLOCKS (RH_DELTA_CHUNK / 8)

/* Bytes of a tile of `rows` x `columns`. */
#define RH_TILE_BYTES(rows, columns) ((size_t)(rows) * (columns)*2)

/* The op's tiles of one (sequence, value head, chunk) lie at its index in each of these. */
struct rh_delta_memory {
    int64_t chunks; /* of a sequence */
    unsigned char *u, *w; /* [64, D] */
    unsigned char *p;     /* [64, 64] */
    float *gate;          /* [2, 64]: e^c, e^(c_last - c) */
    /* Kept for backward; NULL otherwise. */
    unsigned char *lambda; /* [64, 64] (I + L)^-1 */
    unsigned char *r;      /* [D, 64] R^T */
    unsigned char *s;      /* [D, D] entering state, S^T: value x key */
};

/* Sizes are compiled for D = 32, 64 and 128; 0 when the op's heads are larger. */
int rh_delta_padded(const struct rh_delta_rule *p);
#define RH_DELTA_REFUSED "delta rule of heads above 128, or of sizes that are no multiples of 8"
/* Carves `memory` (NULL: only counts) and returns the bytes. */
size_t rh_delta_carve(const struct rh_delta_rule *p, bool keep, void *memory,
                      struct rh_delta_memory *out);

/* ---- fragments of blocked tiles; columns: blocks in a row of the tile ---- */

/* Where this lane's row of block (row + (matrix & 1), column + matrix / 2) is. */
__device__ __forceinline__ const unsigned char *rh_block_down(const unsigned char *tile,
                                                              int columns, int row, int column)
{
    const int lane = (int)(threadIdx.x % RH_WARP);
    const int matrix = lane / 8;
    return tile + ((row + (matrix & 1)) * columns + column + matrix / 2) * RH_BLOCK_BYTES +
           lane % 8 * 16;
}

/* The same for block (row + matrix / 2, column + (matrix & 1)). */
__device__ __forceinline__ const unsigned char *rh_block_across(const unsigned char *tile,
                                                                int columns, int row, int column)
{
    const int lane = (int)(threadIdx.x % RH_WARP);
    const int matrix = lane / 8;
    return tile + ((row + matrix / 2) * columns + column + (matrix & 1)) * RH_BLOCK_BYTES +
           lane % 8 * 16;
}

/* A (16 x 16) from a tile [m, k], or [k, m] when Transposed; m, k: blocks. */
template <bool Transposed>
__device__ __forceinline__ void rh_load_a(uint32_t a[4], const unsigned char *tile, int columns,
                                          int m, int k)
{
    if (Transposed)
        rh_ldmatrix_x4_trans(a, rh_block_across(tile, columns, k, m));
    else
        rh_ldmatrix_x4(a, rh_block_down(tile, columns, m, k));
}

/* d[t] += a B for N neighbouring 16 x 8 tiles from block column n of B on; B (k x n) from a tile
 * [n, k], or [k, n] when Transposed. */
template <int N, bool Transposed>
__device__ __forceinline__ void rh_multiply(float (*d)[4], const uint32_t a[4],
                                            const unsigned char *tile, int columns, int k, int n)
{
#pragma unroll
    for (int t = 0; t < N; t += 2) {
        uint32_t b[4];
        if (Transposed)
            rh_ldmatrix_x4_trans(b, rh_block_down(tile, columns, k, n + t));
        else
            rh_ldmatrix_x4(b, rh_block_across(tile, columns, n + t, k));
        rh_mma_bf16(d[t], a, b);
        rh_mma_bf16(d[t + 1], a, b + 2);
    }
}

/* The A fragment of two neighbouring 16 x 8 accumulators. */
__device__ __forceinline__ void rh_pack_a(uint32_t a[4], const float left[4], const float right[4])
{
    a[0] = rh_bf16_pair(left[0], left[1]);
    a[1] = rh_bf16_pair(left[2], left[3]);
    a[2] = rh_bf16_pair(right[0], right[1]);
    a[3] = rh_bf16_pair(right[2], right[3]);
}

__device__ __forceinline__ void rh_negate(uint32_t a[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] ^= 0x80008000U;
}

/* The two blocks of a 16 x 8 accumulator, one word a lane. */
__device__ __forceinline__ void rh_store_word(unsigned char *tile, int columns, int row, int column,
                                              uint32_t word)
{
    *(uint32_t *)(tile + (row * columns + column) * RH_BLOCK_BYTES + threadIdx.x % RH_WARP * 4) =
        word;
}

__device__ __forceinline__ uint32_t rh_load_word(const unsigned char *tile, int columns, int row,
                                                 int column)
{
    return *(const uint32_t *)(tile + (row * columns + column) * RH_BLOCK_BYTES +
                               threadIdx.x % RH_WARP * 4);
}

/* Stores A fragment words as the 16 x 16 part at block (row, column). */
__device__ __forceinline__ void rh_store_a(unsigned char *tile, int columns, int row, int column,
                                           const uint32_t a[4])
{
    rh_store_word(tile, columns, row, column, a[0]);
    rh_store_word(tile, columns, row + 1, column, a[1]);
    rh_store_word(tile, columns, row, column + 1, a[2]);
    rh_store_word(tile, columns, row + 1, column + 1, a[3]);
}

template <int N> __device__ __forceinline__ void rh_clear(float (*d)[4])
{
#pragma unroll
    for (int t = 0; t < N; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            d[t][i] = 0.0F;
}

/* d[n][..] *= factor[column] for 64 columns. */
__device__ __forceinline__ void rh_scale_columns(float (*d)[4], const float *factor)
{
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const float2 f = *(const float2 *)(factor + 8 * n + threadIdx.x % 4 * 2);
        d[n][0] *= f.x;
        d[n][1] *= f.y;
        d[n][2] *= f.x;
        d[n][3] *= f.y;
    }
}

/* ---- copies into shared memory, asynchronous and not committed ---- */

/* A blocked tile as it lies. */
__device__ __forceinline__ void rh_copy_tile(unsigned char *shared, const unsigned char *from,
                                             int bytes)
{
    for (int at = (int)threadIdx.x * 16; at < bytes; at += (int)blockDim.x * 16)
        rh_cp_async_16(shared + at, from + at, true);
}

/* 64 rows of `size` elements, of which `rows` exist, into a tile [64, D]; the rest is zero. Two
 * lanes take one sector of 32 bytes. */
template <int D>
__device__ __forceinline__ void rh_copy_rows(unsigned char *shared, const __nv_bfloat16 *from,
                                             int64_t ld, int rows, int size)
{
    for (int i = (int)threadIdx.x; i < RH_DELTA_CHUNK * D / 8; i += (int)blockDim.x) {
        const int row = i / 2 % RH_DELTA_CHUNK;
        const int column = i / (2 * RH_DELTA_CHUNK) * 2 + i % 2;
        const bool valid = row < rows && column * 8 < size;
        rh_cp_async_16(shared + (row / 8 * (D / 8) + column) * RH_BLOCK_BYTES + row % 8 * 16,
                       valid ? from + row * ld + column * 8 : from, valid);
    }
}

/* ---- gates ---- */

/* The cumulated gate of a chunk, exact to the rounding of fp64: high + low. */
struct rh_delta_gates {
    float high[RH_DELTA_CHUNK], low[RH_DELTA_CHUNK];
    float beta[RH_DELTA_CHUNK];
    float e[RH_DELTA_CHUNK]; /* e^c */
    float f[RH_DELTA_CHUNK]; /* e^(c_last - c) */
};

/* e^(c_i - c_j), for i >= j */
__device__ __forceinline__ float rh_decay(const struct rh_delta_gates &c, int i, int j)
{
    return __expf((c.high[i] - c.high[j]) + (c.low[i] - c.low[j]));
}

/* By one whole warp. g, beta: of the chunk's first row; rows of ld; a row that does not exist
 * decays nothing and learns nothing. */
__device__ __forceinline__ void rh_make_gates(struct rh_delta_gates *out, const float *g,
                                              const float *beta, int64_t ld, int rows)
{
    const int lane = (int)(threadIdx.x % RH_WARP);
    const int i = 2 * lane;
    const double first = i < rows ? (double)g[i * ld] : 0.0;
    const double second = i + 1 < rows ? (double)g[(i + 1) * ld] : 0.0;
    double sum = first + second;
#pragma unroll
    for (int step = 1; step < RH_WARP; step *= 2) {
        const double other = __shfl_up_sync(RH_FULL, sum, step);
        sum = lane >= step ? sum + other : sum;
    }
    const double last = __shfl_sync(RH_FULL, sum, RH_WARP - 1);
    /* Before this lane's rows; subtracting them again would round. */
    double before = __shfl_up_sync(RH_FULL, sum, 1);
    before = lane > 0 ? before : 0.0;
    const double c[2] = {before + first, sum};
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float high = (float)c[k];
        out->high[i + k] = high;
        out->low[i + k] = (float)(c[k] - (double)high);
        out->beta[i + k] = i + k < rows ? beta[(i + k) * ld] : 0.0F;
        out->e[i + k] = __expf(high);
        out->f[i + k] = __expf((float)(last - c[k]));
    }
}

/* ---- places ---- */

/* One chunk of one value head. */
struct rh_delta_place {
    int64_t first; /* row of the whole batch */
    int rows;      /* that exist */
    int64_t tile;  /* index into the op's own memory */
};

__device__ __forceinline__ struct rh_delta_place
rh_delta_at(const struct rh_delta_rule &p, int64_t chunks, int64_t sequence, int64_t value_head,
            int64_t chunk)
{
    struct rh_delta_place at;
    const int64_t left = p.seq - chunk * RH_DELTA_CHUNK;
    at.first = sequence * p.seq + chunk * RH_DELTA_CHUNK;
    at.rows = (int)(left < RH_DELTA_CHUNK ? left : RH_DELTA_CHUNK);
    at.tile = (sequence * p.value_heads + value_head) * chunks + chunk;
    return at;
}

#endif
