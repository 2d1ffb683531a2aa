#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/* Bytes moved per element: 6 forward, 10 backward. The sigmoid is rounded to bf16, as in the reference. */
namespace
{

/* A row here is one head of one token. */
template <int W>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    forward(int64_t rows, unsigned heads, int64_t size, int64_t ldg, int64_t head_stride,
            const __nv_bfloat16 *o, const __nv_bfloat16 *gate, __nv_bfloat16 *a)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    const unsigned token = (unsigned)row / heads;
    const __nv_bfloat16 *from = gate + token * ldg + ((unsigned)row - token * heads) * head_stride;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        float v[W], g[W];
        rh_span<W>::load(v, o + row * size + at);
        rh_span<W>::load(g, from + at);
#pragma unroll
        for (int j = 0; j < W; j++)
            v[j] *= rh_round_bf16(rh_sigmoid(g[j]));
        rh_span<W>::store(a + row * size + at, v);
    }
}

template <int W>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(int64_t rows, unsigned heads, int64_t size, int64_t ldg, int64_t head_stride,
             const __nv_bfloat16 *o, const __nv_bfloat16 *gate, const __nv_bfloat16 *da,
             __nv_bfloat16 *d_o, __nv_bfloat16 *dgate)
{
    const int64_t row = rh_row_index();
    if (row >= rows)
        return;
    const unsigned token = (unsigned)row / heads;
    const int64_t begin = token * ldg + ((unsigned)row - token * heads) * head_stride;
    for (int64_t at = threadIdx.x * W; at < size; at += blockDim.x * W) {
        float v[W], g[W], d[W];
        rh_span<W>::load(v, o + row * size + at);
        rh_span<W>::load(g, gate + begin + at);
        rh_span<W>::load(d, da + row * size + at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            const float s = rh_sigmoid(g[j]);
            g[j] = d[j] * v[j] * (s * (1.0F - s));
            v[j] = d[j] * rh_round_bf16(s);
        }
        rh_span<W>::store(d_o + row * size + at, v);
        rh_span<W>::store(dgate + begin + at, g);
    }
}

template <int W> void run(struct rh_backend *b, const struct rh_head_gate *p, bool back)
{
    const int64_t rows = p->rows * p->heads;
    const __nv_bfloat16 *o = (const __nv_bfloat16 *)p->o, *gate = (const __nv_bfloat16 *)p->gate;
    const unsigned grid = rh_row_grid(rows, p->size / W);
    const dim3 block = rh_row_block(p->size / W);
    if (back)
        RH_LAUNCH((backward<W>), grid, block, 0, rh_cuda_stream(b), rows, (unsigned)p->heads, p->size,
                  p->ldg, p->head_stride, o, gate, (const __nv_bfloat16 *)p->da,
                  (__nv_bfloat16 *)p->d_o, (__nv_bfloat16 *)p->dgate);
    else
        RH_LAUNCH((forward<W>), grid, block, 0, rh_cuda_stream(b), rows, (unsigned)p->heads, p->size,
                  p->ldg, p->head_stride, o, gate, (__nv_bfloat16 *)p->a);
}

} // namespace

void rh_cuda_head_gate(struct rh_backend *b, const struct rh_head_gate *p)
{
    if (rh_aligned(8, {p->size, p->ldg, p->head_stride}, {p->o, p->gate, p->a}))
        run<8>(b, p, false);
    else
        run<1>(b, p, false);
    rh_cuda_check(b, cudaGetLastError(), "head_gate");
}

void rh_cuda_head_gate_backward(struct rh_backend *b, const struct rh_head_gate *p)
{
    if (rh_aligned(8, {p->size, p->ldg, p->head_stride}, {p->o, p->gate, p->da, p->d_o, p->dgate}))
        run<8>(b, p, true);
    else
        run<1>(b, p, true);
    rh_cuda_check(b, cudaGetLastError(), "head_gate_backward");
}
