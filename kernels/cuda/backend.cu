#include "cuda/backend_cuda.h"

#include <cstdio>
#include <cstring>
#include <mutex>

#include "cuda/c_api.h"
#include "cuda/ops_cuda.h"

/* Iterations that the host is ahead: enough to hide its own work, few enough to stop soon. */
#define DEPTH 4

#define BLAS_WORKSPACE ((size_t)32 << 20)
#define SCRATCH_STEP   ((size_t)2 << 20)

struct rh_cuda {
    int device;
    cudaStream_t stream; /* ops and queued copies */
    cudaStream_t side;   /* uploads */
    cublasHandle_t blas;
    void *blas_workspace;
    void *scratch;
    size_t scratch_bytes;
    std::mutex lock; /* of what follows */
    enum rh_rc rc;   /* of the first error */
    char message[256];
};

/* The first error stays: what follows a lost device says nothing new. */
static void keep(struct rh_cuda *c, enum rh_rc rc, const char *what, const char *why)
{
    std::lock_guard<std::mutex> hold(c->lock);
    if (c->rc != RH_OK)
        return;
    c->rc = rc;
    snprintf(c->message, sizeof c->message, "%s: %s", what, why);
}

static enum rh_rc kept(struct rh_backend *b, struct rh_error *err)
{
    struct rh_cuda *c = b->cuda;
    std::lock_guard<std::mutex> hold(c->lock);
    if (c->rc == RH_OK)
        return RH_OK;
    return rh_fail(err, c->rc, "GPU %d (%s): %s", c->device, b->device_name, c->message);
}

static bool ok(struct rh_cuda *c, cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return true;
    keep(c, RH_ERR_DEVICE, what, cudaGetErrorString(error));
    return false;
}

cudaStream_t rh_cuda_stream(struct rh_backend *b)
{
    return b->cuda->stream;
}

cublasHandle_t rh_cuda_blas(struct rh_backend *b)
{
    return b->cuda->blas;
}

void rh_cuda_check(struct rh_backend *b, cudaError_t error, const char *what)
{
    ok(b->cuda, error, what);
}

void *rh_cuda_scratch(struct rh_backend *b, size_t bytes)
{
    struct rh_cuda *c = b->cuda;
    if (bytes <= c->scratch_bytes)
        return c->scratch;
    bytes = (bytes + SCRATCH_STEP - 1) / SCRATCH_STEP * SCRATCH_STEP;
    ok(c, cudaStreamSynchronize(c->stream), "waiting for the ops");
    cudaFree(c->scratch);
    c->scratch_bytes = 0;
    cudaError_t error = cudaMalloc(&c->scratch, bytes);
    if (error != cudaSuccess) {
        char what[96];
        c->scratch = nullptr;
        snprintf(what, sizeof what, "%zu bytes of scratch memory", bytes);
        cudaGetLastError();
        keep(c, error == cudaErrorMemoryAllocation ? RH_ERR_NO_MEMORY : RH_ERR_DEVICE, what,
             cudaGetErrorString(error));
        return nullptr;
    }
    c->scratch_bytes = bytes;
    return c->scratch;
}

int rh_cuda_device_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return count;
}

void rh_cuda_device_memory(int device, size_t *available, size_t *total)
{
    if (device < rh_cuda_device_count() && cudaSetDevice(device) == cudaSuccess &&
        cudaMemGetInfo(available, total) == cudaSuccess)
        return;
    cudaGetLastError();
    *available = *total = 0;
}

static enum rh_rc start_device(struct rh_backend *b, struct rh_error *err)
{
    struct rh_cuda *c = b->cuda;
    cudaDeviceProp properties;
    if (ok(c, cudaSetDevice(c->device), "choosing the GPU") &&
        ok(c, cudaGetDeviceProperties(&properties, c->device), "asking the GPU") &&
        ok(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "making a stream") &&
        ok(c, cudaStreamCreateWithFlags(&c->side, cudaStreamNonBlocking), "making a stream") &&
        ok(c, cudaMalloc(&c->blas_workspace, BLAS_WORKSPACE), "workspace of cuBLAS")) {
        snprintf(b->device_name, sizeof b->device_name, "%s", properties.name);
        if (properties.major < 8)
            return rh_fail(err, RH_ERR_UNSUPPORTED,
                           "GPU %d (%s) has compute capability %d.%d; 8.0 or higher is needed",
                           c->device, properties.name, properties.major, properties.minor);
        if (cublasCreate(&c->blas) != CUBLAS_STATUS_SUCCESS ||
            cublasSetStream(c->blas, c->stream) != CUBLAS_STATUS_SUCCESS ||
            cublasSetWorkspace(c->blas, c->blas_workspace, BLAS_WORKSPACE) != CUBLAS_STATUS_SUCCESS)
            keep(c, RH_ERR_DEVICE, "starting cuBLAS", "it does not answer");
    }
    return kept(b, err);
}

static enum rh_rc open_cuda(struct rh_backend *b, int device, struct rh_error *err)
{
    b->cuda = new rh_cuda();
    b->cuda->device = device;
    int count = rh_cuda_device_count();
    if (device >= count)
        return rh_fail(err, RH_ERR_DEVICE,
                       "no GPU %d: the driver shows %d; see nvidia-smi, or use backend cpu", device,
                       count);
    return start_device(b, err);
}

