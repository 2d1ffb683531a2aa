#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/*
 * Four taps: a thread has 8 channels and slides over SPAN rows of a sequence with what the taps
 * need in registers. Backward makes c again from u instead of reading it, so forward does not
 * write c. Bytes moved per element: 4 forward, 6 backward, and the rows before and behind a span.
 * Any other shape: one thread an element, everything read again.
 */
#define THREADS 256
#define TAPS 4
#define SPAN 32
#define AHEAD 4 /* rows that are loaded at once; half of it backward, with two inputs */

namespace
{

typedef __nv_bfloat16 bf16;

/* With the division of two instructions: its error of 2 ulp is far below bf16's. */
__device__ __forceinline__ float silu(float c)
{
    return __fdividef(c, 1.0F + __expf(-c));
}

__device__ __forceinline__ float silu_gradient(float c)
{
    const float s = __fdividef(1.0F, 1.0F + __expf(-c));
    return s * (1.0F + c * (1.0F - s));
}

/* Rows of 8 channels, oldest first. */
struct window {
    float row[TAPS][8];
};

/* The same of u, as it is in memory. */
struct packed_window {
    uint32_t row[TAPS][4];
};

template <class Window> __device__ __forceinline__ void slide(Window *w)
{
#pragma unroll
    for (int j = 0; j + 1 < TAPS; j++)
#pragma unroll
        for (int k = 0; k < (int)(sizeof w->row[0] / sizeof w->row[0][0]); k++)
            w->row[j][k] = w->row[j + 1][k];
}

/* Row t of the sequence, zeros where there is none. */
__device__ __forceinline__ void load_row(uint32_t out[4], const bf16 *u, int64_t ldu, int t,
                                         int seq)
{
    const bool valid = t >= 0 && t < seq;
    const uint4 v = valid ? *(const uint4 *)(u + t * ldu) : make_uint4(0, 0, 0, 0);
    out[0] = v.x;
    out[1] = v.y;
    out[2] = v.z;
    out[3] = v.w;
}

/* One 16-byte store: an assignment may be split into four of 4 bytes, at four times the cost. */
__device__ __forceinline__ void store_row(bf16 *to, const float c[8])
{
    const uint4 v = make_uint4(rh_bf16_pair(c[0], c[1]), rh_bf16_pair(c[2], c[3]),
                               rh_bf16_pair(c[4], c[5]), rh_bf16_pair(c[6], c[7]));
#ifdef RH_CUDA_EMU
    *(uint4 *)to = v;
#else
    __stcs((uint4 *)to, v);
#endif
}

/* What a thread works on: 8 channels of rows begin .. end - 1 of a sequence. */
struct span {
    int64_t channel, first; /* first: row of the sequence in the batch */
    int begin, end;
};

__device__ __forceinline__ bool span_of(int64_t batch, int seq, int64_t channels,
                                        struct span *s)
{
    const int64_t columns = channels / 8;
    const int spans = (seq + SPAN - 1) / SPAN;
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t row = i / columns;
    s->channel = (i - row * columns) * 8;
    s->first = row / spans * seq;
    s->begin = (int)(row % spans) * SPAN;
    s->end = s->begin + SPAN < seq ? s->begin + SPAN : seq;
    return row < batch * spans;
}

__device__ __forceinline__ void copy_row(uint32_t to[4], const uint32_t from[4])
{
#pragma unroll
    for (int k = 0; k < 4; k++)
        to[k] = from[k];
}

__device__ __forceinline__ float element(const uint32_t row[4], int k)
{
    return k % 2 ? rh_bf16_high(row[k / 2]) : rh_bf16_low(row[k / 2]);
}

/* The sums of the taps, rounded to bf16 like those of the reference. */
__device__ __forceinline__ void convolve(float c[8], const struct packed_window &u,
                                         const struct window &w)
{
#pragma unroll
    for (int k = 0; k < 8; k++) {
        c[k] = element(u.row[TAPS - 1], k) * w.row[TAPS - 1][k];
#pragma unroll
        for (int j = TAPS - 2; j >= 0; j--)
            c[k] += element(u.row[j], k) * w.row[j][k];
    }
#pragma unroll
    for (int k = 0; k < 8; k += 2) {
        const uint32_t both = rh_bf16_pair(c[k], c[k + 1]);
        c[k] = rh_bf16_low(both);
        c[k + 1] = rh_bf16_high(both);
    }
}

__device__ __forceinline__ void load_weights(struct window *w, const float *from, int64_t channels)
{
#pragma unroll
    for (int j = 0; j < TAPS; j++)
        rh_span<8>::load(w->row[j], from + j * channels);
}

__global__ void __launch_bounds__(THREADS, 2)
    forward_4(int64_t batch, int seq, int64_t channels, const bf16 *__restrict__ u, int64_t ldu,
              const float *__restrict__ weights, bf16 *__restrict__ y)
{
    struct span s;
    if (!span_of(batch, seq, channels, &s))
        return;
    struct window w;
    struct packed_window x;
    load_weights(&w, weights + s.channel, channels);
    u += s.first * ldu + s.channel;
    y += s.first * channels + s.channel;
#pragma unroll
    for (int j = 1; j < TAPS; j++)
        load_row(x.row[j], u, ldu, s.begin + j - TAPS, seq);
    for (int t = s.begin; t < s.end; t += AHEAD) {
        uint32_t rows[AHEAD][4];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            load_row(rows[i], u, ldu, t + i, s.end);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            slide(&x);
            copy_row(x.row[TAPS - 1], rows[i]);
            float c[8];
            convolve(c, x, w);
#pragma unroll
            for (int k = 0; k < 8; k++)
                c[k] = silu(c[k]);
            if (t + i < s.end)
                store_row(y + (t + i) * channels, c);
        }
    }
}

