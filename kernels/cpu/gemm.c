#include "gemm.h"

#include "vector.h"

/*
 * RH_GEMM names the function; the build compiles this file once per instruction set. An element of C
 * is one chain of multiply-adds over k, in blocks of BLOCK_K: its bits depend neither on the tiles
 * nor on the width of a register.
 */

#if RH_WIDTH == 16
#define ROWS 12
#else
#define ROWS 6 /* 12 sums, 2 of B and a broadcast: 15 of the 16 registers */
#endif
#define COLUMNS (2 * RH_WIDTH)

#define BLOCK_K 256
#define BLOCK_N 256 /* with BLOCK_K: what of B stays in the second cache */
#define BLOCK_M 96  /* rows of A that are packed at a time, where they are packed at all */

/* Rows that packing asks for before it gets there: they lie too far apart for the processor to guess. */
#define AHEAD 8

#define UNROLL _Pragma("GCC unroll 16")

/* B of a block, in panels of COLUMNS columns: [panel][k][COLUMNS]; ragged ones filled with zeros. */
static _Thread_local float packed_b[BLOCK_K * BLOCK_N] __attribute__((aligned(64)));
/* A^T of a block: [strip][k][ROWS]; a line between strips keeps them out of each other's cache sets. */
#define STRIP (BLOCK_K * ROWS + 16)
static _Thread_local float packed_a[STRIP * (BLOCK_M / ROWS)] __attribute__((aligned(64)));

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* What becomes of a tile's sums. */
struct target {
    float *c;
    int64_t ldc;
    int64_t rows, columns; /* of the tile */
    float alpha;
    bool add;
};

/* c = alpha * sums (+ c) of a whole register. */
RH_INLINE void put(const struct target *t, int64_t row, int64_t column, vec sums)
{
    float *c = t->c + row * t->ldc + column;
    sums *= t->alpha;
    store(c, t->add ? load(c) + sums : sums);
}

/* The same for a tile at the edge, from memory. */
static void put_ragged(const struct target *t, const float *sums)
{
    for (int64_t i = 0; i < t->rows; i++) {
        const float *row = sums + i * COLUMNS;
        int64_t j = 0;
        for (; j + RH_WIDTH <= t->columns; j += RH_WIDTH)
            put(t, i, j, load(row + j));
        for (; j < t->columns; j++) {
            float *c = t->c + i * t->ldc + j;
            float x = row[j] * t->alpha;
            *c = t->add ? *c + x : x;
        }
    }
}

/* ROWS x COLUMNS sums over k; element (i, p) of A at a[i * row_step + p * k_step]. */
RH_INLINE void tile(const float *a, int64_t row_step, int64_t k_step, const float *b, int64_t k,
                    const struct target *t)
{
    vec left[ROWS];
    vec right[ROWS];
    UNROLL for (int i = 0; i < ROWS; i++) left[i] = right[i] = (vec){0};
    for (int64_t p = 0; p < k; p++) {
        vec b0 = load(b);
        vec b1 = load(b + RH_WIDTH);
        UNROLL for (int i = 0; i < ROWS; i++)
        {
            left[i] += a[i * row_step] * b0;
            right[i] += a[i * row_step] * b1;
        }
        a += k_step;
        b += COLUMNS;
    }
    if (t->rows == ROWS && t->columns == COLUMNS) {
        UNROLL for (int i = 0; i < ROWS; i++)
        {
            put(t, i, 0, left[i]);
            put(t, i, RH_WIDTH, right[i]);
        }
        return;
    }
    float sums[ROWS * COLUMNS];
    UNROLL for (int i = 0; i < ROWS; i++)
    {
        store(sums + i * COLUMNS, left[i]);
        store(sums + i * COLUMNS + RH_WIDTH, right[i]);
    }
    put_ragged(t, sums);
}

/* Rows of A as they stand. */
static void tile_direct(const float *a, int64_t lda, const float *b, int64_t k,
                        const struct target *t)
{
    tile(a, lda, 1, b, k, t);
}

static void tile_packed(const float *a, const float *b, int64_t k, const struct target *t)
{
    tile(a, 1, ROWS, b, k, t);
}

typedef int32_t four_index __attribute__((vector_size(16)));

/* out[j][i] = x[i][j] of 4 x 4, `step` between rows of out. */
RH_INLINE void transpose_4(const float *x, int64_t ldx, float *out, int64_t step)
{
    four r[4];
    for (int i = 0; i < 4; i++)
        memcpy(&r[i], x + i * ldx, sizeof r[i]);
    const four_index low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
    four a = __builtin_shuffle(r[0], r[1], low), b = __builtin_shuffle(r[2], r[3], low);
    four c = __builtin_shuffle(r[0], r[1], high), d = __builtin_shuffle(r[2], r[3], high);
    const four_index first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
    four o[4] = {__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, second),
                 __builtin_shuffle(c, d, first), __builtin_shuffle(c, d, second)};
    for (int i = 0; i < 4; i++)
        memcpy(out + i * step, &o[i], sizeof o[i]);
}