static void close_cuda(struct rh_backend *b)
{
    struct rh_cuda *c = b->cuda;
    if (!c)
        return;
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    if (c->blas)
        cublasDestroy(c->blas);
    cudaFree(c->blas_workspace);
    cudaFree(c->scratch);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    if (c->side)
        cudaStreamDestroy(c->side);
    delete c;
}

static enum rh_rc alloc_cuda(struct rh_backend *b, size_t bytes, const char *what, void **out,
                             struct rh_error *err)
{
    struct rh_cuda *c = b->cuda;
    *out = nullptr;
    cudaError_t error = cudaSetDevice(c->device);
    if (error == cudaSuccess)
        error = cudaMalloc(out, bytes ? bytes : 1);
    if (error == cudaSuccess)
        return RH_OK;
    *out = nullptr;
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) {
        ok(c, error, what);
        return kept(b, err);
    }
    size_t available = 0;
    size_t total = 0;
    cudaMemGetInfo(&available, &total);
    return rh_fail(err, RH_ERR_NO_MEMORY,
                   "%s: %zu bytes do not fit on GPU %d (%s) with %zu of %zu bytes left; lower "
                   "quant.batch_size or use another GPU",
                   what, bytes, c->device, b->device_name, available, total);
}

static void release_cuda(struct rh_backend *b, void *memory)
{
    cudaSetDevice(b->cuda->device);
    cudaFree(memory);
}

static enum rh_rc alloc_host_cuda(struct rh_backend *b, size_t bytes, const char *what, void **out,
                                  struct rh_error *err)
{
    cudaError_t error = cudaSetDevice(b->cuda->device);
    if (error == cudaSuccess)
        error = cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocDefault);
    if (error == cudaSuccess)
        return RH_OK;
    *out = nullptr;
    cudaGetLastError();
    if (error == cudaErrorMemoryAllocation)
        return rh_fail(err, RH_ERR_NO_MEMORY, "%s: no %zu bytes of pinned host memory", what, bytes);
    ok(b->cuda, error, what);
    return kept(b, err);
}

static void release_host_cuda(struct rh_backend *b, void *memory)
{
    cudaSetDevice(b->cuda->device);
    cudaFreeHost(memory);
}

static void memory_cuda(struct rh_backend *b, size_t *available, size_t *total)
{
    *available = *total = 0;
    if (ok(b->cuda, cudaSetDevice(b->cuda->device), "choosing the GPU"))
        ok(b->cuda, cudaMemGetInfo(available, total), "asking for free memory");
}

static enum rh_rc upload_cuda(struct rh_backend *b, void *to, const void *from, size_t bytes,
                              struct rh_error *err)
{
    struct rh_cuda *c = b->cuda;
    if (ok(c, cudaSetDevice(c->device), "choosing the GPU") &&
        ok(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->side), "upload"))
        ok(c, cudaStreamSynchronize(c->side), "upload");
    return kept(b, err);
}

static enum rh_rc download_cuda(struct rh_backend *b, void *to, const void *from, size_t bytes,
                                struct rh_error *err)
{
    struct rh_cuda *c = b->cuda;
    if (ok(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream), "download"))
        ok(c, cudaStreamSynchronize(c->stream), "download");
    return kept(b, err);
}

static void copy_cuda(struct rh_backend *b, void *to, const void *from, size_t bytes)
{
    ok(b->cuda, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, b->cuda->stream), "copy");
}

static void zero_cuda(struct rh_backend *b, void *to, size_t bytes)
{
    ok(b->cuda, cudaMemsetAsync(to, 0, bytes, b->cuda->stream), "filling with zeros");
}

static enum rh_rc sync_cuda(struct rh_backend *b, struct rh_error *err)
{
    ok(b->cuda, cudaStreamSynchronize(b->cuda->stream), "waiting for the ops");
    return kept(b, err);
}

static enum rh_rc mark_open_cuda(struct rh_mark *mark, struct rh_error *err)
{
    cudaEvent_t event = nullptr;
    ok(mark->backend->cuda,
       cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync),
       "making an event");
    mark->event = event;
    return kept(mark->backend, err);
}

static void mark_close_cuda(struct rh_mark *mark)
{
    if (mark->event)
        cudaEventDestroy((cudaEvent_t)mark->event);
}

static void mark_read_cuda(struct rh_mark *mark, const void *from)
{
    struct rh_cuda *c = mark->backend->cuda;
    ok(c, cudaMemcpyAsync(mark->host, from, mark->bytes, cudaMemcpyDeviceToHost, c->stream),
       "reading a value");
    ok(c, cudaEventRecord((cudaEvent_t)mark->event, c->stream), "recording an event");
}

static enum rh_rc mark_wait_cuda(struct rh_mark *mark, struct rh_error *err)
{
    ok(mark->backend->cuda, cudaEventSynchronize((cudaEvent_t)mark->event), "waiting for a value");
    return kept(mark->backend, err);
}

/* In the order of the structure: C++17 has no designated initialisers. */
extern "C" const struct rh_backend_kind rh_backend_cuda = {
    "cuda",          RH_BF16,       DEPTH,           &rh_ops_cuda,    open_cuda,
    close_cuda,      alloc_cuda,    release_cuda,    alloc_host_cuda, release_host_cuda,
    memory_cuda,     upload_cuda,   download_cuda,   copy_cuda,       zero_cuda,
    sync_cuda,       mark_open_cuda, mark_close_cuda, mark_read_cuda, mark_wait_cuda,
};