/* du_t = sum_j w[taps - 1 - j] dc_{t + j}: at row t + 3 of u and dy the window of dc is full. */
__global__ void __launch_bounds__(THREADS, 2)
    backward_4(int64_t batch, int seq, int64_t channels, const bf16 *__restrict__ u,
               int64_t ldu, const float *__restrict__ weights, const bf16 *__restrict__ dy,
               bf16 *__restrict__ du)
{
    struct span s;
    if (!span_of(batch, seq, channels, &s))
        return;
    struct window w;
    struct packed_window x;
    struct window dc;
    load_weights(&w, weights + s.channel, channels);
    u += s.first * ldu + s.channel;
    du += s.first * ldu + s.channel;
    dy += s.first * channels + s.channel;
#pragma unroll
    for (int j = 1; j < TAPS; j++)
        load_row(x.row[j], u, ldu, s.begin + j - TAPS, seq);
    for (int t = s.begin; t < s.end + TAPS - 1; t += AHEAD / 2) {
        uint32_t rows[AHEAD / 2][4];
        uint32_t gradients[AHEAD / 2][4];
#pragma unroll
        for (int i = 0; i < AHEAD / 2; i++) {
            load_row(rows[i], u, ldu, t + i, seq);
            load_row(gradients[i], dy, channels, t + i, seq);
        }
#pragma unroll
        for (int i = 0; i < AHEAD / 2; i++) {
            slide(&dc);
            slide(&x);
            copy_row(x.row[TAPS - 1], rows[i]);
            float c[8];
            convolve(c, x, w);
#pragma unroll
            for (int k = 0; k < 8; k++)
                dc.row[TAPS - 1][k] = element(gradients[i], k) * silu_gradient(c[k]);
            const int row = t + i - (TAPS - 1);
            if (row < s.begin || row >= s.end)
                continue;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                c[k] = dc.row[0][k] * w.row[TAPS - 1][k];
#pragma unroll
                for (int j = 1; j < TAPS; j++)
                    c[k] += dc.row[j][k] * w.row[TAPS - 1 - j][k];
            }
            store_row(du + row * ldu, c);
        }
    }
}