/* Rows of x become columns: out[p][i] = x[i][p], i below `rows` of `width`, the rest zeros. */
static void pack_transposed(const float *x, int64_t ldx, int64_t rows, int64_t k, int64_t width,
                            float *out)
{
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t p = 0;
        for (; p + 4 <= k; p += 4)
            transpose_4(x + i * ldx + p, ldx, out + p * width + i, width);
        for (; p < k; p++) {
            for (int j = 0; j < 4; j++)
                out[p * width + i + j] = x[(i + j) * ldx + p];
        }
    }
    for (; i < width; i++) {
        for (int64_t p = 0; p < k; p++)
            out[p * width + i] = i < rows ? x[i * ldx + p] : 0.0F;
    }
}

/* out[p][i] = x[p][i], i below `columns` of `width`, the rest zeros. */
RH_INLINE void pack_straight(const float *x, int64_t ldx, int64_t columns, int64_t k, int64_t width,
                             float *out)
{
    for (int64_t p = 0; p < k; p++) {
        if (columns == width) {
            __builtin_prefetch(x + (p + AHEAD) * ldx);
            __builtin_prefetch(x + (p + AHEAD) * ldx + width - 1);
            memcpy(out + p * width, x + p * ldx, (size_t)width * sizeof *out);
            continue;
        }
        for (int64_t i = 0; i < width; i++)
            out[p * width + i] = i < columns ? x[p * ldx + i] : 0.0F;
    }
}

static void pack_b(const struct rh_gemm *g, int64_t n, int64_t columns, int64_t p, int64_t k)
{
    for (int64_t j = 0; j < columns; j += COLUMNS) {
        float *out = packed_b + j * k;
        int64_t part = smaller(COLUMNS, columns - j);
        if (g->form == RH_NT)
            pack_transposed(g->b + (n + j) * g->ldb + p, g->ldb, part, k, COLUMNS, out);
        else
            pack_straight(g->b + p * g->ldb + n + j, g->ldb, part, k, COLUMNS, out);
    }
}

/* Row by row, so that A is read as it stands in memory. */
static void pack_a(const struct rh_gemm *g, int64_t m, int64_t rows, int64_t p, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        const float *x = g->a + (p + i) * g->lda + m;
        float *out = packed_a + i * ROWS;
        for (int64_t j = 0; j < rows; j += 16) /* a line has 16 */
            __builtin_prefetch(x + AHEAD * g->lda + j);
        int64_t at = 0;
        for (; at + ROWS <= rows; at += ROWS, out += STRIP)
            memcpy(out, x + at, ROWS * sizeof *out);
        for (int64_t j = at; at < rows && j < at + ROWS; j++)
            out[j - at] = j < rows ? x[j] : 0.0F;
    }
}

/* ROWS rows of C, or what is left of them, times the packed columns. */
static void strip(const struct rh_gemm *g, int64_t m, int64_t n, int64_t columns, int64_t p,
                  int64_t k)
{
    float last[BLOCK_K * ROWS];
    const float *a = packed_a + m % BLOCK_M / ROWS * STRIP;
    int64_t rows = smaller(ROWS, g->m - m);
    bool direct = g->form != RH_TN && rows == ROWS;
    if (g->form != RH_TN && !direct) {
        pack_transposed(g->a + m * g->lda + p, g->lda, rows, k, ROWS, last);
        a = last;
    }
    for (int64_t j = 0; j < columns; j += COLUMNS) {
        struct target t = {g->c + m * g->ldc + n + j, g->ldc, rows, smaller(COLUMNS, columns - j),
                           g->alpha, g->accumulate || p > 0};
        if (direct)
            tile_direct(g->a + m * g->lda + p, g->lda, packed_b + j * k, k, &t);
        else
            tile_packed(a, packed_b + j * k, k, &t);
    }
}

static void block(const struct rh_gemm *g, int64_t n, int64_t p)
{
    int64_t columns = smaller(BLOCK_N, g->n - n);
    int64_t k = smaller(BLOCK_K, g->k - p);
    pack_b(g, n, columns, p, k);
    for (int64_t m = 0; m < g->m; m += ROWS) {
        if (g->form == RH_TN && m % BLOCK_M == 0)
            pack_a(g, m, smaller(BLOCK_M, g->m - m), p, k);
        strip(g, m, n, columns, p, k);
    }
}

void RH_GEMM(const struct rh_gemm *g)
{
    for (int64_t n = 0; n < g->n; n += BLOCK_N) {
        for (int64_t p = 0; p < g->k; p += BLOCK_K)
            block(g, n, p);
    }
}
