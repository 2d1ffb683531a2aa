#include "cuda/attention_tile.cuh"

#include <math.h>

#include "cuda/ops_cuda.h"

/*
 * Causal attention in one pass over the keys (FlashAttention: running maximum and sum of a row). A
 * block has 128 queries of a head, a warp 16 of them with their outputs in registers; keys and
 * values come in tiles, the next tile while this one is used.
 */
namespace
{

constexpr int BQ = 128, THREADS = 256;

/* Row g of a warp's 16 is in elements 0 and 1 of an accumulator, row g + 8 in 2 and 3. */
struct row_state {
    float max[2], sum[2]; /* max of unscaled scores; sum over this lane's columns */
};

/* Scores become exp(score - max) in place; decay: of what was summed before. */
template <int BK>
__device__ __forceinline__ void softmax_step(float (*s)[4], row_state *row, float factor,
                                             float *decay)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float max = row->max[half];
#pragma unroll
        for (int j = 0; j < BK / 8; j++)
            max = fmaxf(max, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        max = fmaxf(max, __shfl_xor_sync(RH_FULL, max, 1));
        max = fmaxf(max, __shfl_xor_sync(RH_FULL, max, 2));
        decay[half] = rh_exp2((row->max[half] - max) * factor);
        const float shift = max * factor;
        float sum = 0.0F;
#pragma unroll
        for (int j = 0; j < BK / 8; j++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[j][i] = rh_exp2(fmaf(s[j][i], factor, -shift));
                sum += s[j][i];
            }
        }
        row->max[half] = max;
        row->sum[half] = row->sum[half] * decay[half] + sum;
    }
}

/* Nothing to do where no maximum has grown, which soon is the rule. */
template <int D> __device__ __forceinline__ void rescale(float (*out)[4], const float *decay)
{
    if (!__any_sync(RH_FULL, decay[0] != 1.0F || decay[1] != 1.0F))
        return;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[j][i] *= decay[i / 2];
    }
}

/* Hides keys after the query. key: of column 0; query: of this lane's row g. */
template <int BK> __device__ __forceinline__ void mask(float (*s)[4], int key, int query)
{
    const int column = key + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < BK / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (column + j * 8 + i % 2 > query + i / 2 * 8)
                s[j][i] = -INFINITY;
    }
}

template <int D>
__device__ __forceinline__ void store_rows(const rh_attention_shape &p, int b, int head, int first,
                                           float (*out)[4], const row_state &row)
{
    const int lane = (int)threadIdx.x % RH_WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = row.sum[half];
        sum += __shfl_xor_sync(RH_FULL, sum, 1);
        sum += __shfl_xor_sync(RH_FULL, sum, 2);
        const float inverse = 1.0F / sum;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            out[j][2 * half] *= inverse;
            out[j][2 * half + 1] *= inverse;
        }
        const int at = first + lane / 4 + half * 8;
        if (lane % 4 == 0 && at < p.seq)
            p.lse[((int64_t)b * p.heads + head) * p.seq + at] = row.max[half] * p.scale + logf(sum);
    }
    rh_warp_store<D / 8>(p.out + rh_query_at(p, b, first, head), (int64_t)p.heads * p.size,
                         p.seq - first, p.size, out, 1.0F);
}

