#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/*
 * Forward in three launches: every block chooses the experts of ROWS rows and ranks its picks within the
 * block; a warp per expert turns the blocks' counts into prefixes; then every pick learns its slot. This is a
 * stable sort by counting: only whole numbers, the same on every run.
 */
namespace
{

#define ROWS     64
#define MOST_K   32   /* picks of a row: one lane each */
#define MOST     1024 /* experts */

/* Sorts like the value, ties by the lower expert. Adding 0 makes -0 equal to 0. */
__device__ __forceinline__ unsigned long long sort_key(float value, int expert)
{
    const uint32_t bits = __float_as_uint(value + 0.0F);
    const uint32_t ordered = bits & 0x80000000U ? ~bits : bits | 0x80000000U;
    return (unsigned long long)ordered << 32 | (uint32_t)~expert;
}

__device__ __forceinline__ unsigned long long warp_max(unsigned long long key)
{
#pragma unroll
    for (int step = RH_WARP / 2; step > 0; step /= 2) {
        const unsigned long long other = __shfl_xor_sync(RH_FULL, key, step);
        key = other > key ? other : key;
    }
    return key;
}

/* The expert of the lane's place in the order of the row, for lanes below top_k. N values a lane. */
template <int N>
__device__ int pick(const __nv_bfloat16 *logits, int experts, int top_k)
{
    unsigned long long keys[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int e = i * RH_WARP + rh_lane();
        keys[i] = e < experts ? sort_key(__bfloat162float(logits[e]), e) : 0;
    }
    int mine = 0;
    for (int j = 0; j < top_k; j++) {
        unsigned long long best = 0;
#pragma unroll
        for (int i = 0; i < N; i++)
            best = keys[i] > best ? keys[i] : best;
        best = warp_max(best);
        if (rh_lane() == j)
            mine = (int)~(uint32_t)best;
#pragma unroll
        for (int i = 0; i < N; i++)
            keys[i] = keys[i] == best ? 0 : keys[i];
    }
    return mine;
}

/* One warp ranks the block's picks in order: slot becomes the number of earlier picks of the same expert. */
__device__ void rank_picks(int count, const int32_t *expert, int64_t *slot, int *seen)
{
    for (int begin = 0; begin < count; begin += RH_WARP) {
        const int i = begin + rh_lane();
        const int e = i < count ? expert[i] : -1;
        const unsigned same = __match_any_sync(RH_FULL, e);
        const unsigned earlier = same & ((1U << rh_lane()) - 1U);
        const int base = e >= 0 ? seen[e] : 0;
        __syncwarp();
        if (e >= 0) {
            slot[i] = base + __popc(earlier);
            if (same >> rh_lane() == 1U) /* the last of its kind */
                seen[e] = base + __popc(same);
        }
        __syncwarp();
    }
}

/* counts[block][expert] */
template <int N>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    choose(int64_t rows, int experts, int top_k, const __nv_bfloat16 *logits, int64_t ldl, float *p,
           int32_t *expert, int64_t *slot, float *shared, int *counts)
{
    RH_SHARED(memory);
    int *seen = (int *)memory;
    int32_t *chosen = (int32_t *)(seen + experts);
    const int64_t first = (int64_t)blockIdx.x * ROWS;
    const int here = (int)(rows - first < ROWS ? rows - first : ROWS);
    for (int e = (int)threadIdx.x; e < experts; e += RH_ROW_THREADS)
        seen[e] = 0;
    for (int i = (int)threadIdx.x / RH_WARP; i < here; i += RH_ROW_THREADS / RH_WARP) {
        const int64_t row = first + i;
        const __nv_bfloat16 *from = logits + row * ldl;
        const int mine = pick<N>(from, experts, top_k);
        const int best = __shfl_sync(RH_FULL, mine, 0);
        const float weight =
            rh_lane() < top_k ? expf(__bfloat162float(from[mine]) - __bfloat162float(from[best])) : 0.0F;
        const float total = rh_warp_sum(weight);
        if (rh_lane() < top_k) {
            p[row * top_k + rh_lane()] = weight / total;
            expert[row * top_k + rh_lane()] = mine;
            chosen[i * top_k + rh_lane()] = mine;
        }
        if (rh_lane() == 0)
            shared[row] = 1.0F / (1.0F + expf(-__bfloat162float(from[experts])));
    }
    __syncthreads();
    if (threadIdx.x < RH_WARP)
        rank_picks(here * top_k, chosen, slot + first * top_k, seen);
    __syncthreads();
    for (int e = (int)threadIdx.x; e < experts; e += RH_ROW_THREADS)
        counts[(int64_t)blockIdx.x * experts + e] = seen[e];
}

/* The sum over the lanes up to and with this one. */
__device__ __forceinline__ int64_t warp_prefix(int64_t value)
{
#pragma unroll
    for (int step = 1; step < RH_WARP; step *= 2) {
        const int64_t other = __shfl_up_sync(RH_FULL, value, step);
        value += rh_lane() >= step ? other : 0;
    }
    return value;
}

/* A block of one warp per expert: counts become what earlier blocks have of the expert; totals of it all. */
__global__ void __launch_bounds__(RH_WARP)
    add_counts(int blocks, int experts, int *counts, int64_t *totals)
{
    const int e = (int)blockIdx.x;
    int64_t before = 0;
    for (int begin = 0; begin < blocks; begin += RH_WARP) {
        const int i = begin + rh_lane();
        const int own = i < blocks ? counts[(int64_t)i * experts + e] : 0;
        const int64_t upto = warp_prefix(own);
        if (i < blocks)
            counts[(int64_t)i * experts + e] = (int)(before + upto - own);
        before += __shfl_sync(RH_FULL, upto, RH_WARP - 1);
    }
    if (rh_lane() == 0)
        totals[e] = before;
}

/* The first warp of every block sums the totals for itself; the first block also writes them down. */
__global__ void __launch_bounds__(RH_ROW_THREADS)
    place(int64_t rows, int experts, int top_k, const int32_t *expert, const int *counts,
          const int64_t *totals, int64_t *slot, int64_t *offsets)
{
    RH_SHARED(memory);
    int64_t *begins = (int64_t *)memory;
    if (threadIdx.x < RH_WARP) {
        int64_t before = 0;
        for (int begin = 0; begin < experts; begin += RH_WARP) {
            const int e = begin + rh_lane();
            const int64_t own = e < experts ? totals[e] : 0;
            const int64_t upto = warp_prefix(own);
            if (e < experts)
                begins[e] = before + upto - own;
            before += __shfl_sync(RH_FULL, upto, RH_WARP - 1);
        }
        if (blockIdx.x == 0 && rh_lane() == 0)
            offsets[experts] = before;
    }
    __syncthreads();
    if (blockIdx.x == 0) {
        for (int e = (int)threadIdx.x; e < experts; e += RH_ROW_THREADS)
            offsets[e] = begins[e];
    }
    const int64_t first = (int64_t)blockIdx.x * ROWS * top_k;
    const int64_t left = rows * top_k - first;
    const int here = (int)(left < ROWS * top_k ? left : ROWS * top_k);
    for (int i = (int)threadIdx.x; i < here; i += RH_ROW_THREADS) {
        const int e = expert[first + i];
        slot[first + i] += begins[e] + counts[(int64_t)blockIdx.x * experts + e];
    }
}

/* A warp per row, which holds the row's picks in its lanes. */
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(int64_t rows, int experts, int top_k, const float *p, const int32_t *expert,
             const float *shared, const float *dp, const float *dshared, __nv_bfloat16 *dlogits,
             int64_t ldl)
{
    const int64_t row = rh_warp_index();
    if (row >= rows)
        return;
    const bool picked = rh_lane() < top_k;
    const float weight = picked ? p[row * top_k + rh_lane()] : 0.0F;
    const float d = picked ? dp[row * top_k + rh_lane()] : 0.0F;
    const int mine = picked ? expert[row * top_k + rh_lane()] : -1;
    const float slope = weight * (d - rh_warp_sum(weight * d));
    for (int begin = 0; begin < experts; begin += RH_WARP) {
        const int e = begin + rh_lane();
        float value = 0.0F;
        for (int j = 0; j < top_k; j++) {
            const float other = __shfl_sync(RH_FULL, slope, j);
            value = __shfl_sync(RH_FULL, mine, j) == e ? other : value;
        }
        if (e < experts)
            dlogits[row * ldl + e] = __float2bfloat16_rn(value);
    }
    if (rh_lane() == 0) {
        const float s = shared[row];
        dlogits[row * ldl + experts] = __float2bfloat16_rn(s * (1.0F - s) * dshared[row]);
    }
}

template <int N> void run(struct rh_backend *b, const struct rh_route *p)
{
    const int experts = (int)p->experts, top_k = (int)p->top_k;
    const unsigned blocks = (unsigned)((p->rows + ROWS - 1) / ROWS);
    int64_t *totals = (int64_t *)rh_cuda_scratch(
        b, (size_t)experts * (sizeof *totals + (size_t)blocks * sizeof(int)));
    if (!totals)
        return;
    int *counts = (int *)(totals + experts);
    const size_t shared = ((size_t)experts + ROWS * (size_t)top_k) * sizeof(int);
    RH_LAUNCH((choose<N>), blocks, RH_ROW_THREADS, shared, rh_cuda_stream(b), p->rows, experts, top_k,
              (const __nv_bfloat16 *)p->logits, p->ldl, p->p, p->expert, p->slot, p->shared, counts);
    RH_LAUNCH(add_counts, (unsigned)experts, RH_WARP, 0, rh_cuda_stream(b), (int)blocks, experts, counts,
              totals);
    RH_LAUNCH(place, blocks, RH_ROW_THREADS, (size_t)experts * sizeof(int64_t), rh_cuda_stream(b),
              p->rows, experts, top_k, p->expert, counts, totals, p->slot, p->offsets);
}

} // namespace

void rh_cuda_route(struct rh_backend *b, const struct rh_route *p)
{
    if (p->experts > MOST || p->top_k > MOST_K)
        return rh_cuda_check(b, cudaErrorInvalidValue,
                             "route: more than 1024 experts, or more than 32 of them a token");
    if (p->experts <= 8 * RH_WARP)
        run<8>(b, p);
    else
        run<MOST / RH_WARP>(b, p);
    rh_cuda_check(b, cudaGetLastError(), "route");
}

void rh_cuda_route_backward(struct rh_backend *b, const struct rh_route *p)
{
    RH_LAUNCH(backward, rh_warp_grid(p->rows), RH_ROW_THREADS, 0, rh_cuda_stream(b), p->rows,
              (int)p->experts, (int)p->top_k, p->p, p->expert, p->shared, p->dp, p->dshared,
              (__nv_bfloat16 *)p->dlogits, p->ldl);
    rh_cuda_check(b, cudaGetLastError(), "route_backward");
}
