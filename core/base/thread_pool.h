#ifndef RH_BASE_THREAD_POOL_H
#define RH_BASE_THREAD_POOL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A fixed set of threads for data-parallel loops. The caller's thread takes part. How the range is
 * cut depends only on `count` and `grain`, never on the number of threads: a body that writes only
 * what belongs to its own chunk gives the same bits for any thread count.
 */
struct rh_thread_pool;

struct rh_thread_pool *rh_thread_pool_new(int threads); /* 0: one per online processor */
void rh_thread_pool_free(struct rh_thread_pool *pool);
int rh_thread_pool_size(const struct rh_thread_pool *pool);

/*
 * Bodies of later loops compute with subnormal numbers as 0, operands and results, on all threads
 * alike (x86-64 and AArch64; elsewhere it does nothing). Intel's processors take over a hundred
 * cycles for an instruction that meets one. What the caller does outside of loops keeps IEEE 754.
 */
void rh_thread_pool_flush_subnormals(struct rh_thread_pool *pool, bool flush);

/* Calls fn(arg, begin, end, thread) for consecutive chunks of `grain` indices of [0, count);
 * thread is in [0, size) and selects scratch. Returns when all are done. Not reentrant. */
typedef void (*rh_range_fn)(void *arg, int64_t begin, int64_t end, int thread);
void rh_parallel_for(struct rh_thread_pool *pool, int64_t count, int64_t grain, rh_range_fn fn,
                     void *arg);

#endif
