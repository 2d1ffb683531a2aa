#ifndef RH_KERNELS_CPU_GEMM_H
#define RH_KERNELS_CPU_GEMM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

/* Rows of C are best cut at multiples of this. */
#define RH_GEMM_ROWS 4

/* C = alpha op(A) op(B), added to C when `accumulate`; one thread, no allocation. Sizes and forms
 * as in struct rh_matmul. k > 0. packed: when not NULL, B as rh_loops.pack() laid it out. */
struct rh_gemm {
    enum rh_form form;
    int64_t m, n, k;
    float alpha;
    const float *a, *b;
    int64_t lda, ldb;
    float *c;
    int64_t ldc;
    bool accumulate;
    const float *packed;
};

/* Floats that B takes once it is packed. */
static inline int64_t rh_gemm_packed_size(int64_t n, int64_t k)
{
    /* Up to 31 columns of zeros; a line of 16 after each panel of 8 or more columns in 256 of k. */
    return (n + 31) / 32 * (32 * k + 4 * 16 * ((k + 255) / 256));
}

/*
 * A triangular system: x_i -= sum_j l[i, j] y_j over j < i, y_i = factor_i x_i, rows i upwards;
 * transposed: x_i -= sum_j l[j, i] y_j over j > i, rows downwards and j too. l: [n, n], its
 * diagonal and what is above are not read; x, y: [n, width]; factor i at factor[i * step].
 */
struct rh_solve {
    int64_t n, width;
    const float *l;
    const float *factor;
    int64_t step;
    bool transposed;
    float *x, *y;
};

void rh_solve_plain(const struct rh_solve *s);
void rh_solve_avx2(const struct rh_solve *s);
void rh_solve_avx512(const struct rh_solve *s);

/* y[columns, rows] = x[rows, columns]^T; what is beyond `rows` in a row of y becomes 0. */
void rh_transpose_plain(const float *x, int64_t ldx, int64_t rows, int64_t columns, float *y,
                        int64_t ldy);
void rh_transpose_avx2(const float *x, int64_t ldx, int64_t rows, int64_t columns, float *y,
                       int64_t ldy);
void rh_transpose_avx512(const float *x, int64_t ldx, int64_t rows, int64_t columns, float *y,
                         int64_t ldy);

/* Lays B of the product out (form, n, k, b and ldb count), for products of the same instruction
 * set. */
void rh_pack_plain(const struct rh_gemm *g, float *out);
void rh_pack_avx2(const struct rh_gemm *g, float *out);
void rh_pack_avx512(const struct rh_gemm *g, float *out);

void rh_gemm_plain(const struct rh_gemm *g);
void rh_gemm_avx2(const struct rh_gemm *g);
void rh_gemm_avx512(const struct rh_gemm *g);

#endif
