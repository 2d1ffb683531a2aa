#include "cuda/backend_cuda.h"
#include "cuda/delta_chunk.cuh"

#define C RH_DELTA_CHUNK
#define LD (C + 4) /* floats: rows of a fragment fall into different banks */

namespace
{

typedef __nv_bfloat16 bf16;

/* ---- per chunk: P, (I + L)^-1, U and W ---- */

#define PREPARE_THREADS 128

/* fp32 bits rounded to the 19 that tf32 keeps. */
__device__ __forceinline__ uint32_t tf32(float x)
{
    return (__float_as_uint(x) + 0x1000U) & 0xffffe000U;
}

/* d (16 x 16 as two tiles) += a b of 16 x 16 blocks of fp32 matrices with rows of LD. */
__device__ __forceinline__ void multiply_16(float d[2][4], const float *a, const float *b)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
#pragma unroll
    for (int k = 0; k < 16; k += 8) {
        const uint32_t fa[4] = {tf32(a[g * LD + k + t]), tf32(a[(g + 8) * LD + k + t]),
                                tf32(a[g * LD + k + t + 4]), tf32(a[(g + 8) * LD + k + t + 4])};
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const uint32_t fb[2] = {tf32(b[(k + t) * LD + 8 * n + g]),
                                    tf32(b[(k + t + 4) * LD + 8 * n + g])};
            rh_mma_tf32(d[n], fa, fb);
        }
    }
}

__device__ __forceinline__ void store_16(float *to, const float d[2][4], float factor)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        float *at = to + g * LD + 8 * n + 2 * t;
        *(float2 *)at = make_float2(factor * d[n][0], factor * d[n][1]);
        *(float2 *)(at + 8 * LD) = make_float2(factor * d[n][2], factor * d[n][3]);
    }
}

/* inverse = (I + L)^-1 of one diagonal block of 16: a column a lane, by substitution. */
__device__ __forceinline__ void invert_diagonal(float *inverse, const float *l, int block)
{
    const int column = (int)(threadIdx.x % RH_WARP);
    const int at = 16 * block * (LD + 1);
    if (column < 16) {
        float x[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            x[i] = i == column ? 1.0F : 0.0F;
#pragma unroll
            for (int k = 0; k < i; k++)
                x[i] -= l[at + i * LD + k] * x[k];
            inverse[at + i * LD + column] = x[i];
        }
    }
    __syncwarp();
}

/* Blocks below the diagonal in one column of blocks: X_ri = -X_rr sum_{i <= k < r} L_rk X_ki. Needs
 * all diagonal blocks. One warp a column; its last blocks are the longest. */
__device__ __forceinline__ void invert_column(float *inverse, const float *l, int column)
{
    for (int row = column + 1; row < 4; row++) {
        float d[2][4];
        float *target = inverse + 16 * (row * LD + column);
        rh_clear<2>(d);
        for (int k = column; k < row; k++)
            multiply_16(d, l + 16 * (row * LD + k), inverse + 16 * (k * LD + column));
        store_16(target, d, 1.0F);
        __syncwarp();
        rh_clear<2>(d);
        multiply_16(d, inverse + 16 * row * (LD + 1), target);
        __syncwarp();
        store_16(target, d, -1.0F);
        __syncwarp();
    }
}

/* P = QK * decay into its tile and L = beta KK * decay, strictly lower, into shared memory: the 16
 * rows of this warp. */
__device__ __forceinline__ void decay_scores(const struct rh_delta_gates &c, const float qk[8][4],
                                             const float kk[8][4], unsigned char *p, float *l)
{
    const int warp = (int)threadIdx.x / RH_WARP;
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * warp + g + 8 * half;
            const int j = 8 * n + 2 * t;
            float pv[2];
            float lv[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const float decay = j + k <= i ? rh_decay(c, i, j + k) : 0.0F;
                pv[k] = qk[n][2 * half + k] * decay;
                lv[k] = j + k < i ? c.beta[i] * kk[n][2 * half + k] * decay : 0.0F;
            }
            rh_store_word(p, RH_CHUNK_BLOCKS, 2 * warp + half, n, rh_bf16_pair(pv[0], pv[1]));
            *(float2 *)(l + i * LD + j) = make_float2(lv[0], lv[1]);
        }
    }
}

