#ifndef RH_CUDA_EMU_DEVICE_H
#define RH_CUDA_EMU_DEVICE_H

#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* ---- vector types ---- */

#define RH_EMU_VECTOR(type, name, size)                                                            \
    struct alignas(size * 2) name##2 {                                                             \
        type x, y;                                                                                 \
    };                                                                                             \
    struct name##3 {                                                                               \
        type x, y, z;                                                                              \
    };                                                                                             \
    struct alignas(size * 4 > 16 ? 16 : size * 4) name##4 {                                        \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y)                                           \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(type x, type y, type z)                                   \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                           \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
RH_EMU_VECTOR(unsigned char, uchar, 1)
RH_EMU_VECTOR(unsigned short, ushort, 2)
RH_EMU_VECTOR(int, int, 4)
RH_EMU_VECTOR(unsigned, uint, 4)
RH_EMU_VECTOR(float, float, 4)
RH_EMU_VECTOR(double, double, 8)
RH_EMU_VECTOR(long long, longlong, 8)
#undef RH_EMU_VECTOR

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* ---- the running thread ---- */

struct rh_emu_thread {
    uint3 thread, block;
};
extern rh_emu_thread rh_emu_self; /* set by every switch */
extern dim3 rh_emu_grid_dim, rh_emu_block_dim;
#define threadIdx rh_emu_self.thread
#define blockIdx  rh_emu_self.block
#define gridDim   rh_emu_grid_dim
#define blockDim  rh_emu_block_dim
#define warpSize  32

unsigned char *rh_emu_shared();

/* ---- launches ---- */

void rh_emu_run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                void (*call)(void *), void *arg);
void rh_emu_check_pointer(const char *name, const void *pointer);

template <class T> inline void rh_emu_check_argument(const char *, const T &)
{
}
template <class T> inline void rh_emu_check_argument(const char *name, T *const &pointer)
{
    rh_emu_check_pointer(name, (const void *)pointer);
}

template <class T> struct rh_emu_same {
    typedef T type;
};

template <class... Params>
void rh_emu_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
                   void (*kernel)(Params...), typename rh_emu_same<Params>::type... args)
{
    (rh_emu_check_argument(name, args), ...);
    auto body = [&] { kernel(args...); };
    rh_emu_run(name, (const void *)kernel, grid, block, shared_bytes,
               [](void *arg) { (*(decltype(body) *)arg)(); }, &body);
}

/* ---- barriers and warp collectives ---- */

enum rh_emu_collective {
    RH_EMU_SHUFFLE = 1,
    RH_EMU_VOTE,
    RH_EMU_SYNC,
    RH_EMU_MATCH,
    RH_EMU_LDMATRIX,
    RH_EMU_MMA,
};

/* Waits until all 32 lanes have called it with the same kind; the last one runs `work` over what the lanes
 * passed, then all go on. */
void rh_emu_warp(rh_emu_collective kind, void *posted, void (*work)(void *const posted[32]));
void rh_emu_check_mask(unsigned mask);
/* Waits for all threads of the block that have not returned; the sum of their values. */
int rh_emu_block_sum(int value);

static inline void __syncthreads()
{
    rh_emu_block_sum(0);
}
static inline int __syncthreads_count(int predicate)
{
    return rh_emu_block_sum(predicate != 0);
}
static inline int __syncthreads_or(int predicate)
{
    return rh_emu_block_sum(predicate != 0) != 0;
}
static inline int __syncthreads_and(int predicate)
{
    return rh_emu_block_sum(predicate == 0) == 0;
}

static inline void __syncwarp(unsigned mask = 0xffffffffU)
{
    rh_emu_check_mask(mask);
    rh_emu_warp(RH_EMU_SYNC, nullptr, [](void *const *) {});
}

template <class T> struct rh_emu_shuffle {
    T value, result;
    int source; /* lane */
};

template <class T> inline T rh_emu_take(unsigned mask, T value, int source)
{
    rh_emu_check_mask(mask);
    rh_emu_shuffle<T> s = {value, value, source};
    rh_emu_warp(RH_EMU_SHUFFLE, &s, [](void *const posted[32]) {
        for (int lane = 0; lane < 32; lane++) {
            auto *to = (rh_emu_shuffle<T> *)posted[lane];
            to->result = ((rh_emu_shuffle<T> *)posted[to->source])->value;
        }
    });
    return s.result;
}

static inline int rh_emu_lane()
{
    return (int)(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31;
}

/* The segment of `width` lanes is [begin, begin + width); out of it a lane keeps its own value. */
template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    int begin = rh_emu_lane() & ~(width - 1);
    return rh_emu_take(mask, value, begin + (source & (width - 1)));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32)
{
    int lane = rh_emu_lane(), source = lane ^ bits;
    return rh_emu_take(mask, value, (source & ~(width - 1)) > lane ? lane : source);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int lane = rh_emu_lane(), end = (lane & ~(width - 1)) + width;
    return rh_emu_take(mask, value, lane + (int)by < end ? lane + (int)by : lane);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int lane = rh_emu_lane(), begin = lane & ~(width - 1);
    return rh_emu_take(mask, value, lane - (int)by >= begin ? lane - (int)by : lane);
}

