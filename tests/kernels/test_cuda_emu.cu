/* The emulation finds the mistakes that docs/gpu.md says it finds: each is made on purpose, in a child process. */
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/tile.cuh"

#define SURVIVED 42

static int failures;

static float *device_floats(size_t count)
{
    float *memory = nullptr;
    if (cudaMalloc(&memory, count * sizeof *memory) != cudaSuccess)
        exit(3);
    return memory;
}

static std::vector<float> read(const float *memory, size_t count)
{
    std::vector<float> out(count);
    if (cudaMemcpy(out.data(), memory, count * sizeof(float), cudaMemcpyDeviceToHost) != cudaSuccess)
        exit(3);
    return out;
}

namespace
{

__global__ void no_barrier(float *out, bool barrier)
{
    RH_SHARED(shared);
    float *at = (float *)shared;
    at[threadIdx.x] = (float)threadIdx.x;
    if (barrier)
        __syncthreads();
    out[threadIdx.x] = at[63 - threadIdx.x];
}

__global__ void no_warp_barrier(float *out, bool barrier)
{
    RH_SHARED(shared);
    float *at = (float *)shared;
    at[threadIdx.x] = (float)threadIdx.x;
    if (barrier)
        __syncwarp();
    out[threadIdx.x] = at[threadIdx.x ^ 31];
}

__global__ void divergent_barrier(float *out)
{
    if (threadIdx.x % 2 == 0)
        __syncthreads();
    else
        __syncwarp();
    out[threadIdx.x] = 0.0F;
}

__global__ void mixed_collectives(float *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_xor_sync(RH_FULL, 1.0F, 1);
    else
        out[threadIdx.x] = (float)__ballot_sync(RH_FULL, 1);
}

__global__ void partial_mask(float *out)
{
    out[threadIdx.x] = __shfl_xor_sync(0xffff, 1.0F, 1);
}

__global__ void early_copy(const float *from, float *out, bool wait)
{
    RH_SHARED(shared);
    float *at = (float *)shared;
    rh_cp_async_16(at + threadIdx.x * 4, from + threadIdx.x * 4, true);
    rh_cp_async_commit();
    if (wait)
        rh_cp_async_wait<0>();
    out[threadIdx.x] = at[threadIdx.x * 4];
}

__global__ void store(float *out, int at)
{
    out[at + (int)threadIdx.x] = 1.0F;
}

__global__ void read_shared(float *out, int at)
{
    RH_SHARED(shared);
    out[threadIdx.x] = ((float *)shared)[at];
}

} // namespace

/* ---- mistakes that kill ---- */

static void divergent()
{
    RH_LAUNCH(divergent_barrier, 1, 64, 0, nullptr, device_floats(64));
}
static void mixed()
{
    RH_LAUNCH(mixed_collectives, 1, 32, 0, nullptr, device_floats(32));
}
static void partial()
{
    RH_LAUNCH(partial_mask, 1, 32, 0, nullptr, device_floats(32));
}
static void past_the_end()
{
    RH_LAUNCH(store, 1, 32, 0, nullptr, device_floats(33), 2);
}
static void past_shared()
{
    RH_LAUNCH(read_shared, 1, 32, 256, nullptr, device_floats(32), 64);
}
static void host_reads()
{
    volatile float *memory = device_floats(32);
    printf("%g\n", (double)memory[0]);
}
static void host_pointer()
{
    float local[32] = {};
    RH_LAUNCH(store, 1, 32, 0, nullptr, local, 0);
}
static void above_the_limit()
{
    (void)rh_cuda_allow_shared(read_shared, 100 << 10);
    rh_emu_set_shared((size_t)99 << 10);
    RH_LAUNCH(read_shared, 1, 32, 100 << 10, nullptr, device_floats(32), 0);
}

static void large_shared()
{
    RH_LAUNCH(read_shared, 1, 32, 64 << 10, nullptr, device_floats(32), 0);
}
static void ragged_block()
{
    RH_LAUNCH(store, 1, 33, 0, nullptr, device_floats(64), 0);
}
static void harmless()
{
    RH_LAUNCH(store, 1, 32, 0, nullptr, device_floats(33), 1);
}

