#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/*
 * One thread, W neighbouring elements of a row; a grid-stride loop over all. Bytes moved per gated element:
 * 6 forward, 10 backward.
 */
#define THREADS 256

namespace
{

template <int W>
__global__ void __launch_bounds__(THREADS)
    forward(int64_t rows, int64_t size, const __nv_bfloat16 *x, __nv_bfloat16 *y)
{
    const int64_t spans = size / W, count = rows * spans;
    const int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        const int64_t row = i / spans, at = i % spans * W;
        const __nv_bfloat16 *from = x + row * 2 * size + at;
        float gate[W], up[W];
        rh_span<W>::load(gate, from);
        rh_span<W>::load(up, from + size);
#pragma unroll
        for (int j = 0; j < W; j++)
            gate[j] = gate[j] * rh_sigmoid(gate[j]) * up[j];
        rh_span<W>::store(y + row * size + at, gate);
    }
}

template <int W>
__global__ void __launch_bounds__(THREADS)
    backward(int64_t rows, int64_t size, const __nv_bfloat16 *x, const __nv_bfloat16 *dy,
             __nv_bfloat16 *dx)
{
    const int64_t spans = size / W, count = rows * spans;
    const int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        const int64_t row = i / spans, at = i % spans * W, to = row * 2 * size + at;
        float gate[W], up[W], d[W];
        rh_span<W>::load(gate, x + to);
        rh_span<W>::load(up, x + to + size);
        rh_span<W>::load(d, dy + row * size + at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            const float s = rh_sigmoid(gate[j]);
            const float dup = d[j] * gate[j] * s;
            gate[j] = d[j] * up[j] * (s * (1.0F + gate[j] * (1.0F - s)));
            up[j] = dup;
        }
        rh_span<W>::store(dx + to, gate);
        rh_span<W>::store(dx + to + size, up);
    }
}

} // namespace

void rh_cuda_swiglu(struct rh_backend *b, const struct rh_swiglu *p)
{
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p->x;
    __nv_bfloat16 *y = (__nv_bfloat16 *)p->y;
    if (p->size % 8 == 0)
        RH_LAUNCH((forward<8>), rh_blocks(p->rows * p->size, THREADS * 8), THREADS, 0, rh_cuda_stream(b),
                  p->rows, p->size, x, y);
    else
        RH_LAUNCH((forward<1>), rh_blocks(p->rows * p->size, THREADS), THREADS, 0, rh_cuda_stream(b),
                  p->rows, p->size, x, y);
}

void rh_cuda_swiglu_backward(struct rh_backend *b, const struct rh_swiglu *p)
{
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p->x, *dy = (const __nv_bfloat16 *)p->dy;
    __nv_bfloat16 *dx = (__nv_bfloat16 *)p->dx;
    if (p->size % 8 == 0)
        RH_LAUNCH((backward<8>), rh_blocks(p->rows * p->size, THREADS * 8), THREADS, 0, rh_cuda_stream(b),
                  p->rows, p->size, x, dy, dx);
    else
        RH_LAUNCH((backward<1>), rh_blocks(p->rows * p->size, THREADS), THREADS, 0, rh_cuda_stream(b),
                  p->rows, p->size, x, dy, dx);
}
