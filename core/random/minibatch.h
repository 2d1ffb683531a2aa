#ifndef RH_RANDOM_MINIBATCH_H
#define RH_RANDOM_MINIBATCH_H

#include <stdint.h>

/*
 * Which calibration rows an iteration takes, in AutoRound's order: one MT19937 stream for all
 * blocks, seeded once; every block starts from the rows in order and shuffles them, and shuffles
 * again when fewer than a batch remain. To resume at block b, skip the blocks before it.
 */
struct rh_minibatch;

struct rh_minibatch *rh_minibatch_new(uint64_t seed, int64_t samples, int64_t batch);
void rh_minibatch_free(struct rh_minibatch *m);
void rh_minibatch_begin_block(struct rh_minibatch *m);
/* rows: [batch], or [samples] when there are fewer; returns how many. */
int64_t rh_minibatch_next(struct rh_minibatch *m, int64_t *rows);
/* The same as begin_block and that many times next: shuffles only. */
void rh_minibatch_skip_block(struct rh_minibatch *m, int64_t iterations);

#endif
