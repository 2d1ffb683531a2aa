/* Device memory, copies, streams and events. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <map>

#include "emu_private.h"

#define RESERVED ((size_t)64 << 30) /* addresses, not memory */
#define ALIGN    ((size_t)256)
#define CANARY   ((size_t)256)
#define POISON   0xff /* a NaN in every float type */
/* Larger allocations keep the zeros of fresh pages: filling a workspace of cuBLAS, and opening and closing its pages
 * around every launch, would take most of the time of the tests. */
#define POISONED ((size_t)16 << 20)

struct rh_emu_stream {
    int unused;
};
struct rh_emu_event {
    double seconds;
};

std::recursive_mutex rh_emu_lock;
static unsigned char *arena;
static size_t capacity = (size_t)1 << 30;
static size_t high_water;
static int users;
static int64_t calls_left = -1;
static cudaError_t last_error;

struct area {
    size_t bytes, padded;
};
static std::map<const unsigned char *, size_t> &pinned() /* host memory that a GPU may touch */
{
    static std::map<const unsigned char *, size_t> map;
    return map;
}
static std::map<size_t, area> &areas() /* by offset */
{
    static std::map<size_t, area> map;
    return map;
}

void rh_emu_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("emulated CUDA: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

static void protect()
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = (high_water + page - 1) / page * page;
    if (bytes > 0 && mprotect(arena, bytes, users > 0 ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
        rh_emu_die("cannot open or close device memory");
}

rh_emu_access::rh_emu_access()
{
    if (users++ == 0)
        protect();
}

rh_emu_access::~rh_emu_access()
{
    if (--users == 0)
        protect();
}

/* ---- errors ---- */

void rh_emu_lose_device_after(int64_t calls)
{
    calls_left = calls;
}

bool rh_emu_lost()
{
    if (calls_left > 0)
        calls_left--;
    return calls_left == 0;
}

void rh_emu_note_error(cudaError_t error)
{
    if (error != cudaSuccess && last_error == cudaSuccess)
        last_error = error;
}

static cudaError_t answer(cudaError_t error)
{
    if (rh_emu_lost())
        error = cudaErrorLaunchFailure;
    rh_emu_note_error(error);
    return error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = calls_left == 0 ? cudaErrorLaunchFailure : cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : errors) {
        if (e.error == error)
            return e.name;
    }
    return "unknown";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : errors) {
        if (e.error == error)
            return e.text;
    }
    return "unknown error";
}

/* ---- allocation ---- */

void rh_emu_set_memory(size_t bytes)
{
    capacity = bytes < RESERVED ? bytes : RESERVED;
}

size_t rh_emu_allocated(void)
{
    size_t total = 0;
    for (const auto &a : areas())
        total += a.second.padded;
    return total;
}

/* The first gap of that size, or `capacity`. */
static size_t find_gap(size_t padded)
{
    size_t at = 0;
    for (const auto &a : areas()) {
        if (a.first - at >= padded)
            return at;
        at = a.first + a.second.padded;
    }
    return capacity - at >= padded && at <= capacity ? at : capacity;
}

cudaError_t rh_emu_malloc(void **memory, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> hold(rh_emu_lock);
    *memory = nullptr;
    if (!arena) {
        void *all = mmap(nullptr, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                         -1, 0);
        if (all == MAP_FAILED)
            rh_emu_die("no addresses for device memory");
        arena = (unsigned char *)all;
    }
    if (bytes == 0)
        return answer(cudaSuccess);
    if (bytes > capacity)
        return answer(cudaErrorMemoryAllocation);
    size_t padded = (bytes + ALIGN - 1) / ALIGN * ALIGN + CANARY;
    size_t at = find_gap(padded);
    if (at == capacity)
        return answer(cudaErrorMemoryAllocation);
    cudaError_t error = answer(cudaSuccess);
    if (error != cudaSuccess)
        return error;
    areas()[at] = {bytes, padded};
    high_water = at + padded > high_water ? at + padded : high_water;
    rh_emu_access access;
    protect();
    if (padded <= POISONED)
        memset(arena + at, POISON, padded);
    else
        memset(arena + at + bytes, POISON, padded - bytes);
    *memory = arena + at;
    return cudaSuccess;
}

static void check_canary(size_t at, const area &a, const char *after)
{
    for (size_t i = a.bytes; i < a.padded; i++) {
        if (arena[at + i] != POISON)
            rh_emu_die("%s: written %zu bytes beyond an allocation of %zu bytes", after,
                       i - a.bytes, a.bytes);
    }
}

void rh_emu_check_canaries(const char *after)
{
    for (const auto &a : areas())
        check_canary(a.first, a.second, after);
}

/* Gives the pages that lie wholly inside back to the system. */
static void forget(size_t at, size_t padded)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = (at + page - 1) / page * page, end = (at + padded) / page * page;
    if (begin < end)
        madvise(arena + begin, end - begin, MADV_DONTNEED);
}