/* The A fragment of inverse * diag(factor), 16 x 16 at (row, column). */
__device__ __forceinline__ void scaled_a(uint32_t a[4], const float *inverse, int row, int column,
                                         const float *factor)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int j = column + 8 * k + 2 * t;
        const float2 f = factor ? *(const float2 *)(factor + j) : make_float2(1.0F, 1.0F);
        const float2 upper = *(const float2 *)(inverse + (row + g) * LD + j);
        const float2 lower = *(const float2 *)(inverse + (row + g + 8) * LD + j);
        a[2 * k] = rh_bf16_pair(upper.x * f.x, upper.y * f.y);
        a[2 * k + 1] = rh_bf16_pair(lower.x * f.x, lower.y * f.y);
    }
}

/* out [64, D] = inverse diag(factor) b, the 16 rows of this warp. b: tile [64, D]. */
template <int D>
__device__ __forceinline__ void apply_inverse(unsigned char *out, const float *inverse,
                                              const float *factor, const unsigned char *b)
{
    const int warp = (int)threadIdx.x / RH_WARP;
    float d[D / 8][4];
    rh_clear<D / 8>(d);
    for (int k = 0; k <= warp; k++) {
        uint32_t a[4];
        scaled_a(a, inverse, 16 * warp, 16 * k, factor);
        rh_multiply<D / 8, true>(d, a, b, D / 8, 2 * k, 0);
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        rh_store_word(out, D / 8, 2 * warp, n, rh_bf16_pair(d[n][0], d[n][1]));
        rh_store_word(out, D / 8, 2 * warp + 1, n, rh_bf16_pair(d[n][2], d[n][3]));
    }
}

__device__ __forceinline__ void store_inverse(unsigned char *out, const float *inverse)
{
    const int warp = (int)threadIdx.x / RH_WARP;
    for (int k = 0; k < 4; k++) {
        uint32_t a[4] = {};
        if (k <= warp)
            scaled_a(a, inverse, 16 * warp, 16 * k, nullptr);
        rh_store_a(out, RH_CHUNK_BLOCKS, 2 * warp, 2 * k, a);
    }
}

template <int D> struct prepare_shared {
    unsigned char key[RH_TILE_BYTES(C, D)];
    unsigned char value[RH_TILE_BYTES(C, D)];
    union {
        unsigned char query[RH_TILE_BYTES(C, D)]; /* gone when its products are made */
        float inverse[C * LD];
    };
    float l[C * LD];
    struct rh_delta_gates gates;
    float beta_e[C]; /* beta e^c */
};
static_assert(sizeof(struct prepare_shared<128>) <= RH_SHARED_LEAST,
              "shared memory of delta_prepare");

/* Grid: chunks, key heads, sequences. The value heads of a key head share K K^T and Q K^T. */
template <int D>
__global__ void __launch_bounds__(PREPARE_THREADS)
    delta_prepare(struct rh_delta_rule p, struct rh_delta_memory m)
{
    RH_SHARED(raw);
    struct prepare_shared<D> &s = *(struct prepare_shared<D> *)raw;
    const int warp = (int)threadIdx.x / RH_WARP;
    const int64_t key_head = blockIdx.y;
    const int64_t group = p.value_heads / p.key_heads;
    struct rh_delta_place at =
        rh_delta_at(p, m.chunks, blockIdx.z, key_head * group, blockIdx.x);
    const int64_t keys = (at.first * p.key_heads + key_head) * p.key_size;
    const int64_t ldk = p.key_heads * p.key_size;
    rh_copy_rows<D>(s.key, (const bf16 *)p.k + keys, ldk, at.rows, (int)p.key_size);
    rh_copy_rows<D>(s.query, (const bf16 *)p.q + keys, ldk, at.rows, (int)p.key_size);
    rh_cp_async_commit();
    rh_cp_async_wait<0>();
    __syncthreads();
    float kk[8][4];
    float qk[8][4];
    rh_clear<8>(kk);
    rh_clear<8>(qk);
#pragma unroll
    for (int k = 0; k < D / 8; k += 2) {
        uint32_t a[4];
        rh_load_a<false>(a, s.key, D / 8, 2 * warp, k);
        rh_multiply<8, false>(kk, a, s.key, D / 8, k, 0);
        rh_load_a<false>(a, s.query, D / 8, 2 * warp, k);
        rh_multiply<8, false>(qk, a, s.key, D / 8, k, 0);
    }
    for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
        at = rh_delta_at(p, m.chunks, blockIdx.z, head, blockIdx.x);
        __syncthreads(); /* the tiles of the last head, or of the query, are free */
        rh_copy_rows<D>(s.value, (const bf16 *)p.v + at.first * p.ldv + head * p.value_size,
                        p.ldv, at.rows, (int)p.value_size);
        rh_cp_async_commit();
        if (warp == 0) {
            const int64_t gates = at.first * p.value_heads + head;
            rh_make_gates(&s.gates, p.g + gates, p.beta + gates, p.value_heads, at.rows);
        }
        __syncthreads();
        if (threadIdx.x < C) {
            const int i = (int)threadIdx.x;
            s.beta_e[i] = s.gates.beta[i] * s.gates.e[i];
            m.gate[at.tile * 2 * C + i] = s.gates.e[i];
            m.gate[at.tile * 2 * C + C + i] = s.gates.f[i];
        }
        decay_scores(s.gates, qk, kk, m.p + at.tile * (int64_t)RH_TILE_BYTES(C, C), s.l);
        __syncwarp();
        invert_diagonal(s.inverse, s.l, warp);
        __syncthreads();
        invert_column(s.inverse, s.l, warp);
        rh_cp_async_wait<0>();
        __syncthreads();
        const int64_t tile = at.tile * (int64_t)RH_TILE_BYTES(C, D);
        apply_inverse<D>(m.u + tile, s.inverse, s.gates.beta, s.value);
        apply_inverse<D>(m.w + tile, s.inverse, s.beta_e, s.key);
        if (m.lambda)
            store_inverse(m.lambda + at.tile * (int64_t)RH_TILE_BYTES(C, C), s.inverse);
    }
}

