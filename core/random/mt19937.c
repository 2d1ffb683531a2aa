#include "random/mt19937.h"

#include "base/error.h"

#define N ((int)624)
#define M ((int)397)

static void init_linear(struct rh_mt19937 *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (int i = 1; i < N; i++)
        mt->state[i] = 1812433253U * (mt->state[i - 1] ^ (mt->state[i - 1] >> 30)) + (uint32_t)i;
}

/* Position 0 follows the last one, and takes the last one's value on the way. */
static int step(struct rh_mt19937 *mt, int i)
{
    if (i + 1 < N)
        return i + 1;
    mt->state[0] = mt->state[N - 1];
    return 1;
}

void rh_mt19937_seed(struct rh_mt19937 *mt, uint64_t seed)
{
    /* CPython makes the key of as many words as the number has. */
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    int length = key[1] ? 2 : 1;
    init_linear(mt, 19650218U);
    int i = 1;
    for (int k = 0; k < N; k++) {
        uint32_t last = mt->state[i - 1];
        mt->state[i] = (mt->state[i] ^ ((last ^ (last >> 30)) * 1664525U)) + key[k % length] +
                       (uint32_t)(k % length);
        i = step(mt, i);
    }
    for (int k = 0; k < N - 1; k++) {
        uint32_t last = mt->state[i - 1];
        mt->state[i] = (mt->state[i] ^ ((last ^ (last >> 30)) * 1566083941U)) - (uint32_t)i;
        i = step(mt, i);
    }
    mt->state[0] = 0x80000000U;
    mt->next = N;
}

static void refill(struct rh_mt19937 *mt)
{
    for (int i = 0; i < N; i++) {
        uint32_t y = (mt->state[i] & 0x80000000U) | (mt->state[(i + 1) % N] & 0x7fffffffU);
        mt->state[i] = mt->state[(i + M) % N] ^ (y >> 1) ^ (y & 1U ? 0x9908b0dfU : 0U);
    }
    mt->next = 0;
}

uint32_t rh_mt19937_u32(struct rh_mt19937 *mt)
{
    if (mt->next == N)
        refill(mt);
    uint32_t y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680U;
    y ^= (y << 15) & 0xefc60000U;
    return y ^ (y >> 18);
}

/* getrandbits(bits), 1..64: whole words from below, the last one cut from above. */
static uint64_t bits_of(struct rh_mt19937 *mt, int bits)
{
    if (bits <= 32)
        return rh_mt19937_u32(mt) >> (32 - bits);
    uint64_t low = rh_mt19937_u32(mt);
    return low | (uint64_t)(rh_mt19937_u32(mt) >> (64 - bits)) << 32;
}

uint64_t rh_mt19937_below(struct rh_mt19937 *mt, uint64_t n)
{
    RH_ASSERT(n > 0);
    int bits = 64 - __builtin_clzll(n);
    uint64_t r = bits_of(mt, bits);
    while (r >= n)
        r = bits_of(mt, bits);
    return r;
}

double rh_mt19937_random(struct rh_mt19937 *mt)
{
    uint32_t high = rh_mt19937_u32(mt) >> 5;
    uint32_t low = rh_mt19937_u32(mt) >> 6;
    return ((double)high * 67108864.0 + (double)low) * 0x1p-53;
}

void rh_mt19937_shuffle(struct rh_mt19937 *mt, int64_t *items, int64_t count)
{
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)rh_mt19937_below(mt, (uint64_t)i + 1);
        int64_t kept = items[i];
        items[i] = items[j];
        items[j] = kept;
    }
}
