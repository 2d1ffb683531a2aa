#include "cuda/backend_cuda.h"
#include "cuda/ops_cuda.h"
#include "cuda/row.cuh"

/* A warp per row. Bytes moved per element: 4 forward, 6 backward (8 when it accumulates). */
namespace
{

/* Rows of up to 2048 stay in registers. */
#define KEPT 8

template <int W, int N>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    forward(int64_t rows, int64_t size, float eps, const __nv_bfloat16 *x, const float *w,
            __nv_bfloat16 *y)
{
    const int64_t row = rh_warp_index();
    if (row >= rows)
        return;
    const rh_row<W, N> in(x + row * size, size);
    float sum = 0.0F;
    in.each(size, [&](int i, int64_t at) {
        float v[W];
        in.get(v, i, at);
#pragma unroll
        for (int j = 0; j < W; j++)
            sum += v[j] * v[j];
    });
    const float r = 1.0F / sqrtf(rh_warp_sum(sum) / (float)size + eps);
    in.each(size, [&](int i, int64_t at) {
        float v[W], scale[W];
        in.get(v, i, at);
        rh_span<W>::load(scale, w + at);
#pragma unroll
        for (int j = 0; j < W; j++)
            v[j] = (1.0F + scale[j]) * (v[j] * r);
        rh_span<W>::store(y + row * size + at, v);
    });
}

template <int W, int N>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(int64_t rows, int64_t size, float eps, const __nv_bfloat16 *x, const float *w,
             const __nv_bfloat16 *dy, __nv_bfloat16 *dx, bool accumulate)
{
    const int64_t row = rh_warp_index();
    if (row >= rows)
        return;
    const rh_row<W, N> in(x + row * size, size), out(dy + row * size, size);
    float square = 0.0F, dot = 0.0F;
    in.each(size, [&](int i, int64_t at) {
        float v[W], d[W], scale[W];
        in.get(v, i, at);
        out.get(d, i, at);
        rh_span<W>::load(scale, w + at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            square += v[j] * v[j];
            dot += (1.0F + scale[j]) * d[j] * v[j];
        }
    });
    const float r = 1.0F / sqrtf(rh_warp_sum(square) / (float)size + eps);
    const float m = rh_warp_sum(dot) * r / (float)size;
    in.each(size, [&](int i, int64_t at) {
        float v[W], d[W], scale[W], old[W];
        in.get(v, i, at);
        out.get(d, i, at);
        rh_span<W>::load(scale, w + at);
        if (accumulate)
            rh_span<W>::load(old, dx + row * size + at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            v[j] = ((1.0F + scale[j]) * d[j] - v[j] * (r * m)) * r;
            if (accumulate)
                v[j] += old[j];
        }
        rh_span<W>::store(dx + row * size + at, v);
    });
}

template <int W, int N> void run(struct rh_backend *b, const struct rh_rms_norm *p, bool back)
{
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p->x;
    const float *w = (const float *)p->w;
    if (back)
        RH_LAUNCH((backward<W, N>), rh_warp_grid(p->rows), RH_ROW_THREADS, 0, rh_cuda_stream(b), p->rows,
                  p->size, p->eps, x, w, (const __nv_bfloat16 *)p->dy, (__nv_bfloat16 *)p->dx,
                  p->accumulate);
    else
        RH_LAUNCH((forward<W, N>), rh_warp_grid(p->rows), RH_ROW_THREADS, 0, rh_cuda_stream(b), p->rows,
                  p->size, p->eps, x, w, (__nv_bfloat16 *)p->y);
}

void choose(struct rh_backend *b, const struct rh_rms_norm *p, bool back, bool wide)
{
    if (!wide)
        run<1, 0>(b, p, back);
    else if (p->size <= KEPT * RH_WARP * 8)
        run<8, KEPT>(b, p, back);
    else
        run<8, 0>(b, p, back);
}

} // namespace

void rh_cuda_rms_norm(struct rh_backend *b, const struct rh_rms_norm *p)
{
    choose(b, p, false, rh_aligned(8, {p->size}, {p->x, p->w, p->y}));
    rh_cuda_check(b, cudaGetLastError(), "rms_norm");
}

void rh_cuda_rms_norm_backward(struct rh_backend *b, const struct rh_rms_norm *p)
{
    choose(b, p, true, rh_aligned(8, {p->size}, {p->x, p->w, p->dy, p->dx}));
    rh_cuda_check(b, cudaGetLastError(), "rms_norm_backward");
}
