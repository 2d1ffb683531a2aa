#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/* Bytes moved per gated element: 6 forward, 10 backward. silu(gate) is rounded to bf16, as in the reference. */
namespace
{

template <int W>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    forward(int64_t rows, int64_t size, const __nv_bfloat16 *x, __nv_bfloat16 *y)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    const __nv_bfloat16 *from = x + row * 2 * size;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        float gate[W], up[W];
        rh_span<W>::load(gate, from + at);
        rh_span<W>::load(up, from + size + at);
#pragma unroll
        for (int j = 0; j < W; j++)
            gate[j] = rh_round_bf16(gate[j] * rh_sigmoid(gate[j])) * up[j];
        rh_span<W>::store(y + row * size + at, gate);
    }
}

template <int W>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(int64_t rows, int64_t size, const __nv_bfloat16 *x, const __nv_bfloat16 *dy,
             __nv_bfloat16 *dx)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        const int64_t to = row * 2 * size + at;
        float gate[W], up[W], d[W];
        rh_span<W>::load(gate, x + to);
        rh_span<W>::load(up, x + to + size);
        rh_span<W>::load(d, dy + row * size + at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            const float s = rh_sigmoid(gate[j]);
            const float dup = d[j] * rh_round_bf16(gate[j] * s);
            gate[j] = d[j] * up[j] * (s * (1.0F + gate[j] * (1.0F - s)));
            up[j] = dup;
        }
        rh_span<W>::store(dx + to, gate);
        rh_span<W>::store(dx + to + size, up);
    }
}

template <int W> void run(struct rh_backend *b, const struct rh_swiglu *p, bool back)
{
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p->x;
    const unsigned grid = rh_row_grid(p->rows, p->size / W);
    const dim3 block = rh_row_block(p->size / W);
    if (back)
        RH_LAUNCH((backward<W>), grid, block, 0, rh_cuda_stream(b), p->rows, p->size, x,
                  (const __nv_bfloat16 *)p->dy, (__nv_bfloat16 *)p->dx);
    else
        RH_LAUNCH((forward<W>), grid, block, 0, rh_cuda_stream(b), p->rows, p->size, x,
                  (__nv_bfloat16 *)p->y);
}

} // namespace

void rh_cuda_swiglu(struct rh_backend *b, const struct rh_swiglu *p)
{
    if (rh_aligned(8, {p->size}, {p->x, p->y}))
        run<8>(b, p, false);
    else
        run<1>(b, p, false);
    rh_cuda_check(b, cudaGetLastError(), "swiglu");
}

void rh_cuda_swiglu_backward(struct rh_backend *b, const struct rh_swiglu *p)
{
    if (rh_aligned(8, {p->size}, {p->x, p->dy, p->dx}))
        run<8>(b, p, true);
    else
        run<1>(b, p, true);
    rh_cuda_check(b, cudaGetLastError(), "swiglu_backward");
}
