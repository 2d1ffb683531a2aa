#include "cuda/backend_cuda.h"
#include "cuda/delta_chunk_backward.cuh"

namespace
{

/* ---- back over the chunks: dR and dS ---- */

template <int D> struct scan_stage {
    unsigned char key[RH_TILE_BYTES(C, D)];
    unsigned char query[RH_TILE_BYTES(C, D)];
    unsigned char w[RH_TILE_BYTES(C, D)];
    unsigned char d_o[RH_TILE_BYTES(C, D)];
    unsigned char p[RH_TILE_BYTES(C, C)];
    float gate[2 * C];
};

template <int D>
__device__ __forceinline__ void load_stage(struct scan_stage<D> *stage,
                                           const struct rh_delta_rule &p,
                                           const struct rh_delta_memory &m, int64_t sequence,
                                           int64_t head, int64_t chunk)
{
    const struct rh_delta_place at = rh_delta_at(p, m.chunks, sequence, head, chunk);
    const int64_t key_head = head / (p.value_heads / p.key_heads);
    const int64_t keys = (at.first * p.key_heads + key_head) * p.key_size;
    const int64_t ldk = p.key_heads * p.key_size;
    const int64_t ldo = p.value_heads * p.value_size;
    rh_copy_rows<D>(stage->key, (const bf16 *)p.k + keys, ldk, at.rows, (int)p.key_size);
    rh_copy_rows<D>(stage->query, (const bf16 *)p.q + keys, ldk, at.rows, (int)p.key_size);
    rh_copy_rows<D>(stage->d_o, (const bf16 *)p.d_o + at.first * ldo + head * p.value_size, ldo,
                    at.rows, (int)p.value_size);
    rh_copy_tile(stage->w, m.w + at.tile * (int64_t)RH_TILE_BYTES(C, D),
                 (int)RH_TILE_BYTES(C, D));
    rh_copy_tile(stage->p, m.p + at.tile * (int64_t)RH_TILE_BYTES(C, C),
                 (int)RH_TILE_BYTES(C, C));
    rh_copy_tile((unsigned char *)stage->gate, (const unsigned char *)(m.gate + at.tile * 2 * C),
                 (int)sizeof stage->gate);
    rh_cp_async_commit();
}

/* a (16 x 16, columns j of the chunk from 8 * block on) times diag(factor). */
__device__ __forceinline__ void scale_a(uint32_t a[4], const float *factor, int block)
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float2 f =
            *(const float2 *)(factor + 8 * (block + k) + threadIdx.x % 4 * 2);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t x = a[2 * k + half];
            a[2 * k + half] = rh_bf16_pair(rh_bf16_low(x) * f.x, rh_bf16_high(x) * f.y);
        }
    }
}

/* One chunk of the scan: the warp's 16 value columns of dS^T in s. */
template <int D>
__device__ __forceinline__ void scan_chunk(const struct scan_stage<D> &x, float s[D / 8][4],
                                           unsigned char *dr, unsigned char *ds, int column)
{
    float r[8][4];
    rh_clear<8>(r);
#pragma unroll
    for (int k = 0; k < D / 8; k += 2) { /* dR^T = (K~ dS)^T ... */
        uint32_t a[4];
        rh_pack_a(a, s[k], s[k + 1]);
        rh_store_a(ds, D / 8, column / 8, k, a);
        rh_multiply<8, false>(r, a, x.key, D / 8, k, 0);
    }
    rh_scale_columns(r, x.gate + C);
    const float leaving = x.gate[C - 1];
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            s[n][k] *= leaving;
#pragma unroll
    for (int j = 0; j < 8; j += 2) { /* ... + (P^T dO)^T; dS += (e^c Q)^T dO */
        uint32_t a[4];
        rh_load_a<true>(a, x.d_o, D / 8, column / 8, j);
        rh_multiply<8, true>(r, a, x.p, RH_CHUNK_BLOCKS, j, 0);
        scale_a(a, x.gate, j);
        rh_multiply<D / 8, true>(s, a, x.query, D / 8, j, 0);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 2) { /* dS -= W^T dR */
        uint32_t a[4];
        rh_pack_a(a, r[i], r[i + 1]);
        rh_store_a(dr, RH_CHUNK_BLOCKS, column / 8, i, a);
        rh_negate(a);
        rh_multiply<D / 8, true>(s, a, x.w, D / 8, i, 0);
    }
}

