#ifndef RH_TESTS_ORCHESTRATOR_BENCH_H
#define RH_TESTS_ORCHESTRATOR_BENCH_H

#include "scheduler/scheduler.h"

/* The scheduler by hand: one event, and what follows from it. One job "J1" and five workers "d",
 * "c", "q", "p" and "u", of which the first has two slots. */

#define NOTES_MAX 512

struct bench {
    struct rh_sched *s;
    struct rh_sched_job *job;
    int64_t now;
    struct rh_action notes[NOTES_MAX]; /* since the last clear() */
    size_t count;
};

void bench_set_up_with(struct bench *b, const struct rh_sched_config *config, int64_t prefetch);
void bench_take(struct bench *b);
void bench_clear(struct bench *b);
const struct rh_action *bench_find(struct bench *b, enum rh_action_kind kind);
const struct rh_action *bench_find_event(struct bench *b, const char *event);
size_t bench_assigned(struct bench *b, enum rh_op_id op);
struct rh_sched_job *bench_submit(struct bench *b, const char *id, int priority, int64_t seq,
                                  int64_t prefetch);
void bench_hello(struct bench *b, const char *id, enum rh_stage_id stage, int slots,
                 uint64_t incarnation);
void bench_setup(struct bench *b, int64_t prefetch);
void bench_teardown(struct bench *b);
struct rh_sched_task *bench_task(struct bench *b, enum rh_op_id op, int64_t index);
void bench_finish(struct bench *b, struct rh_sched_task *t, struct rh_graph *graph);
void bench_plan(struct bench *b, int64_t blocks);
void bench_checkpoint(struct bench *b, int64_t block);
struct rh_sched_task *bench_start_tuning(struct bench *b, int64_t blocks);

#endif
