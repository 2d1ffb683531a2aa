#include "ops_reference.h"

void rh_reference_head_gate(struct rh_backend *backend, const struct rh_head_gate *p)
{
    (void)backend;
    const float *o = p->o;
    const float *gate = p->gate;
    float *a = p->a;
    for (int64_t i = 0; i < p->rows * p->heads * p->size; i++) {
        int64_t head = i / p->size;
        int64_t at = head / p->heads * p->ldg + head % p->heads * p->head_stride + i % p->size;
        a[i] = (float)((double)o[i] * rh_reference_sigmoid((double)gate[at]));
    }
}

void rh_reference_head_gate_backward(struct rh_backend *backend, const struct rh_head_gate *p)
{
    (void)backend;
    const float *o = p->o;
    const float *gate = p->gate;
    const float *da = p->da;
    float *d_o = p->d_o;
    float *dgate = p->dgate;
    for (int64_t i = 0; i < p->rows * p->heads * p->size; i++) {
        int64_t head = i / p->size;
        int64_t at = head / p->heads * p->ldg + head % p->heads * p->head_stride + i % p->size;
        double s = rh_reference_sigmoid((double)gate[at]);
        d_o[i] = (float)((double)da[i] * s);
        dgate[at] = (float)((double)da[i] * (double)o[i] * s * (1.0 - s));
    }
}
