#ifndef RH_KERNELS_CUDA_DELTA_CHUNK_BACKWARD_CUH
#define RH_KERNELS_CUDA_DELTA_CHUNK_BACKWARD_CUH

#include "cuda/delta_chunk.cuh"

/* Per chunk, after the scan of delta_rule_backward.cu: dQ, dK, dV, dbeta, dg. Formulas and names:
 * docs/numerics.md. */

#define C RH_DELTA_CHUNK

namespace
{

typedef __nv_bfloat16 bf16;

/* What the scan leaves for the chunks, in the backend's scratch memory. */
struct gradients {
    unsigned char *dr; /* [D, 64] dR^T */
    unsigned char *ds; /* [D, D] gradient of the leaving state, dS^T: value x key */
};

/* Warp w has the rows 16 (w mod 4) .. + 15 and part w / 4 of the columns of every product. */
#define STRIP ((int)threadIdx.x / RH_WARP % 4)
#define PART ((int)threadIdx.x / RH_WARP / 4)

template <int D> struct split {
    static constexpr int parts = D >= 64 ? 4 : 2;
    static constexpr int warps = 4 * parts;
    static constexpr int threads = RH_WARP * warps;
    static constexpr int wide = D / 8 / parts;   /* tiles of 8 columns in a part of [64, D] */
    static constexpr int narrow = C / 8 / parts; /* and of [64, 64] */
};

template <int D> struct chunk_sums {
    unsigned char a[RH_TILE_BYTES(C, C)]; /* dP * decay, later diag(beta) dL * decay */
    struct rh_delta_gates gates;
    double dc[split<D>::parts][C]; /* of the parts, like the next two */
    float dbeta[split<D>::parts][C];
    float leaving[split<D>::parts][C];
    float column[4][C]; /* column sums, of the four strips */
    float dot[split<D>::warps];
};

/* Two layouts of the tiles, with the same names. What overlaps is not there at the same time:
 * chunk_head. */
template <int D, bool Tight> struct chunk_layout : chunk_sums<D> {
    unsigned char key[RH_TILE_BYTES(C, D)];
    unsigned char query[RH_TILE_BYTES(C, D)];
    unsigned char dr[RH_TILE_BYTES(C, D)];
    union {
        unsigned char d_o[RH_TILE_BYTES(C, D)];
        unsigned char xv[RH_TILE_BYTES(C, D)];
    };
    union {
        unsigned char r[RH_TILE_BYTES(C, D)];
        unsigned char lambda[RH_TILE_BYTES(C, C)];
    };
    union {
        unsigned char s[RH_TILE_BYTES(D, D)];
        struct {
            unsigned char dw[RH_TILE_BYTES(C, D)];
            unsigned char xk[RH_TILE_BYTES(C, D)];
        };
    };
    union {
        unsigned char ds[RH_TILE_BYTES(D, D)];
        struct {
            unsigned char u[RH_TILE_BYTES(C, D)];
            unsigned char w[RH_TILE_BYTES(C, D)];
        };
    };
};

/* D = 128 in 99 KiB: the query comes again for every head, S twice. */
template <int D> struct chunk_layout<D, true> : chunk_sums<D> {
    unsigned char key[RH_TILE_BYTES(C, D)];
    union {
        unsigned char query[RH_TILE_BYTES(C, D)];
        unsigned char dw[RH_TILE_BYTES(C, D)];
        unsigned char w[RH_TILE_BYTES(C, D)];
    };
    union {
        unsigned char s[RH_TILE_BYTES(D, D)];
        struct {
            union {
                unsigned char r[RH_TILE_BYTES(C, D)];
                unsigned char lambda[RH_TILE_BYTES(C, C)];
                unsigned char u[RH_TILE_BYTES(C, D)];
            };
            union {
                unsigned char ds[RH_TILE_BYTES(D, D)];
                struct {
                    unsigned char xv[RH_TILE_BYTES(C, D)];
                    union {
                        unsigned char d_o[RH_TILE_BYTES(C, D)];
                        unsigned char dr[RH_TILE_BYTES(C, D)];
                        unsigned char xk[RH_TILE_BYTES(C, D)];
                    };
                };
            };
        };
    };
};
static_assert(sizeof(chunk_layout<128, false>) <= RH_SHARED_SM80 &&
                  sizeof(chunk_layout<128, true>) <= RH_SHARED_LEAST &&
                  sizeof(chunk_layout<64, false>) <= RH_SHARED_LEAST,
              "shared memory of delta_chunk_backward");

/* Onto the sums of row g (or g + 8) of the strip over this part of the columns: one lane a row. */
template <int D>
__device__ __forceinline__ void add_gates(struct chunk_sums<D> &x, int half, float dc,
                                          float dbeta)
{
    const int lane = (int)(threadIdx.x % RH_WARP);
    if (lane % 4 == 0) {
        const int i = 16 * STRIP + lane / 4 + 8 * half;
        x.dc[PART][i] += (double)dc;
        x.dbeta[PART][i] += dbeta;
    }
}

template <int D> __device__ __forceinline__ void clear_gates(struct chunk_sums<D> &x)
{
    const int lane = (int)(threadIdx.x % RH_WARP);
    if (lane % 4 == 0) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * STRIP + lane / 4 + 8 * half;
            x.dc[PART][i] = 0.0;
            x.dbeta[PART][i] = 0.0F;
        }
    }
}