/* ---- over the chunks: R, O and the state ---- */

template <int D> struct scan_stage {
    unsigned char key[RH_TILE_BYTES(C, D)];
    unsigned char query[RH_TILE_BYTES(C, D)];
    unsigned char w[RH_TILE_BYTES(C, D)];
    unsigned char u[RH_TILE_BYTES(C, D)];
    unsigned char p[RH_TILE_BYTES(C, C)];
    float gate[2 * C];
};

/* Stages: two, so that a chunk comes while the last is used; one where shared memory is short. */
template <int D, int Stages> struct scan_shared {
    struct scan_stage<D> stage[Stages];
    unsigned char out[RH_TILE_BYTES(C, D)]; /* a part of [16, 64] for each warp */
};
static_assert(sizeof(struct scan_shared<128, 2>) <= RH_SHARED_SM80 &&
                  sizeof(struct scan_shared<128, 1>) <= RH_SHARED_LEAST &&
                  sizeof(struct scan_shared<64, 2>) <= RH_SHARED_LEAST,
              "shared memory of delta_scan");

template <int D>
__device__ __forceinline__ void load_stage(struct scan_stage<D> *stage,
                                           const struct rh_delta_rule &p,
                                           const struct rh_delta_memory &m,
                                           const struct rh_delta_place &at, int64_t key_head)
{
    const int64_t keys = (at.first * p.key_heads + key_head) * p.key_size;
    const int64_t ldk = p.key_heads * p.key_size;
    const int64_t tile = at.tile * (int64_t)RH_TILE_BYTES(C, D);
    rh_copy_rows<D>(stage->key, (const bf16 *)p.k + keys, ldk, at.rows, (int)p.key_size);
    rh_copy_rows<D>(stage->query, (const bf16 *)p.q + keys, ldk, at.rows, (int)p.key_size);
    rh_copy_tile(stage->w, m.w + tile, (int)RH_TILE_BYTES(C, D));
    rh_copy_tile(stage->u, m.u + tile, (int)RH_TILE_BYTES(C, D));
    rh_copy_tile(stage->p, m.p + at.tile * (int64_t)RH_TILE_BYTES(C, C),
                 (int)RH_TILE_BYTES(C, C));
    rh_copy_tile((unsigned char *)stage->gate, (const unsigned char *)(m.gate + at.tile * 2 * C),
                 (int)sizeof stage->gate);
    rh_cp_async_commit();
}

/* O^T [16, 64] of this warp to rows of O, turned by way of shared memory. */
__device__ __forceinline__ void store_output(unsigned char *turn, const float o[8][4], bf16 *out,
                                             int64_t ld, int rows, int size)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 8; n++) {
        rh_store_word(turn, RH_CHUNK_BLOCKS, 0, n, rh_bf16_pair(o[n][0], o[n][1]));
        rh_store_word(turn, RH_CHUNK_BLOCKS, 1, n, rh_bf16_pair(o[n][2], o[n][3]));
    }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
        uint32_t x[4];
        rh_ldmatrix_x4_trans(x, rh_block_down(turn, RH_CHUNK_BLOCKS, 0, n));
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int row = 8 * (n + k / 2) + g;
            const int column = 8 * (k % 2) + 2 * t;
            if (row < rows && column < size)
                *(uint32_t *)(out + row * ld + column) = x[k];
        }
    }
}

