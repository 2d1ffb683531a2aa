#include "cuda/device.cuh"

#include "cuda/backend_cuda.h"
#include "cuda/ops_cuda.h"

/*
 * cuBLAS is column-major: it sees every row-major matrix transposed, so C^T = op(B)^T op(A)^T is
 * asked for and the operands change places.
 */
void rh_cuda_matmul(struct rh_backend *b, const struct rh_matmul *p)
{
    const float one = 1.0F;
    const float beta = p->accumulate ? 1.0F : 0.0F;
    cublasStatus_t status =
        cublasGemmEx(rh_cuda_blas(b), p->form == RH_NT ? CUBLAS_OP_T : CUBLAS_OP_N,
                     p->form == RH_TN ? CUBLAS_OP_T : CUBLAS_OP_N, (int)p->n, (int)p->m, (int)p->k,
                     &one, p->b, CUDA_R_16BF, (int)p->ldb, p->a, CUDA_R_16BF, (int)p->lda, &beta,
                     p->c, CUDA_R_16BF, (int)p->ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS)
        rh_cuda_check(b, cudaErrorLaunchFailure, "cublasGemmEx of a matmul");
}