/* The sum over the four lanes of a row. */
__device__ __forceinline__ float row_sum(float x)
{
    x += __shfl_xor_sync(RH_FULL, x, 1);
    return x + __shfl_xor_sync(RH_FULL, x, 2);
}

/* Sums over the rows of the strip of this thread's tiles of columns, to or onto column[strip]. */
template <int D, bool Add>
__device__ __forceinline__ void column_sums(float (*column)[C],
                                            const float sum[split<D>::narrow][2])
{
    const int lane = (int)(threadIdx.x % RH_WARP);
#pragma unroll
    for (int n = 0; n < split<D>::narrow; n++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float x = sum[n][k];
#pragma unroll
            for (int step = 4; step < RH_WARP; step *= 2)
                x += __shfl_xor_sync(RH_FULL, x, step);
            float *at = &column[STRIP][8 * (split<D>::narrow * PART + n) + 2 * (lane % 4) + k];
            if (lane < 4)
                *at = Add ? *at + x : x;
        }
    }
}

/* x row-scaled onto sum, and the row sums of x * tile. */
template <int N>
__device__ __forceinline__ void add_rows(float (*sum)[4], const float (*x)[4],
                                         const float factor[2], const unsigned char *tile,
                                         int columns, int first, float dot[2])
{
    dot[0] = dot[1] = 0.0F;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t t = rh_load_word(tile, columns, 2 * STRIP + half, first + n);
            dot[half] += x[n][2 * half] * rh_bf16_low(t) + x[n][2 * half + 1] * rh_bf16_high(t);
            sum[n][2 * half] += factor[half] * x[n][2 * half];
            sum[n][2 * half + 1] += factor[half] * x[n][2 * half + 1];
        }
    }
    dot[0] = row_sum(dot[0]);
    dot[1] = row_sum(dot[1]);
}

/* [64, D] accumulators of this warp into a tile. */
template <int N>
__device__ __forceinline__ void store_tile(unsigned char *tile, int columns, int first,
                                           const float (*x)[4])
{
#pragma unroll
    for (int n = 0; n < N; n++) {
        rh_store_word(tile, columns, 2 * STRIP, first + n, rh_bf16_pair(x[n][0], x[n][1]));
        rh_store_word(tile, columns, 2 * STRIP + 1, first + n, rh_bf16_pair(x[n][2], x[n][3]));
    }
}

template <int D> struct chunk_gradients {
    float q[split<D>::wide][4], k[split<D>::wide][4];
};

/* X = dO S^T: dQ += diag(e^c) X. */
template <int D, class Layout>
__device__ __forceinline__ void through_state(Layout &x,
                                              struct chunk_gradients<D> *d)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int first = PART * split<D>::wide;
    float t[split<D>::wide][4];
    rh_clear<split<D>::wide>(t);
#pragma unroll
    for (int k = 0; k < D / 8; k += 2) {
        uint32_t a[4];
        rh_load_a<false>(a, x.d_o, D / 8, 2 * STRIP, k);
        rh_multiply<split<D>::wide, true>(t, a, x.s, D / 8, k, first);
    }
    const float e[2] = {x.gates.e[16 * STRIP + g], x.gates.e[16 * STRIP + g + 8]};
    float dot[2];
    add_rows<split<D>::wide>(d->q, t, e, x.query, D / 8, first, dot);
    add_gates<D>(x, 0, e[0] * dot[0], 0.0F);
    add_gates<D>(x, 1, e[1] * dot[1], 0.0F);
}

