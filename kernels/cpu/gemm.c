#include "gemm.h"

#include "vector.h"

/*
 * RH_GEMM, RH_PACK, RH_SOLVE and RH_TRANSPOSE name the functions; the build compiles this file once
 * per instruction set. An element of C is one chain of multiply-adds over k, in blocks of BLOCK_K: its
 * bits depend neither on the tiles nor on the width of a register.
 */

#if RH_WIDTH == 16
#define ROWS 12
#else
#define ROWS 6 /* 12 sums, 2 of B and a broadcast: 15 of the 16 registers */
#endif
#define LESS    4 /* rows of a tile at the lower edge: still enough sums to keep the units busy */
#define COLUMNS (2 * RH_WIDTH)

#define BLOCK_K 256
#define BLOCK_N 256 /* with BLOCK_K: what of B stays in the second cache */
#define BLOCK_M 96  /* rows of A that a panel of B meets before the next panel is read */

/* Up to this many rows B is read as it stands: packing it would not pay. */
#define FEW 64

/* Up to this k the rows of C are written one after the other. Beyond it a panel of B stays in the
 * first cache while the strips of A pass by. */
#define SHALLOW 64

/* Rows of k that lie no farther apart are read as they stand. With wide registers a step takes so long that
 * the second cache keeps up. */
#if RH_WIDTH == 16
#define NARROW   256
#define NEAR(ld) ((ld) <= NARROW)
#else
#define NARROW   64
#define NEAR(ld) false /* however near: the copy pays */
#endif

/* Rows that packing asks for before it gets there: they lie too far apart for the processor to guess. */
#define AHEAD 16

#define UNROLL _Pragma("GCC unroll 16")

/* B of a block, in panels of COLUMNS columns: [panel][k][COLUMNS]; ragged ones filled with zeros. A line
 * between panels keeps them out of each other's cache sets. */
#define PANEL(k) ((k)*COLUMNS + 16)
static _Thread_local float packed_b[PANEL(BLOCK_K) * (BLOCK_N / COLUMNS)] __attribute__((aligned(64)));
/* A^T of a block: [strip][k][ROWS]; a line between strips keeps them out of each other's cache sets. */
#define STRIP (BLOCK_K * ROWS + 16)
#define STRIPS (BLOCK_M / ROWS + 2)
static _Thread_local float packed_a[STRIP * STRIPS] __attribute__((aligned(64)));

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
RH_INLINE void put(float *c, vec sums, float alpha, bool add)
{
    sums *= alpha;
    store(c, add ? load(c) + sums : sums);
}

/* Sums of a tile at the edge. */
static _Thread_local float edge[ROWS * COLUMNS] __attribute__((aligned(64)));

static void put_edge(const struct target *t)
{
    for (int64_t i = 0; i < t->rows; i++) {
        const float *row = edge + i * COLUMNS;
        float *c = t->c + i * t->ldc;
        int64_t j = 0;
        for (; j + RH_WIDTH <= t->columns; j += RH_WIDTH)
            put(c + j, load(row + j), t->alpha, t->add);
        for (; j < t->columns; j++) {
            float x = row[j] * t->alpha;
            c[j] = t->add ? c[j] + x : x;
        }
    }
}