unsigned __ballot_sync(unsigned mask, int predicate);
static inline int __any_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) == 0xffffffffU;
}
/* The lanes that passed the same value. */
unsigned __match_any_sync(unsigned mask, unsigned value);
static inline unsigned __match_any_sync(unsigned mask, int value)
{
    return __match_any_sync(mask, (unsigned)value);
}

static inline void __threadfence()
{
}
static inline void __threadfence_block()
{
}

/* ---- integer atomics (floats are forbidden: their order would show) ---- */

#define RH_EMU_ATOMIC(type)                                                                        \
    static inline type atomicAdd(type *at, type value)                                             \
    {                                                                                              \
        type old = *at;                                                                            \
        *at = old + value;                                                                         \
        return old;                                                                                \
    }                                                                                              \
    static inline type atomicMax(type *at, type value)                                             \
    {                                                                                              \
        type old = *at;                                                                            \
        *at = old > value ? old : value;                                                           \
        return old;                                                                                \
    }                                                                                              \
    static inline type atomicMin(type *at, type value)                                             \
    {                                                                                              \
        type old = *at;                                                                            \
        *at = old < value ? old : value;                                                           \
        return old;                                                                                \
    }                                                                                              \
    static inline type atomicOr(type *at, type value)                                              \
    {                                                                                              \
        type old = *at;                                                                            \
        *at = old | value;                                                                         \
        return old;                                                                                \
    }                                                                                              \
    static inline type atomicExch(type *at, type value)                                            \
    {                                                                                              \
        type old = *at;                                                                            \
        *at = value;                                                                               \
        return old;                                                                                \
    }                                                                                              \
    static inline type atomicCAS(type *at, type compare, type value)                               \
    {                                                                                              \
        type old = *at;                                                                            \
        *at = old == compare ? value : old;                                                        \
        return old;                                                                                \
    }
RH_EMU_ATOMIC(int)
RH_EMU_ATOMIC(unsigned)
RH_EMU_ATOMIC(unsigned long long)
#undef RH_EMU_ATOMIC

/* ---- arithmetic ---- */

using std::isfinite;
using std::isinf;
using std::isnan;

template <class To, class From> inline To rh_emu_cast(From from)
{
    static_assert(sizeof(To) == sizeof(From), "a cast of bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned x)
{
    return rh_emu_cast<float>(x);
}
static inline unsigned __float_as_uint(float x)
{
    return rh_emu_cast<unsigned>(x);
}
static inline float __int_as_float(int x)
{
    return rh_emu_cast<float>(x);
}
static inline int __float_as_int(float x)
{
    return rh_emu_cast<int>(x);
}
static inline long long __double_as_longlong(double x)
{
    return rh_emu_cast<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return rh_emu_cast<double>(x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline float rsqrtf(float x)
{
    return (float)(1.0 / sqrt((double)x));
}
/* glibc's headers know these two names. */
#define __expf rh_emu_expf
#define __logf rh_emu_logf
static inline float __expf(float x)
{
    return expf(x);
}
static inline float __logf(float x)
{
    return logf(x);
}
static inline float __fdividef(float x, float y)
{
    return x / y;
}
static inline float __fdiv_rn(float x, float y)
{
    return x / y;
}
static inline float __fmul_rn(float x, float y)
{
    return x * y;
}
static inline float __fadd_rn(float x, float y)
{
    return x + y;
}
static inline float __fsub_rn(float x, float y)
{
    return x - y;
}
static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
static inline float __frcp_rn(float x)
{
    return 1.0F / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __saturatef(float x)
{
    return x > 0.0F ? (x < 1.0F ? x : 1.0F) : 0.0F;
}
static inline int __float2int_rn(float x)
{
    return (int)nearbyintf(x);
}
static inline float __int2float_rn(int x)
{
    return (float)x;
}
static inline unsigned __umulhi(unsigned x, unsigned y)
{
    return (unsigned)(((unsigned long long)x * y) >> 32);
}
template <class T> inline T __ldg(const T *at)
{
    return *at;
}
template <class T> inline T __ldcs(const T *at)
{
    return *at;
}
template <class T> inline void __stcs(T *at, T value)
{
    *at = value;
}
#define RH_EMU_MIN_MAX(type)                                                                       \
    static inline type min(type x, type y)                                                         \
    {                                                                                              \
        return x < y ? x : y;                                                                      \
    }                                                                                              \
    static inline type max(type x, type y)                                                         \
    {                                                                                              \
        return x > y ? x : y;                                                                      \
    }
RH_EMU_MIN_MAX(int)
RH_EMU_MIN_MAX(unsigned)
RH_EMU_MIN_MAX(long)
RH_EMU_MIN_MAX(unsigned long)
RH_EMU_MIN_MAX(long long)
#undef RH_EMU_MIN_MAX
static inline float min(float x, float y)
{
    return fminf(x, y);
}
static inline float max(float x, float y)
{
    return fmaxf(x, y);
}

[[noreturn]] void __trap();

#endif
