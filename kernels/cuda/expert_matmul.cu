#include "cuda/gemm_tile.cuh"

#include <cstdlib>

#include "cuda/backend_cuda.h"
#include "cuda/device_traits.h"
#include "cuda/ops_cuda.h"

/*
 * One matrix product per expert, C[m,n] = op(A) op(B), over row offsets that only the device
 * knows: a grid that fills the GPU walks the tiles of all experts, which every block counts for
 * itself at the start. The copies of the next tile run during the last products and the stores of
 * this one. Sizes and strides are multiples of 8.
 */
bool rh_cuda_forbid_wgmma = getenv("RH_CUDA_NO_WGMMA") != nullptr;

static size_t cap_of_environment()
{
    const char *text = getenv("RH_CUDA_SHARED_KIB");
    const size_t kib = text ? strtoull(text, nullptr, 10) : 0;
    return kib > 0 ? kib << 10 : RH_SHARED_SM90;
}

size_t rh_cuda_shared_cap = cap_of_environment();

namespace
{

constexpr int BM = 128, BN = 256, BK = RH_SLAB;
constexpr int THREADS = 256;
constexpr int A_BYTES = BM * BK * 2;
constexpr int STAGE_BYTES = (BM + BN) * BK * 2;

struct grouped {
    int experts;
    int m, n, k; /* RH_TN: m and n are the weight's, k is the expert's rows; else m is */
    const int64_t *offsets;
    const __nv_bfloat16 *a, *b;
    __nv_bfloat16 *c;
    int64_t lda, ldb, ldc;
    int64_t stride; /* of the weights, which are b, or c of RH_TN */
};

/* In shared memory. */
struct plan {
    int *begin; /* [experts + 1]: first row of an expert */
    int *first; /* [experts + 1]: first tile of an expert */
};

template <int FORM> __device__ int tiles_of(const grouped &g, int rows)
{
    const int high = FORM == RH_TN ? (rows > 0 ? g.m : 0) : rows;
    return (high + BM - 1) / BM * ((g.n + BN - 1) / BN);
}

template <int FORM> __device__ void make_plan(const grouped &g, const plan &p)
{
    for (int e = (int)threadIdx.x; e <= g.experts; e += THREADS)
        p.begin[e] = (int)g.offsets[e];
    __syncthreads();
    if (threadIdx.x < RH_WARP) {
        const int lane = (int)threadIdx.x;
        int carry = 0;
        if (lane == 0)
            p.first[0] = 0;
        for (int base = 0; base < g.experts; base += RH_WARP) {
            const int e = base + lane;
            int sum = e < g.experts ? tiles_of<FORM>(g, p.begin[e + 1] - p.begin[e]) : 0;
            for (int step = 1; step < RH_WARP; step *= 2) {
                const int below = __shfl_up_sync(RH_FULL, sum, step);
                sum += lane >= step ? below : 0;
            }
            if (e < g.experts)
                p.first[e + 1] = carry + sum;
            carry += __shfl_sync(RH_FULL, sum, RH_WARP - 1);
        }
    }
    __syncthreads();
}

/* A tile: operands at k = 0, and how far the expert's matrices reach from here. */
struct place {
    const __nv_bfloat16 *a, *b;
    __nv_bfloat16 *c;
    int rows, columns, k;
};

/* expert: of an earlier tile, moved on to that of `tile`. */
template <int FORM>
__device__ __forceinline__ place place_of(const grouped &g, const plan &p, int tile, int *expert)
{
    int e = *expert;
    while (tile >= p.first[e + 1])
        e++;
    *expert = e;
    const int wide = (g.n + BN - 1) / BN;
    const int local = tile - p.first[e];
    const int m0 = local / wide * BM;
    const int n0 = local % wide * BN;
    const int rows = p.begin[e + 1] - p.begin[e];
    const int64_t row = p.begin[e];
    place t;
    if (FORM == RH_TN) {
        t.a = g.a + row * g.lda + m0;
        t.b = g.b + row * g.ldb + n0;
        t.c = g.c + e * g.stride + m0 * g.ldc + n0;
        t.rows = g.m - m0;
        t.k = rows;
    } else {
        t.a = g.a + (row + m0) * g.lda;
        t.b = g.b + e * g.stride + (FORM == RH_NT ? n0 * g.ldb : n0);
        t.c = g.c + (row + m0) * g.ldc + n0;
        t.rows = rows - m0;
        t.k = g.k;
    }
    t.columns = g.n - n0;
    return t;
}

/* Runs ahead of the products, across tiles. */
template <int FORM> struct loader {
    place at = {};
    int tile, expert, tiles;

    __device__ __forceinline__ void start(const grouped &g, const plan &p)
    {
        tile = (int)blockIdx.x;
        expert = 0;
        tiles = p.first[g.experts];
        if (tile < tiles)
            at = place_of<FORM>(g, p, tile, &expert);
    }

    __device__ __forceinline__ void next_a(const grouped &g, unsigned char *stage)
    {
        if (tile < tiles) {
            if (FORM == RH_TN)
                rh_tile_load<BK, BM, THREADS>(stage, at.a, g.lda, at.k, at.rows);
            else
                rh_tile_load<BM, BK, THREADS>(stage, at.a, g.lda, at.rows, at.k);
            at.a += FORM == RH_TN ? BK * g.lda : BK;
        }
    }

    /* After next_a. */
    __device__ __forceinline__ void next_b(const grouped &g, const plan &p, unsigned char *stage)
    {
        if (tile < tiles) {
            if (FORM == RH_NT)
                rh_tile_load<BN, BK, THREADS>(stage + A_BYTES, at.b, g.ldb, at.columns, at.k);
            else
                rh_tile_load<BK, BN, THREADS>(stage + A_BYTES, at.b, g.ldb, at.k, at.columns);
            at.b += FORM == RH_NT ? BK : BK * g.ldb;
            at.k -= BK;
            if (at.k <= 0) {
                tile += (int)gridDim.x;
                if (tile < tiles)
                    at = place_of<FORM>(g, p, tile, &expert);
            }
        }
        rh_cp_async_commit();
    }

    __device__ __forceinline__ void next(const grouped &g, const plan &p, unsigned char *stage)
    {
        next_a(g, stage);
        next_b(g, p, stage);
    }
};

/* ---- mma.sync: a warp owns 64 x 64 ---- */

template <int FORM>
__device__ __forceinline__ void load_a(uint32_t (*f)[4], const unsigned char *stage, int step,
                                       int i)
{
    const unsigned char *a = stage + threadIdx.x / RH_WARP % 2 * (64 * 128);
    if (FORM == RH_TN)
        rh_ldmatrix_x4_trans(f[i], a + step * 2048 + (rh_lane_b() ^ i * 32));
    else
        rh_ldmatrix_x4(f[i], a + i * 2048 + (rh_lane_a() ^ step * 32));
}

template <int FORM>
__device__ __forceinline__ void load_b(uint32_t (*f)[4], const unsigned char *stage, int step)
{
    const unsigned char *b = stage + A_BYTES + threadIdx.x / RH_WARP / 2 * (64 * 128);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (FORM == RH_NT)
            rh_ldmatrix_x4(f[j], b + j * 2048 + (rh_lane_b() ^ step * 32));
        else
            rh_ldmatrix_x4_trans(f[j], b + step * 2048 + (rh_lane_a() ^ j * 32));
    }
}