/* S^T <- e^c_last S^T + (diag(e^(c_last - c)) R)^T K, the 16 value columns of this warp. */
template <int D>
__device__ __forceinline__ void carry_state(const struct scan_stage<D> &x, float s[D / 8][4],
                                            float r[8][4])
{
    const float leaving = x.gate[C - 1];
    rh_scale_columns(r, x.gate + C);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            s[n][k] *= leaving;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t a[4];
        rh_pack_a(a, r[2 * k], r[2 * k + 1]);
        rh_multiply<D / 8, true>(s, a, x.key, D / 8, 2 * k, 0);
    }
}

/* Grid: value heads of all sequences. Each warp carries 16 columns of the state as S^T in its
 * registers and needs nothing from the others. */
template <int D, int Stages>
__global__ void __launch_bounds__(2 * D, 1)
    delta_scan(struct rh_delta_rule p, struct rh_delta_memory m)
{
    RH_SHARED(raw);
    struct scan_shared<D, Stages> &shared = *(struct scan_shared<D, Stages> *)raw;
    const int warp = (int)threadIdx.x / RH_WARP;
    const int column = warp * 16; /* of the state */
    const int64_t sequence = blockIdx.x / p.value_heads;
    const int64_t head = blockIdx.x % p.value_heads;
    const int64_t key_head = head / (p.value_heads / p.key_heads);
    const int64_t ldo = p.value_heads * p.value_size;
    unsigned char *turn = shared.out + warp * (int)RH_TILE_BYTES(16, C);
    float s[D / 8][4];
    rh_clear<D / 8>(s);
    if (Stages > 1)
        load_stage<D>(&shared.stage[0], p, m, rh_delta_at(p, m.chunks, sequence, head, 0),
                      key_head);
    for (int64_t chunk = 0; chunk < m.chunks; chunk++) {
        const struct rh_delta_place at = rh_delta_at(p, m.chunks, sequence, head, chunk);
        const struct scan_stage<D> &x = shared.stage[chunk % Stages];
        const int64_t next = chunk + Stages - 1;
        if (next < m.chunks) {
            load_stage<D>(&shared.stage[next % Stages], p, m,
                          rh_delta_at(p, m.chunks, sequence, head, next), key_head);
            rh_cp_async_wait<Stages - 1>();
        } else {
            rh_cp_async_wait<0>();
        }
        __syncthreads();
        float r[8][4];
        float o[8][4];
        rh_clear<8>(o);
#pragma unroll
        for (int n = 0; n < 8; n += 2) { /* R^T starts as U^T */
            uint32_t u[4];
            rh_load_a<true>(u, x.u, D / 8, column / 8, n);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                r[n + k / 2][k % 2 * 2] = rh_bf16_low(u[k]);
                r[n + k / 2][k % 2 * 2 + 1] = rh_bf16_high(u[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < D / 8; k += 2) {
            uint32_t a[4];
            rh_pack_a(a, s[k], s[k + 1]);
            if (m.s)
                rh_store_a(m.s + at.tile * (int64_t)RH_TILE_BYTES(D, D), D / 8, column / 8, k, a);
            rh_multiply<8, false>(o, a, x.query, D / 8, k, 0);
            rh_negate(a);
            rh_multiply<8, false>(r, a, x.w, D / 8, k, 0);
        }
        rh_scale_columns(o, x.gate);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t a[4];
            rh_pack_a(a, r[2 * k], r[2 * k + 1]);
            if (m.r)
                rh_store_a(m.r + at.tile * (int64_t)RH_TILE_BYTES(C, D), RH_CHUNK_BLOCKS,
                           column / 8, 2 * k, a);
            rh_multiply<8, false>(o, a, x.p, RH_CHUNK_BLOCKS, 2 * k, 0);
        }
        store_output(turn, o,
                     (bf16 *)p.o + at.first * ldo + head * p.value_size + column, ldo, at.rows,
                     (int)p.value_size - column);
        carry_state<D>(x, s, r);
        __syncthreads(); /* the next turn loads into this stage */
    }
}

/* ---- the op ---- */

void *take(unsigned char **memory, size_t bytes)
{
    unsigned char *mine = *memory;
    *memory = mine ? mine + bytes : nullptr;
    return mine;
}

template <int D, int Stages>
void scan(struct rh_backend *b, const struct rh_delta_rule *p, const struct rh_delta_memory *m)
{
    const dim3 heads((unsigned)(p->batch * p->value_heads));
    const size_t shared = sizeof(struct scan_shared<D, Stages>);
    rh_cuda_check(b, rh_cuda_allow_shared(delta_scan<D, Stages>, shared),
                  "shared memory of delta_scan");
    RH_LAUNCH((delta_scan<D, Stages>), heads, 2 * D, shared, rh_cuda_stream(b), *p, *m);
    rh_cuda_check(b, cudaGetLastError(), "delta_scan");
}

template <int D>
void forward(struct rh_backend *b, const struct rh_delta_rule *p,
                    const struct rh_delta_memory *m)
{
    const dim3 chunks((unsigned)m->chunks, (unsigned)p->key_heads, (unsigned)p->batch);
    rh_cuda_check(b, rh_cuda_allow_shared(delta_prepare<D>, sizeof(struct prepare_shared<D>)),
                  "shared memory of delta_prepare");
    RH_LAUNCH((delta_prepare<D>), chunks, PREPARE_THREADS, sizeof(struct prepare_shared<D>),
              rh_cuda_stream(b), *p, *m);
    rh_cuda_check(b, cudaGetLastError(), "delta_prepare");
    if (D <= 64 || rh_cuda_holds(sizeof(struct scan_shared<D, 2>)))
        scan<D, 2>(b, p, m);
    else
        scan<D, D <= 64 ? 2 : 1>(b, p, m);
}

} // namespace

