#include "cuda/attention_tile.cuh"

#include <math.h>

#include "cuda/ops_cuda.h"

/*
 * Gradients of causal attention. With P the probabilities, rebuilt from the saved lse:
 *   dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO o)), dQ = scale dS K, dK = scale dS^T Q.
 * Three kernels: the row sums; dK and dV by blocks of keys that walk the queries of all heads of
 * their group in a fixed order; dQ by blocks of queries that walk the keys. S and dP are computed
 * in both, which is cheaper than adding dQ up in memory and needs no atomics.
 */
namespace
{

constexpr int KEYS = 64; /* of a block of dK and dV */

/* One warp per query and head, padding included. */
constexpr int STATS_THREADS = 256;
__global__ void __launch_bounds__(STATS_THREADS) row_stats(const rh_attention_shape p)
{
    const int64_t item = ((int64_t)blockIdx.x * STATS_THREADS + threadIdx.x) / RH_WARP;
    const int head = (int)(item % p.heads);
    const int at = (int)(item / p.heads % p.padded);
    const int b = (int)(item / p.heads / p.padded);
    if (b >= p.batch)
        return;
    float dot = 0.0F, lse = INFINITY;
    if (at < p.seq) {
        const int64_t row = rh_query_at(p, b, at, head);
        for (int c = (int)threadIdx.x % RH_WARP * 8; c < p.size; c += RH_WARP * 8) {
            float o[8], d_o[8];
            rh_span<8>::load(o, p.o + row + c);
            rh_span<8>::load(d_o, p.d_o + row + c);
#pragma unroll
            for (int i = 0; i < 8; i++)
                dot = fmaf(o[i], d_o[i], dot);
        }
        lse = p.lse[((int64_t)b * p.heads + head) * p.seq + at] * RH_LOG2E;
    }
    dot = rh_warp_sum(dot);
    if (threadIdx.x % RH_WARP == 0)
        p.stats[((int64_t)b * p.heads + head) * p.padded + at] = make_float2(lse, dot);
}

/* ---- dK, dV: the first warpgroup rebuilds P and owns dV, the second makes dS of it and owns dK
 * ---- */

/* s: scores of 16 keys and BQ queries of this warp -> P^T as fragments. stats: of the queries. */
template <int BQ>
__device__ __forceinline__ void probabilities(uint32_t (*f)[4], float (*s)[4], const float2 *stats,
                                              float factor, int key, int query)
{
    const int column = (int)threadIdx.x % 4 * 2;
    const bool diagonal = key + 15 > query;
    const int row = key + (int)threadIdx.x % RH_WARP / 4;
#pragma unroll
    for (int j = 0; j < BQ / 8; j++) {
        const float4 pair = *reinterpret_cast<const float4 *>(stats + j * 8 + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[j][i] = rh_exp2(fmaf(s[j][i], factor, -(i % 2 ? pair.z : pair.x)));
            if (diagonal && row + i / 2 * 8 > query + j * 8 + column + i % 2)
                s[j][i] = 0.0F;
        }
    }
    rh_fragments<BQ>(f, s);
}

/* dp: of the same elements; f: their P^T -> dS^T. */
template <int BQ>
__device__ __forceinline__ void score_gradients(uint32_t (*f)[4], float (*dp)[4],
                                                const float2 *stats)
{
    const int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < BQ / 8; j++) {
        const float4 pair = *reinterpret_cast<const float4 *>(stats + j * 8 + column);
        const uint32_t low = f[j / 2][j % 2 * 2], high = f[j / 2][j % 2 * 2 + 1];
        f[j / 2][j % 2 * 2] = rh_bf16_pair(rh_bf16_low(low) * (dp[j][0] - pair.y),
                                           rh_bf16_high(low) * (dp[j][1] - pair.w));
        f[j / 2][j % 2 * 2 + 1] = rh_bf16_pair(rh_bf16_low(high) * (dp[j][2] - pair.y),
                                               rh_bf16_high(high) * (dp[j][3] - pair.w));
    }
}

template <int D, int BQ> struct keys_layout {
    static constexpr int KEY_BYTES = KEYS * D * 2;
    static constexpr int QUERY_BYTES = BQ * D * 2;
    static constexpr int STAGE = 2 * QUERY_BYTES; /* queries, output gradients */
    static constexpr int RING = 2 * KEY_BYTES;
    static constexpr int STATS = RING + 2 * STAGE;
    static constexpr int EXCHANGE = STATS + 2 * BQ * (int)sizeof(float2);
    static constexpr int BYTES = EXCHANGE + BQ * KEYS * 2;
};

