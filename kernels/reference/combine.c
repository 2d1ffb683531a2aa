#include "ops_reference.h"

void rh_reference_combine(struct rh_backend *backend, const struct rh_combine *p)
{
    (void)backend;
    const float *h = p->h;
    const float *e = p->e;
    const float *s = p->s;
    float *y = p->y;
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t c = 0; c < p->size; c++) {
            int64_t at = row * p->size + c;
            double sum = (double)h[at] + (double)p->shared[row] * (double)s[at];
            for (int64_t j = row * p->top_k; j < (row + 1) * p->top_k; j++)
                sum += (double)p->p[j] * (double)e[p->slot[j] * p->size + c];
            y[at] = (float)sum;
        }
    }
}

void rh_reference_combine_backward(struct rh_backend *backend, const struct rh_combine *p)
{
    (void)backend;
    const float *e = p->e;
    const float *s = p->s;
    const float *grad = p->dy;
    float *de = p->de;
    float *ds = p->ds;
    for (int64_t row = 0; row < p->rows; row++) {
        const float *dy = grad + row * p->size;
        for (int64_t j = row * p->top_k; j < (row + 1) * p->top_k; j++) {
            int64_t at = p->slot[j] * p->size;
            p->dp[j] = (float)rh_reference_dot(dy, 1, e + at, p->size);
            for (int64_t c = 0; c < p->size; c++)
                de[at + c] = (float)((double)p->p[j] * (double)dy[c]);
        }
        p->dshared[row] = (float)rh_reference_dot(dy, 1, s + row * p->size, p->size);
        for (int64_t c = 0; c < p->size; c++)
            ds[row * p->size + c] = (float)((double)p->shared[row] * (double)dy[c]);
    }
}
