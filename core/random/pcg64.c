#include "random/pcg64.h"

#include <stdbool.h>

#include "base/error.h"

__extension__ typedef unsigned __int128 wide;

struct pcg64 {
    wide state, step;
    bool has_half;
    uint32_t half;
};

/* SeedSequence's mixing constants; the pool has four words. */
#define POOL 4

static uint32_t hash_mix(uint32_t value, uint32_t *constant)
{
    value ^= *constant;
    *constant *= 0x931e8875U;
    value *= *constant;
    return value ^ (value >> 16);
}

static uint32_t mix(uint32_t x, uint32_t y)
{
    uint32_t r = x * 0xca01f9ddU - y * 0x4973f715U;
    return r ^ (r >> 16);
}

static void seed_words(uint64_t seed, uint64_t out[4])
{
    const uint32_t entropy[POOL] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t pool[POOL];
    uint32_t constant = 0x43b0d7e5U;
    for (int i = 0; i < POOL; i++)
        pool[i] = hash_mix(entropy[i], &constant);
    for (int from = 0; from < POOL; from++) {
        for (int to = 0; to < POOL; to++) {
            if (from != to)
                pool[to] = mix(pool[to], hash_mix(pool[from], &constant));
        }
    }
    uint32_t word[8];
    constant = 0x8b51f9ddU;
    for (int i = 0; i < 8; i++) {
        uint32_t value = pool[i % POOL] ^ constant;
        constant *= 0x58f38dedU;
        value *= constant;
        word[i] = value ^ (value >> 16);
    }
    for (int i = 0; i < 4; i++)
        out[i] = word[2 * i] | (uint64_t)word[2 * i + 1] << 32;
}

static void advance(struct pcg64 *p)
{
    const wide multiplier = (wide)2549297995355413924U << 64 | 4865540595714422341U;
    p->state = p->state * multiplier + p->step;
}

static void start(struct pcg64 *p, uint64_t seed)
{
    uint64_t word[4];
    seed_words(seed, word);
    p->step = ((wide)word[2] << 64 | word[3]) << 1 | 1;
    p->state = 0;
    advance(p);
    p->state += (wide)word[0] << 64 | word[1];
    advance(p);
    p->has_half = false;
}

static uint64_t next64(struct pcg64 *p)
{
    advance(p);
    uint64_t folded = (uint64_t)(p->state >> 64) ^ (uint64_t)p->state;
    unsigned turn = (unsigned)(p->state >> 122);
    return folded >> turn | folded << (-turn & 63);
}

/* The low half of a draw first, then the high one. */
static uint32_t next32(struct pcg64 *p)
{
    if (p->has_half) {
        p->has_half = false;
        return p->half;
    }
    uint64_t both = next64(p);
    p->half = (uint32_t)(both >> 32);
    p->has_half = true;
    return (uint32_t)both;
}

void rh_pcg64_permutation(uint64_t seed, int64_t *items, int64_t count)
{
    RH_ASSERT(count <= INT64_C(1) << 32);
    struct pcg64 p;
    start(&p, seed);
    for (int64_t i = 0; i < count; i++)
        items[i] = i;
    for (int64_t i = count - 1; i > 0; i--) {
        uint32_t mask = UINT32_MAX >> __builtin_clz((unsigned)i);
        uint32_t j = next32(&p) & mask;
        while (j > (uint64_t)i)
            j = next32(&p) & mask;
        int64_t kept = items[i];
        items[i] = items[j];
        items[j] = kept;
    }
}
