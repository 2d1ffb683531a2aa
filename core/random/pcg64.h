#ifndef RH_RANDOM_PCG64_H
#define RH_RANDOM_PCG64_H

#include <stdint.h>

/* numpy.random.default_rng(seed).permutation(n) as `datasets` shuffles: SeedSequence, PCG64 XSL-RR
 * 128/64 (O'Neill, 2014), masked rejection of 32-bit halves. items: [count], filled with 0..count-1
 * in their new order; count at most 2^32. */
void rh_pcg64_permutation(uint64_t seed, int64_t *items, int64_t count);

#endif
