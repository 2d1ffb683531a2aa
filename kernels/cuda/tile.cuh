#ifndef RH_KERNELS_CUDA_TILE_CUH
#define RH_KERNELS_CUDA_TILE_CUH

#include "cuda/device.cuh"

/*
 * Matrix tiles: the only place with PTX. All of these are warp collectives, except the cp.async ones,
 * which each thread does for itself. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16"
 * and "mma.m16n8k8". With g = lane / 4 and t = lane % 4:
 *   a (16 x 16 bf16): a[0] = A[g][2t, 2t+1], a[1] = A[g+8][..], a[2] = A[g][2t+8, 2t+9], a[3] = A[g+8][..]
 *   b (16 x 8 bf16):  b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]
 *   d (16 x 8 f32):   d[0..1] = D[g][2t, 2t+1], d[2..3] = D[g+8][2t, 2t+1]
 *   tf32 a (16 x 8):  A[g][t], A[g+8][t], A[g][t+4], A[g+8][t+4]; b (8 x 8): B[t][g], B[t+4][g]
 */
#ifdef RH_CUDA_EMU
#include "tile_emu.h"
#else

__device__ __forceinline__ uint32_t rh_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* Four 8x8 matrices of 16-bit elements; lanes 8i .. 8i+7 pass the rows (16 bytes each) of matrix i. */
__device__ __forceinline__ void rh_ldmatrix_x4(uint32_t r[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(rh_shared_address(shared_row))
                 : "memory");
}

__device__ __forceinline__ void rh_ldmatrix_x4_trans(uint32_t r[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(rh_shared_address(shared_row))
                 : "memory");
}

/* Two matrices; the addresses of lanes 16 to 31 do not count. */
__device__ __forceinline__ void rh_ldmatrix_x2(uint32_t r[2], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(rh_shared_address(shared_row))
                 : "memory");
}

__device__ __forceinline__ void rh_ldmatrix_x2_trans(uint32_t r[2], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(rh_shared_address(shared_row))
                 : "memory");
}

/* d += a b, 16 x 8 x 16. */
__device__ __forceinline__ void rh_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d += a b, 16 x 8 x 8; fp32 bits of which the hardware reads the upper 19. */
__device__ __forceinline__ void rh_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Copies 16 bytes, or writes 16 zero bytes when !valid (global is then not read). Both 16-byte aligned. */
__device__ __forceinline__ void rh_cp_async_16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(rh_shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void rh_cp_async_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Until at most N groups of this thread are under way. A barrier makes the data visible to others. */
template <int N> __device__ __forceinline__ void rh_cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

/* 2^x to about 2 units in the last place; small results become 0. */
__device__ __forceinline__ float rh_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

#endif

#endif