cudaError_t cudaFree(void *memory)
{
    if (!memory)
        return answer(cudaSuccess);
    rh_emu_access access;
    auto found = areas().find((size_t)((unsigned char *)memory - arena));
    if (found == areas().end())
        return answer(cudaErrorInvalidValue);
    check_canary(found->first, found->second, "cudaFree");
    size_t at = found->first, padded = found->second.padded;
    areas().erase(found);
    /* Gone: zeros in fresh pages where whole pages are free, NaN elsewhere. */
    if (padded <= POISONED)
        memset(memory, POISON, padded);
    else
        forget(at, padded);
    return answer(cudaSuccess);
}

bool rh_emu_is_device(const void *memory, size_t bytes)
{
    size_t at = (size_t)((const unsigned char *)memory - arena);
    if (!arena || (const unsigned char *)memory < arena || at >= high_water)
        return false;
    auto after = areas().upper_bound(at);
    if (after == areas().begin())
        return false;
    --after;
    return at + bytes <= after->first + after->second.bytes;
}

static bool is_pinned(const void *memory)
{
    std::lock_guard<std::recursive_mutex> hold(rh_emu_lock);
    auto after = pinned().upper_bound((const unsigned char *)memory);
    if (after == pinned().begin())
        return false;
    --after;
    return (const unsigned char *)memory < after->first + after->second;
}

void rh_emu_check_pointer(const char *name, const void *pointer)
{
    if (pointer && !rh_emu_is_device(pointer, 0) && !is_pinned(pointer))
        rh_emu_die("%s: %p is not device memory", name, pointer);
}

static bool in_arena(const void *memory)
{
    return arena && (const unsigned char *)memory >= arena &&
           (const unsigned char *)memory < arena + RESERVED;
}

cudaError_t rh_emu_malloc_host(void **memory, size_t bytes)
{
    *memory = malloc(bytes);
    if (!*memory)
        return answer(cudaErrorMemoryAllocation);
    return cudaHostRegister(*memory, bytes, cudaHostRegisterDefault);
}

cudaError_t cudaFreeHost(void *memory)
{
    cudaError_t error = cudaHostUnregister(memory);
    free(memory);
    return error;
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned)
{
    std::lock_guard<std::recursive_mutex> hold(rh_emu_lock);
    pinned()[(const unsigned char *)memory] = bytes;
    return answer(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *memory)
{
    std::lock_guard<std::recursive_mutex> hold(rh_emu_lock);
    size_t erased = pinned().erase((const unsigned char *)memory);
    return answer(erased || !memory ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = capacity;
    *free_bytes = capacity - rh_emu_allocated();
    return answer(cudaSuccess);
}

/* ---- copies ---- */

static bool side_is(const void *memory, size_t bytes, bool device)
{
    return device ? rh_emu_is_device(memory, bytes) : !in_arena(memory);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t)
{
    rh_emu_access access;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault)
        to_device = in_arena(to), from_device = in_arena(from);
    if (bytes > 0 && (!side_is(to, bytes, to_device) || !side_is(from, bytes, from_device)))
        return answer(cudaErrorInvalidValue);
    cudaError_t error = answer(cudaSuccess);
    if (error == cudaSuccess && bytes > 0)
        memcpy(to, from, bytes);
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    return cudaMemcpyAsync(to, from, bytes, kind);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (width > to_pitch || width > from_pitch)
        return answer(cudaErrorInvalidValue);
    for (size_t row = 0; row < height; row++) {
        cudaError_t error = cudaMemcpyAsync((unsigned char *)to + row * to_pitch,
                                            (const unsigned char *)from + row * from_pitch, width,
                                            kind, stream);
        if (error != cudaSuccess)
            return error;
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t)
{
    rh_emu_access access;
    if (bytes > 0 && !rh_emu_is_device(memory, bytes))
        return answer(cudaErrorInvalidValue);
    cudaError_t error = answer(cudaSuccess);
    if (error == cudaSuccess && bytes > 0)
        memset(memory, value, bytes);
    return error;
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    return cudaMemsetAsync(memory, value, bytes);
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return answer(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    if (device != 0)
        return answer(cudaErrorInvalidDevice);
    *prop = {};
    snprintf(prop->name, sizeof prop->name, "emulated GPU");
    prop->totalGlobalMem = capacity;
    prop->sharedMemPerBlockOptin = rh_emu_shared_limit();
    prop->major = 8;
    prop->multiProcessorCount = 4;
    return answer(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp prop;
    cudaError_t error = cudaGetDeviceProperties(&prop, device);
    if (error != cudaSuccess)
        return error;
    *value = attribute == cudaDevAttrMultiProcessorCount       ? prop.multiProcessorCount
             : attribute == cudaDevAttrComputeCapabilityMajor ? prop.major
             : attribute == cudaDevAttrComputeCapabilityMinor ? prop.minor
                                                              : (int)prop.sharedMemPerBlockOptin;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    return answer(cudaSuccess);
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new rh_emu_stream();
    return answer(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return answer(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return answer(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t)
{
    return answer(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned)
{
    return answer(event ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new rh_emu_event();
    return answer(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return answer(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return answer(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return answer(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t)
{
    return answer(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)(1e3 * (end->seconds - begin->seconds));
    return answer(cudaSuccess);
}