/* Y = R dS^T: dK += diag(e^(c_last - c)) Y. */
template <int D, class Layout>
__device__ __forceinline__ void through_leaving(Layout &x,
                                                struct chunk_gradients<D> *d)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int first = PART * split<D>::wide;
    float t[split<D>::wide][4];
    rh_clear<split<D>::wide>(t);
#pragma unroll
    for (int k = 0; k < D / 8; k += 2) {
        uint32_t a[4];
        rh_load_a<true>(a, x.r, RH_CHUNK_BLOCKS, 2 * STRIP, k);
        rh_multiply<split<D>::wide, true>(t, a, x.ds, D / 8, k, first);
    }
    const float f[2] = {x.gates.f[16 * STRIP + g], x.gates.f[16 * STRIP + g + 8]};
    float dot[2];
    add_rows<split<D>::wide>(d->k, t, f, x.key, D / 8, first, dot);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float e = f[half] * dot[half];
        add_gates<D>(x, half, -e, 0.0F);
        if (threadIdx.x % 4 == 0)
            x.leaving[PART][16 * STRIP + g + 8 * half] = e;
    }
}

/* a = tril(dO R^T) * decay into its tile, and the sums of a * (Q K^T). */
template <int D, class Layout>
__device__ __forceinline__ void through_scores(Layout &x)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
    float dp[split<D>::narrow][4];
    float qk[split<D>::narrow][4];
    rh_clear<split<D>::narrow>(dp);
    rh_clear<split<D>::narrow>(qk);
#pragma unroll 2
    for (int k = 0; k < D / 8; k += 2) {
        uint32_t a[4];
        rh_load_a<false>(a, x.d_o, D / 8, 2 * STRIP, k);
        rh_multiply<split<D>::narrow, true>(dp, a, x.r, RH_CHUNK_BLOCKS, k,
                                            split<D>::narrow * PART);
        rh_load_a<false>(a, x.query, D / 8, 2 * STRIP, k);
        rh_multiply<split<D>::narrow, false>(qk, a, x.key, D / 8, k, split<D>::narrow * PART);
    }
    float row[2] = {0.0F, 0.0F};
    float column[split<D>::narrow][2] = {};
#pragma unroll
    for (int n = 0; n < split<D>::narrow; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * STRIP + g + 8 * half;
            float a[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int j = 8 * (split<D>::narrow * PART + n) + 2 * t + k;
                a[k] = j <= i ? dp[n][2 * half + k] * rh_decay(x.gates, i, j) : 0.0F;
                const float m = a[k] * qk[n][2 * half + k];
                row[half] += m;
                column[n][k] += m;
            }
            rh_store_word(x.a, RH_CHUNK_BLOCKS, 2 * STRIP + half, split<D>::narrow * PART + n,
                          rh_bf16_pair(a[0], a[1]));
        }
    }
    column_sums<D, false>(x.column, column);
    add_gates<D>(x, 0, row_sum(row[0]), 0.0F);
    add_gates<D>(x, 1, row_sum(row[1]), 0.0F);
}

/* y += a u, z += a^T v, for the lower triangle a in its tile. */
template <int D, class Layout>
__device__ __forceinline__ void apply_triangle(const Layout &x, float (*y)[4],
                                               const unsigned char *u, float (*z)[4],
                                               const unsigned char *v)
{
    const int first = PART * split<D>::wide;
    for (int k = 0; k < 4; k++) { /* a has nothing above its diagonal */
        uint32_t a[4];
        if (k <= STRIP) {
            rh_load_a<false>(a, x.a, RH_CHUNK_BLOCKS, 2 * STRIP, 2 * k);
            rh_multiply<split<D>::wide, true>(y, a, u, D / 8, 2 * k, first);
        }
        if (k >= STRIP) {
            rh_load_a<true>(a, x.a, RH_CHUNK_BLOCKS, 2 * STRIP, 2 * k);
            rh_multiply<split<D>::wide, true>(z, a, v, D / 8, 2 * k, first);
        }
    }
}

