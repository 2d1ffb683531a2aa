#include "cuda/backend_cuda.h"
#include "cuda/ops_cuda.h"
#include "cuda/row.cuh"

/*
 * A warp per head of a token; what is rotated passes through shared memory, where a lane finds its partner
 * rot / 2 away. Bytes moved per element: 4 forward, 6 backward. The norm is rounded to bf16 before the
 * rotation, as in the reference; the rotation itself is fp32.
 */
namespace
{

/* What a kernel knows of the op. */
struct shape {
    int64_t rows; /* heads of all tokens */
    unsigned heads, seq;
    int64_t size, ldx, head_stride;
    int rot;
    float eps;
};

/* Where the head of a warp's row is. */
struct place {
    int64_t x, position;
    __device__ __forceinline__ place(const shape &s, int64_t row)
    {
        const unsigned token = (unsigned)row / s.heads;
        x = token * s.ldx + ((unsigned)row - token * s.heads) * s.head_stride;
        position = token % s.seq;
    }
};

/*
 * The turn of a span of the head by its angles: spans below half pair with those half further on. half is a
 * multiple of W, so a span is all in one of the two, or behind both and stays.
 */
template <int W> struct turn {
    float cos[W], sin[W]; /* sin with its sign for this span */
    int other;            /* of the partner, -1: no turn */

    __device__ __forceinline__ turn(const float *all_cos, const float *all_sin, int at, int half, float sign)
        : other(-1)
    {
        if (at >= 2 * half)
            return;
        const bool low = at < half;
        other = low ? at + half : at - half;
        rh_span<W>::load(cos, all_cos + (low ? at : other));
        rh_span<W>::load(sin, all_sin + (low ? at : other));
#pragma unroll
        for (int j = 0; j < W; j++)
            sin[j] *= low ? -sign : sign;
    }
    __device__ __forceinline__ void apply(float v[W], const float *stage) const
    {
        if (other < 0)
            return;
        float partner[W];
        rh_span<W>::load(partner, stage + other);
#pragma unroll
        for (int j = 0; j < W; j++)
            v[j] = v[j] * cos[j] + partner[j] * sin[j];
    }
};

template <int W> __device__ __forceinline__ void put(float *stage, const float v[W], int64_t at, int rot)
{
    if (at >= rot)
        return;
#pragma unroll
    for (int j = 0; j < W; j++)
        stage[at + j] = v[j];
}

template <int W, int N>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    forward(shape s, const float *cos, const float *sin, const __nv_bfloat16 *x, const float *w,
            __nv_bfloat16 *y)
{
    RH_SHARED(shared);
    float *stage = (float *)shared + threadIdx.x / RH_WARP * s.rot;
    const int64_t row = rh_warp_index();
    if (row >= s.rows)
        return;
    const place at_row(s, row);
    const int half = s.rot / 2;
    const rh_row<W, N> in(x + at_row.x, s.size);
    float n[N][W], scale[N][W], sum = 0.0F;
    in.each(s.size, [&](int i, int64_t at) {
        rh_span<W>::load(scale[i], w + at);
        in.get(n[i], i, at);
#pragma unroll
        for (int j = 0; j < W; j++)
            sum += n[i][j] * n[i][j];
    });
    const float r = 1.0F / sqrtf(rh_warp_sum(sum) / (float)s.size + s.eps);
    in.each(s.size, [&](int i, int64_t at) {
#pragma unroll
        for (int j = 0; j < W; j++)
            n[i][j] = rh_round_bf16((1.0F + scale[i][j]) * (n[i][j] * r));
        put<W>(stage, n[i], at, s.rot);
    });
    __syncwarp();
    in.each(s.size, [&](int i, int64_t at) {
        const turn<W> t(cos + at_row.position * half, sin + at_row.position * half, (int)at, half, 1.0F);
        t.apply(n[i], stage);
        rh_span<W>::store(y + row * s.size + at, n[i]);
    });
}

template <int W, int N>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    backward(shape s, const float *cos, const float *sin, const __nv_bfloat16 *x, const float *w,
             const __nv_bfloat16 *dy, __nv_bfloat16 *dx)
{
    RH_SHARED(shared);
    float *stage = (float *)shared + threadIdx.x / RH_WARP * s.rot;
    const int64_t row = rh_warp_index();
    if (row >= s.rows)
        return;
    const place at_row(s, row);
    const int half = s.rot / 2;
    const rh_row<W, N> in(x + at_row.x, s.size);
    float d[N][W], square = 0.0F, dot = 0.0F;
    in.each(s.size, [&](int i, int64_t at) {
        rh_span<W>::load(d[i], dy + row * s.size + at);
        put<W>(stage, d[i], at, s.rot);
    });
    __syncwarp();
    in.each(s.size, [&](int i, int64_t at) {
        float v[W], scale[W];
        in.get(v, i, at);
        rh_span<W>::load(scale, w + at);
        const turn<W> t(cos + at_row.position * half, sin + at_row.position * half, (int)at, half, -1.0F);
        t.apply(d[i], stage);
#pragma unroll
        for (int j = 0; j < W; j++) {
            d[i][j] *= 1.0F + scale[j];
            square += v[j] * v[j];
            dot += d[i][j] * v[j];
        }
    });
    const float r = 1.0F / sqrtf(rh_warp_sum(square) / (float)s.size + s.eps);
    const float m = rh_warp_sum(dot) * r / (float)s.size;
    in.each(s.size, [&](int i, int64_t at) {
        float v[W];
        in.get(v, i, at);
#pragma unroll
        for (int j = 0; j < W; j++)
            v[j] = (d[i][j] - v[j] * (r * m)) * r;
        rh_span<W>::store(dx + at_row.x + at, v);
    });
}

template <int W, int N> void run(struct rh_backend *b, const struct rh_head_norm *p, bool back)
{
    const shape s = {p->rows * p->heads, (unsigned)p->heads, (unsigned)p->seq, p->size,
                     p->ldx, p->head_stride, (int)p->rot, p->eps};
    const size_t stage = RH_ROW_THREADS / RH_WARP * (size_t)p->rot * sizeof(float);
    const float *w = (const float *)p->w;
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p->x;
    if (back)
        RH_LAUNCH((backward<W, N>), rh_warp_grid(s.rows), RH_ROW_THREADS, stage, rh_cuda_stream(b), s,
                  p->cos, p->sin, x, w, (const __nv_bfloat16 *)p->dy, (__nv_bfloat16 *)p->dx);
    else
        RH_LAUNCH((forward<W, N>), rh_warp_grid(s.rows), RH_ROW_THREADS, stage, rh_cuda_stream(b), s,
                  p->cos, p->sin, x, w, (__nv_bfloat16 *)p->y);
}

/* Heads of up to 256 in 16-byte accesses, others up to 512. */
void choose(struct rh_backend *b, const struct rh_head_norm *p, bool back, bool wide)
{
    if (wide && p->size <= RH_WARP * 8)
        run<8, 1>(b, p, back);
    else
        run<1, 16>(b, p, back);
}

} // namespace

void rh_cuda_head_norm(struct rh_backend *b, const struct rh_head_norm *p)
{
    choose(b, p, false,
           rh_aligned(8, {p->size, p->ldx, p->head_stride, p->rot / 2},
                      {p->x, p->w, p->y, p->cos, p->sin}));
    rh_cuda_check(b, cudaGetLastError(), "head_norm");
}

void rh_cuda_head_norm_backward(struct rh_backend *b, const struct rh_head_norm *p)
{
    choose(b, p, true,
           rh_aligned(8, {p->size, p->ldx, p->head_stride, p->rot / 2},
                      {p->x, p->w, p->dy, p->dx, p->cos, p->sin}));
    rh_cuda_check(b, cudaGetLastError(), "head_norm_backward");
}
