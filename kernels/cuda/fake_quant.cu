#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

#define RH_GRID_FN static __host__ __device__ inline
extern "C" {
#include "fake_quant_group.h"
}

/*
 * From the same bf16 weights and gradients come the bytes of the CPU (weight_q: those, rounded to
 * bf16): the scalar formulas are the same source, the sums of a group are added in the same order,
 * and this file is compiled without contraction into fused multiply-adds.
 */

/* Eight lanes to a group: lane t holds the elements 2t and 2t + 1 of every 16, hence two of the
 * sixteen partial sums of rh_grid_lane_sum(), in the order of their elements. */
#define GROUP_LANES 8
#define STRIDE (2 * GROUP_LANES)
#define THREADS 256
#define TILE (THREADS / GROUP_LANES) /* groups */
#define TILES_OF_BLOCK 8

/* The common kind, with everything in registers: 4 bits, symmetric, full groups of 128. */
#define FAST_GROUP 128
#define FAST_CHUNKS (FAST_GROUP / STRIDE)

#define HALF_MAX 65504.0F

namespace
{

struct pair {
    float a, b;
};

/* One group. */
struct place {
    int64_t index; /* of the item */
    int64_t at;    /* of the first weight in the arenas */
    int64_t group; /* in the arrays of groups */
    int n;         /* weights */
    bool mine;     /* false: the last group once more, for lanes past it; nothing is stored */
    int lane;      /* of the group */
    struct rh_scheme scheme;
};

/*
 * x / scale, correctly rounded, from inverse = 1 / scale correctly rounded: two Newton steps on the
 * quotient, the second of which Markstein's theorem makes exact (IBM J. Res. Dev. 34, 1990). It
 * needs exact remainders, that is |x| above 2^-100; smaller ones differ from zero in no sum.
 */
__device__ __forceinline__ float divide(float x, float scale, float inverse)
{
    float q = x * inverse;
    q = fmaf(fmaf(-q, scale, x), inverse, q);
    return fmaf(fmaf(-q, scale, x), inverse, q);
}

__device__ __forceinline__ float on_grid(const struct rh_grid &grid, float r)
{
    return r < grid.low ? grid.low : r > grid.high ? grid.high : r;
}

__device__ __forceinline__ float lattice(const struct rh_grid &grid, float inverse, float w,
                                         float v)
{
    return on_grid(grid, rintf(divide(w, grid.scale, inverse) + v));
}

/* rh_grid_lane_sum() over the lanes of a group. */
__device__ __forceinline__ float group_sum(struct pair sum)
{
#pragma unroll
    for (int step = GROUP_LANES / 2; step > 0; step /= 2) {
        sum.a += __shfl_xor_sync(RH_FULL, sum.a, step);
        sum.b += __shfl_xor_sync(RH_FULL, sum.b, step);
    }
    return sum.a + sum.b;
}

struct sums {
    struct pair code, weight, value, offset;
};

/* One weight: its share of the sums, its code and the step of v. */
template <bool Sym>
__device__ __forceinline__ float step_one(const struct rh_grid &grid, float inverse, float rate,
                                          float w, float g, float *v, float *code, float *weight,
                                          float *value, float *offset)
{
    float x = divide(w, grid.scale, inverse);
    float r = rintf(x + *v);
    float d = on_grid(grid, r);
    float dv = (r == d ? g : 0.0F) * grid.scale;
    *code += g * d;
    *weight -= dv * divide(x, grid.scale, inverse);
    if (!Sym) {
        *value += g * grid.scale;
        *offset += dv;
    }
    *v = rh_grid_sign_step(*v, dv, rate);
    return d;
}

__device__ __forceinline__ struct rh_group_sums reduce(const struct sums &s, bool sym)
{
    struct rh_group_sums out = {group_sum(s.code), group_sum(s.weight), 0.0F, 0.0F};
    if (!sym) { /* the same for a whole block */
        out.grad_value = group_sum(s.value);
        out.grad_offset = group_sum(s.offset);
    }
    return out;
}

__device__ __forceinline__ void report(const struct rh_quantizer &q, int64_t iter, int64_t index)
{
    atomicMin((unsigned long long *)q.fault,
              (unsigned long long)iter << 32 | (unsigned long long)(index + 1));
}

/* The step of alpha and beta, and the grid that follows from them. All lanes compute the same. */
__device__ __forceinline__ void step_range(const struct rh_scheme &scheme,
                                           const struct rh_group_sums &sums, float rate, float lo,
                                           float hi, float *alpha, float *beta,
                                           struct rh_grid *grid)
{
    float dalpha = 0.0F;
    float dbeta = 0.0F;
    rh_grid_gradient(&scheme, grid, &sums, lo, hi, &dalpha, &dbeta);
    *alpha = rh_grid_sign_step(*alpha, dalpha, rate);
    *beta = rh_grid_sign_step(*beta, dbeta, rate);
    rh_fake_quant_grid(&scheme, lo, hi, alpha, beta, grid);
}

__device__ __forceinline__ void emit_grid(const struct rh_quantizer &q, const struct place &p,
                                          const struct rh_grid &grid)
{
    q.scales[p.group] = grid.scale_bits;
    if (!p.scheme.sym)
        q.zeros[p.group] = (uint8_t)grid.zero;
}

/* Lane t holds code pairs t of 8 chunks and is left with all pairs of chunk t: a transposition of
 * 8 x 8 halfwords in three exchanges, for 16-byte stores. c[i]: chunks 2i (low half) and 2i + 1. */
__device__ __forceinline__ uint4 transpose_codes(uint32_t c[FAST_CHUNKS / 2], int lane)
{
#pragma unroll
    for (int far = 2; far > 0; far /= 2) {
        const bool upper = lane & 2 * far;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int i = far == 2 ? k : 2 * k;
            const uint32_t got = __shfl_xor_sync(RH_FULL, upper ? c[i] : c[i + far], 2 * far);
            c[i] = upper ? got : c[i];
            c[i + far] = upper ? c[i + far] : got;
        }
    }
#pragma unroll
    for (int i = 0; i < FAST_CHUNKS / 2; i++) {
        const uint32_t got = __shfl_xor_sync(RH_FULL, c[i], 1);
        c[i] = lane & 1 ? got >> 16 | (c[i] & 0xffff0000U) : (c[i] & 0xffffU) | got << 16;
    }
    return make_uint4(c[0], c[1], c[2], c[3]);
}

