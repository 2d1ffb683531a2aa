#ifndef RH_KERNELS_CPU_LOOPS_H
#define RH_KERNELS_CPU_LOOPS_H

#include <stdint.h>

#include "gemm.h"

/*
 * The inner loops over a row, compiled once per instruction set from loops.c. Sums run over 16 lanes
 * whatever the instruction set, so all of them give the same bits (but gemm and solve,
 * which the plain one does without fused multiply-add). Rows may overlap only where the
 * output is the input.
 */
struct rh_loops {
    const char *name;
    void (*gemm)(const struct rh_gemm *);
    void (*pack)(const struct rh_gemm *, float *out);
    float (*dot)(const float *x, const float *y, int64_t n);
    void (*add)(float *y, const float *x, int64_t n);            /* y += x */
    void (*axpy)(float *y, float a, const float *x, int64_t n);  /* y += a x */
    void (*scale)(float *y, float a, const float *x, int64_t n); /* y = a x */
    /* y = sum of x_k w_k, k = 0..terms-1 in this order */
    void (*sum_products)(float *y, const float *const *x, const float *const *w, int64_t terms,
                         int64_t n);
    void (*exp_minus)(float *y, const float *x, float max, int64_t n); /* y = exp(x - max) */
    /* y = (1 + w) x r */
    void (*offset_scale)(float *y, const float *x, const float *w, float r, int64_t n);
    /* dx (+)= r ((1 + w) dy - x r m) */
    void (*offset_norm_backward)(float *dx, const float *x, const float *w, const float *dy,
                                 float r, float m, int accumulate, int64_t n);
    /* sum of (1 + w) dy x */
    float (*offset_dot)(const float *x, const float *w, const float *dy, int64_t n);
    void (*silu_mul)(float *y, const float *gate, const float *up, int64_t n);
    void (*silu_mul_backward)(float *dgate, float *dup, const float *gate, const float *up,
                              const float *dy, int64_t n);
    void (*sigmoid_mul)(float *a, const float *o, const float *gate, int64_t n);
    void (*sigmoid_mul_backward)(float *d_o, float *dgate, const float *o, const float *gate,
                                 const float *da, int64_t n);
    void (*silu)(float *y, const float *x, int64_t n);
    void (*silu_backward)(float *dx, const float *x, const float *dy, int64_t n);
    /* y = w o r silu(z) */
    void (*gated_norm)(float *y, const float *o, const float *z, const float *w, float r,
                       int64_t n);
    /* t = w dy silu(z), dz = dy w o r silu'(z); returns the sum of t o */
    float (*gated_norm_backward)(float *t, float *dz, const float *o, const float *z,
                                 const float *w, const float *dy, float r, int64_t n);
    /* dx = r (t - x m) */
    void (*norm_backward)(float *dx, const float *t, const float *x, float r, float m, int64_t n);
    /* x <- exp(x - *max) for the first n, 0 up to `all`; *max: of the n. Returns the sum. */
    float (*exp_row)(float *x, int64_t n, int64_t all, float *max);
    /* s <- exp(s - lse), dp <- s (dp - delta) for the first n, 0 up to `all` */
    void (*softmax_backward)(float *s, float *dp, float lse, float delta, int64_t n, int64_t all);
    void (*solve)(const struct rh_solve *);
    /* y[columns, rows] = x[rows, columns]^T; what is beyond `rows` in a row of y becomes 0 */
    void (*transpose)(const float *x, int64_t ldx, int64_t rows, int64_t columns, float *y,
                      int64_t ldy);
    /* y[rows, n]: row i is factor[i] x_i */
    void (*scale_rows)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *factor,
                       int64_t rows, int64_t n);
    /* y[rows, n] = x * w, x and w without gaps */
    void (*mul_rows)(float *y, int64_t ldy, const float *x, const float *w, int64_t rows,
                     int64_t n);
    /* y[n, n] = exp(c_i - c_j) where j <= i, else 0 */
    void (*decay)(float *y, const double *c, int64_t n);
    /* dc += row sums - column sums of m[n, n], which is 0 above the diagonal; fp64 */
    void (*balance)(double *dc, const float *m, int64_t n);
    /* p (+)= a x, q (+)= b z - a y */
    void (*two_sums)(float *p, float *q, const float *x, const float *y, const float *z, float a,
                     float b, int accumulate, int64_t n);
    /* da (+)= x decay, db (+)= -y decay, m = x p - y g */
    void (*decay_backward)(float *da, float *db, float *m, const float *x, const float *y,
                           const float *decay, const float *p, const float *g, int accumulate,
                           int64_t n);
    /* grad = factor (pred - target); returns the sum of squares. grad may be NULL. */
    float (*square_error)(float *grad, const float *pred, const float *target, float factor,
                          int64_t n);
};

/* The best that this processor has. */
const struct rh_loops *rh_loops_best(void);

extern const struct rh_loops rh_loops_plain;
extern const struct rh_loops rh_loops_avx2;
extern const struct rh_loops rh_loops_avx512;

#endif