/* What the child wrote to stderr is in `text`; true when it did not survive. */
static bool dies(void (*mistake)(), char *text, size_t size)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        exit(3);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        mistake();
        _exit(SURVIVED);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t got;
    while (used + 1 < size && (got = ::read(ends[0], text + used, size - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    close(ends[0]);
    waitpid(child, &status, 0);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == SURVIVED);
}

static void check_deaths()
{
    static const struct {
        void (*mistake)();
        const char *name, *says; /* NULL: a fault, which says nothing */
    } mistakes[] = {
        {divergent, "divergent barrier", "is stuck: of 64 threads 32 wait for their warp, 32 at a barrier"},
        {mixed, "different collectives", "meet in different collectives"},
        {partial, "partial mask", "full masks only"},
        {past_the_end, "write past an allocation", "beyond an allocation of 132 bytes"},
        {past_shared, "read past shared memory", nullptr},
        {host_reads, "host reads device memory", nullptr},
        {host_pointer, "host pointer in a kernel", "is not device memory"},
        {large_shared, "unannounced shared memory", "without rh_cuda_allow_shared()"},
        {above_the_limit, "more shared memory than there is", "this GPU has 101376 a block"},
        {ragged_block, "ragged block", "it must be whole warps"},
    };
    static char text[1 << 16];
    for (const auto &m : mistakes) {
        const bool dead = dies(m.mistake, text, sizeof text);
        if (dead && (!m.says || strstr(text, m.says)))
            continue;
        printf("FAIL %s: %s, and said: %.300s\n", m.name, dead ? "died" : "survived", text);
        failures++;
    }
    if (dies(harmless, text, sizeof text)) {
        printf("FAIL a kernel without a mistake died: %.300s\n", text);
        failures++;
    }
}

/* ---- mistakes that change results ---- */

/* In how many of 8 orders the result is right. */
template <class Launch> static int right_orders(int count, Launch launch)
{
    int right = 0;
    float *out = device_floats((size_t)count);
    for (uint64_t order = 0; order < 8; order++) {
        rh_emu_set_order(order);
        launch(out);
        std::vector<float> got = read(out, (size_t)count);
        bool good = true;
        for (int i = 0; i < count; i++)
            good = good && got[(size_t)i] == (float)(count - 1 - i);
        right += good;
    }
    rh_emu_set_order(0);
    cudaFree(out);
    return right;
}

static void check(bool good, const char *what)
{
    if (good)
        return;
    printf("FAIL %s\n", what);
    failures++;
}

static void check_orders()
{
    const auto block = [](bool barrier) {
        return right_orders(64, [=](float *out) { RH_LAUNCH(no_barrier, 1, 64, 256, nullptr, out, barrier); });
    };
    const auto warp = [](bool barrier) {
        return right_orders(32,
                            [=](float *out) { RH_LAUNCH(no_warp_barrier, 1, 32, 128, nullptr, out, barrier); });
    };
    check(block(true) == 8, "with a barrier every order is right");
    check(block(false) < 8, "without a barrier some order shows it");
    check(warp(true) == 8, "with a barrier of the warp every order is right");
    check(warp(false) < 8, "without a barrier of the warp some order shows it");
}

static void check_poison()
{
    float *from = device_floats(128), *out = device_floats(32);
    check(std::isnan(read(from, 128)[5]), "fresh memory is NaN");
    cudaMemset(from, 0, 128 * sizeof(float));
    RH_LAUNCH(early_copy, 1, 32, 512, nullptr, from, out, true);
    check(read(out, 32)[7] == 0.0F, "a copy that was waited for has arrived");
    RH_LAUNCH(early_copy, 1, 32, 512, nullptr, from, out, false);
    check(std::isnan(read(out, 32)[7]), "a copy that was not waited for has not arrived");
    RH_LAUNCH(read_shared, 1, 32, 256, nullptr, out, 9);
    check(std::isnan(read(out, 32)[3]), "shared memory begins as NaN");
}

static void check_runtime()
{
    void *memory = nullptr;
    float host = 1.0F, *device = device_floats(4);
    rh_emu_set_memory(1 << 20);
    check(cudaMalloc(&memory, 2 << 20) == cudaErrorMemoryAllocation && !memory, "a small GPU is full");
    check(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess,
          "an error is reported once");
    check(cudaMemcpy(device, &host, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue,
          "a copy in the wrong direction is refused");
    rh_emu_lose_device_after(1);
    check(cudaMemcpy(device, &host, 4, cudaMemcpyHostToDevice) == cudaErrorLaunchFailure &&
              cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure,
          "a lost device stays lost");
    rh_emu_lose_device_after(-1);
}

static void check_shared_limit()
{
    int most = 0;
    const size_t before = rh_emu_shared_limit();
    check(rh_cuda_allow_shared(read_shared, 101 << 10) == cudaSuccess, "227 KiB hold 101");
    rh_emu_set_shared((size_t)99 << 10);
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess &&
              most == 99 << 10,
          "the limit of shared memory is reported");
    check(rh_cuda_allow_shared(read_shared, (99 << 10) + 1) == cudaErrorInvalidValue &&
              rh_cuda_allow_shared(read_shared, 99 << 10) == cudaSuccess,
          "no kernel is allowed more than the limit");
    rh_emu_set_shared(before);
}

int main()
{
    check_deaths();
    check_orders();
    check_poison();
    check_runtime();
    check_shared_limit();
    printf(failures ? "%d failures\n" : "every mistake was found\n", failures);
    return failures != 0;
}
