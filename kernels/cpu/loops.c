#include "loops.h"

#include <stddef.h>
#include <string.h>

#include "vector.h"

/* RH_LOOPS names the table; the build compiles this file once per instruction set. */

#define LANES RH_LANES

static float dot(const float *x, const float *y, int64_t n)
{
    v16 sum = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += load(x + i) * load(y + i);
    if (i < n)
        sum += load_part(x + i, n - i) * load_part(y + i, n - i);
    return sum_lanes(sum);
}

static float dot3(const float *x, const float *y, const float *z, int64_t n)
{
    v16 sum = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += load(x + i) * load(y + i) * load(z + i);
    if (i < n)
        sum += load_part(x + i, n - i) * load_part(y + i, n - i) * load_part(z + i, n - i);
    return sum_lanes(sum);
}

static float sum(const float *x, int64_t n)
{
    v16 total = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        total += load(x + i);
    if (i < n)
        total += load_part(x + i, n - i);
    return sum_lanes(total);
}

/* Runs BODY for every vector; P(p) reads and W(p, v) writes 16 elements, or what is left. */
#define FOR_ROW(BODY)                                                                              \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= n; i += LANES) {                                                       \
            BODY(load, store)                                                                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            BODY(TAIL_LOAD, TAIL_STORE)                                                            \
        }                                                                                          \
    } while (0)
#define TAIL_LOAD(p)     load_part((p), n - i)
#define TAIL_STORE(p, v) store_part((p), (v), n - i)

