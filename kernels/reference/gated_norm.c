#include "ops_reference.h"

void rh_reference_gated_norm(struct rh_backend *backend, const struct rh_gated_norm *p)
{
    (void)backend;
    const float *all = p->o;
    const float *gates = p->z;
    float *out = p->y;
    for (int64_t head = 0; head < p->rows * p->heads; head++) {
        const float *o = all + head * p->size;
        const float *z = gates + head / p->heads * p->ldz + head % p->heads * p->size;
        double r = rh_reference_rate(o, p->size, p->eps);
        for (int64_t i = 0; i < p->size; i++) {
            double silu = (double)z[i] * rh_reference_sigmoid((double)z[i]);
            out[head * p->size + i] = (float)((double)p->w[i] * (double)o[i] * r * silu);
        }
    }
}

void rh_reference_gated_norm_backward(struct rh_backend *backend, const struct rh_gated_norm *p)
{
    (void)backend;
    const float *all = p->o;
    const float *gates = p->z;
    const float *grads = p->dy;
    float *d_all = p->d_o;
    float *d_gates = p->dz;
    for (int64_t head = 0; head < p->rows * p->heads; head++) {
        const float *o = all + head * p->size;
        const float *dy = grads + head * p->size;
        int64_t at = head / p->heads * p->ldz + head % p->heads * p->size;
        const float *z = gates + at;
        double r = rh_reference_rate(o, p->size, p->eps);
        double along = 0.0; /* of the normalised head's gradient and the head */
        for (int64_t i = 0; i < p->size; i++)
            along += (double)dy[i] * (double)p->w[i] * (double)z[i] *
                     rh_reference_sigmoid((double)z[i]) * (double)o[i];
        for (int64_t i = 0; i < p->size; i++) {
            double weighted = (double)dy[i] * (double)p->w[i];
            double silu = (double)z[i] * rh_reference_sigmoid((double)z[i]);
            d_all[head * p->size + i] =
                (float)(r * (weighted * silu - (double)o[i] * r * r * along / (double)p->size));
            d_gates[at + i] =
                (float)(weighted * (double)o[i] * r * rh_reference_silu_slope((double)z[i]));
        }
    }
}
