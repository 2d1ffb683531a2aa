#include "ops_reference.h"

void rh_reference_swiglu(struct rh_backend *backend, const struct rh_swiglu *p)
{
    (void)backend;
    const float *x = p->x;
    float *y = p->y;
    for (int64_t i = 0; i < p->rows * p->size; i++) {
        int64_t at = i / p->size * 2 * p->size + i % p->size;
        double gate = (double)x[at];
        y[i] = (float)(gate * rh_reference_sigmoid(gate) * (double)x[at + p->size]);
    }
}

void rh_reference_swiglu_backward(struct rh_backend *backend, const struct rh_swiglu *p)
{
    (void)backend;
    const float *x = p->x;
    const float *dy = p->dy;
    float *dx = p->dx;
    for (int64_t i = 0; i < p->rows * p->size; i++) {
        int64_t at = i / p->size * 2 * p->size + i % p->size;
        double gate = (double)x[at];
        double up = (double)x[at + p->size];
        dx[at] = (float)((double)dy[i] * up * rh_reference_silu_slope(gate));
        dx[at + p->size] = (float)((double)dy[i] * gate * rh_reference_sigmoid(gate));
    }
}
