/*
 * The dialect of kernels/cuda: that barriers, warp collectives, matrix tiles and asynchronous copies do what the
 * kernels take for granted. One source for the emulation and for a GPU, so that the two are held to the same
 * answers. No cmocka: this runs on machines that have only CUDA.
 */
#include "cuda/tile.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static int failures;

#define CHECK(what, ...)                                                                           \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #what);                                      \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static void must(cudaError_t error)
{
    if (error == cudaSuccess)
        return;
    printf("CUDA: %s\n", cudaGetErrorString(error));
    exit(1);
}

template <class T> struct device_array {
    T *memory;
    size_t count;

    explicit device_array(size_t n) : count(n)
    {
        must(cudaMalloc(&memory, n * sizeof(T)));
        must(cudaMemset(memory, 0xff, n * sizeof(T)));
    }
    explicit device_array(const std::vector<T> &from) : device_array(from.size())
    {
        must(cudaMemcpy(memory, from.data(), count * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~device_array()
    {
        must(cudaFree(memory));
    }
    std::vector<T> read() const
    {
        std::vector<T> out(count);
        must(cudaGetLastError());
        must(cudaMemcpy(out.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
        return out;
    }
};

static float random_value(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return (float)(*state >> 8) / 8388608.0F - 1.0F;
}

static float as_bf16(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

namespace
{

/* ---- barriers and shuffles ---- */

/* Every round each thread reads what its neighbour wrote in the round before. */
__global__ void rotate(int rounds, int *out)
{
    RH_STATIC_SHARED(int, ring[96]);
    ring[threadIdx.x] = (int)threadIdx.x;
    for (int i = 0; i < rounds; i++) {
        __syncthreads();
        const int next = ring[(threadIdx.x + 1) % 96];
        __syncthreads();
        ring[threadIdx.x] = next;
    }
    __syncthreads();
    out[blockIdx.x * 96 + threadIdx.x] = ring[threadIdx.x];
}

__global__ void votes(int *out)
{
    const int t = (int)threadIdx.x;
    int *row = out + t * 12;
    row[0] = __shfl_xor_sync(RH_FULL, t, 5);
    row[1] = __shfl_down_sync(RH_FULL, t, 3);
    row[2] = __shfl_up_sync(RH_FULL, t, 3);
    row[3] = __shfl_sync(RH_FULL, t, 7);
    row[4] = __shfl_xor_sync(RH_FULL, t, 1, 4);
    row[5] = __shfl_down_sync(RH_FULL, t, 1, 8);
    row[6] = (int)__ballot_sync(RH_FULL, t % 3 == 0);
    row[7] = __any_sync(RH_FULL, t == 40);
    row[8] = __syncthreads_count(t % 5 == 0);
    row[9] = __syncthreads_or(t == 63);
    row[10] = (int)__match_any_sync(RH_FULL, t % 4);
    row[11] = __shfl_sync(RH_FULL, t, 2, 8);
}

/* ---- tiles ---- */

/* One warp: d = a b for a [16, 16], b [16, 8] of bf16, both row-major; a by ldmatrix, b transposed. */
__global__ void multiply_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *d)
{
    RH_SHARED(shared);
    __nv_bfloat16 *sa = (__nv_bfloat16 *)shared, *sb = sa + 256;
    const int lane = (int)threadIdx.x;
    rh_cp_async_16(sa + lane * 8, a + lane * 8, true);
    rh_cp_async_commit();
    rh_cp_async_16(sb + lane % 16 * 8, b + lane % 16 * 8, true);
    rh_cp_async_commit();
    rh_cp_async_wait<0>();
    __syncwarp();
    uint32_t fa[4], fb[2];
    float fd[4] = {0.0F, 0.0F, 0.0F, 0.0F};
    rh_ldmatrix_x4(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    rh_ldmatrix_x2_trans(fb, sb + lane % 16 * 8);
    rh_mma_bf16(fd, fa, fb);
    for (int i = 0; i < 4; i++)
        d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = fd[i];
}

/* The same with a given transposed [k][m] and b transposed [n][k]: the other two ways to load. */
__global__ void multiply_bf16_transposed(const __nv_bfloat16 *at, const __nv_bfloat16 *bt, float *d)
{
    RH_SHARED(shared);
    __nv_bfloat16 *sa = (__nv_bfloat16 *)shared, *sb = sa + 256;
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += RH_WARP)
        sa[i] = at[i];
    for (int i = lane; i < 128; i += RH_WARP)
        sb[i] = bt[i];
    __syncwarp();
    uint32_t fa[4], fb[2];
    float fd[4] = {0.0F, 0.0F, 0.0F, 0.0F};
    rh_ldmatrix_x4_trans(fa, sa + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
    rh_ldmatrix_x2(fb, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
    rh_mma_bf16(fd, fa, fb);
    for (int i = 0; i < 4; i++)
        d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = fd[i];
}

/* a [16, 8], b [8, 8] of fp32. */
__global__ void multiply_tf32(const float *a, const float *b, float *d)
{
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t fa[4], fb[2];
    float fd[4] = {0.0F, 0.0F, 0.0F, 0.0F};
    for (int i = 0; i < 4; i++)
        fa[i] = __float_as_uint(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    for (int i = 0; i < 2; i++)
        fb[i] = __float_as_uint(b[(t + i * 4) * 8 + g]);
    rh_mma_tf32(fd, fa, fb);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = fd[i];
}

/* Two groups under way; the second may not have arrived when one is waited for. */
__global__ void copy_groups(const float4 *from, int valid, float4 *out)
{
    RH_SHARED(shared);
    float4 *at = (float4 *)shared;
    const int t = (int)threadIdx.x;
    rh_cp_async_16(at + t, from + t, true);
    rh_cp_async_commit();
    rh_cp_async_16(at + 32 + t, from + 32 + t, t < valid);
    rh_cp_async_commit();
    rh_cp_async_wait<1>();
    __syncthreads();
    out[t] = at[31 - t];
    rh_cp_async_wait<0>();
    __syncthreads();
    out[32 + t] = at[32 + 31 - t];
}

__global__ void conversions(const float *x, uint16_t *bf16, uint16_t *half, float *back)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    bf16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
    half[i] = __half_as_ushort(__float2half_rn(x[i]));
    back[i] = __half2float(__ushort_as_half(half[i]));
}

} // namespace

static void test_barriers()
{
    device_array<int> out(3 * 96);
    RH_LAUNCH(rotate, 3, 96, 0, nullptr, 10, out.memory);
    std::vector<int> got = out.read();
    for (int i = 0; i < 3 * 96; i++)
        CHECK(got[i] == (i % 96 + 10) % 96, "thread %d got %d", i, got[i]);
}

static void test_votes()
{
    device_array<int> out(64 * 12);
    RH_LAUNCH(votes, 1, 64, 0, nullptr, out.memory);
    std::vector<int> got = out.read();
    for (int t = 0; t < 64; t++) {
        const int lane = t % 32, base = t - lane;
        uint32_t thirds = 0;
        for (int i = 0; i < 32; i++)
            thirds |= (uint32_t)((base + i) % 3 == 0) << i;
        const int want[12] = {t ^ 5,
                              lane + 3 < 32 ? t + 3 : t,
                              lane >= 3 ? t - 3 : t,
                              base + 7,
                              t ^ 1,
                              lane % 8 < 7 ? t + 1 : t,
                              (int)thirds,
                              t >= 32,
                              13,
                              1,
                              (int)(0x11111111U << t % 4),
                              t - t % 8 + 2};
        for (int i = 0; i < 12; i++)
            CHECK(got[t * 12 + i] == want[i], "thread %d, value %d: %d, not %d", t, i, got[t * 12 + i],
                  want[i]);
    }
}

static std::vector<__nv_bfloat16> random_bf16(size_t count, uint32_t seed)
{
    std::vector<__nv_bfloat16> out(count);
    for (auto &x : out)
        x = __float2bfloat16_rn(random_value(&seed));
    return out;
}

static void check_product(const std::vector<float> &got, int k, const float *a, const float *b,
                          float bound, const char *what)
{
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            double want = 0.0;
            for (int i = 0; i < k; i++)
                want += (double)a[row * k + i] * (double)b[i * 8 + column];
            CHECK(fabs((double)got[row * 8 + column] - want) <= (double)bound, "%s [%d][%d]: %g, not %g",
                  what, row, column, (double)got[row * 8 + column], want);
        }
    }
}

/* Exact products of 16 values below 1, summed in about fp32: 16 roundings of 2^-24 times at most 16. */
#define SUM_ERROR 2e-5F

static void test_mma_bf16()
{
    std::vector<__nv_bfloat16> a = random_bf16(256, 1), b = random_bf16(128, 2), at(256), bt(128);
    float fa[256], fb[128];
    for (int i = 0; i < 256; i++) {
        fa[i] = __bfloat162float(a[i]);
        at[i % 16 * 16 + i / 16] = a[i];
    }
    for (int i = 0; i < 128; i++) {
        fb[i] = __bfloat162float(b[i]);
        bt[i % 8 * 16 + i / 8] = b[i];
    }
    device_array<__nv_bfloat16> da(a), db(b), dat(at), dbt(bt);
    device_array<float> d(128);
    RH_LAUNCH(multiply_bf16, 1, 32, 768, nullptr, da.memory, db.memory, d.memory);
    check_product(d.read(), 16, fa, fb, SUM_ERROR, "bf16");
    must(cudaMemset(d.memory, 0xff, 128 * sizeof(float)));
    RH_LAUNCH(multiply_bf16_transposed, 1, 32, 768, nullptr, dat.memory, dbt.memory, d.memory);
    check_product(d.read(), 16, fa, fb, SUM_ERROR, "bf16 transposed");
}

static void test_mma_tf32()
{
    std::vector<float> a(128), b(64);
    uint32_t seed = 3;
    for (float &x : a)
        x = random_value(&seed);
    for (float &x : b)
        x = random_value(&seed);
    device_array<float> da(a), db(b), d(128);
    RH_LAUNCH(multiply_tf32, 1, 32, 0, nullptr, da.memory, db.memory, d.memory);
    /* Each of 8 products loses at most 2 * 2^-10. */
    check_product(d.read(), 8, a.data(), b.data(), 1.6e-2F, "tf32");
}

static void test_copy_groups()
{
    std::vector<float4> from(64);
    for (int i = 0; i < 64; i++)
        from[i] = make_float4((float)i, (float)i + 0.25F, (float)i + 0.5F, (float)i + 0.75F);
    device_array<float4> in(from), out(64);
    RH_LAUNCH(copy_groups, 1, 32, 1024, nullptr, in.memory, 20, out.memory);
    std::vector<float4> got = out.read();
    for (int i = 0; i < 32; i++) {
        CHECK(got[i].x == (float)(31 - i) && got[i].w == (float)(31 - i) + 0.75F, "row %d", i);
        const float want = 31 - i < 20 ? (float)(63 - i) : 0.0F;
        CHECK(got[32 + i].x == want && got[32 + i].y == (want > 0.0F ? want + 0.25F : 0.0F), "row %d: %g",
              32 + i, (double)got[32 + i].x);
    }
}

/* bf16 and half by another road: in fp64 with the rounding spelt out. */
static uint16_t slow_half(float x)
{
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const double size = fabs((double)x);
    if (size >= 65520.0)
        return (uint16_t)(sign | 0x7c00);
    int exponent = size > 0.0 ? (int)floor(log2(size)) : -14;
    if (exponent < -14)
        exponent = -14;
    const double units = nearbyint(ldexp(size, 10 - exponent));
    return (uint16_t)(sign + (uint16_t)(units + (double)((exponent + 14) * 1024)));
}

static void test_conversions()
{
    std::vector<float> x(4096);
    uint32_t seed = 5;
    for (size_t i = 0; i < x.size(); i++)
        x[i] = ldexpf(random_value(&seed), (int)(i % 48) - 28);
    x[0] = 0.0F, x[1] = 65519.0F, x[2] = -65520.0F, x[3] = 5.9604645e-8F, x[4] = 2.9802322e-8F;
    x[5] = 6.1035156e-5F, x[6] = 1.00390625F, x[7] = 1.01171875F; /* two ties of bf16 */
    device_array<float> in(x), back(x.size());
    device_array<uint16_t> bf16(x.size()), half(x.size());
    RH_LAUNCH(conversions, 16, 256, 0, nullptr, in.memory, bf16.memory, half.memory, back.memory);
    std::vector<uint16_t> gb = bf16.read(), gh = half.read();
    std::vector<float> gf = back.read();
    for (size_t i = 0; i < x.size(); i++) {
        const uint16_t want = slow_half(x[i]);
        CHECK(gh[i] == want, "half of %.9g: %#x, not %#x", (double)x[i], gh[i], want);
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        const uint32_t low = bits & 0xffff, up = low > 0x8000 || (low == 0x8000 && (bits >> 16 & 1));
        CHECK(gb[i] == (uint16_t)((bits >> 16) + up), "bf16 of %.9g: %#x", (double)x[i], gb[i]);
        const double size = fabs((double)x[i]);
        if (size < 65520.0) {
            const double unit = ldexp(1.0, (size < 6.2e-5 ? -14 : (int)floor(log2(size))) - 10);
            CHECK(fabs((double)gf[i] - (double)x[i]) <= unit / 2, "%.9g came back as %.9g", (double)x[i],
                  (double)gf[i]);
        }
    }
    CHECK(as_bf16(1.0F) == 1.0F, "on the host");
}

int main()
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    for (int order = 0; order < 6; order++) {
#ifdef RH_CUDA_EMU
        rh_emu_set_order((uint64_t)order);
#endif
        test_barriers();
        test_votes();
        test_mma_bf16();
        test_mma_tf32();
        test_copy_groups();
        test_conversions();
    }
    printf(failures ? "%d checks failed\n" : "the dialect holds\n", failures);
    return failures != 0;
}
