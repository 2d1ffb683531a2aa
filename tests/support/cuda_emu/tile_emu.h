#ifndef RH_CUDA_EMU_TILE_EMU_H
#define RH_CUDA_EMU_TILE_EMU_H

/* The functions of kernels/cuda/tile.cuh, documented there. Included by it. */
#include "cuda_runtime.h"

void rh_emu_ldmatrix(uint32_t *r, int matrices, bool transposed, const void *row);
void rh_emu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void rh_emu_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2]);
/* The bytes arrive at the wait, as late as the hardware may deliver them. */
void rh_emu_copy_later(void *shared, const void *global, bool valid);
void rh_emu_copy_commit();
void rh_emu_copy_wait(int pending);

static inline void rh_ldmatrix_x4(uint32_t r[4], const void *shared_row)
{
    rh_emu_ldmatrix(r, 4, false, shared_row);
}
static inline void rh_ldmatrix_x4_trans(uint32_t r[4], const void *shared_row)
{
    rh_emu_ldmatrix(r, 4, true, shared_row);
}
static inline void rh_ldmatrix_x2(uint32_t r[2], const void *shared_row)
{
    rh_emu_ldmatrix(r, 2, false, shared_row);
}
static inline void rh_ldmatrix_x2_trans(uint32_t r[2], const void *shared_row)
{
    rh_emu_ldmatrix(r, 2, true, shared_row);
}
static inline void rh_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    rh_emu_mma_bf16(d, a, b);
}
static inline void rh_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    rh_emu_mma_tf32(d, a, b);
}
static inline void rh_cp_async_16(void *shared, const void *global, bool valid)
{
    rh_emu_copy_later(shared, global, valid);
}
static inline void rh_cp_async_commit()
{
    rh_emu_copy_commit();
}
template <int N> inline void rh_cp_async_wait()
{
    rh_emu_copy_wait(N);
}

static inline float rh_exp2(float x)
{
    return exp2f(x);
}

#endif