static void add(float *y, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, P(y + i) + P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, P(y + i) + a * P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void scale(float *y, float a, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, a * P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void mul(float *y, const float *x, int64_t n)
{
#define BODY(P, W) W(y + i, P(y + i) * P(x + i));
    FOR_ROW(BODY);
#undef BODY
}

static void mul_add(float *y, const float *x, const float *w, int64_t n)
{
#define BODY(P, W) W(y + i, P(y + i) + P(x + i) * P(w + i));
    FOR_ROW(BODY);
#undef BODY
}

static void exp_minus(float *y, const float *x, float max_value, int64_t n)
{
#define BODY(P, W) W(y + i, exp_lanes(P(x + i) - max_value));
    FOR_ROW(BODY);
#undef BODY
}

static float max_of(const float *x, int64_t n)
{
    float best = x[0];
    for (int64_t i = 1; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

static void offset_scale(float *y, const float *x, const float *w, float r, int64_t n)
{
#define BODY(P, W) W(y + i, (P(w + i) + 1.0F) * (P(x + i) * r));
    FOR_ROW(BODY);
#undef BODY
}

static void offset_norm_backward(float *dx, const float *x, const float *w, const float *dy,
                                 float r, float m, int accumulate, int64_t n)
{
#define VALUE(P) (((P(w + i) + 1.0F) * P(dy + i) - P(x + i) * (r * m)) * r)
    if (accumulate) {
#define BODY(P, W) W(dx + i, P(dx + i) + VALUE(P));
        FOR_ROW(BODY);
#undef BODY
    } else {
#define BODY(P, W) W(dx + i, VALUE(P));
        FOR_ROW(BODY);
#undef BODY
    }
#undef VALUE
}

static float offset_dot(const float *x, const float *w, const float *dy, int64_t n)
{
    v16 total = {0};
#define BODY(P, W) total += (P(w + i) + 1.0F) * P(dy + i) * P(x + i);
    FOR_ROW(BODY);
#undef BODY
    return sum_lanes(total);
}

static void silu_mul(float *y, const float *gate, const float *up, int64_t n)
{
#define BODY(P, W)                                                                                 \
    v16 g = P(gate + i);                                                                           \
    W(y + i, g * sigmoid_lanes(g) * P(up + i));
    FOR_ROW(BODY);
#undef BODY
}

static void silu_mul_backward(float *dgate, float *dup, const float *gate, const float *up,
                              const float *dy, int64_t n)
{
#define BODY(P, W)                                                                                 \
    v16 g = P(gate + i), d = P(dy + i), s = sigmoid_lanes(g);                                      \
    W(dup + i, d *g *s);                                                                           \
    W(dgate + i, d *P(up + i) * (s * (1.0F + g * (1.0F - s))));
    FOR_ROW(BODY);
#undef BODY
}

static void sigmoid_mul(float *a, const float *o, const float *gate, int64_t n)
{
#define BODY(P, W) W(a + i, P(o + i) * sigmoid_lanes(P(gate + i)));
    FOR_ROW(BODY);
#undef BODY
}

static void sigmoid_mul_backward(float *d_o, float *dgate, const float *o, const float *gate,
                                 const float *da, int64_t n)
{
#define BODY(P, W)                                                                                 \
    v16 s = sigmoid_lanes(P(gate + i)), d = P(da + i);                                             \
    W(dgate + i, d *P(o + i) * (s * (1.0F - s)));                                                  \
    W(d_o + i, d *s);
    FOR_ROW(BODY);
#undef BODY
}

static void silu(float *y, const float *x, int64_t n)
{
#define BODY(P, W)                                                                                 \
    v16 v = P(x + i);                                                                              \
    W(y + i, v *sigmoid_lanes(v));
    FOR_ROW(BODY);
#undef BODY
}

static void silu_backward(float *dx, const float *x, const float *dy, int64_t n)
{
#define BODY(P, W)                                                                                 \
    v16 v = P(x + i), s = sigmoid_lanes(v);                                                        \
    W(dx + i, P(dy + i) * (s * (1.0F + v * (1.0F - s))));
    FOR_ROW(BODY);
#undef BODY
}

static void gated_norm(float *y, const float *o, const float *z, const float *w, float r, int64_t n)
{
#define BODY(P, W)                                                                                 \
    v16 v = P(z + i);                                                                              \
    W(y + i, P(w + i) * (P(o + i) * r) * (v * sigmoid_lanes(v)));
    FOR_ROW(BODY);
#undef BODY
}

static float gated_norm_backward(float *t, float *dz, const float *o, const float *z,
                                 const float *w, const float *dy, float r, int64_t n)
{
    v16 total = {0};
#define BODY(P, W)                                                                                 \
    v16 v = P(z + i), s = sigmoid_lanes(v), wd = P(w + i) * P(dy + i), ov = P(o + i);              \
    v16 tv = wd * (v * s);                                                                         \
    W(t + i, tv);                                                                                  \
    W(dz + i, wd *(ov *r) * (s * (1.0F + v * (1.0F - s))));                                        \
    total += tv * ov;
    FOR_ROW(BODY);
#undef BODY
    return sum_lanes(total);
}

static void norm_backward(float *dx, const float *t, const float *x, float r, float m, int64_t n)
{
#define BODY(P, W) W(dx + i, (P(t + i) - P(x + i) * m) * r);
    FOR_ROW(BODY);
#undef BODY
}

static void softmax_backward(float *dp, const float *p, float delta, float factor, int64_t n)
{
#define BODY(P, W) W(dp + i, P(p + i) * (P(dp + i) - delta) * factor);
    FOR_ROW(BODY);
#undef BODY
}

/* One row of a triangular solve: x_i -= sum of l[j] x_j over j in [from, to). */
static inline void solve_row(const float *l, int64_t step, int64_t from, int64_t to, float *x,
                             int64_t i, int64_t n)
{
    float *own = x + i * n;
    int64_t w = 0;
    for (; w + 2 * LANES <= n; w += 2 * LANES) {
        v16 a = load(own + w), b = load(own + w + LANES);
        for (int64_t j = from; j < to; j++) {
            a -= l[j * step] * load(x + j * n + w);
            b -= l[j * step] * load(x + j * n + w + LANES);
        }
        store(own + w, a);
        store(own + w + LANES, b);
    }
    for (; w < n; w += LANES) {
        int64_t part = n - w < LANES ? n - w : LANES;
        v16 a = load_part(own + w, part);
        for (int64_t j = from; j < to; j++)
            a -= l[j * step] * load_part(x + j * n + w, part);
        store_part(own + w, a, part);
    }
}

static void solve_lower(const float *l, int64_t n, float *x, int64_t width)
{
    for (int64_t i = 1; i < n; i++)
        solve_row(l + i * n, 1, 0, i, x, i, width);
}

static void solve_lower_transposed(const float *l, int64_t n, float *x, int64_t width)
{
    for (int64_t i = n - 2; i >= 0; i--)
        solve_row(l + i, n, i + 1, n, x, i, width);
}

static float square_error(float *grad, const float *pred, const float *target, float factor,
                          int64_t n)
{
    v16 total = {0};
    if (grad) {
#define BODY(P, W)                                                                                 \
    v16 d = P(pred + i) - P(target + i);                                                           \
    W(grad + i, d *factor);                                                                        \
    total += d * d;
        FOR_ROW(BODY);
#undef BODY
    } else {
#define BODY(P, W)                                                                                 \
    v16 d = P(pred + i) - P(target + i);                                                           \
    total += d * d;
        FOR_ROW(BODY);
#undef BODY
    }
    return sum_lanes(total);
}

#define TEXT(x)  #x
#define NAMED(x) TEXT(x)

const struct rh_loops RH_LOOPS = {
    .name = NAMED(RH_LOOPS),
    .dot = dot,
    .dot3 = dot3,
    .sum = sum,
    .add = add,
    .axpy = axpy,
    .scale = scale,
    .mul = mul,
    .mul_add = mul_add,
    .exp_minus = exp_minus,
    .max = max_of,
    .offset_scale = offset_scale,
    .offset_norm_backward = offset_norm_backward,
    .offset_dot = offset_dot,
    .silu_mul = silu_mul,
    .silu_mul_backward = silu_mul_backward,
    .sigmoid_mul = sigmoid_mul,
    .sigmoid_mul_backward = sigmoid_mul_backward,
    .silu = silu,
    .silu_backward = silu_backward,
    .gated_norm = gated_norm,
    .gated_norm_backward = gated_norm_backward,
    .norm_backward = norm_backward,
    .softmax_backward = softmax_backward,
    .solve_lower = solve_lower,
    .solve_lower_transposed = solve_lower_transposed,
    .square_error = square_error,
};
