#include "ops_reference.h"

void rh_reference_rms_norm(struct rh_backend *backend, const struct rh_rms_norm *p)
{
    (void)backend;
    const float *all = p->x;
    float *out = p->y;
    for (int64_t row = 0; row < p->rows; row++) {
        const float *x = all + row * p->size;
        double r = rh_reference_rate(x, p->size, p->eps);
        for (int64_t i = 0; i < p->size; i++)
            out[row * p->size + i] = (float)((1.0 + (double)p->w[i]) * (double)x[i] * r);
    }
}

void rh_reference_rms_norm_backward(struct rh_backend *backend, const struct rh_rms_norm *p)
{
    (void)backend;
    const float *all = p->x;
    const float *grad = p->dy;
    float *out = p->dx;
    for (int64_t row = 0; row < p->rows; row++) {
        const float *x = all + row * p->size;
        const float *dy = grad + row * p->size;
        float *dx = out + row * p->size;
        double r = rh_reference_rate(x, p->size, p->eps);
        double along = 0.0;
        for (int64_t i = 0; i < p->size; i++)
            along += (1.0 + (double)p->w[i]) * (double)dy[i] * (double)x[i];
        for (int64_t i = 0; i < p->size; i++) {
            double d = r * ((1.0 + (double)p->w[i]) * (double)dy[i] -
                            (double)x[i] * r * r * along / (double)p->size);
            dx[i] = (float)(d + (p->accumulate ? (double)dx[i] : 0.0));
        }
    }
}