__device__ __forceinline__ float gradient(const __nv_bfloat16 *grad)
{
    return __bfloat162float(*grad);
}

__device__ __forceinline__ float gradient(const float *grad)
{
    return *grad;
}

__device__ __forceinline__ float2 gradients(const __nv_bfloat16 *grad)
{
    const uint32_t both = *(const uint32_t *)grad;
    return make_float2(rh_bf16_low(both), rh_bf16_high(both));
}

__device__ __forceinline__ float2 gradients(const float *grad)
{
    return *(const float2 *)grad;
}

__device__ __forceinline__ void finish_step(const struct rh_quantizer &q, const struct place &p,
                                            const struct rh_group_sums &sums, float alpha,
                                            float beta)
{
    if (p.mine && p.lane == 0) {
        q.alpha[p.group] = alpha;
        q.beta[p.group] = beta;
        /* One gradient that is not finite makes this sum so. */
        if (!isfinite(sums.grad_code))
            report(q, q.iter, p.index);
    }
}

/* Groups of the common kind. move false: only codes. */
template <class Grad>
__device__ __forceinline__ void advance_fast(const struct rh_quantizer &q, const struct place &p,
                                             const Grad *grad, bool move, bool emit)
{
    const struct rh_scheme scheme = {4, true, FAST_GROUP};
    const int64_t at = p.at + 2 * p.lane;
    const uint32_t *w = (const uint32_t *)((const __nv_bfloat16 *)q.weight + at);
    float2 *v = (float2 *)(q.v + at);
    uint32_t ws[FAST_CHUNKS];
    float2 gs[FAST_CHUNKS];
    float2 vs[FAST_CHUNKS];
#pragma unroll
    for (int i = 0; i < FAST_CHUNKS; i++) {
        ws[i] = w[i * STRIDE / 2];
        gs[i] = move ? gradients(grad + at + i * STRIDE) : make_float2(0.0F, 0.0F);
        vs[i] = v[i * STRIDE / 2];
    }
    const float lo = q.lo[p.group];
    const float hi = q.hi[p.group];
    float alpha = q.alpha[p.group];
    float beta = q.beta[p.group];
    struct rh_grid grid;
    rh_fake_quant_grid(&scheme, lo, hi, &alpha, &beta, &grid);
    float inverse = 1.0F / grid.scale;
    struct sums s = {};
    uint32_t codes[FAST_CHUNKS / 2] = {};
#pragma unroll
    for (int i = 0; i < FAST_CHUNKS; i++) {
        float a = step_one<true>(grid, inverse, q.rate, rh_bf16_low(ws[i]), gs[i].x, &vs[i].x,
                                 &s.code.a, &s.weight.a, nullptr, nullptr);
        float b = step_one<true>(grid, inverse, q.rate, rh_bf16_high(ws[i]), gs[i].y, &vs[i].y,
                                 &s.code.b, &s.weight.b, nullptr, nullptr);
        if (emit)
            codes[i / 2] |= ((uint32_t)(a + grid.zero) | (uint32_t)(b + grid.zero) << 8)
                            << (i % 2 * 16);
    }
    if (emit) {
        const uint4 row = transpose_codes(codes, p.lane);
        if (p.mine)
            *(uint4 *)(q.codes + p.at + p.lane * STRIDE) = row;
        if (p.mine && p.lane == 0)
            emit_grid(q, p, grid);
    }
    if (!move)
        return;
    const struct rh_group_sums sums = reduce(s, true);
    if (q.minmax) {
        step_range(scheme, sums, q.minmax_rate, lo, hi, &alpha, &beta, &grid);
        inverse = 1.0F / grid.scale;
    }
    finish_step(q, p, sums, alpha, beta);
    if (!p.mine)
        return;
    uint32_t *out = (uint32_t *)((__nv_bfloat16 *)q.weight_q + at);
#pragma unroll
    for (int i = 0; i < FAST_CHUNKS; i++) {
        v[i * STRIDE / 2] = vs[i];
        out[i * STRIDE / 2] =
            rh_bf16_pair(grid.scale * lattice(grid, inverse, rh_bf16_low(ws[i]), vs[i].x),
                         grid.scale * lattice(grid, inverse, rh_bf16_high(ws[i]), vs[i].y));
    }
}