/* <S, dS>, a part for each warp. */
template <int D>
__device__ __forceinline__ void state_dot(struct chunk_sums<D> &x, const unsigned char *state,
                                          const unsigned char *gradient)
{
    float sum = 0.0F;
    for (int at = (int)threadIdx.x * 4; at < (int)RH_TILE_BYTES(D, D);
         at += split<D>::threads * 4) {
        const uint32_t s = *(const uint32_t *)(state + at);
        const uint32_t d = *(const uint32_t *)(gradient + at);
        sum += rh_bf16_low(s) * rh_bf16_low(d) + rh_bf16_high(s) * rh_bf16_high(d);
    }
    sum = rh_warp_sum(sum);
    if (threadIdx.x % RH_WARP == 0)
        x.dot[threadIdx.x / RH_WARP] = sum;
}

/* X_v = Lambda^T dR (to its tile): dV = diag(beta) X_v. */
template <int D, class Layout>
__device__ __forceinline__ void through_value(Layout &x, const bf16 *v, int64_t ldv,
                                              bf16 *dv, int64_t lddv, int exist, int size)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
    const int first = PART * split<D>::wide;
    float xv[split<D>::wide][4];
    rh_clear<split<D>::wide>(xv);
    for (int k = STRIP; k < 4; k++) {
        uint32_t a[4];
        rh_load_a<true>(a, x.lambda, RH_CHUNK_BLOCKS, 2 * STRIP, 2 * k);
        rh_multiply<split<D>::wide, false>(xv, a, x.dr, RH_CHUNK_BLOCKS, 2 * k, first);
    }
    float dot[2] = {0.0F, 0.0F};
#pragma unroll
    for (int n = 0; n < split<D>::wide; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * STRIP + g + 8 * half;
            const int column = 8 * (first + n) + 2 * t;
            if (i >= exist || column >= size)
                continue;
            const uint32_t value = *(const uint32_t *)(v + i * ldv + column);
            const float a = xv[n][2 * half];
            const float b = xv[n][2 * half + 1];
            dot[half] += a * rh_bf16_low(value) + b * rh_bf16_high(value);
            *(uint32_t *)(dv + i * lddv + column) =
                rh_bf16_pair(x.gates.beta[i] * a, x.gates.beta[i] * b);
        }
    }
    add_gates<D>(x, 0, 0.0F, row_sum(dot[0]));
    add_gates<D>(x, 1, 0.0F, row_sum(dot[1]));
    store_tile<split<D>::wide>(x.xv, D / 8, first, xv);
}

/* dW = -dR S^T, kept in registers until S is free. */
template <int D, class Layout>
__device__ __forceinline__ void gradient_of_w(const Layout &x,
                                              float dw[split<D>::wide][4])
{
    rh_clear<split<D>::wide>(dw);
#pragma unroll
    for (int k = 0; k < D / 8; k += 2) {
        uint32_t a[4];
        rh_load_a<true>(a, x.dr, RH_CHUNK_BLOCKS, 2 * STRIP, k);
        rh_negate(a);
        rh_multiply<split<D>::wide, true>(dw, a, x.s, D / 8, k, PART * split<D>::wide);
    }
}

/* X_k = Lambda^T dW (to its tile): dK += diag(beta e^c) X_k. */
template <int D, class Layout>
__device__ __forceinline__ void through_key(Layout &x, struct chunk_gradients<D> *d)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int first = PART * split<D>::wide;
    float xk[split<D>::wide][4];
    rh_clear<split<D>::wide>(xk);
    for (int k = STRIP; k < 4; k++) {
        uint32_t a[4];
        rh_load_a<true>(a, x.lambda, RH_CHUNK_BLOCKS, 2 * STRIP, 2 * k);
        rh_multiply<split<D>::wide, true>(xk, a, x.dw, D / 8, 2 * k, first);
    }
    float e[2];
    float beta_e[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = 16 * STRIP + g + 8 * half;
        e[half] = x.gates.e[i];
        beta_e[half] = x.gates.beta[i] * e[half];
    }
    float dot[2];
    add_rows<split<D>::wide>(d->k, xk, beta_e, x.key, D / 8, first, dot);
#pragma unroll
    for (int half = 0; half < 2; half++)
        add_gates<D>(x, half, beta_e[half] * dot[half], e[half] * dot[half]);
    store_tile<split<D>::wide>(x.xk, D / 8, first, xk);
}

/* dL = -tril_-1(X_v U^T + X_k W^T): diag(beta) dL * decay into its tile and the sums with K K^T. */
template <int D, class Layout>
__device__ __forceinline__ void through_lower(Layout &x)
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
    float dl[split<D>::narrow][4];
    float kk[split<D>::narrow][4];
    rh_clear<split<D>::narrow>(dl);
    rh_clear<split<D>::narrow>(kk);
