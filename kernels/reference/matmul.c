#include "ops_reference.h"

void rh_reference_matmul(struct rh_backend *backend, const struct rh_matmul *p)
{
    (void)backend;
    const float *a = p->a;
    const float *b = p->b;
    float *c = p->c;
    bool turn_a = p->form == RH_TN;
    bool turn_b = p->form == RH_NT;
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            double sum = p->accumulate ? (double)c[i * p->ldc + j] : 0.0;
            for (int64_t l = 0; l < p->k; l++)
                sum += (double)a[turn_a ? l * p->lda + i : i * p->lda + l] *
                       (double)b[turn_b ? j * p->ldb + l : l * p->ldb + j];
            c[i * p->ldc + j] = (float)sum;
        }
    }
}