/* rows x COLUMNS sums over k; element (i, p) of A at a[i * step + p * along], row p of B at b[p * ldb]. */
RH_INLINE void tile(const int rows, const float *a, int64_t step, int64_t along, const float *b,
                    int64_t ldb, int64_t k, const struct target *t)
{
    vec left[ROWS];
    vec right[ROWS];
    UNROLL for (int i = 0; i < rows; i++) left[i] = right[i] = (vec){0};
    /* One address for four rows: GCC would otherwise keep the multiples of `step` that no
     * addressing mode has where it takes a move out of a vector register to use them. */
    const float *fours[(ROWS + 3) / 4];
    UNROLL for (int i = 0; i < rows; i += 4)
    {
        fours[i / 4] = a + i * step;
        __asm__("" : "+r"(fours[i / 4]));
    }
    for (int64_t p = 0; p < k; p++) {
        vec b0 = load(b);
        vec b1 = load(b + RH_WIDTH);
        UNROLL for (int i = 0; i < rows; i++)
        {
            float x = fours[i / 4][i % 4 * step];
            left[i] += x * b0;
            right[i] += x * b1;
        }
        UNROLL for (int i = 0; i < rows; i += 4) fours[i / 4] += along;
        b += ldb;
    }
    if (t->rows < rows || t->columns < COLUMNS) {
        UNROLL for (int i = 0; i < rows; i++)
        {
            store(edge + i * COLUMNS, left[i]);
            store(edge + i * COLUMNS + RH_WIDTH, right[i]);
        }
        put_edge(t);
        return;
    }
    /* By value: C could be *t, for all the compiler knows. */
    float *c = t->c;
    const int64_t ldc = t->ldc;
    const float alpha = t->alpha;
    if (t->add) {
        UNROLL for (int i = 0; i < rows; i++, c += ldc)
        {
            put(c, left[i], alpha, true);
            put(c + RH_WIDTH, right[i], alpha, true);
        }
        return;
    }
    UNROLL for (int i = 0; i < rows; i++, c += ldc)
    {
        put(c, left[i], alpha, false);
        put(c + RH_WIDTH, right[i], alpha, false);
    }
}

/* One function for each height and each way A lies, as rows or as columns; lda: from one to the next. */
#define TILES(rows)                                                                                \
    static void tile_rows_##rows(const float *a, int64_t lda, const float *b, int64_t ldb,         \
                                 int64_t k, const struct target *t)                                \
    {                                                                                              \
        tile(rows, a, lda, 1, b, ldb, k, t);                                                       \
    }                                                                                              \
    static void tile_columns_##rows(const float *a, int64_t lda, const float *b, int64_t ldb,      \
                                    int64_t k, const struct target *t)                             \
    {                                                                                              \
        tile(rows, a, 1, lda, b, ldb, k, t);                                                       \
    }
TILES(4)
#if RH_WIDTH == 16
TILES(8)
TILES(12)
#else
TILES(6)
#endif

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

