#include "bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

void bench_take(struct bench *b)
{
    struct rh_action a;
    while (rh_sched_next(b->s, &a)) {
        assert_true(b->count < NOTES_MAX);
        b->notes[b->count++] = a;
    }
}

void bench_clear(struct bench *b)
{
    bench_take(b);
    for (size_t i = 0; i < b->count; i++)
        rh_action_done(&b->notes[i]);
    b->count = 0;
}

const struct rh_action *bench_find(struct bench *b, enum rh_action_kind kind)
{
    bench_take(b);
    for (size_t i = 0; i < b->count; i++) {
        if (b->notes[i].kind == kind)
            return &b->notes[i];
    }
    return NULL;
}

const struct rh_action *bench_find_event(struct bench *b, const char *event)
{
    bench_take(b);
    for (size_t i = 0; i < b->count; i++) {
        if (b->notes[i].kind == RH_ACT_EVENT && strcmp(b->notes[i].event, event) == 0)
            return &b->notes[i];
    }
    return NULL;
}

size_t bench_assigned(struct bench *b, enum rh_op_id op)
{
    size_t count = 0;
    bench_take(b);
    for (size_t i = 0; i < b->count; i++)
        count += b->notes[i].kind == RH_ACT_ASSIGN && b->notes[i].task->op == op;
    return count;
}

struct rh_sched_job *bench_submit(struct bench *b, const char *id, int priority, int64_t seq,
                                  int64_t prefetch)
{
    struct rh_sched_job row = {.priority = priority, .seq = seq, .prefetch_blocks = prefetch};
    snprintf(row.id, sizeof row.id, "%s", id);
    struct rh_sched_job *job = rh_sched_load_job(b->s, &row);
    rh_sched_loaded(b->s, b->now, job, NULL);
    return job;
}

void bench_hello(struct bench *b, const char *id, enum rh_stage_id stage, int slots,
                 uint64_t incarnation)
{
    rh_sched_hello(b->s, b->now,
                   &(struct rh_sched_hello){.id = id,
                                            .incarnation = incarnation,
                                            .stage = stage,
                                            .slots = slots,
                                            .pid = 1000 + (int64_t)incarnation,
                                            .host = "here"});
}

void bench_set_up_with(struct bench *b, const struct rh_sched_config *config, int64_t prefetch)
{
    static const char *const names[] = {"d", "c", "q", "p", "u"};
    memset(b, 0, sizeof *b);
    b->now = 1000;
    b->s = rh_sched_new(config);
    b->job = bench_submit(b, "J1", 0, 1, prefetch);
    for (int i = 0; i < RH_STAGE_COUNT; i++)
        bench_hello(b, names[i], (enum rh_stage_id)i, i == RH_STAGE_DOWNLOAD ? 2 : 1, 1);
    rh_sched_dispatch(b->s, b->now);
    bench_take(b);
}

void bench_setup(struct bench *b, int64_t prefetch)
{
    bench_set_up_with(b, &rh_sched_defaults, prefetch);
}

void bench_teardown(struct bench *b)
{
    bench_clear(b);
    rh_sched_free(b->s);
}

struct rh_sched_task *bench_task(struct bench *b, enum rh_op_id op, int64_t index)
{
    for (size_t i = 0; i < b->job->task_count; i++) {
        if (b->job->tasks[i]->op == op && b->job->tasks[i]->index == index)
            return b->job->tasks[i];
    }
    fail_msg("no task %s %lld", rh_op_name(op), (long long)index);
    return NULL;
}

/* The worker that holds a task finishes it, and the commit works. */
void bench_finish(struct bench *b, struct rh_sched_task *t, struct rh_graph *graph)
{
    char worker[RH_WORKER_ID_SIZE];
    assert_int_equal(t->state, RH_TASK_LEASED);
    memcpy(worker, t->worker, sizeof worker);
    rh_sched_accept(b->s, b->now, worker, t->id, t->epoch);
    rh_sched_result(b->s, b->now, worker, t->id, t->epoch, true, RH_FAILURE_PERMANENT, NULL, NULL);
    assert_int_equal(t->state, RH_TASK_COMMITTING);
    rh_sched_committed(b->s, b->now, t->id, t->epoch, -1, NULL, NULL, graph);
    assert_int_equal(t->state, RH_TASK_DONE);
    rh_sched_dispatch(b->s, b->now);
}

void bench_plan(struct bench *b, int64_t blocks)
{
    bench_finish(b, bench_task(b, RH_OP_PLAN, 0), rh_graph_new(blocks, 1, 2, 2));
}

void bench_checkpoint(struct bench *b, int64_t block)
{
    struct rh_sched_task *t = bench_task(b, RH_OP_TUNE, 0);
    rh_sched_checkpoint(b->s, b->now, t->worker, t->id, t->epoch, block, "{\"loss\":1}");
    rh_sched_committed(b->s, b->now, t->id, t->epoch, block, NULL, "{\"loss\":1}", NULL);
    rh_sched_dispatch(b->s, b->now);
}

/* Plan, calibration and the first two fetches are done; tuning runs. */
struct rh_sched_task *bench_start_tuning(struct bench *b, int64_t blocks)
{
    bench_plan(b, blocks);
    bench_finish(b, bench_task(b, RH_OP_CALIBRATE, 0), NULL);
    bench_finish(b, bench_task(b, RH_OP_FETCH, 0), NULL);
    bench_finish(b, bench_task(b, RH_OP_FETCH, 1), NULL);
    struct rh_sched_task *t = bench_task(b, RH_OP_TUNE, 0);
    assert_int_equal(t->state, RH_TASK_LEASED);
    rh_sched_accept(b->s, b->now, t->worker, t->id, t->epoch);
    return t;
}
