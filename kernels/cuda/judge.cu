#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

namespace
{

__global__ void __launch_bounds__(RH_WARP)
    judge(int64_t iter, const double *loss_at, struct rh_tune_state *s)
{
    if (threadIdx.x != 0)
        return;
    const double loss = *loss_at;
    const uint64_t fault = (uint64_t)iter << 32;
    s->loss = loss;
    s->better = iter == 0 || loss < s->best_loss;
    if (s->better) {
        s->best_loss = loss;
        s->best_iter = iter;
    }
    if (!isfinite(loss) && fault < s->fault)
        s->fault = fault;
}

} // namespace

void rh_cuda_judge(struct rh_backend *b, const struct rh_judge *p)
{
    RH_LAUNCH(judge, 1, RH_WARP, 0, rh_cuda_stream(b), p->iter, p->loss, p->state);
    rh_cuda_check(b, cudaGetLastError(), "judge");
}