template <int D, int BQ, bool WGMMA>
__device__ __forceinline__ void keys_block(const rh_attention_shape &p)
{
    typedef keys_layout<D, BQ> layout;
    RH_SHARED(shared);
    unsigned char *base = rh_tile_base<WGMMA>(shared);
    uint32_t *exchange = (uint32_t *)(base + layout::EXCHANGE);

    /* The first keys are seen by most queries: longest first. */
    const int pair = (int)blockIdx.x % (p.batch * p.kv_heads);
    const int key = (int)blockIdx.x / (p.batch * p.kv_heads) * KEYS;
    const int b = pair / p.kv_heads, kv_head = pair % p.kv_heads;
    const int group = p.heads / p.kv_heads;
    const int tiles = (p.seq - key + BQ - 1) / BQ; /* of queries, from the diagonal on */

    const auto load_queries = [&](int step) {
        const int head = kv_head * group + step / tiles;
        const int query = key + step % tiles * BQ;
        unsigned char *slot = base + layout::RING + step % 2 * layout::STAGE;
        rh_load_queries<BQ, D, 256>(slot, p, p.q, b, query, head);
        rh_load_queries<BQ, D, 256>(slot + layout::QUERY_BYTES, p, p.d_o, b, query, head);
        if (threadIdx.x < BQ / 2) {
            const float2 *stats = p.stats + ((int64_t)b * p.heads + head) * p.padded + query;
            const int i = (int)threadIdx.x * 2;
            rh_cp_async_16((float2 *)(base + layout::STATS) + step % 2 * BQ + i, stats + i,
                           query + i < p.padded);
        }
    };

    rh_load_keys<KEYS, D, 256>(base, p, b, key, kv_head);
    rh_load_values<KEYS, D, 256>(base + layout::KEY_BYTES, p, b, key, kv_head);
    load_queries(0);
    rh_cp_async_commit();

    const bool second = rh_warpgroup() == 1;
    const int row0 = key + (int)threadIdx.x / RH_WARP % 4 * 16;
    const unsigned char *own = second ? base + layout::KEY_BYTES : base;
    float out[D / 8][4] = {};
    for (int step = 0; step < group * tiles; step++) {
        rh_tiles_arrived<WGMMA>();
        __syncthreads();
        if (step + 1 < group * tiles)
            load_queries(step + 1);
        rh_cp_async_commit();
        const unsigned char *queries = base + layout::RING + step % 2 * layout::STAGE;
        const unsigned char *gradients = queries + layout::QUERY_BYTES;
        const float2 *stats = (const float2 *)(base + layout::STATS) + step % 2 * BQ;
        float s[BQ / 8][4];
        uint32_t f[BQ / 16][4];
        rh_group_nt<WGMMA, BQ, D, KEYS>(s, own, 0, second ? gradients : queries);
        rh_group_finish<WGMMA, BQ>(s);
        if (!second) {
            probabilities<BQ>(f, s, stats, p.scale * RH_LOG2E, row0, key + step % tiles * BQ);
#pragma unroll
            for (int i = 0; i < BQ / 4; i++)
                exchange[i * 128 + threadIdx.x] = f[i / 4][i % 4];
        }
        __syncthreads();
        if (second) {
#pragma unroll
            for (int i = 0; i < BQ / 4; i++)
                f[i / 4][i % 4] = exchange[i * 128 + threadIdx.x - 128];
            score_gradients<BQ>(f, s, stats);
        }
        rh_group_rn<WGMMA, D, BQ>(out, f, second ? queries : gradients);
        rh_group_finish<WGMMA, D>(out);
    }
    if (second)
        rh_warp_store<D / 8>(p.dk + rh_key_at(p, b, row0, kv_head), (int64_t)p.kv_heads * p.size,
                             p.seq - row0, p.size, out, p.scale);
    else
        rh_warp_store<D / 8>(p.dv + rh_value_at(p, p.lddv, b, row0, kv_head), p.lddv, p.seq - row0,
                             p.size, out, 1.0F);
}

template <int D, int BQ, bool WGMMA>
__global__ void __launch_bounds__(256, 1) attention_keys(const rh_attention_shape p)
{
    if constexpr (!(WGMMA && RH_BEFORE_SM90))
        keys_block<D, BQ, WGMMA>(p);
}

/* ---- dQ ---- */

/* s, dp: of 16 queries and BK keys of this warp -> dS as fragments. lse, delta: of this lane's two
 * rows. */
