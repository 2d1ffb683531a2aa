#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/* A warp takes rows of items in turn. Bytes moved per weight: 6 for the first batch, 10 for others. */
#define THREADS 256
#define WARPS   (THREADS / RH_WARP)

namespace
{

/* What becomes of an item's sum. */
enum part { LEAVE, SET, ADD };

struct params {
    const rh_quant_item *items;
    int64_t count, rows;
    const __nv_bfloat16 *grad;
    float *sums;
    const int64_t *offsets, *tokens;
    bool first;
};

__device__ part part_of(const params &p, int32_t expert)
{
    if (expert < 0)
        return p.first ? SET : ADD;
    if (p.offsets[expert + 1] == p.offsets[expert])
        return LEAVE;
    return p.tokens[expert] == 0 ? SET : ADD;
}

__device__ int64_t item_of_row(const params &p, int64_t row)
{
    int64_t low = 0, high = p.count - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (p.items[middle].row_at <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

__device__ __forceinline__ void store(float *to, const float (&in)[8])
{
    reinterpret_cast<float4 *>(to)[0] = make_float4(in[0], in[1], in[2], in[3]);
    reinterpret_cast<float4 *>(to)[1] = make_float4(in[4], in[5], in[6], in[7]);
}

__device__ __forceinline__ void store(float *to, const float (&in)[1])
{
    *to = in[0];
}

template <int W> __device__ void sum_row(const params &p, int64_t at, int64_t n, bool add)
{
    for (int64_t j = (int64_t)(threadIdx.x % RH_WARP) * W; j < n; j += RH_WARP * W) {
        float grad[W], sum[W];
        rh_span<W>::load(grad, p.grad + at + j);
        if (add) {
            rh_span<W>::load(sum, p.sums + at + j);
#pragma unroll
            for (int i = 0; i < W; i++)
                grad[i] += sum[i];
        }
        store(p.sums + at + j, grad);
    }
}

/* Items begin at multiples of 16, but the rows of one do so only when their length is such. */
__global__ void __launch_bounds__(THREADS) sum_rows(params p)
{
    const int64_t stride = (int64_t)gridDim.x * WARPS;
    for (int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / RH_WARP; row < p.rows;
         row += stride) {
        const rh_quant_item &item = p.items[item_of_row(p, row)];
        const part what = part_of(p, item.expert);
        const int64_t n = item.in_features;
        const int64_t at = item.at + (row - item.row_at) * n;
        if (what != LEAVE && n % 8 == 0)
            sum_row<8>(p, at, n, what == ADD);
        else if (what != LEAVE)
            sum_row<1>(p, at, n, what == ADD);
    }
}

} // namespace

void rh_cuda_sum_gradients(struct rh_backend *b, const struct rh_sum_gradients *p)
{
    const params args = {p->items,   p->count,  p->rows,  (const __nv_bfloat16 *)p->grad, p->sums,
                         p->offsets, p->tokens, p->first};
    if (p->rows == 0)
        return;
    RH_LAUNCH(sum_rows, rh_blocks(p->rows, WARPS), THREADS, 0, rh_cuda_stream(b), args);
    rh_cuda_check(b, cudaGetLastError(), "sum_gradients");
}
