#ifndef RH_KERNELS_CUDA_ATTENTION_TILE_CUH
#define RH_KERNELS_CUDA_ATTENTION_TILE_CUH

#include "cuda/gemm_tile.cuh"

#include "cuda/backend_cuda.h"
#include "cuda/device_traits.h"
#include "kernels/ops.h"

/*
 * What forward and backward share. Head sizes are multiples of 8 up to 256; a kernel is made for D
 * = 64, 128 and 256 and pads a head with zeros. D = 256 has a second shape, with larger tiles, for
 * the shared memory of sm_90 and for wgmma, and large heads have one for the least shared memory.
 */
struct rh_attention_shape {
    int batch, seq, heads, kv_heads, size;
    float scale;
    const __nv_bfloat16 *q, *k, *v, *o, *d_o;
    int64_t ldv, lddv;
    float *lse;
    __nv_bfloat16 *out, *dq, *dk, *dv;
    /* Backward: [batch, heads, padded], lse * log2(e) and the row's sum of o * d_o; infinity and 0
     * past seq. */
    float2 *stats;
    int padded;
};

#define RH_LOG2E 1.4426950408889634F

inline rh_attention_shape rh_attention_shape_of(const struct rh_attention *p)
{
    rh_attention_shape s = {};
    s.batch = (int)p->batch, s.seq = (int)p->seq;
    s.heads = (int)p->heads, s.kv_heads = (int)p->kv_heads, s.size = (int)p->size;
    s.scale = p->scale;
    s.q = (const __nv_bfloat16 *)p->q, s.k = (const __nv_bfloat16 *)p->k;
    s.v = (const __nv_bfloat16 *)p->v, s.o = (const __nv_bfloat16 *)p->o;
    s.d_o = (const __nv_bfloat16 *)p->d_o;
    s.ldv = p->ldv, s.lddv = p->lddv;
    s.lse = p->lse;
    s.out = (__nv_bfloat16 *)p->o, s.dq = (__nv_bfloat16 *)p->dq;
    s.dk = (__nv_bfloat16 *)p->dk, s.dv = (__nv_bfloat16 *)p->dv;
    s.padded = (s.seq + 63) / 64 * 64;
    return s;
}

/* False after an error has been kept: no kernel is made for this. */
inline bool rh_attention_fits(struct rh_backend *b, const struct rh_attention *p)
{
    if (p->size <= 256 && p->size % 8 == 0 && p->ldv % 8 == 0 && p->lddv % 8 == 0)
        return true;
    rh_cuda_check(b, cudaErrorInvalidValue,
                  "attention: head sizes are multiples of 8 up to 256, strides multiples of 8");
    return false;
}

/* Elements from the tensor's start to (sequence, position, head). */
__device__ __forceinline__ int64_t rh_query_at(const rh_attention_shape &p, int b, int at, int head)
{
    return (((int64_t)b * p.seq + at) * p.heads + head) * p.size;
}

__device__ __forceinline__ int64_t rh_key_at(const rh_attention_shape &p, int b, int at,
                                             int kv_head)
{
    return (((int64_t)b * p.seq + at) * p.kv_heads + kv_head) * p.size;
}

__device__ __forceinline__ int64_t rh_value_at(const rh_attention_shape &p, int64_t ld, int b,
                                               int at, int kv_head)
{
    return ((int64_t)b * p.seq + at) * ld + (int64_t)kv_head * p.size;
}

/* A block of BQ queries of one head; those that see most keys come first. */
struct rh_query_block {
    int b, head, kv_head;
    int first; /* query */
    int keys;  /* that its last query sees */
};

template <int BQ>
__device__ __forceinline__ rh_query_block rh_query_block_of(const rh_attention_shape &p)
{
    const int pair = (int)blockIdx.x % (p.batch * p.heads);
    const int last = (p.seq + BQ - 1) / BQ - 1;
    rh_query_block t;
    t.b = pair / p.heads;
    t.head = pair % p.heads;
    t.kv_head = t.head / (p.heads / p.kv_heads);
    t.first = (last - (int)blockIdx.x / (p.batch * p.heads)) * BQ;
    t.keys = min(p.seq, t.first + BQ);
    return t;
}

/* Start the copy of ROWS positions from `at` on; queries: p.q or p.d_o. */
template <int ROWS, int D, int THREADS>
__device__ __forceinline__ void rh_load_queries(unsigned char *tile, const rh_attention_shape &p,
                                                const __nv_bfloat16 *queries, int b, int at,
                                                int head)
{
    rh_tile_load<ROWS, D, THREADS>(tile, queries + rh_query_at(p, b, at, head),
                                   (int64_t)p.heads * p.size, p.seq - at, p.size);
}

template <int ROWS, int D, int THREADS>
__device__ __forceinline__ void rh_load_keys(unsigned char *tile, const rh_attention_shape &p,
                                             int b, int at, int kv_head)
{
    rh_tile_load<ROWS, D, THREADS>(tile, p.k + rh_key_at(p, b, at, kv_head),
                                   (int64_t)p.kv_heads * p.size, p.seq - at, p.size);
}

template <int ROWS, int D, int THREADS>
__device__ __forceinline__ void rh_load_values(unsigned char *tile, const rh_attention_shape &p,
                                               int b, int at, int kv_head)
{
    rh_tile_load<ROWS, D, THREADS>(tile, p.v + rh_value_at(p, p.ldv, b, at, kv_head), p.ldv,
                                   p.seq - at, p.size);
}

/* Accumulators of 16 rows side by side become fragments of A. */
template <int COLUMNS>
__device__ __forceinline__ void rh_fragments(uint32_t (*f)[4], const float (*acc)[4])
{
#pragma unroll
    for (int k = 0; k < COLUMNS / 16; k++)
        rh_fragment(f[k], acc[2 * k], acc[2 * k + 1]);
}

#endif
