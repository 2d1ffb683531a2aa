#include <math.h>

#include "ops_cpu.h"

void rh_cpu_judge(struct rh_backend *b, const struct rh_judge *p)
{
    (void)b;
    struct rh_tune_state *s = p->state;
    double loss = *p->loss;
    uint64_t fault = (uint64_t)p->iter << 32;
    s->loss = loss;
    s->better = p->iter == 0 || loss < s->best_loss;
    if (s->better) {
        s->best_loss = loss;
        s->best_iter = p->iter;
    }
    if (!isfinite(loss) && fault < s->fault)
        s->fault = fault;
}
