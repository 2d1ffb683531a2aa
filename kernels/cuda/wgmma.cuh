#ifndef RH_KERNELS_CUDA_WGMMA_CUH
#define RH_KERNELS_CUDA_WGMMA_CUH

#include "cuda/tile.cuh"

/*
 * Matrix products of a warpgroup (4 warps, 64 rows) on sm_90a: PTX ISA, "Asynchronous warpgroup
 * level matrix instructions". Accumulators and register fragments of a warp are those of
 * mma.m16n8k16 for its 16 rows, tile j of eight columns in acc[j]. Operands in shared memory are
 * tiles of gemm_tile.cuh. Products run behind the instructions that follow; acc may be touched
 * again after rh_wgmma_wait and rh_wgmma_hold.
 *
 * Kernels have a parameter that asks for these. RH_HAS_WGMMA: this compilation knows them; if not,
 * mma.sync does the same products. Such kernels are launched on sm_90 alone and left empty before
 * it.
 */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RH_HAS_WGMMA true
#else
#define RH_HAS_WGMMA false
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define RH_BEFORE_SM90 true
#else
#define RH_BEFORE_SM90 false
#endif

/* The emulation sees declarations only; it never takes these paths. */
#ifdef RH_CUDA_EMU
uint32_t rh_wgmma_matrix(const void *tile, int wide);
void rh_wgmma_fence();
void rh_wgmma_commit();
template <int N> void rh_wgmma_wait();
template <int TILES> void rh_wgmma_hold(float (*acc)[4]);
void rh_wgmma_publish();
template <int TRANS_A, int TRANS_B>
void rh_wgmma_64x256(float (*d)[4], uint32_t a, uint32_t b, bool add);
template <int TRANS_A, int TRANS_B>
void rh_wgmma_64x64(float (*d)[4], uint32_t a, uint32_t b, bool add);
void rh_wgmma_64x256_r(float (*d)[4], const uint32_t a[4], uint32_t b);
#else

/*
 * The lower half of the descriptor of a matrix in shared memory; 32 bytes on are an addition of 2.
 * The tile's address should be the same for all lanes in the compiler's eyes (rh_warpgroup). k as
 * columns: `wide` is not read, groups of 8 rows are 1024 bytes apart. k as rows: `wide` bytes
 * between slabs of 64 columns, groups of 8 k are 1024 bytes apart.
 */
__device__ __forceinline__ uint32_t rh_wgmma_matrix(const void *tile, int wide)
{
    return rh_shared_address(tile) >> 4 | (uint32_t)(wide >> 4) << 16;
}

/* The upper half of every descriptor: 1024 bytes between groups of 8, 128-byte swizzle. */
#define RH_WGMMA_UPPER (1U << 30 | 1024U >> 4)

/* Before the first product of a batch: registers written by others are seen. */
__device__ __forceinline__ void rh_wgmma_fence()
{
#if RH_HAS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}

__device__ __forceinline__ void rh_wgmma_commit()
{
#if RH_HAS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}

template <int N> __device__ __forceinline__ void rh_wgmma_wait()
{
#if RH_HAS_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");
#endif
}

/* Keeps the compiler from moving uses of acc over this place. */
template <int TILES> __device__ __forceinline__ void rh_wgmma_hold(float (*acc)[4])
{
#pragma unroll
    for (int j = 0; j < TILES; j++)
        asm volatile(""
                     : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]),
                       "+f"(acc[j][3])::"memory");
}

/* This thread's writes to shared memory become visible to products after the next barrier. */
__device__ __forceinline__ void rh_wgmma_publish()
{
#if RH_HAS_WGMMA
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

#define RH_WGMMA_D(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define RH_WGMMA_D8(j)                                                                             \
    RH_WGMMA_D(j), RH_WGMMA_D(j + 1), RH_WGMMA_D(j + 2), RH_WGMMA_D(j + 3), RH_WGMMA_D(j + 4),     \
        RH_WGMMA_D(j + 5), RH_WGMMA_D(j + 6), RH_WGMMA_D(j + 7)
#define RH_WGMMA_D32 RH_WGMMA_D8(0), RH_WGMMA_D8(8), RH_WGMMA_D8(16), RH_WGMMA_D8(24)
#define RH_WGMMA_0_31                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define RH_WGMMA_32_127                                                                            \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "           \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "   \
    "%127"

/* d[32] (+)= A[64][16] B[16][256], both in shared memory; TRANS: k as rows. */
template <int TRANS_A, int TRANS_B>
__device__ __forceinline__ void rh_wgmma_64x256(float (*d)[4], uint32_t a, uint32_t b, bool add)
{
#if RH_HAS_WGMMA
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 ".reg .b64 a, b;\n"
                 "setp.ne.b32 p, %130, 0;\n"
                 "mov.b64 a, {%128, %131};\n"
                 "mov.b64 b, {%129, %131};\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
                 "{" RH_WGMMA_0_31 RH_WGMMA_32_127 "}, a, b, p, 1, 1, %132, %133;\n"
                 "}\n"
                 : RH_WGMMA_D32
                 : "r"(a), "r"(b), "r"((int)add), "n"(RH_WGMMA_UPPER), "n"(TRANS_A), "n"(TRANS_B));
#endif
}

/* d[8] (+)= A[64][16] B[16][64], both in shared memory; TRANS: k as rows. */
template <int TRANS_A, int TRANS_B>
__device__ __forceinline__ void rh_wgmma_64x64(float (*d)[4], uint32_t a, uint32_t b, bool add)
{
#if RH_HAS_WGMMA
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 ".reg .b64 a, b;\n"
                 "setp.ne.b32 p, %34, 0;\n"
                 "mov.b64 a, {%32, %35};\n"
                 "mov.b64 b, {%33, %35};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" RH_WGMMA_0_31 "}, a, b, p, 1, 1, %36, %37;\n"
                 "}\n"
                 : RH_WGMMA_D8(0)
                 : "r"(a), "r"(b), "r"((int)add), "n"(RH_WGMMA_UPPER), "n"(TRANS_A), "n"(TRANS_B));
#endif
}

/* d[32] += A[64][16] B[16][256]; A in registers, B in shared memory with k as rows. */
__device__ __forceinline__ void rh_wgmma_64x256_r(float (*d)[4], const uint32_t a[4], uint32_t b)
{
#if RH_HAS_WGMMA
    asm volatile("{\n"
                 ".reg .b64 b;\n"
                 "mov.b64 b, {%132, %133};\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
                 "{" RH_WGMMA_0_31 RH_WGMMA_32_127 "}, {%128, %129, %130, %131}, b, 1, 1, 1, 1;\n"
                 "}\n"
                 : RH_WGMMA_D32
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(RH_WGMMA_UPPER));
#endif
}

#undef RH_WGMMA_D
#undef RH_WGMMA_D8
#undef RH_WGMMA_D32
#undef RH_WGMMA_0_31
#undef RH_WGMMA_32_127

#endif

#endif
