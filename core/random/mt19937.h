#ifndef RH_RANDOM_MT19937_H
#define RH_RANDOM_MT19937_H

#include <stdint.h>

/*
 * CPython's random.Random: MT19937 seeded by init_by_array (Matsumoto and Nishimura, 2002), and the
 * integer methods built on it. Sequences equal those of CPython 3 for integer seeds.
 */
struct rh_mt19937 {
    uint32_t state[624];
    int next;
};

void rh_mt19937_seed(struct rh_mt19937 *mt, uint64_t seed);   /* random.Random(seed) */
uint32_t rh_mt19937_u32(struct rh_mt19937 *mt);               /* getrandbits(32) */
uint64_t rh_mt19937_below(struct rh_mt19937 *mt, uint64_t n); /* randrange(n), n > 0 */
double rh_mt19937_random(struct rh_mt19937 *mt);              /* random(): 53 bits in [0, 1) */
/* shuffle() of a list of that length */
void rh_mt19937_shuffle(struct rh_mt19937 *mt, int64_t *items, int64_t count);

#endif
