#include "cublas_v2.h"

#include <cblas.h>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "emu_private.h"

struct rh_emu_blas {
    cudaStream_t stream;
};

static size_t width_of(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

/* A column-major matrix inside `memory`. */
struct matrix {
    const void *memory;
    cudaDataType_t type;
    int rows, columns, ld;
};

static bool fits(const matrix &m)
{
    if (m.ld < m.rows || m.rows < 0 || m.columns < 0)
        return false;
    if (m.rows == 0 || m.columns == 0)
        return true;
    size_t last = (size_t)(m.columns - 1) * (size_t)m.ld + (size_t)m.rows;
    return rh_emu_is_device(m.memory, last * width_of(m.type));
}

static float read(const matrix &m, int row, int column)
{
    size_t at = (size_t)column * (size_t)m.ld + (size_t)row;
    if (m.type == CUDA_R_16BF)
        return (float)((const __nv_bfloat16 *)m.memory)[at];
    if (m.type == CUDA_R_16F)
        return (float)((const __half *)m.memory)[at];
    return ((const float *)m.memory)[at];
}

static void write(const matrix &m, int row, int column, float value)
{
    size_t at = (size_t)column * (size_t)m.ld + (size_t)row;
    void *memory = const_cast<void *>(m.memory);
    if (m.type == CUDA_R_16BF)
        ((__nv_bfloat16 *)memory)[at] = __nv_bfloat16(value);
    else if (m.type == CUDA_R_16F)
        ((__half *)memory)[at] = __half(value);
    else
        ((float *)memory)[at] = value;
}

static std::vector<float> unpack(const matrix &m)
{
    std::vector<float> out((size_t)m.rows * (size_t)m.columns + 1);
    for (int c = 0; c < m.columns; c++) {
        for (int r = 0; r < m.rows; r++)
            out[(size_t)c * (size_t)m.rows + (size_t)r] = read(m, r, c);
    }
    return out;
}

static int at_least_one(int ld)
{
    return ld > 0 ? ld : 1;
}

static void multiply(bool ta, bool tb, int k, float alpha, const matrix &a, const matrix &b,
                     float beta, const matrix &c)
{
    std::vector<float> fa = unpack(a), fb = unpack(b);
    std::vector<float> fc = beta != 0.0F ? unpack(c)
                                         : std::vector<float>((size_t)c.rows * (size_t)c.columns + 1);
    cblas_sgemm(CblasColMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, c.rows,
                c.columns, k, alpha, fa.data(), at_least_one(a.rows), fb.data(),
                at_least_one(b.rows), beta, fc.data(), at_least_one(c.rows));
    for (int j = 0; j < c.columns; j++) {
        for (int i = 0; i < c.rows; i++)
            write(c, i, j, fc[(size_t)j * (size_t)c.rows + (size_t)i]);
    }
}

cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
    const void *alpha, const void *a, cudaDataType_t a_type, int lda, long long stride_a,
    const void *b, cudaDataType_t b_type, int ldb, long long stride_b, const void *beta, void *c,
    cudaDataType_t c_type, int ldc, long long stride_c, int batch, cublasComputeType_t,
    cublasGemmAlgo_t)
{
    rh_emu_access access;
    if (!handle || m < 0 || n < 0 || k < 0 || batch < 0 || a_type != b_type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (rh_emu_lost())
        return CUBLAS_STATUS_EXECUTION_FAILED;
    bool ta = transa == CUBLAS_OP_T, tb = transb == CUBLAS_OP_T;
    for (long long i = 0; i < batch && m > 0 && n > 0; i++) {
        matrix ma = {(const char *)a + i * stride_a * (long long)width_of(a_type), a_type,
                     ta ? k : m, ta ? m : k, lda};
        matrix mb = {(const char *)b + i * stride_b * (long long)width_of(b_type), b_type,
                     tb ? n : k, tb ? k : n, ldb};
        matrix mc = {(const char *)c + i * stride_c * (long long)width_of(c_type), c_type, m, n, ldc};
        if (!fits(ma) || !fits(mb) || !fits(mc))
            return CUBLAS_STATUS_INVALID_VALUE;
        multiply(ta, tb, k, *(const float *)alpha, ma, mb, *(const float *)beta, mc);
    }
    rh_emu_check_canaries("cublasGemmEx");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType_t a_type, int lda, const void *b, cudaDataType_t b_type,
                            int ldb, const void *beta, void *c, cudaDataType_t c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, a, a_type, lda, 0, b,
                                      b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute, algorithm);
}

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    *handle = new rh_emu_blas();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
                                                   : "CUBLAS_STATUS_EXECUTION_FAILED";
}
