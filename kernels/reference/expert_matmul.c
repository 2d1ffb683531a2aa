#include "ops_reference.h"

/* One expert's share is a plain product. */
void rh_reference_expert_matmul(struct rh_backend *backend, const struct rh_expert_matmul *p)
{
    float *x = p->x;
    float *y = p->y;
    float *w = p->w;
    for (int64_t e = 0; e < p->experts; e++) {
        int64_t first = p->offsets[e];
        int64_t rows = p->offsets[e + 1] - first;
        float *mine = w + e * p->w_stride;
        if (rows == 0)
            continue;
        struct rh_matmul one = {.form = p->form,
                                .m = rows,
                                .n = p->n,
                                .k = p->k,
                                .a = x + first * p->ldx,
                                .lda = p->ldx,
                                .b = mine,
                                .ldb = p->form == RH_NT ? p->k : p->n,
                                .c = y + first * p->ldy,
                                .ldc = p->ldy};
        if (p->form == RH_TN)
            one = (struct rh_matmul){.form = RH_TN,
                                     .m = p->n,
                                     .n = p->k,
                                     .k = rows,
                                     .a = y + first * p->ldy,
                                     .lda = p->ldy,
                                     .b = x + first * p->ldx,
                                     .ldb = p->ldx,
                                     .c = mine,
                                     .ldc = p->k};
        rh_reference_matmul(backend, &one);
    }
}
