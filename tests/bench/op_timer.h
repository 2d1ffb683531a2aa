#ifndef RH_TESTS_BENCH_OP_TIMER_H
#define RH_TESTS_BENCH_OP_TIMER_H

#include "kernels/backend.h"

/* Times every op by itself: what uses the backend's ops after start() waits for each. */
void op_timer_start(struct rh_backend *backend);
/* Prints milliseconds and calls per pass, the slowest first. */
void op_timer_stop(struct rh_backend *backend, int64_t passes);

#endif
