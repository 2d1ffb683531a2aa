#ifndef RH_KERNELS_CUDA_BACKEND_CUDA_H
#define RH_KERNELS_CUDA_BACKEND_CUDA_H

#include <stddef.h>

#include <cublas_v2.h>
#include <cuda_runtime.h>

struct rh_backend;

#ifdef __cplusplus
extern "C" {
#endif

/* What the CUDA ops know of the backend. All work of an op goes to this stream. */
cudaStream_t rh_cuda_stream(struct rh_backend *backend);
cublasHandle_t rh_cuda_blas(struct rh_backend *backend);
/* Device memory shared by all ops: valid until the next op. Grows at first use of a shape and not
 * again. NULL when there is no memory, an error that is kept: the op then returns at once. */
void *rh_cuda_scratch(struct rh_backend *backend, size_t bytes);
/* Keeps the first error with what was being done; the host reads it when it polls. */
void rh_cuda_check(struct rh_backend *backend, cudaError_t error, const char *what);

#ifdef __cplusplus
}
#endif

#endif
