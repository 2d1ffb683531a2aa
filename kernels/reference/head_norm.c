#include "ops_reference.h"

/* Element i of a head of `row`, rotated by `turn` times its angle: pairs (i, i + rot/2). */
static double rotated(const struct rh_head_norm *p, const double *x, int64_t row, int64_t i,
                      double turn)
{
    int64_t half = p->rot / 2;
    if (i >= 2 * half)
        return x[i];
    int64_t at = row % p->seq * half + i % half;
    double c = (double)p->cos[at];
    double s = turn * (double)p->sin[at];
    return i < half ? x[i] * c - x[i + half] * s : x[i] * c + x[i - half] * s;
}

static void forward_head(const struct rh_head_norm *p, const float *x, float *y, int64_t row,
                         double *normed)
{
    double r = rh_reference_rate(x, p->size, p->eps);
    for (int64_t i = 0; i < p->size; i++)
        normed[i] = (1.0 + (double)p->w[i]) * (double)x[i] * r;
    for (int64_t i = 0; i < p->size; i++)
        y[i] = (float)rotated(p, normed, row, i, 1.0);
}

static void backward_head(const struct rh_head_norm *p, const float *x, const float *dy, float *dx,
                          int64_t row, double *grad)
{
    double r = rh_reference_rate(x, p->size, p->eps);
    double along = 0.0;
    for (int64_t i = 0; i < p->size; i++)
        grad[i] = (double)dy[i];
    for (int64_t i = 0; i < p->size; i++)
        along += (1.0 + (double)p->w[i]) * rotated(p, grad, row, i, -1.0) * (double)x[i];
    for (int64_t i = 0; i < p->size; i++)
        dx[i] = (float)(r * ((1.0 + (double)p->w[i]) * rotated(p, grad, row, i, -1.0) -
                             (double)x[i] * r * r * along / (double)p->size));
}

void rh_reference_head_norm(struct rh_backend *backend, const struct rh_head_norm *p)
{
    const float *x = p->x;
    float *y = p->y;
    double *scratch = rh_backend_scratch(backend, 0, (size_t)p->size * sizeof *scratch);
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t h = 0; h < p->heads; h++)
            forward_head(p, x + row * p->ldx + h * p->head_stride,
                         y + (row * p->heads + h) * p->size, row, scratch);
    }
}

void rh_reference_head_norm_backward(struct rh_backend *backend, const struct rh_head_norm *p)
{
    const float *x = p->x;
    const float *dy = p->dy;
    float *dx = p->dx;
    double *scratch = rh_backend_scratch(backend, 0, (size_t)p->size * sizeof *scratch);
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t h = 0; h < p->heads; h++) {
            int64_t at = row * p->ldx + h * p->head_stride;
            backward_head(p, x + at, dy + (row * p->heads + h) * p->size, dx + at, row, scratch);
        }
    }
}