template <int FORM, int STAGES>
__device__ __forceinline__ void run_mma(const grouped &g, const plan &p, unsigned char *stages)
{
    loader<FORM> load;
    load.start(g, p);
    for (int s = 0; s < STAGES - 1; s++)
        load.next(g, p, stages + s * STAGE_BYTES);
    rh_cp_async_wait<STAGES - 2>();
    __syncthreads();
    uint32_t a[4][4], b[2][4][4];
    load_b<FORM>(b[0], stages, 0);
    for (int i = 0; i < 4; i++)
        load_a<FORM>(a, stages, 0, i);
    int slot = 0, free = STAGES - 1, expert = 0;
    for (int tile = (int)blockIdx.x; tile < p.first[g.experts]; tile += (int)gridDim.x) {
        float acc[4][8][4] = {};
        const int depth = place_of<FORM>(g, p, tile, &expert).k;
        for (int k = 0; k < depth; k += BK) {
#pragma unroll
            for (int step = 0; step < 4; step++) {
                if (step == 3) {
                    /* All are done with this stage but for fragments in registers, and the next has
                     * come. */
                    rh_cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    free = slot;
                    slot = slot + 1 == STAGES ? 0 : slot + 1;
                }
                const unsigned char *ahead = stages + slot * STAGE_BYTES;
                load_b<FORM>(b[(step + 1) & 1], ahead, (step + 1) & 3);
                if (step == 0)
                    load.next_a(g, stages + free * STAGE_BYTES);
                if (step == 1)
                    load.next_b(g, p, stages + free * STAGE_BYTES);
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        rh_mma_bf16(acc[i][j], a[i], b[step & 1][j / 2] + j % 2 * 2);
                    load_a<FORM>(a, ahead, (step + 1) & 3, i);
                }
            }
        }
        const place t = place_of<FORM>(g, p, tile, &expert);
        const int m = (int)threadIdx.x / RH_WARP % 2 * 64;
        const int n = (int)threadIdx.x / RH_WARP / 2 * 64;
#pragma unroll
        for (int i = 0; i < 4; i++)
            rh_warp_store<8>(t.c + (m + i * 16) * g.ldc + n, g.ldc, t.rows - m - i * 16,
                             t.columns - n, acc[i], 1.0F);
    }
}

/* ---- wgmma: a warpgroup owns 64 x 256 ---- */

template <int FORM>
__device__ __forceinline__ void start_stage(float (*acc)[4], const unsigned char *stage,
                                            int warpgroup, bool add)
{
    constexpr int TRANS_A = FORM == RH_TN, TRANS_B = FORM != RH_NT;
    const uint32_t ma = rh_wgmma_matrix(stage + warpgroup * (64 * 128), 64 * 128);
    const uint32_t mb = rh_wgmma_matrix(stage + A_BYTES, 64 * 128);
    rh_wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; step++)
        rh_wgmma_64x256<TRANS_A, TRANS_B>(acc, ma + step * (TRANS_A ? 2048 / 16 : 32 / 16),
                                          mb + step * (TRANS_B ? 2048 / 16 : 32 / 16),
                                          add || step > 0);
    rh_wgmma_commit();
}

