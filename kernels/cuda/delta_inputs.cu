#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/*
 * Half a warp to a head of q or k, W elements a lane and turn; a thread to a gate. Bytes moved per
 * element of q and k: 4 forward, 6 backward.
 */
#define THREADS 256
#define HEAD_LANES 16
/* Inside the root of the length of q and k. */
#define LENGTH_EPS 1e-6F
/* Above it softplus is the identity to the last bit that PyTorch keeps. */
#define SOFTPLUS_LINEAR 20.0F

namespace
{

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float head_sum(float x)
{
#pragma unroll
    for (int step = HEAD_LANES / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(RH_FULL, x, step);
    return x;
}

/* Where head h (of q, then of k) of a row is. */
struct head {
    int64_t in;   /* in m and dm */
    int64_t at;   /* row * key_heads + head */
    bool is_q;
    bool mine;    /* false: past the end, works along on the last one */
    float factor; /* key_size^-1/2 for q */
};

__device__ __forceinline__ struct head head_of(const struct rh_delta_inputs &p)
{
    const int64_t count = p.rows * 2 * p.key_heads;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / HEAD_LANES;
    struct head h;
    h.mine = i < count;
    i = h.mine ? i : count - 1;
    const int64_t row = i / (2 * p.key_heads);
    const int64_t head = i - row * 2 * p.key_heads;
    h.is_q = head < p.key_heads;
    h.in = row * p.ldm + head * p.key_size;
    h.at = row * p.key_heads + (h.is_q ? head : head - p.key_heads);
    h.factor = h.is_q ? 1.0F / sqrtf((float)p.key_size) : 1.0F;
    return h;
}

template <int W>
__global__ void __launch_bounds__(THREADS) normalize(struct rh_delta_inputs p)
{
    const struct head h = head_of(p);
    const int64_t lane = threadIdx.x % HEAD_LANES * W;
    const bf16 *x = (const bf16 *)p.m + h.in;
    float sum = 0.0F;
    float v[W];
    for (int64_t j = lane; j < p.key_size; j += HEAD_LANES * W) {
        rh_span<W>::load(v, x + j);
#pragma unroll
        for (int k = 0; k < W; k++)
            sum += v[k] * v[k];
    }
    const float r = 1.0F / sqrtf(head_sum(sum) + LENGTH_EPS);
    if (!h.mine)
        return;
    if (lane == 0)
        (h.is_q ? p.rq : p.rk)[h.at] = r;
    bf16 *y = (bf16 *)(h.is_q ? p.qn : p.kn) + h.at * p.key_size;
    for (int64_t j = lane; j < p.key_size; j += HEAD_LANES * W) {
        rh_span<W>::load(v, x + j);
#pragma unroll
        for (int k = 0; k < W; k++)
            v[k] *= r * h.factor;
        rh_span<W>::store(y + j, v);
    }
}

/* dx = r (dy - y (y . dy)) for y = x r; stored is y times the factor. */
template <int W>
__global__ void __launch_bounds__(THREADS) normalize_backward(struct rh_delta_inputs p)
{
    const struct head h = head_of(p);
    const int64_t lane = threadIdx.x % HEAD_LANES * W;
    const bf16 *y = (const bf16 *)(h.is_q ? p.qn : p.kn) + h.at * p.key_size;
    const bf16 *dy = (const bf16 *)(h.is_q ? p.dq : p.dk) + h.at * p.key_size;
    float along = 0.0F;
    float v[W];
    float d[W];
    for (int64_t j = lane; j < p.key_size; j += HEAD_LANES * W) {
        rh_span<W>::load(v, y + j);
        rh_span<W>::load(d, dy + j);
#pragma unroll
        for (int k = 0; k < W; k++)
            along += v[k] * d[k];
    }
    along = head_sum(along);
    if (!h.mine)
        return;
    const float r = (h.is_q ? p.rq : p.rk)[h.at];
    bf16 *dx = (bf16 *)p.dm + h.in;
    for (int64_t j = lane; j < p.key_size; j += HEAD_LANES * W) {
        rh_span<W>::load(v, y + j);
        rh_span<W>::load(d, dy + j);
#pragma unroll
        for (int k = 0; k < W; k++)
            d[k] = r * h.factor * d[k] - along * r / h.factor * v[k];
        rh_span<W>::store(dx + j, d);
    }
}

__global__ void __launch_bounds__(THREADS) gates(struct rh_delta_inputs p)
{
    const int64_t count = p.rows * p.value_heads;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * THREADS) {
        const int64_t row = i / p.value_heads;
        const int64_t j = i - row * p.value_heads;
        const float x = __bfloat162float(((const bf16 *)p.a)[row * p.ldb + j]) + p.dt_bias[j];
        const float softplus = x > SOFTPLUS_LINEAR ? x : log1pf(expf(x));
        p.beta[i] = rh_sigmoid(__bfloat162float(((const bf16 *)p.b)[row * p.ldb + j]));
        p.g[i] = -expf(p.a_log[j]) * softplus;
    }
}

__global__ void __launch_bounds__(THREADS) gates_backward(struct rh_delta_inputs p)
{
    const int64_t count = p.rows * p.value_heads;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * THREADS) {
        const int64_t row = i / p.value_heads;
        const int64_t j = i - row * p.value_heads;
        const float x = __bfloat162float(((const bf16 *)p.a)[row * p.ldb + j]) + p.dt_bias[j];
        const float beta = p.beta[i];
        ((bf16 *)p.db)[row * p.ldb + j] = __float2bfloat16_rn(p.dbeta[i] * beta * (1.0F - beta));
        ((bf16 *)p.da)[row * p.ldb + j] =
            __float2bfloat16_rn(p.dg[i] * -expf(p.a_log[j]) * rh_sigmoid(x));
    }
}

unsigned head_blocks(const struct rh_delta_inputs *p)
{
    const int64_t threads = p->rows * 2 * p->key_heads * HEAD_LANES;
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

bool in_eights(const struct rh_delta_inputs *p)
{
    return p->key_size % 8 == 0 && p->ldm % 8 == 0;
}

} // namespace

void rh_cuda_delta_inputs(struct rh_backend *b, const struct rh_delta_inputs *p)
{
    if (in_eights(p))
        RH_LAUNCH((normalize<8>), head_blocks(p), THREADS, 0, rh_cuda_stream(b), *p);
    else
        RH_LAUNCH((normalize<1>), head_blocks(p), THREADS, 0, rh_cuda_stream(b), *p);
    RH_LAUNCH(gates, rh_blocks(p->rows * p->value_heads, THREADS), THREADS, 0, rh_cuda_stream(b),
              *p);
    rh_cuda_check(b, cudaGetLastError(), "delta_inputs");
}

void rh_cuda_delta_inputs_backward(struct rh_backend *b, const struct rh_delta_inputs *p)
{
    if (in_eights(p))
        RH_LAUNCH((normalize_backward<8>), head_blocks(p), THREADS, 0, rh_cuda_stream(b), *p);
    else
        RH_LAUNCH((normalize_backward<1>), head_blocks(p), THREADS, 0, rh_cuda_stream(b), *p);
    RH_LAUNCH(gates_backward, rh_blocks(p->rows * p->value_heads, THREADS), THREADS, 0,
              rh_cuda_stream(b), *p);
    rh_cuda_check(b, cudaGetLastError(), "delta_inputs_backward");
}