template <int D, int BK, bool WGMMA>
__device__ __forceinline__ void forward_block(const rh_attention_shape &p)
{
    constexpr int KEY_BYTES = BK * D * 2;
    RH_SHARED(shared);
    unsigned char *queries = rh_tile_base<WGMMA>(shared);
    unsigned char *ring = queries + BQ * D * 2; /* two of keys and values */

    const rh_query_block t = rh_query_block_of<BQ>(p);
    const auto load = [&](int key, int value) {
        if (key < t.keys)
            rh_load_keys<BK, D, THREADS>(ring + key / BK % 2 * KEY_BYTES, p, t.b, key, t.kv_head);
        if (value < t.keys)
            rh_load_values<BK, D, THREADS>(ring + (2 + value / BK % 2) * KEY_BYTES, p, t.b, value,
                                           t.kv_head);
        rh_cp_async_commit();
    };

    const int group = rh_warpgroup() * 64; /* first row of the warpgroup */
    const int row0 = t.first + (int)threadIdx.x / RH_WARP * 16;
    const int seen = min(t.keys, t.first + group + 64); /* keys that its rows see */
    const float factor = p.scale * RH_LOG2E;
    float out[D / 8][4] = {};
    float s[BK / 8][4], decay[2];
    uint32_t f[BK / 16][4];
    row_state row = {{-INFINITY, -INFINITY}, {0.0F, 0.0F}};
    const auto scores_done = [&](int key) {
        if (key + BK - 1 > row0)
            mask<BK>(s, key, row0 + (int)threadIdx.x % RH_WARP / 4);
        softmax_step<BK>(s, &row, factor, decay);
    };

    rh_load_queries<BQ, D, THREADS>(queries, p, p.q, t.b, t.first, t.head);
    load(0, t.keys);
    rh_tiles_arrived<WGMMA>();
    __syncthreads();
    load(BK, 0);
    rh_group_nt<WGMMA, BK, D, BQ>(s, queries, group, ring);
    rh_group_finish<WGMMA, BK>(s);
    scores_done(0);
    rh_fragments<BK>(f, s);

    /* Probabilities of tile `key` meet its values while the scores of the next tile are made. */
    for (int key = 0; key < t.keys; key += BK) {
        rh_tiles_arrived<WGMMA>();
        __syncthreads();
        load(key + 2 * BK, key + BK);
        const unsigned char *values = ring + (2 + key / BK % 2) * KEY_BYTES;
        const int next = key + BK;
        if (next < seen) {
            rh_group_nt<WGMMA, BK, D, BQ>(s, queries, group, ring + next / BK % 2 * KEY_BYTES);
            rh_group_rn<WGMMA, D, BK>(out, f, values);
            rh_group_finish<WGMMA, BK, 1>(s);
            scores_done(next);
            if (__any_sync(RH_FULL, row.sum[0] < 0.0F || row.sum[1] < 0.0F))
                __trap(); /* never: the exponentials come before the wait */
            rh_group_finish<WGMMA, D>(out);
            rescale<D>(out, decay);
            rh_fragments<BK>(f, s);
        } else if (key < seen) {
            rh_group_rn<WGMMA, D, BK>(out, f, values);
            rh_group_finish<WGMMA, D>(out);
        }
    }
    store_rows<D>(p, t.b, t.head, row0, out, row);
}

template <int D, int BK, bool WGMMA>
__global__ void __launch_bounds__(THREADS, 1) attention_forward(const rh_attention_shape p)
{
    if constexpr (!(WGMMA && RH_BEFORE_SM90))
        forward_block<D, BK, WGMMA>(p);
}

template <int D, int BK, bool WGMMA> constexpr size_t shared_bytes()
{
    return RH_TILE_ROOM(WGMMA) + BQ * D * 2 + 4 * BK * D * 2;
}
static_assert(shared_bytes<256, 16, false>() <= RH_SHARED_LEAST &&
                  shared_bytes<128, 64, false>() <= RH_SHARED_LEAST,
              "shared memory of attention");

template <int D, int BK, bool WGMMA> void launch(struct rh_backend *b, const rh_attention_shape &p)
{
    const size_t shared = shared_bytes<D, BK, WGMMA>();
    rh_cuda_check(b, rh_cuda_allow_shared(attention_forward<D, BK, WGMMA>, shared),
                  "shared memory of attention");
    RH_LAUNCH((attention_forward<D, BK, WGMMA>), (p.seq + BQ - 1) / BQ * p.batch * p.heads, THREADS,
              shared, rh_cuda_stream(b), p);
    rh_cuda_check(b, cudaGetLastError(), "attention");
}

} // namespace

void rh_cuda_attention(struct rh_backend *b, const struct rh_attention *p)
{
    if (!rh_attention_fits(b, p))
        return;
    const rh_attention_shape shape = rh_attention_shape_of(p);
    if (p->size <= 64)
        launch<64, 64, false>(b, shape);
    else if (p->size <= 128)
        launch<128, 64, false>(b, shape);
    else if (rh_cuda_has_wgmma())
        launch<256, 64, true>(b, shape);
    else if (rh_cuda_holds(shared_bytes<256, 32, false>()))
        launch<256, 32, false>(b, shape);
    else
        launch<256, 16, false>(b, shape);
}