int rh_delta_padded(const struct rh_delta_rule *p)
{
    const int64_t size = p->key_size > p->value_size ? p->key_size : p->value_size;
    /* Rows are moved in pieces of 16 bytes. */
    if (p->key_size % 8 || p->value_size % 8 || p->ldv % 8)
        return 0;
    return size <= 32 ? 32 : size <= 64 ? 64 : size <= 128 ? 128 : 0;
}

size_t rh_delta_carve(const struct rh_delta_rule *p, bool keep, void *memory,
                      struct rh_delta_memory *out)
{
    const size_t d = (size_t)rh_delta_padded(p);
    out->chunks = (p->seq + C - 1) / C;
    const size_t n = (size_t)(p->batch * p->value_heads * out->chunks);
    unsigned char *at = (unsigned char *)memory;
    out->u = (unsigned char *)take(&at, n * RH_TILE_BYTES(C, d));
    out->w = (unsigned char *)take(&at, n * RH_TILE_BYTES(C, d));
    out->p = (unsigned char *)take(&at, n * RH_TILE_BYTES(C, C));
    out->gate = (float *)take(&at, n * 2 * C * sizeof(float));
    size_t bytes = n * (2 * RH_TILE_BYTES(C, d) + RH_TILE_BYTES(C, C) + 2 * C * sizeof(float));
    out->lambda = out->r = out->s = nullptr;
    if (keep) {
        out->lambda = (unsigned char *)take(&at, n * RH_TILE_BYTES(C, C));
        out->r = (unsigned char *)take(&at, n * RH_TILE_BYTES(C, d));
        out->s = (unsigned char *)take(&at, n * RH_TILE_BYTES(d, d));
        bytes += n * (RH_TILE_BYTES(C, C) + RH_TILE_BYTES(C, d) + RH_TILE_BYTES(d, d));
    }
    return bytes;
}

int64_t rh_cuda_delta_rule_saved(const struct rh_delta_rule *p)
{
    struct rh_delta_memory m;
    return (int64_t)(rh_delta_carve(p, true, nullptr, &m));
}

void rh_cuda_delta_rule(struct rh_backend *b, const struct rh_delta_rule *p)
{
    struct rh_delta_memory m;
    const bool keep = p->saved != nullptr;
    void *memory = p->saved;
    if (!keep)
        memory = rh_cuda_scratch(b, rh_delta_carve(p, false, nullptr, &m));
    if (!memory)
        return;
    rh_delta_carve(p, keep, memory, &m);
    switch (rh_delta_padded(p)) {
    case 32: forward<32>(b, p, &m); break;
    case 64: forward<64>(b, p, &m); break;
    case 128: forward<128>(b, p, &m); break;
    default: rh_cuda_check(b, cudaErrorInvalidValue, RH_DELTA_REFUSED);
    }
}