/* Stages: as in delta_rule.cu. */
template <int D, int Stages>
__global__ void __launch_bounds__(2 * D, 1)
    delta_scan_backward(struct rh_delta_rule p, struct rh_delta_memory m, struct gradients out)
{
    RH_SHARED(raw);
    struct scan_stage<D> *stage = (struct scan_stage<D> *)raw;
    const int column = (int)threadIdx.x / RH_WARP * 16;
    const int64_t sequence = blockIdx.x / p.value_heads;
    const int64_t head = blockIdx.x % p.value_heads;
    float s[D / 8][4];
    rh_clear<D / 8>(s);
    if (Stages > 1)
        load_stage<D>(&stage[(m.chunks - 1) % Stages], p, m, sequence, head, m.chunks - 1);
    for (int64_t chunk = m.chunks - 1; chunk >= 0; chunk--) {
        const int64_t tile = rh_delta_at(p, m.chunks, sequence, head, chunk).tile;
        const int64_t next = chunk - (Stages - 1);
        if (next >= 0) {
            load_stage<D>(&stage[next % Stages], p, m, sequence, head, next);
            rh_cp_async_wait<Stages - 1>();
        } else {
            rh_cp_async_wait<0>();
        }
        __syncthreads();
        scan_chunk<D>(stage[chunk % Stages], s, out.dr + tile * (int64_t)RH_TILE_BYTES(C, D),
                      out.ds + tile * (int64_t)RH_TILE_BYTES(D, D), column);
        __syncthreads(); /* the next turn loads into this stage */
    }
}

template <int D, int Stages>
void scan(struct rh_backend *b, const struct rh_delta_rule *p, const struct rh_delta_memory *m,
          const struct gradients &out)
{
    const dim3 heads((unsigned)(p->batch * p->value_heads));
    const size_t shared = Stages * sizeof(struct scan_stage<D>);
    static_assert(Stages * sizeof(struct scan_stage<D>) <=
                      (Stages > 1 && D > 64 ? RH_SHARED_SM80 : RH_SHARED_LEAST),
                  "shared memory of delta_scan_backward");
    rh_cuda_check(b, rh_cuda_allow_shared(delta_scan_backward<D, Stages>, shared),
                  "shared memory of delta_scan_backward");
    RH_LAUNCH((delta_scan_backward<D, Stages>), heads, 2 * D, shared, rh_cuda_stream(b), *p, *m,
              out);
    rh_cuda_check(b, cudaGetLastError(), "delta_scan_backward");
}

template <int D, bool Tight>
void per_chunk(struct rh_backend *b, const struct rh_delta_rule *p, const struct rh_delta_memory *m,
               const struct gradients &out)
{
    const dim3 chunks((unsigned)m->chunks, (unsigned)p->key_heads, (unsigned)p->batch);
    const size_t shared = sizeof(chunk_layout<D, Tight>);
    rh_cuda_check(b, rh_cuda_allow_shared(delta_chunk_backward<D, Tight>, shared),
                  "shared memory of delta_chunk_backward");
    RH_LAUNCH((delta_chunk_backward<D, Tight>), chunks, split<D>::threads, shared,
              rh_cuda_stream(b), *p, *m, out);
    rh_cuda_check(b, cudaGetLastError(), "delta_chunk_backward");
}

template <int D>
void backward(struct rh_backend *b, const struct rh_delta_rule *p,
                     const struct rh_delta_memory *m)
{
    const int64_t tiles = p->batch * p->value_heads * m->chunks;
    const size_t dr = (size_t)tiles * RH_TILE_BYTES(C, D);
    const size_t ds = (size_t)tiles * RH_TILE_BYTES(D, D);
    unsigned char *scratch = (unsigned char *)rh_cuda_scratch(b, dr + ds);
    if (!scratch)
        return;
    const struct gradients out = {scratch, scratch + dr};
    if (D <= 64 || rh_cuda_holds(sizeof(chunk_layout<D, false>))) {
        scan<D, 2>(b, p, m, out);
        per_chunk<D, false>(b, p, m, out);
    } else {
        scan<D, D <= 64 ? 2 : 1>(b, p, m, out);
        per_chunk<D, (D > 64)>(b, p, m, out);
    }
}

} // namespace

void rh_cuda_delta_rule_backward(struct rh_backend *b, const struct rh_delta_rule *p)
{
    struct rh_delta_memory m;
    rh_delta_carve(p, true, p->saved, &m);
    switch (rh_delta_padded(p)) {
    case 32: backward<32>(b, p, &m); break;
    case 64: backward<64>(b, p, &m); break;
    case 128: backward<128>(b, p, &m); break;
    default: rh_cuda_check(b, cudaErrorInvalidValue, RH_DELTA_REFUSED);
    }
}
