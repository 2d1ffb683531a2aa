#include "ops_reference.h"

void rh_reference_conv_silu(struct rh_backend *backend, const struct rh_conv_silu *p)
{
    (void)backend;
    const float *u = p->u;
    float *c = p->c;
    float *y = p->y;
    for (int64_t row = 0; row < p->batch * p->seq; row++) {
        int64_t t = row % p->seq;
        for (int64_t ch = 0; ch < p->channels; ch++) {
            double sum = 0.0;
            for (int64_t j = 0; j < p->taps; j++) {
                int64_t back = p->taps - 1 - j;
                if (back <= t)
                    sum +=
                        (double)p->w[j * p->channels + ch] * (double)u[(row - back) * p->ldu + ch];
            }
            c[row * p->channels + ch] = (float)sum;
            y[row * p->channels + ch] = (float)(sum * rh_reference_sigmoid(sum));
        }
    }
}

void rh_reference_conv_silu_backward(struct rh_backend *backend, const struct rh_conv_silu *p)
{
    (void)backend;
    const float *c = p->c;
    const float *dy = p->dy;
    float *du = p->du;
    for (int64_t row = 0; row < p->batch * p->seq; row++) {
        int64_t t = row % p->seq;
        for (int64_t ch = 0; ch < p->channels; ch++) {
            double sum = 0.0;
            for (int64_t j = 0; j < p->taps; j++) {
                int64_t ahead = p->taps - 1 - j;
                int64_t at = (row + ahead) * p->channels + ch;
                if (t + ahead < p->seq)
                    sum += (double)p->w[j * p->channels + ch] * (double)dy[at] *
                           rh_reference_silu_slope((double)c[at]);
            }
            du[row * p->ldu + ch] = (float)sum;
        }
    }
}