/* weight_q of a group of any kind; this lane's elements. */
__device__ __forceinline__ void forward_any(const struct rh_quantizer &q, const struct place &p,
                                            const struct rh_grid &grid)
{
    const __nv_bfloat16 *w = (const __nv_bfloat16 *)q.weight + p.at;
    __nv_bfloat16 *out = (__nv_bfloat16 *)q.weight_q + p.at;
    const float inverse = 1.0F / grid.scale;
    for (int j = 2 * p.lane; j < p.n; j += STRIDE) {
        for (int k = j; k < j + 2 && k < p.n; k++)
            out[k] = __float2bfloat16_rn(
                grid.scale * lattice(grid, inverse, __bfloat162float(w[k]), q.v[p.at + k]));
    }
}

template <class Grad>
__device__ __forceinline__ void advance_any(const struct rh_quantizer &q, const struct place &p,
                                            const Grad *grad, bool move, bool emit)
{
    const __nv_bfloat16 *w = (const __nv_bfloat16 *)q.weight + p.at;
    const float lo = q.lo[p.group];
    const float hi = q.hi[p.group];
    float alpha = q.alpha[p.group];
    float beta = q.beta[p.group];
    struct rh_grid grid;
    rh_fake_quant_grid(&p.scheme, lo, hi, &alpha, &beta, &grid);
    const float inverse = 1.0F / grid.scale;
    struct sums s = {};
    for (int j = 2 * p.lane; j < p.n; j += STRIDE) {
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const int k = j + odd;
            if (k >= p.n)
                continue;
            float moved = q.v[p.at + k];
            const float d = step_one<false>(
                grid, inverse, q.rate, __bfloat162float(w[k]),
                move ? gradient(grad + p.at + k) : 0.0F, &moved, odd ? &s.code.b : &s.code.a,
                odd ? &s.weight.b : &s.weight.a, odd ? &s.value.b : &s.value.a,
                odd ? &s.offset.b : &s.offset.a);
            if (p.mine && emit)
                q.codes[p.at + k] = (uint8_t)(d + grid.zero);
            if (p.mine && move)
                q.v[p.at + k] = moved;
        }
    }
    if (emit && p.mine && p.lane == 0)
        emit_grid(q, p, grid);
    if (!move)
        return;
    const struct rh_group_sums sums = reduce(s, p.scheme.sym);
    if (q.minmax)
        step_range(p.scheme, sums, q.minmax_rate, lo, hi, &alpha, &beta, &grid);
    finish_step(q, p, sums, alpha, beta);
    if (p.mine)
        forward_any(q, p, grid);
}