#pragma unroll
    for (int k = 0; k < D / 8; k += 2) {
        uint32_t a[4];
        rh_load_a<false>(a, x.xv, D / 8, 2 * STRIP, k);
        rh_multiply<split<D>::narrow, false>(dl, a, x.u, D / 8, k, split<D>::narrow * PART);
        rh_load_a<false>(a, x.xk, D / 8, 2 * STRIP, k);
        rh_multiply<split<D>::narrow, false>(dl, a, x.w, D / 8, k, split<D>::narrow * PART);
        rh_load_a<false>(a, x.key, D / 8, 2 * STRIP, k);
        rh_multiply<split<D>::narrow, false>(kk, a, x.key, D / 8, k, split<D>::narrow * PART);
    }
    float row[2] = {0.0F, 0.0F};
    float column[split<D>::narrow][2] = {};
#pragma unroll
    for (int n = 0; n < split<D>::narrow; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * STRIP + g + 8 * half;
            const float beta = x.gates.beta[i];
            float b[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int j = 8 * (split<D>::narrow * PART + n) + 2 * t + k;
                const float gamma =
                    j < i ? -dl[n][2 * half + k] * rh_decay(x.gates, i, j) : 0.0F;
                const float m = gamma * kk[n][2 * half + k];
                b[k] = beta * gamma;
                row[half] += m;
                column[n][k] += beta * m;
            }
            rh_store_word(x.a, RH_CHUNK_BLOCKS, 2 * STRIP + half, split<D>::narrow * PART + n,
                          rh_bf16_pair(b[0], b[1]));
        }
    }
    column_sums<D, true>(x.column, column);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float sum = row_sum(row[half]);
        add_gates<D>(x, half, x.gates.beta[16 * STRIP + g + 8 * half] * sum, sum);
    }
}

/* dbeta and dg of a value head, by the first warp: two rows a lane. */
template <int D>
__device__ __forceinline__ void store_gates(const struct chunk_sums<D> &x, float *dbeta,
                                            float *dg, int64_t ld, int rows)
{
    const int lane = (int)(threadIdx.x % RH_WARP);
    double dc[2];
    double leaving = 0.0;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int i = 2 * lane + k;
        dc[k] = 0.0;
        for (int part = 0; part < split<D>::parts; part++) {
            dc[k] += x.dc[part][i];
            leaving += (double)x.leaving[part][i];
        }
        for (int strip = 0; strip < 4; strip++)
            dc[k] -= (double)x.column[strip][i];
    }
#pragma unroll
    for (int step = RH_WARP / 2; step > 0; step /= 2)
        leaving += __shfl_xor_sync(RH_FULL, leaving, step);
    double dot = 0.0;
    for (int warp = 0; warp < split<D>::warps; warp++)
        dot += (double)x.dot[warp];
    dc[1] += lane == RH_WARP - 1 ? leaving + (double)x.gates.e[C - 1] * dot : 0.0;
    double sum = dc[0] + dc[1]; /* from here to the end of the chunk */
#pragma unroll
    for (int step = 1; step < RH_WARP; step *= 2) {
        const double other = __shfl_down_sync(RH_FULL, sum, step);
        sum = lane + step < RH_WARP ? sum + other : sum;
    }
    const double behind = __shfl_down_sync(RH_FULL, sum, 1);
    const double out[2] = {sum, (lane < RH_WARP - 1 ? behind : 0.0) + dc[1]};
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int i = 2 * lane + k;
        if (i < rows) {
            dg[i * ld] = (float)out[k];
            float sum_beta = 0.0F;
            for (int part = 0; part < split<D>::parts; part++)
                sum_beta += x.dbeta[part][i];
            dbeta[i * ld] = sum_beta;
        }
    }
}