template <int BK>
__device__ __forceinline__ void query_gradients(uint32_t (*f)[4], float (*s)[4],
                                                const float (*dp)[4], const float2 *stats,
                                                float factor, int key, int query)
{
    const int column = key + (int)threadIdx.x % 4 * 2;
    const int row = query + (int)threadIdx.x % RH_WARP / 4;
    const bool diagonal = key + BK - 1 > query;
#pragma unroll
    for (int j = 0; j < BK / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float probability = rh_exp2(fmaf(s[j][i], factor, -stats[i / 2].x));
            s[j][i] = probability * (dp[j][i] - stats[i / 2].y);
            if (diagonal && column + j * 8 + i % 2 > row + i / 2 * 8)
                s[j][i] = 0.0F;
        }
    }
#pragma unroll
    for (int k = 0; k < BK / 16; k++)
        rh_fragment(f[k], s[2 * k], s[2 * k + 1]);
}

template <int D, int WARPS, int BK, bool WGMMA>
__device__ __forceinline__ void queries_block(const rh_attention_shape &p)
{
    constexpr int BQ = WARPS * 16, THREADS = WARPS * RH_WARP;
    constexpr int QUERY_BYTES = BQ * D * 2, KEY_BYTES = BK * D * 2;
    RH_SHARED(shared);
    unsigned char *queries = rh_tile_base<WGMMA>(shared);
    unsigned char *gradients = queries + QUERY_BYTES;
    unsigned char *ring = gradients + QUERY_BYTES; /* two of keys */
    unsigned char *values = ring + 2 * KEY_BYTES;

    const int pair = (int)blockIdx.x % (p.batch * p.heads);
    const int tiles = (p.seq + BQ - 1) / BQ;
    const int first = (tiles - 1 - (int)blockIdx.x / (p.batch * p.heads)) * BQ;
    const int b = pair / p.heads, head = pair % p.heads;
    const int kv_head = head / (p.heads / p.kv_heads);
    const int keys = min(p.seq, first + BQ);

    const auto load_keys = [&](int at) {
        rh_tile_load<BK, D, THREADS>(ring + at / BK % 2 * KEY_BYTES,
                                     p.k + rh_key_at(p, b, at, kv_head),
                                     (int64_t)p.kv_heads * p.size, p.seq - at, p.size);
    };
    const auto load_values = [&](int at) {
        rh_tile_load<BK, D, THREADS>(values, p.v + rh_value_at(p, p.ldv, b, at, kv_head), p.ldv,
                                     p.seq - at, p.size);
    };

    const int64_t start = rh_query_at(p, b, first, head);
    const int64_t ld = (int64_t)p.heads * p.size;
    rh_tile_load<BQ, D, THREADS>(queries, p.q + start, ld, p.seq - first, p.size);
    rh_tile_load<BQ, D, THREADS>(gradients, p.d_o + start, ld, p.seq - first, p.size);
    load_keys(0);
    load_values(0);
    rh_cp_async_commit();

    const int group = rh_warpgroup() * 64; /* first row of the warpgroup */
    const int row0 = first + (int)threadIdx.x / RH_WARP * 16;
    float2 stats[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int at = row0 + (int)threadIdx.x % RH_WARP / 4 + half * 8;
        stats[half] = at < p.seq ? p.stats[((int64_t)b * p.heads + head) * p.padded + at]
                                 : make_float2(INFINITY, 0.0F);
    }
    float out[D / 8][4] = {};
    for (int key = 0; key < keys; key += BK) {
        rh_tiles_arrived<WGMMA>();
        __syncthreads();
        if (key + BK < keys)
            load_keys(key + BK);
        const bool seen = key <= first + group + 63;
        const unsigned char *slot = ring + key / BK % 2 * KEY_BYTES;
        float s[BK / 8][4], dp[BK / 8][4];
        if (seen) {
            rh_group_nt<WGMMA, BK, D, BQ>(s, queries, group, slot);
            rh_group_nt<WGMMA, BK, D, BQ>(dp, gradients, group, values);
            rh_group_finish<WGMMA, BK>(s);
            rh_group_finish<WGMMA, BK>(dp);
        }
        __syncthreads();
        if (key + BK < keys)
            load_values(key + BK);
        rh_cp_async_commit();
        if (seen) {
            uint32_t f[BK / 16][4];
            query_gradients<BK>(f, s, dp, stats, p.scale * RH_LOG2E, key, row0);
            rh_group_rn<WGMMA, D, BK>(out, f, slot);
            rh_group_finish<WGMMA, D>(out);
        }
    }
    rh_warp_store<D / 8>(p.dq + rh_query_at(p, b, row0, head), ld, p.seq - row0, p.size, out,
                         p.scale);
}