/* rh_group_error() of the CPU, in all lanes of the group. */
__device__ __forceinline__ float error_of(const struct rh_quantizer &q, const struct place &p,
                                          const struct rh_grid &grid)
{
    const __nv_bfloat16 *w = (const __nv_bfloat16 *)q.weight + p.at;
    const float inverse = 1.0F / grid.scale;
    struct pair sum = {};
    for (int j = 2 * p.lane; j < p.n; j += STRIDE) {
        const float a = __bfloat162float(w[j]);
        const float e = grid.scale * lattice(grid, inverse, a, 0.0F) - a;
        sum.a += e * e;
        if (j + 1 < p.n) {
            const float b = __bfloat162float(w[j + 1]);
            const float f = grid.scale * lattice(grid, inverse, b, 0.0F) - b;
            sum.b += f * f;
        }
    }
    return group_sum(sum);
}

/* rh_group_search() of the CPU. By all lanes of a warp, whether their groups are theirs or not. */
__device__ __forceinline__ float search(const struct rh_quantizer &q, const struct place &p,
                                        float lo, float hi)
{
    float best = 1.0F;
    float least = INFINITY;
    for (int i = 0; i < RH_FACTOR_COUNT; i++) {
        float alpha = rh_grid_factor(i);
        float beta = alpha;
        struct rh_grid grid;
        rh_grid_make(&p.scheme, lo, hi, &alpha, &beta, &grid);
        const float error = error_of(q, p, grid);
        best = error < least ? alpha : best;
        least = error < least ? error : least;
    }
    return best;
}

/* rh_group_range() of the CPU, the search when asked for, then the first forward. */
__device__ __forceinline__ void start_group(const struct rh_quantizer &q, const struct place &p)
{
    const __nv_bfloat16 *w = (const __nv_bfloat16 *)q.weight + p.at;
    float lo = 0.0F;
    float hi = 0.0F;
    float none = 0.0F; /* becomes a NaN when a weight is not finite */
    for (int j = 2 * p.lane; j < p.n; j += STRIDE) {
        for (int k = j; k < j + 2 && k < p.n; k++) {
            const float x = __bfloat162float(w[k]);
            none += x - x;
            lo = x < lo ? x : lo;
            hi = x > hi ? x : hi;
            if (p.mine)
                q.v[p.at + k] = 0.0F;
        }
    }
#pragma unroll
    for (int step = GROUP_LANES / 2; step > 0; step /= 2) {
        lo = fminf(lo, __shfl_xor_sync(RH_FULL, lo, step));
        hi = fmaxf(hi, __shfl_xor_sync(RH_FULL, hi, step));
        none += __shfl_xor_sync(RH_FULL, none, step);
    }
    float alpha = q.search ? search(q, p, lo, hi) : 1.0F;
    float beta = alpha;
    if (!p.mine)
        return;
    const float largest = -lo > hi ? -lo : hi;
    const float reach = p.scheme.sym ? largest / (float)(1 << (p.scheme.bits - 1))
                                     : (hi - lo) / (float)((1 << p.scheme.bits) - 1);
    if (p.lane == 0) {
        q.lo[p.group] = lo;
        q.hi[p.group] = hi;
        q.alpha[p.group] = alpha;
        q.beta[p.group] = beta;
        if (none != 0.0F || !(reach <= HALF_MAX))
            report(q, 0, p.index);
    }
    struct rh_grid grid;
    rh_fake_quant_grid(&p.scheme, lo, hi, &alpha, &beta, &grid);
    forward_any(q, p, grid);
}

__device__ __forceinline__ void restore_group(const struct rh_quantizer &q, const struct place &p)
{
    const float scale = rh_grid_widen(q.scales[p.group]);
    const int zero = p.scheme.sym ? 1 << (p.scheme.bits - 1) : (int)q.zeros[p.group];
    __nv_bfloat16 *out = (__nv_bfloat16 *)q.weight_q + p.at;
    for (int j = 2 * p.lane; p.mine && j < p.n; j += STRIDE) {
        for (int k = j; k < j + 2 && k < p.n; k++)
            out[k] = __float2bfloat16_rn(scale * (float)((int)q.codes[p.at + k] - zero));
    }
}

/*
 * A tile is up to TILE groups of one item. Item i has those from group_at / TILE + i on, which are
 * enough for its groups whatever the remainders; one may be empty.
 */
__host__ __device__ inline int64_t first_tile(const struct rh_quantizer &q, int64_t index)
{
    return q.items[index].group_at / TILE + index;
}

