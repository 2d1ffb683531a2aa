#include "cuda/backend_cuda.h"
#include "cuda/ops_cuda.h"
#include "cuda/row.cuh"

/*
 * Bytes moved per element of y: 6 + 2 top_k forward, 8 + 4 top_k backward. The sum is fp32 and rounded once,
 * which is closer to the exact model than the reference's bf16 accumulation.
 */
namespace
{

/* The loads of `K` experts are under way together; K divides top_k. */
template <int W, int K>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    forward(int64_t rows, int top_k, int64_t size, const int64_t *slot, const float *p,
            const float *shared, const __nv_bfloat16 *h, const __nv_bfloat16 *e,
            const __nv_bfloat16 *s, __nv_bfloat16 *y)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    slot += row * top_k;
    p += row * top_k;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        float sum[W], v[W];
#pragma unroll
        for (int i = 0; i < W; i++)
            sum[i] = 0.0F;
        for (int j = 0; j < top_k; j += K) {
            typename rh_span<W>::raw in[K];
#pragma unroll
            for (int k = 0; k < K; k++)
                in[k] = rh_span<W>::fetch(e + slot[j + k] * size + at);
#pragma unroll
            for (int k = 0; k < K; k++) {
                rh_span<W>::unpack(v, in[k]);
#pragma unroll
                for (int i = 0; i < W; i++)
                    sum[i] += p[j + k] * v[i];
            }
        }
        rh_span<W>::load(v, s + row * size + at);
#pragma unroll
        for (int i = 0; i < W; i++)
            sum[i] += shared[row] * v[i];
        rh_span<W>::load(v, h + row * size + at);
#pragma unroll
        for (int i = 0; i < W; i++)
            sum[i] += v[i];
        rh_span<W>::store(y + row * size + at, sum);
    }
}

/* out = factor d; returns the lane's part of d . x */
template <int W, int N>
__device__ __forceinline__ float scale_and_dot(const rh_row<W, N> &d, int64_t size,
                                               const __nv_bfloat16 *x, float factor, __nv_bfloat16 *out)
{
    const rh_row<W, N> in(x, size);
    float dot = 0.0F;
    in.each(size, [&](int i, int64_t at) {
        float v[W], u[W];
        in.get(v, i, at);
        d.get(u, i, at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            dot += u[j] * v[j];
            u[j] *= factor;
        }
        rh_span<W>::store(out + at, u);
    });
    return dot;
}

/* A warp per row. */
template <int W, int N>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(int64_t rows, int top_k, int64_t size, const int64_t *slot, const float *p,
             const float *shared, const __nv_bfloat16 *e, const __nv_bfloat16 *s,
             const __nv_bfloat16 *dy, __nv_bfloat16 *de, float *dp, __nv_bfloat16 *ds, float *dshared)
{
    const int64_t row = rh_warp_index();
    if (row >= rows)
        return;
    const rh_row<W, N> d(dy + row * size, size);
    for (int j = 0; j < top_k; j++) {
        const int64_t at = slot[row * top_k + j] * size;
        const float dot =
            rh_warp_sum(scale_and_dot<W, N>(d, size, e + at, p[row * top_k + j], de + at));
        if (rh_lane() == 0)
            dp[row * top_k + j] = dot;
    }
    const float dot =
        rh_warp_sum(scale_and_dot<W, N>(d, size, s + row * size, shared[row], ds + row * size));
    if (rh_lane() == 0)
        dshared[row] = dot;
}

template <int W, int K> void run_forward(struct rh_backend *b, const struct rh_combine *p)
{
    RH_LAUNCH((forward<W, K>), rh_row_grid(p->rows, p->size / W), rh_row_block(p->size / W), 0,
              rh_cuda_stream(b), p->rows, (int)p->top_k, p->size, p->slot, p->p, p->shared,
              (const __nv_bfloat16 *)p->h, (const __nv_bfloat16 *)p->e, (const __nv_bfloat16 *)p->s,
              (__nv_bfloat16 *)p->y);
}

template <int W, int N> void run_backward(struct rh_backend *b, const struct rh_combine *p)
{
    RH_LAUNCH((backward<W, N>), rh_warp_grid(p->rows), RH_ROW_THREADS, 0, rh_cuda_stream(b), p->rows,
              (int)p->top_k, p->size, p->slot, p->p, p->shared, (const __nv_bfloat16 *)p->e,
              (const __nv_bfloat16 *)p->s, (const __nv_bfloat16 *)p->dy, (__nv_bfloat16 *)p->de, p->dp,
              (__nv_bfloat16 *)p->ds, p->dshared);
}

} // namespace

void rh_cuda_combine(struct rh_backend *b, const struct rh_combine *p)
{
    if (!rh_aligned(8, {p->size}, {p->h, p->e, p->s, p->y}))
        run_forward<1, 1>(b, p);
    else if (p->top_k % 8 == 0)
        run_forward<8, 8>(b, p);
    else
        run_forward<8, 1>(b, p);
    rh_cuda_check(b, cudaGetLastError(), "combine");
}

void rh_cuda_combine_backward(struct rh_backend *b, const struct rh_combine *p)
{
    if (!rh_aligned(8, {p->size}, {p->e, p->s, p->dy, p->de, p->ds}))
        run_backward<1, 0>(b, p);
    else if (p->size <= 8 * RH_WARP * 8)
        run_backward<8, 8>(b, p);
    else
        run_backward<8, 0>(b, p);
    rh_cuda_check(b, cudaGetLastError(), "combine_backward");
}
