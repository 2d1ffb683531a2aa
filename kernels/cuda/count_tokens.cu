#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

namespace
{

__global__ void __launch_bounds__(RH_ROW_THREADS)
    count(int64_t experts, const int64_t *offsets, int64_t *counts, int64_t *more_counts)
{
    const int64_t e = (int64_t)blockIdx.x * RH_ROW_THREADS + threadIdx.x;
    if (e >= experts)
        return;
    const int64_t rows = offsets[e + 1] - offsets[e];
    if (counts)
        counts[e] += rows;
    if (more_counts)
        more_counts[e] += rows;
}

} // namespace

void rh_cuda_count_tokens(struct rh_backend *b, const struct rh_count_tokens *p)
{
    RH_LAUNCH(count, (unsigned)((p->experts + RH_ROW_THREADS - 1) / RH_ROW_THREADS), RH_ROW_THREADS, 0,
              rh_cuda_stream(b), p->experts, p->offsets, p->counts, p->more_counts);
    rh_cuda_check(b, cudaGetLastError(), "count_tokens");
}
