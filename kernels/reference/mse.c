#include "ops_reference.h"

void rh_reference_mse(struct rh_backend *backend, const struct rh_mse *p)
{
    (void)backend;
    const float *pred = p->pred;
    const float *target = p->target;
    float *grad = p->grad;
    double sum = 0.0;
    for (int64_t i = 0; i < p->count; i++) {
        double error = (double)pred[i] - (double)target[i];
        sum += error * error;
        if (grad)
            grad[i] = (float)(2.0 * (double)p->factor * error / (double)p->count);
    }
    double mean = sum / (double)p->count * p->share;
    *p->loss = p->accumulate ? *p->loss + mean : mean;
}