/* The item of a tile: the last that begins at or before it. By a whole block. */
__device__ __forceinline__ int64_t find_item(const struct rh_quantizer &q, int64_t tile)
{
    int64_t begun = 0;
    for (int64_t i = threadIdx.x; i - threadIdx.x < q.count; i += THREADS)
        begun += __syncthreads_count(i < q.count && first_tile(q, i) <= tile);
    return begun - 1;
}

/* The group of this thread; false when the tile is empty. */
__device__ __forceinline__ bool place_in(const struct rh_quantizer &q, int64_t index, int64_t tile,
                                         struct place *p)
{
    const struct rh_quant_item *item = &q.items[index];
    const int64_t count = item->out_features * item->groups;
    const int64_t start = (tile - first_tile(q, index)) * TILE;
    if (start >= count)
        return false;
    int64_t group = start + threadIdx.x / GROUP_LANES;
    p->mine = group < count;
    group = p->mine ? group : count - 1;
    p->index = index;
    p->lane = (int)(threadIdx.x % GROUP_LANES);
    p->scheme = {item->bits, item->sym != 0, item->group};
    p->group = item->group_at + group;
    p->at = item->at + group * item->group;
    p->n = (int)item->group;
    if (item->groups * item->group != item->in_features) { /* the last group of a row is shorter */
        const int64_t row = group / item->groups;
        const int64_t within = (group - row * item->groups) * item->group;
        p->at = item->at + row * item->in_features + within;
        if (item->in_features - within < item->group)
            p->n = (int)(item->in_features - within);
    }
    return true;
}

__device__ __forceinline__ bool reached(const struct rh_quantizer &q,
                                        const struct rh_quant_item *item)
{
    return item->expert < 0 || !q.tokens || q.tokens[item->expert] > 0;
}

template <class Grad>
__device__ __forceinline__ void advance(const struct rh_quantizer &q, const struct place &p,
                                        const Grad *grad, bool emit)
{
    const struct rh_quant_item *item = &q.items[p.index];
    const bool move = grad && reached(q, item);
    if (!move && !emit)
        return;
    if (item->bits == 4 && item->sym && item->group == FAST_GROUP &&
        item->in_features % FAST_GROUP == 0)
        advance_fast(q, p, grad, move, emit);
    else
        advance_any(q, p, grad, move, emit);
}

enum pass { START, ADVANCE, ADVANCE_BY_SUM, RESTORE };

template <enum pass Pass>
__global__ void __launch_bounds__(THREADS, 3)
    fake_quant(const struct rh_quantizer q, int64_t tiles)
{
    const int64_t first = (int64_t)blockIdx.x * TILES_OF_BLOCK;
    const bool emit = (Pass == ADVANCE || Pass == ADVANCE_BY_SUM) && *q.emit != 0;
    int64_t index = find_item(q, first);
    for (int64_t tile = first; tile < first + TILES_OF_BLOCK && tile < tiles; tile++) {
        while (index + 1 < q.count && first_tile(q, index + 1) <= tile)
            index++;
        struct place p;
        if (!place_in(q, index, tile, &p))
            continue;
        if (Pass == START)
            start_group(q, p);
        else if (Pass == RESTORE)
            restore_group(q, p);
        else if (Pass == ADVANCE_BY_SUM)
            advance(q, p, q.grad_sum, emit);
        else
            advance(q, p, (const __nv_bfloat16 *)q.grad, emit);
    }
}

template <enum pass Pass> void launch(struct rh_backend *b, const struct rh_quantizer *q)
{
    if (q->count == 0)
        return;
    const int64_t tiles = q->groups / TILE + q->count;
    const unsigned blocks = (unsigned)((tiles + TILES_OF_BLOCK - 1) / TILES_OF_BLOCK);
    RH_LAUNCH((fake_quant<Pass>), blocks, THREADS, 0, rh_cuda_stream(b), *q, tiles);
    rh_cuda_check(b, cudaGetLastError(), "fake_quant");
}

} // namespace

void rh_cuda_fake_quant_start(struct rh_backend *b, const struct rh_quantizer *q)
{
    launch<START>(b, q);
}

void rh_cuda_fake_quant_advance(struct rh_backend *b, const struct rh_quantizer *q)
{
    if (q->grad_sum)
        launch<ADVANCE_BY_SUM>(b, q);
    else
        launch<ADVANCE>(b, q);
}

void rh_cuda_fake_quant_restore(struct rh_backend *b, const struct rh_quantizer *q)
{
    launch<RESTORE>(b, q);
}
