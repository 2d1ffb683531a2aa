#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/* Bytes moved per element of x: 2 + 2 top_k forward, 4 + 2 top_k backward. */
namespace
{

template <int W>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    forward(int64_t rows, int top_k, int64_t size, const int64_t *slot, const __nv_bfloat16 *x,
            __nv_bfloat16 *y)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        const typename rh_span<W>::raw v = rh_span<W>::fetch(x + row * size + at);
        for (int j = 0; j < top_k; j++)
            *(typename rh_span<W>::raw *)(y + slot[row * top_k + j] * size + at) = v;
    }
}

/* The loads of `K` rows are under way together; K divides top_k. */
template <int W, int K>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(int64_t rows, int top_k, int64_t size, const int64_t *slot, const __nv_bfloat16 *dy,
             __nv_bfloat16 *dx)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        float sum[W];
        rh_span<W>::load(sum, dx + row * size + at);
        for (int j = 0; j < top_k; j += K) {
            typename rh_span<W>::raw in[K];
#pragma unroll
            for (int k = 0; k < K; k++)
                in[k] = rh_span<W>::fetch(dy + slot[row * top_k + j + k] * size + at);
#pragma unroll
            for (int k = 0; k < K; k++) {
                float v[W];
                rh_span<W>::unpack(v, in[k]);
#pragma unroll
                for (int i = 0; i < W; i++)
                    sum[i] += v[i];
            }
        }
        rh_span<W>::store(dx + row * size + at, sum);
    }
}

template <int W> void run_forward(struct rh_backend *b, const struct rh_dispatch *p)
{
    RH_LAUNCH((forward<W>), rh_row_grid(p->rows, p->size / W), rh_row_block(p->size / W), 0,
              rh_cuda_stream(b), p->rows, (int)p->top_k, p->size, p->slot, (const __nv_bfloat16 *)p->x,
              (__nv_bfloat16 *)p->y);
}

template <int W, int K> void run_backward(struct rh_backend *b, const struct rh_dispatch *p)
{
    RH_LAUNCH((backward<W, K>), rh_row_grid(p->rows, p->size / W), rh_row_block(p->size / W), 0,
              rh_cuda_stream(b), p->rows, (int)p->top_k, p->size, p->slot, (const __nv_bfloat16 *)p->dy,
              (__nv_bfloat16 *)p->dx);
}

} // namespace

void rh_cuda_dispatch(struct rh_backend *b, const struct rh_dispatch *p)
{
    if (rh_aligned(8, {p->size}, {p->x, p->y}))
        run_forward<8>(b, p);
    else
        run_forward<1>(b, p);
    rh_cuda_check(b, cudaGetLastError(), "dispatch");
}

void rh_cuda_dispatch_backward(struct rh_backend *b, const struct rh_dispatch *p)
{
    if (!rh_aligned(8, {p->size}, {p->dy, p->dx}))
        run_backward<1, 1>(b, p);
    else if (p->top_k % 8 == 0)
        run_backward<8, 8>(b, p);
    else
        run_backward<8, 1>(b, p);
    rh_cuda_check(b, cudaGetLastError(), "dispatch_backward");
}