/* The products of a stage run while the next is awaited; a stage is filled again two stages later.
 */
template <int FORM, int STAGES>
__device__ __forceinline__ void run_wgmma(const grouped &g, const plan &p, unsigned char *stages)
{
    loader<FORM> load;
    load.start(g, p);
    for (int s = 0; s < STAGES - 2; s++)
        load.next(g, p, stages + s * STAGE_BYTES);
    const int warpgroup = rh_warpgroup();
    int slot = 0, free = STAGES - 2, expert = 0;
    for (int tile = (int)blockIdx.x; tile < p.first[g.experts]; tile += (int)gridDim.x) {
        float acc[32][4];
        const place at = place_of<FORM>(g, p, tile, &expert);
        const int depth = at.k;
        const bool busy = warpgroup * 64 < at.rows;
        for (int k = 0; k < depth; k += BK) {
            rh_cp_async_wait<STAGES - 3>();
            rh_wgmma_publish();
            __syncthreads();
            if (busy)
                start_stage<FORM>(acc, stages + slot * STAGE_BYTES, warpgroup, k > 0);
            load.next(g, p, stages + free * STAGE_BYTES);
            rh_wgmma_wait<1>();
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            free = free + 1 == STAGES ? 0 : free + 1;
        }
        rh_wgmma_wait<0>();
        rh_wgmma_hold<32>(acc);
        const place t = place_of<FORM>(g, p, tile, &expert);
        const int m = (int)threadIdx.x / RH_WARP * 16;
        rh_warp_store<32>(t.c + m * g.ldc, g.ldc, t.rows - m, t.columns, acc, 1.0F);
    }
}

template <int FORM, int STAGES, bool WGMMA>
__global__ void __launch_bounds__(THREADS, 1) grouped_gemm(const grouped g)
{
    RH_SHARED(shared);
    unsigned char *stages = rh_tile_base<WGMMA>(shared);
    plan p;
    p.begin = (int *)(stages + STAGES * STAGE_BYTES);
    p.first = p.begin + g.experts + 1;
    make_plan<FORM>(g, p);
    if constexpr (WGMMA && RH_HAS_WGMMA)
        run_wgmma<FORM, STAGES>(g, p, stages);
    else if constexpr (!(WGMMA && RH_BEFORE_SM90))
        run_mma<FORM, STAGES>(g, p, stages);
}

template <int STAGES, bool WGMMA> size_t shared_bytes(const grouped &g)
{
    return RH_TILE_ROOM(WGMMA) + STAGES * STAGE_BYTES + 2 * sizeof(int) * (g.experts + 1);
}

template <int FORM, int STAGES, bool WGMMA> void launch(struct rh_backend *b, const grouped &g)
{
    const size_t shared = shared_bytes<STAGES, WGMMA>(g);
    rh_cuda_check(b, rh_cuda_allow_shared(grouped_gemm<FORM, STAGES, WGMMA>, shared),
                  "shared memory of expert_matmul");
    RH_LAUNCH((grouped_gemm<FORM, STAGES, WGMMA>), rh_cuda_multiprocessors(), THREADS, shared,
              rh_cuda_stream(b), g);
    rh_cuda_check(b, cudaGetLastError(), "expert_matmul");
}

template <int FORM> void run(struct rh_backend *b, const grouped &g)
{
    /* Four stages are what sm_90 holds, three what sm_80 does, two what the others do. */
    if (rh_cuda_has_wgmma())
        launch<FORM, 4, true>(b, g);
    else if (rh_cuda_holds(shared_bytes<3, false>(g)))
        launch<FORM, 3, false>(b, g);
    else
        launch<FORM, 2, false>(b, g);
}

} // namespace

void rh_cuda_expert_matmul(struct rh_backend *b, const struct rh_expert_matmul *p)
{
    if ((p->n | p->k | p->ldx | p->ldy | p->w_stride) % 8 != 0) {
        rh_cuda_check(b, cudaErrorInvalidValue,
                      "expert_matmul: sizes and strides are multiples of 8");
        return;
    }
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p->x;
    __nv_bfloat16 *y = (__nv_bfloat16 *)p->y, *w = (__nv_bfloat16 *)p->w;
    const int n = (int)p->n, k = (int)p->k;
    grouped g = {(int)p->experts,          0,      n,          k, p->offsets, x, w, y, p->ldx,
                 p->form == RH_NT ? k : n, p->ldy, p->w_stride};
    switch (p->form) {
    case RH_NT:
        run<RH_NT>(b, g);
        break;
    case RH_NN:
        run<RH_NN>(b, g);
        break;
    case RH_TN:
        g = {(int)p->experts, n, k, 0, p->offsets, y, x, w, p->ldy, p->ldx, k, p->w_stride};
        run<RH_TN>(b, g);
        break;
    }
}