#if RH_WIDTH > 4
/* The same of 8 x 8. */
RH_INLINE void transpose_8(const float *x, int64_t ldx, float *out, int64_t step)
{
    eight r[8], s[8];
    UNROLL for (int i = 0; i < 8; i++) memcpy(&r[i], x + i * ldx, sizeof r[i]);
    UNROLL for (int i = 0; i < 8; i += 2)
    {
        s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLL for (int i = 0; i < 8; i += 4)
    {
        r[i] = __builtin_shufflevector(s[i], s[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 1] = __builtin_shufflevector(s[i], s[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        r[i + 2] = __builtin_shufflevector(s[i + 1], s[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 3] = __builtin_shufflevector(s[i + 1], s[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    UNROLL for (int i = 0; i < 8; i++) memcpy(out + i * step, &s[i], sizeof s[i]);
}
#endif

/* Rows of x become columns: out[p][i] = x[i][p], i below `rows` of `width`, the rest zeros. */
static void pack_transposed(const float *x, int64_t ldx, int64_t rows, int64_t k, int64_t width,
                            float *out)
{
    int64_t i = 0;
#if RH_WIDTH > 4
    for (; i + 8 <= rows && k % 8 == 0; i += 8) {
        for (int64_t p = 0; p < k; p += 8)
            transpose_8(x + i * ldx + p, ldx, out + p * width + i, width);
    }
#endif
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
static void pack_straight(const float *x, int64_t ldx, int64_t columns, int64_t k, int64_t width,
                          float *out)
{
    for (int64_t p = 0; p < k; p++) {
        for (int64_t i = 0; i < width; i++)
            out[p * width + i] = i < columns ? x[p * ldx + i] : 0.0F;
    }
}

/* The same for whole panels side by side, row by row, so that x is read as it stands in memory. */
static void pack_panels(const float *x, int64_t ldx, int64_t panels, int64_t k, float *out)
{
    for (int64_t p = 0; p < k; p++, x += ldx, out += COLUMNS) {
        for (int64_t j = 0; j < panels; j++) {
            __builtin_prefetch(x + AHEAD * ldx + j * COLUMNS);
            memcpy(out + j * PANEL(k), x + j * COLUMNS, COLUMNS * sizeof *out);
        }
    }
}

/* A^T of fewer rows than a tile has, the others zero. */
static void pack_rest(const struct rh_gemm *g, int64_t m, int64_t rows, int64_t p, int64_t k,
                      int64_t width, float *out)
{
    if (g->form == RH_TN)
        pack_straight(g->a + p * g->lda + m, g->lda, rows, k, width, out);
    else
        pack_transposed(g->a + m * g->lda + p, g->lda, rows, k, width, out);
}

/* Rows that far apart, and many of them, would push each other out of the first cache. */
static bool scattered(int64_t k, int64_t ld)
{
    return k > SHALLOW && ld > NARROW;
}

/* Columns of B that are packed; the others are read as they stand. */
static bool packs(const struct rh_gemm *g, int64_t columns, int64_t k)
{
    return g->form == RH_NT || columns < COLUMNS || scattered(k, g->ldb) ||
           (g->m > FEW && !NEAR(g->ldb));
}

/* Panels of a block of B; with `all` also those that could be read as they stand. */
static void pack_b(const struct rh_gemm *g, int64_t n, int64_t columns, int64_t p, int64_t k,
                   bool all, float *out)
{
    int64_t whole = columns / COLUMNS;
    int64_t rest = columns % COLUMNS;
    if (g->form == RH_NT) {
        for (int64_t j = 0; j < columns; j += COLUMNS, out += PANEL(k))
            pack_transposed(g->b + (n + j) * g->ldb + p, g->ldb, smaller(COLUMNS, columns - j), k,
                            COLUMNS, out);
        return;
    }
    const float *b = g->b + p * g->ldb + n;
    if (all || packs(g, COLUMNS, k))
        pack_panels(b, g->ldb, whole, k, out);
    if (rest > 0)
        pack_straight(b + whole * COLUMNS, g->ldb, rest, k, COLUMNS, out + whole * PANEL(k));
}

/* Where the block at column n and depth p begins when all of B is packed. */
static int64_t block_at(const struct rh_gemm *g, int64_t n, int64_t p)
{
    int64_t panels = (smaller(BLOCK_N, g->n - n) + COLUMNS - 1) / COLUMNS;
    int64_t blocks = (g->k + BLOCK_K - 1) / BLOCK_K;
    return n / COLUMNS * (g->k * COLUMNS + blocks * 16) +
           panels * (p * COLUMNS + p / BLOCK_K * 16);
}

void RH_PACK(const struct rh_gemm *g, float *out)
{
    for (int64_t n = 0; n < g->n; n += BLOCK_N) {
        for (int64_t p = 0; p < g->k; p += BLOCK_K)
            pack_b(g, n, smaller(BLOCK_N, g->n - n), p, smaller(BLOCK_K, g->k - p), true,
                   out + block_at(g, n, p));
    }
}

/* Rows of C that are taken together, and the rows of A that belong to them. */
struct strip {
    int64_t row, rows; /* of C */
    void (*tile)(const float *a, int64_t lda, const float *b, int64_t ldb, int64_t k,
                 const struct target *t);
    const float *a;
    int64_t lda;
};

static int64_t height(int64_t left)
{
#if RH_WIDTH == 16
    return left >= ROWS ? ROWS : left >= 2 * LESS ? 2 * LESS : LESS;
#else
    return left < ROWS || left == 2 * LESS ? LESS : ROWS; /* 8 = 4 + 4 */
#endif
}

static void choose_tile(struct strip *s, int64_t rows, bool columns)
{
    s->tile = columns ? tile_columns_4 : tile_rows_4;
#if RH_WIDTH == 16
    if (rows > LESS)
        s->tile = columns ? tile_columns_8 : tile_rows_8;
    if (rows > 2 * LESS)
        s->tile = columns ? tile_columns_12 : tile_rows_12;
#else
    if (rows > LESS)
        s->tile = columns ? tile_columns_6 : tile_rows_6;
#endif
}

/* Row i of `count` strips of `rows` rows, side by side in x. */
RH_INLINE void pack_strips(const float *x, const int rows, int64_t count, float *out)
{
    for (int64_t s = 0; s < count; s++)
        memcpy(out + s * STRIP, x + s * rows, (size_t)rows * sizeof *out);
}

/* Row by row, so that A is read as it stands in memory; strips of full height, the higher ones first. */
static void pack_a(const struct rh_gemm *g, const struct strip *strips, int count, int64_t p,
                   int64_t k)
{
    const float *x = g->a + p * g->lda + strips[0].row;
    int64_t columns = strips[count - 1].row + strips[count - 1].rows - strips[0].row;
    int64_t high = 0; /* strips of ROWS; then of 2 * LESS (one, where registers are wide), then of LESS */
    while (high < count && strips[high].rows == ROWS)
        high++;
    int64_t middle = high < count && strips[high].rows == 2 * LESS ? 1 : 0;
    int64_t low = count - high - middle;
    for (int64_t i = 0; i < k; i++, x += g->lda) {
        float *out = packed_a;
        for (int64_t j = 0; j < columns; j += 16) /* a line has 16 */
            __builtin_prefetch(x + AHEAD * g->lda + j);
        pack_strips(x, ROWS, high, out + i * ROWS);
        out += high * STRIP;
        pack_strips(x + high * ROWS, 2 * LESS, middle, out + i * 2 * LESS);
        out += middle * STRIP;
        pack_strips(x + high * ROWS + middle * 2 * LESS, LESS, low, out + i * LESS);
    }
}

/* Cuts rows of C, from m on, into strips. */
static int plan(const struct rh_gemm *g, int64_t m, int64_t p, int64_t k, struct strip *strips)
{
    int64_t end = smaller(m + BLOCK_M, g->m);
    bool turned = g->form == RH_TN;
    bool packed = turned && (scattered(k, g->lda) ||
                             (g->m > FEW && g->n > 2 * COLUMNS && !NEAR(g->lda)));
    int full = 0;
    int rest = 0;
    while (m < end) {
        int64_t high = height(end - m);
        float *own = packed_a + full * STRIP;
        struct strip *s = &strips[full];
        *s = (struct strip){.row = m, .rows = smaller(high, end - m)};
        choose_tile(s, high, turned || s->rows < high);
        m += s->rows;
        if (s->rows < high) { /* the last one */
            s->a = own;
            s->lda = high;
            pack_rest(g, s->row, s->rows, p, k, high, own);
            rest = 1;
            continue;
        }
        full++;
        s->lda = packed ? high : g->lda;
        s->a = packed   ? own
               : turned ? g->a + p * g->lda + s->row
                        : g->a + s->row * g->lda + p;
    }
    if (packed && full > 0)
        pack_a(g, strips, full, p, k);
    return full + rest;
}

/* One strip of C in one panel of B. */
static void cell(const struct rh_gemm *g, const struct strip *s, int64_t n, int64_t j,
                 int64_t columns, int64_t p, int64_t k)
{
    int64_t part = smaller(COLUMNS, columns - j);
    bool packed = g->packed || packs(g, part, k);
    const float *b = g->packed ? g->packed + block_at(g, n, p) + j / COLUMNS * PANEL(k)
                     : packed  ? packed_b + j / COLUMNS * PANEL(k)
                               : g->b + p * g->ldb + n + j;
    struct target t = {g->c + s->row * g->ldc + n + j, g->ldc, s->rows, part, g->alpha,
                       g->accumulate || p > 0};
    s->tile(s->a, s->lda, b, packed ? COLUMNS : g->ldb, k, &t);
}

static void block(const struct rh_gemm *g, int64_t n, int64_t p)
{
    struct strip strips[STRIPS];
    int64_t columns = smaller(BLOCK_N, g->n - n);
    int64_t k = smaller(BLOCK_K, g->k - p);
    if (!g->packed)
        pack_b(g, n, columns, p, k, false, packed_b);
    for (int64_t m = 0; m < g->m; m += BLOCK_M) {
        int count = plan(g, m, p, k, strips);
        if (k <= SHALLOW) {
            for (int s = 0; s < count; s++) {
                for (int64_t j = 0; j < columns; j += COLUMNS)
                    cell(g, &strips[s], n, j, columns, p, k);
            }
            continue;
        }
        for (int64_t j = 0; j < columns; j += COLUMNS) {
            for (int s = 0; s < count; s++)
                cell(g, &strips[s], n, j, columns, p, k);
        }
    }
}

void RH_GEMM(const struct rh_gemm *g)
{
    for (int64_t n = 0; n < g->n; n += BLOCK_N) {
        for (int64_t p = 0; p < g->k; p += BLOCK_K)
            block(g, n, p);
    }
}

void RH_TRANSPOSE(const float *x, int64_t ldx, int64_t rows, int64_t columns, float *y, int64_t ldy)
{
    pack_transposed(x, ldx, rows, columns, ldy, y);
}

/* Rows that a triangular system takes together: what is above them (below, transposed) goes through
 * registers once. */
#define TOGETHER 4

/* Element (i, j) of the triangle. */
RH_INLINE float lower(const struct rh_solve *s, int64_t i, int64_t j)
{
    return s->transposed ? s->l[j * s->n + i] : s->l[i * s->n + j];
}

/* The last register of a row may have `count` columns only. */
RH_INLINE vec load_last(const float *p, bool whole, int64_t count)
{
    return whole ? load(p) : load_part(p, count);
}

RH_INLINE void store_last(float *p, vec v, bool whole, int64_t count)
{
    if (whole)
        store(p, v);
    else
        store_part(p, v, count);
}

/* `rows` rows from `first` on, `parts` registers wide; before them `done` rows are solved. */
RH_INLINE void solve_rows(const struct rh_solve *s, const int rows, int64_t first, int64_t column,
                          const int parts, bool whole, int64_t count)
{
    vec sum[TOGETHER][2];
    const int64_t step = s->transposed ? -1 : 1;
    const int64_t start = s->transposed ? s->n - 1 : 0;
    const int64_t last = s->transposed ? first + rows - 1 : first;
    UNROLL for (int i = 0; i < rows; i++)
    {
        UNROLL for (int v = 0; v < parts; v++) sum[i][v] =
            load_last(s->x + (last + i * step) * s->width + column + v * RH_WIDTH, whole, count);
    }
    for (int64_t j = start; j != last; j += step) {
        UNROLL for (int v = 0; v < parts; v++)
        {
            vec y = load_last(s->y + j * s->width + column + v * RH_WIDTH, whole, count);
            UNROLL for (int i = 0; i < rows; i++) sum[i][v] -= lower(s, last + i * step, j) * y;
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
    {
        int64_t row = last + i * step;
        UNROLL for (int v = 0; v < parts; v++)
        {
            int64_t at = row * s->width + column + v * RH_WIDTH;
            vec y = sum[i][v] * s->factor[row * s->step];
            store_last(s->x + at, sum[i][v], whole, count);
            store_last(s->y + at, y, whole, count);
            UNROLL for (int k = i + 1; k < rows; k++) sum[k][v] -=
                lower(s, last + k * step, row) * y;
        }
    }
}

/* All columns of `rows` rows. */
RH_INLINE void solve_strip(const struct rh_solve *s, const int rows, int64_t first)
{
    int64_t column = 0;
    for (; column + 2 * RH_WIDTH <= s->width; column += 2 * RH_WIDTH)
        solve_rows(s, rows, first, column, 2, true, 0);
    for (; column + RH_WIDTH <= s->width; column += RH_WIDTH)
        solve_rows(s, rows, first, column, 1, true, 0);
    if (column < s->width)
        solve_rows(s, rows, first, column, 1, false, s->width - column);
}

void RH_SOLVE(const struct rh_solve *s)
{
    if (s->transposed) {
        int64_t left = s->n;
        for (; left >= TOGETHER; left -= TOGETHER)
            solve_strip(s, TOGETHER, left - TOGETHER);
        for (; left > 0; left--)
            solve_strip(s, 1, left - 1);
        return;
    }
    int64_t row = 0;
    for (; row + TOGETHER <= s->n; row += TOGETHER)
        solve_strip(s, TOGETHER, row);
    for (; row < s->n; row++)
        solve_strip(s, 1, row);
}