/* Where a value head's operands are in device memory. */
template <int D> struct head_memory {
    const unsigned char *s, *r, *ds, *dr, *lambda, *u, *w; /* tiles */
    const bf16 *d_o, *v;
    bf16 *dv;
    int64_t ldo, gates;

    __device__ __forceinline__ head_memory(const struct rh_delta_rule &p,
                                           const struct rh_delta_memory &m,
                                           const struct gradients &out,
                                           const struct rh_delta_place &at, int64_t head)
    {
        const int64_t tile = at.tile * (int64_t)RH_TILE_BYTES(C, D);
        const int64_t square = at.tile * (int64_t)RH_TILE_BYTES(D, D);
        s = m.s + square, ds = out.ds + square;
        r = m.r + tile, dr = out.dr + tile, u = m.u + tile, w = m.w + tile;
        lambda = m.lambda + at.tile * (int64_t)RH_TILE_BYTES(C, C);
        ldo = p.value_heads * p.value_size;
        d_o = (const bf16 *)p.d_o + at.first * ldo + head * p.value_size;
        v = (const bf16 *)p.v + at.first * p.ldv + head * p.value_size;
        dv = (bf16 *)p.dv + at.first * p.lddv + head * p.value_size;
        gates = at.first * p.value_heads + head;
    }
};

/* All copies of this block have come, and what was read before may be written. */
__device__ __forceinline__ void arrived()
{
    rh_cp_async_commit();
    rh_cp_async_wait<0>();
    __syncthreads();
}

/* By the first warp, while the copies run. */
template <int D>
__device__ __forceinline__ void make_gates(struct chunk_sums<D> &x, const head_memory<D> &from,
                                           const struct rh_delta_rule &p, int rows)
{
    if (threadIdx.x < RH_WARP)
        rh_make_gates(&x.gates, p.g + from.gates, p.beta + from.gates, p.value_heads, rows);
}

/* From the copies to X_k; S, R and dS come early. */
template <int D>
__device__ __forceinline__ void through_head(chunk_layout<D, false> &x, const head_memory<D> &from,
                                             const struct rh_delta_rule &p,
                                             const struct rh_delta_place &at, const bf16 *,
                                             struct chunk_gradients<D> *d)
{
    rh_copy_rows<D>(x.d_o, from.d_o, from.ldo, at.rows, (int)p.value_size);
    rh_copy_tile(x.s, from.s, (int)sizeof x.s);
    rh_cp_async_commit();
    rh_copy_tile(x.r, from.r, (int)sizeof x.r);
    rh_copy_tile(x.ds, from.ds, (int)sizeof x.ds);
    rh_copy_tile(x.dr, from.dr, (int)sizeof x.dr);
    rh_cp_async_commit();
    make_gates<D>(x, from, p, at.rows);
    rh_cp_async_wait<1>();
    __syncthreads();
    through_state<D>(x, d);
    rh_cp_async_wait<0>();
    __syncthreads();
    through_scores<D>(x);
    state_dot<D>(x, x.s, x.ds);
    through_leaving<D>(x, d);
    __syncthreads(); /* a is whole; dO, R and dS are free */
    rh_copy_tile(x.lambda, from.lambda, (int)sizeof x.lambda);
    rh_copy_tile(x.u, from.u, (int)sizeof x.u);
    rh_copy_tile(x.w, from.w, (int)sizeof x.w);
    rh_cp_async_commit();
    apply_triangle<D>(x, d->q, x.key, d->k, x.query); /* dQ += a K, dK += a^T Q */
    float dw[split<D>::wide][4];
    gradient_of_w<D>(x, dw);
    __syncthreads(); /* S is free */
    store_tile<split<D>::wide>(x.dw, D / 8, PART * split<D>::wide, dw);
    rh_cp_async_wait<0>();
    __syncthreads();
    through_value<D>(x, from.v, p.ldv, from.dv, p.lddv, at.rows, (int)p.value_size);
    through_key<D>(x, d);
    __syncthreads();
}