/* c at row t of a sequence of which u is the first row, one channel. */
__device__ __forceinline__ float convolve_any(const struct rh_conv_silu &p, const bf16 *u,
                                              int64_t t, int64_t channel)
{
    float c = 0.0F;
    for (int64_t back = 0; back < p.taps && back <= t; back++)
        c += __bfloat162float(u[(t - back) * p.ldu]) *
             p.w[(p.taps - 1 - back) * p.channels + channel];
    return rh_round_bf16(c);
}

__global__ void __launch_bounds__(THREADS) forward_any(struct rh_conv_silu p)
{
    const int64_t count = p.batch * p.seq * p.channels;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * THREADS) {
        const int64_t row = i / p.channels;
        const int64_t channel = i - row * p.channels;
        const int64_t t = row % p.seq;
        const bf16 *u = (const bf16 *)p.u + (row - t) * p.ldu + channel;
        ((bf16 *)p.y)[i] = __float2bfloat16_rn(silu(convolve_any(p, u, t, channel)));
    }
}

__global__ void __launch_bounds__(THREADS) backward_any(struct rh_conv_silu p)
{
    const int64_t count = p.batch * p.seq * p.channels;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * THREADS) {
        const int64_t row = i / p.channels;
        const int64_t channel = i - row * p.channels;
        const int64_t t = row % p.seq;
        const bf16 *u = (const bf16 *)p.u + (row - t) * p.ldu + channel;
        const bf16 *dy = (const bf16 *)p.dy + (row - t) * p.channels + channel;
        float du = 0.0F;
        for (int64_t ahead = 0; ahead < p.taps && t + ahead < p.seq; ahead++)
            du += p.w[(p.taps - 1 - ahead) * p.channels + channel] *
                  __bfloat162float(dy[(t + ahead) * p.channels]) *
                  silu_gradient(convolve_any(p, u, t + ahead, channel));
        ((bf16 *)p.du)[row * p.ldu + channel] = __float2bfloat16_rn(du);
    }
}

bool slides(const struct rh_conv_silu *p)
{
    return p->taps == TAPS && p->channels % 8 == 0 && p->ldu % 8 == 0;
}

unsigned span_blocks(const struct rh_conv_silu *p)
{
    const int64_t threads = p->batch * ((p->seq + SPAN - 1) / SPAN) * (p->channels / 8);
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

} // namespace

void rh_cuda_conv_silu(struct rh_backend *b, const struct rh_conv_silu *p)
{
    if (slides(p))
        RH_LAUNCH(forward_4, span_blocks(p), THREADS, 0, rh_cuda_stream(b), p->batch,
                  (int)p->seq, p->channels, (const bf16 *)p->u, p->ldu, p->w, (bf16 *)p->y);
    else
        RH_LAUNCH(forward_any, rh_blocks(p->batch * p->seq * p->channels, THREADS), THREADS, 0,
                  rh_cuda_stream(b), *p);
    rh_cuda_check(b, cudaGetLastError(), "conv_silu");
}

void rh_cuda_conv_silu_backward(struct rh_backend *b, const struct rh_conv_silu *p)
{
    if (slides(p))
        RH_LAUNCH(backward_4, span_blocks(p), THREADS, 0, rh_cuda_stream(b), p->batch,
                  (int)p->seq, p->channels, (const bf16 *)p->u, p->ldu, p->w, (const bf16 *)p->dy,
                  (bf16 *)p->du);
    else
        RH_LAUNCH(backward_any, rh_blocks(p->batch * p->seq * p->channels, THREADS), THREADS, 0,
                  rh_cuda_stream(b), *p);
    rh_cuda_check(b, cudaGetLastError(), "conv_silu_backward");
}
