#ifndef RH_KERNELS_CUDA_ROW_CUH
#define RH_KERNELS_CUDA_ROW_CUH

#include "cuda/device.cuh"

/*
 * A row of bf16 that one warp reads more than once: span i of a lane begins at (32 i + lane) W. With N > 0 the
 * row, at most 32 N W long, stays in registers; with N = 0 it is of any length and read again each time.
 */
template <int W, int N> struct rh_row {
    typedef typename rh_span<W>::raw raw;
    const __nv_bfloat16 *from;
    raw kept[N > 0 ? N : 1];

    /* f(i, at) for the spans of this lane */
    template <class F> static __device__ __forceinline__ void each(int64_t size, F f)
    {
        if (N > 0) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int at = (i * RH_WARP + rh_lane()) * W;
                if (at < size)
                    f(i, (int64_t)at);
            }
        } else {
            for (int64_t at = rh_lane() * W; at < size; at += RH_WARP * W)
                f(0, at);
        }
    }
    __device__ __forceinline__ rh_row(const __nv_bfloat16 *row, int64_t size) : from(row)
    {
        if (N > 0)
            each(size, [&](int i, int64_t at) { kept[i] = rh_span<W>::fetch(row + at); });
    }
    __device__ __forceinline__ void get(float out[W], int i, int64_t at) const
    {
        if (N > 0)
            rh_span<W>::unpack(out, kept[i]);
        else
            rh_span<W>::load(out, from + at);
    }
};

#endif