template <int D, int WARPS, int BK, bool WGMMA>
__global__ void __launch_bounds__(WARPS *RH_WARP, 1) attention_queries(const rh_attention_shape p)
{
    if constexpr (!(WGMMA && RH_BEFORE_SM90))
        queries_block<D, WARPS, BK, WGMMA>(p);
}

template <int D, int BQ, bool WGMMA> constexpr size_t keys_bytes()
{
    return RH_TILE_ROOM(WGMMA) + keys_layout<D, BQ>::BYTES;
}

template <int D, int WARPS, int BK, bool WGMMA> constexpr size_t queries_bytes()
{
    return RH_TILE_ROOM(WGMMA) + 2 * (WARPS * 16) * D * 2 + 3 * BK * D * 2;
}
static_assert(keys_bytes<64, 64, false>() <= RH_SHARED_LEAST &&
                  keys_bytes<128, 32, false>() <= RH_SHARED_LEAST &&
                  keys_bytes<256, 16, false>() <= RH_SHARED_LEAST &&
                  queries_bytes<64, 8, 64, false>() <= RH_SHARED_LEAST &&
                  queries_bytes<128, 8, 32, false>() <= RH_SHARED_LEAST &&
                  queries_bytes<256, 4, 16, false>() <= RH_SHARED_LEAST,
              "shared memory of attention_backward");

template <int D, int BQ, bool WGMMA>
void launch_keys(struct rh_backend *b, const rh_attention_shape &p)
{
    const size_t shared = keys_bytes<D, BQ, WGMMA>();
    rh_cuda_check(b, rh_cuda_allow_shared(attention_keys<D, BQ, WGMMA>, shared),
                  "shared memory of attention_backward");
    RH_LAUNCH((attention_keys<D, BQ, WGMMA>), (p.seq + KEYS - 1) / KEYS * p.batch * p.kv_heads, 256,
              shared, rh_cuda_stream(b), p);
}

template <int D, int WARPS, int BK, bool WGMMA>
void launch_queries(struct rh_backend *b, const rh_attention_shape &p)
{
    constexpr int BQ = WARPS * 16;
    const size_t shared = queries_bytes<D, WARPS, BK, WGMMA>();
    rh_cuda_check(b, rh_cuda_allow_shared(attention_queries<D, WARPS, BK, WGMMA>, shared),
                  "shared memory of attention_backward");
    RH_LAUNCH((attention_queries<D, WARPS, BK, WGMMA>), (p.seq + BQ - 1) / BQ * p.batch * p.heads,
              WARPS * RH_WARP, shared, rh_cuda_stream(b), p);
}

} // namespace

void rh_cuda_attention_backward(struct rh_backend *b, const struct rh_attention *p)
{
    if (!rh_attention_fits(b, p))
        return;
    rh_attention_shape shape = rh_attention_shape_of(p);
    const int64_t items = (int64_t)shape.batch * shape.padded * shape.heads;
    shape.stats = (float2 *)rh_cuda_scratch(b, (size_t)items * sizeof *shape.stats);
    if (!shape.stats)
        return;
    RH_LAUNCH(row_stats, (unsigned)((items * RH_WARP + STATS_THREADS - 1) / STATS_THREADS),
              STATS_THREADS, 0, rh_cuda_stream(b), shape);
    if (p->size <= 64) {
        launch_keys<64, 64, false>(b, shape);
        launch_queries<64, 8, 64, false>(b, shape);
    } else if (p->size <= 128 && rh_cuda_holds(queries_bytes<128, 8, 64, false>())) {
        launch_keys<128, 64, false>(b, shape);
        launch_queries<128, 8, 64, false>(b, shape);
    } else if (p->size <= 128) {
        launch_keys<128, 32, false>(b, shape);
        launch_queries<128, 8, 32, false>(b, shape);
    } else if (rh_cuda_has_wgmma()) {
        launch_keys<256, 64, true>(b, shape);
        launch_queries<256, 8, 64, true>(b, shape);
    } else if (rh_cuda_holds(keys_bytes<256, 32, false>())) {
        launch_keys<256, 32, false>(b, shape);
        launch_queries<256, 4, 32, false>(b, shape);
    } else {
        launch_keys<256, 16, false>(b, shape);
        launch_queries<256, 4, 16, false>(b, shape);
    }
    rh_cuda_check(b, cudaGetLastError(), "attention_backward");
}
