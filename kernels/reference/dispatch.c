#include "ops_reference.h"

void rh_reference_dispatch(struct rh_backend *backend, const struct rh_dispatch *p)
{
    (void)backend;
    const float *x = p->x;
    float *y = p->y;
    for (int64_t i = 0; i < p->rows * p->top_k; i++) {
        for (int64_t c = 0; c < p->size; c++)
            y[p->slot[i] * p->size + c] = x[i / p->top_k * p->size + c];
    }
}

void rh_reference_dispatch_backward(struct rh_backend *backend, const struct rh_dispatch *p)
{
    (void)backend;
    const float *dy = p->dy;
    float *dx = p->dx;
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t c = 0; c < p->size; c++) {
            double sum = (double)dx[row * p->size + c];
            for (int64_t j = 0; j < p->top_k; j++)
                sum += (double)dy[p->slot[row * p->top_k + j] * p->size + c];
            dx[row * p->size + c] = (float)sum;
        }
    }
}
