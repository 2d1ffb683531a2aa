#include "cuda/backend_cuda.h"
#include "cuda/device.cuh"
#include "cuda/ops_cuda.h"

/* Bytes moved per element: 4. Rows are long and few (sequences), so y counts pieces of a row. */
namespace
{

#define PIECE 8 /* spans that a thread copies */

template <int W>
__global__ void __launch_bounds__(RH_ROW_THREADS)
    gather(int64_t size, const int64_t *rows, const __nv_bfloat16 *x, __nv_bfloat16 *y)
{
    typedef typename rh_span<W>::raw raw;
    const __nv_bfloat16 *from = x + rows[blockIdx.y] * size;
    __nv_bfloat16 *to = y + (int64_t)blockIdx.y * size;
    const int64_t begin = ((int64_t)blockIdx.x * PIECE * RH_ROW_THREADS + threadIdx.x) * W;
    raw v[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        const int64_t at = begin + i * RH_ROW_THREADS * W;
        if (at < size)
            v[i] = rh_span<W>::fetch(from + at);
    }
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        const int64_t at = begin + i * RH_ROW_THREADS * W;
        if (at < size)
            *reinterpret_cast<raw *>(to + at) = v[i];
    }
}

template <int W> void run(struct rh_backend *b, const struct rh_gather_rows *p)
{
    const int64_t piece = PIECE * RH_ROW_THREADS * W;
    RH_LAUNCH((gather<W>), dim3((unsigned)((p->size + piece - 1) / piece), (unsigned)p->count),
              RH_ROW_THREADS, 0, rh_cuda_stream(b), p->size, p->rows, (const __nv_bfloat16 *)p->x,
              (__nv_bfloat16 *)p->y);
}

} // namespace

void rh_cuda_gather_rows(struct rh_backend *b, const struct rh_gather_rows *p)
{
    if (rh_aligned(8, {p->size}, {p->x, p->y}))
        run<8>(b, p);
    else
        run<1>(b, p);
    rh_cuda_check(b, cudaGetLastError(), "gather_rows");
}