/* The same sums in the same order: results are the same bytes. */
template <int D>
__device__ __forceinline__ void through_head(chunk_layout<D, true> &x, const head_memory<D> &from,
                                             const struct rh_delta_rule &p,
                                             const struct rh_delta_place &at, const bf16 *query,
                                             struct chunk_gradients<D> *d)
{
    rh_copy_rows<D>(x.query, query, p.key_heads * p.key_size, at.rows, (int)p.key_size);
    rh_copy_rows<D>(x.d_o, from.d_o, from.ldo, at.rows, (int)p.value_size);
    rh_copy_tile(x.s, from.s, (int)sizeof x.s);
    make_gates<D>(x, from, p, at.rows);
    arrived();
    through_state<D>(x, d);
    __syncthreads(); /* S is free */
    rh_copy_tile(x.r, from.r, (int)sizeof x.r);
    arrived();
    through_scores<D>(x);
    __syncthreads(); /* a is whole; dO is free */
    rh_copy_tile(x.ds, from.ds, (int)sizeof x.ds);
    arrived();
    state_dot<D>(x, from.s, x.ds);
    through_leaving<D>(x, d);
    __syncthreads(); /* R and dS are free */
    rh_copy_tile(x.s, from.s, (int)sizeof x.s);
    rh_copy_tile(x.dr, from.dr, (int)sizeof x.dr);
    rh_cp_async_commit();
    apply_triangle<D>(x, d->q, x.key, d->k, x.query); /* dQ += a K, dK += a^T Q */
    arrived();
    float dw[split<D>::wide][4];
    gradient_of_w<D>(x, dw);
    __syncthreads(); /* S and Q are free */
    rh_copy_tile(x.lambda, from.lambda, (int)sizeof x.lambda);
    store_tile<split<D>::wide>(x.dw, D / 8, PART * split<D>::wide, dw);
    arrived();
    through_value<D>(x, from.v, p.ldv, from.dv, p.lddv, at.rows, (int)p.value_size);
    __syncthreads(); /* dR is free */
    through_key<D>(x, d);
    __syncthreads(); /* Lambda and dW are free */
    rh_copy_tile(x.u, from.u, (int)sizeof x.u);
    rh_copy_tile(x.w, from.w, (int)sizeof x.w);
    arrived();
}

/* One value head: its share of dQ and dK, and all of dV, dbeta and dg. query: of the key head. */
template <int D, class Layout>
__device__ __forceinline__ void chunk_head(Layout &x, const struct rh_delta_rule &p,
                                           const struct rh_delta_memory &m,
                                           const struct gradients &out,
                                           const struct rh_delta_place &at, int64_t head,
                                           const bf16 *query, struct chunk_gradients<D> *d)
{
    const head_memory<D> from(p, m, out, at, head);
    clear_gates<D>(x);
    through_head(x, from, p, at, query, d);
    through_lower<D>(x);
    __syncthreads();
    apply_triangle<D>(x, d->k, x.key, d->k, x.key); /* dK += (b + b^T) K */
    if (threadIdx.x < RH_WARP)
        store_gates<D>(x, p.dbeta + from.gates, p.dg + from.gates, p.value_heads, at.rows);
    __syncthreads(); /* all tiles are free */
}

template <int D>
__device__ __forceinline__ void store_rows(bf16 *to, int64_t ld, int rows, int size,
                                           const float (*x)[4])
{
    const int g = (int)(threadIdx.x % RH_WARP) / 4;
    const int t = (int)(threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < split<D>::wide; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * STRIP + g + 8 * half;
            const int column = 8 * (PART * split<D>::wide + n) + 2 * t;
            if (i < rows && column < size)
                *(uint32_t *)(to + i * ld + column) =
                    rh_bf16_pair(x[n][2 * half], x[n][2 * half + 1]);
        }
    }
}

/* Grid: chunks, key heads, sequences. */
template <int D, bool Tight>
__global__ void __launch_bounds__(split<D>::threads, 1)
    delta_chunk_backward(struct rh_delta_rule p, struct rh_delta_memory m, struct gradients out)
{
    RH_SHARED(raw);
    chunk_layout<D, Tight> &x = *(chunk_layout<D, Tight> *)raw;
    const int64_t key_head = blockIdx.y;
    const int64_t group = p.value_heads / p.key_heads;
    const int64_t ldk = p.key_heads * p.key_size;
    struct chunk_gradients<D> d;
    rh_clear<split<D>::wide>(d.q);
    rh_clear<split<D>::wide>(d.k);
    struct rh_delta_place at = rh_delta_at(p, m.chunks, blockIdx.z, key_head * group, blockIdx.x);
    const int64_t keys = (at.first * p.key_heads + key_head) * p.key_size;
    rh_copy_rows<D>(x.key, (const bf16 *)p.k + keys, ldk, at.rows, (int)p.key_size);
    const bf16 *query = (const bf16 *)p.q + keys;
    if (!Tight)
        rh_copy_rows<D>(x.query, query, ldk, at.rows, (int)p.key_size);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
        at = rh_delta_at(p, m.chunks, blockIdx.z, head, blockIdx.x);
        chunk_head<D>(x, p, m, out, at, head, query, &d);
    }
    store_rows<D>((bf16 *)p.dq + keys, ldk, at.rows, (int)p.key_size, d.q);
    store_rows<D>((bf16 *)p.dk + keys, ldk, at.rows, (int)p.key_size, d.k);
}

} // namespace

#endif
