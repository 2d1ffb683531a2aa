#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/scheduler.h"

/*
 * A thousand workers and ten thousand jobs, without sockets and without a disk: what one turn of
 * the scheduler costs, where every event ends a turn of its own. RH_FLEET_EVENTS sets how long.
 */
enum {
    JOBS = 10000,
    BLOCKS = 40,
    FILES = 10,
    EVENTS = 20000,
};

/* Of CPU. Beats, checkpoints and results of such a fleet come at a few hundred a second, and the
 * core should be idle most of the time; looking through all tasks took 440. */
#ifdef __SANITIZE_ADDRESS__
#define TURN_US_MAX 3000.0
#else
#define TURN_US_MAX 300.0
#endif

static const struct {
    enum rh_stage_id stage;
    int count;
} fleet[] = {{RH_STAGE_DOWNLOAD, 180}, {RH_STAGE_CALIBRATE, 40}, {RH_STAGE_QUANTIZE, 680},
             {RH_STAGE_PACK, 60},      {RH_STAGE_PUBLISH, 40}};

struct running {
    int64_t task, epoch, block, last; /* block: next checkpoint of a session, -1 for others */
    char worker[RH_WORKER_ID_SIZE];
};

struct world {
    struct rh_sched *s;
    int64_t now;
    struct running queue[2048]; /* a ring: what was given out, oldest first */
    size_t first, count;
    size_t turns, assigned;
    clock_t spent;
};

static void put(struct world *w, const struct running *r)
{
    assert_true(w->count < 2048);
    w->queue[(w->first + w->count++) % 2048] = *r;
}

static void take_action(struct world *w, const struct rh_action *a)
{
    if (a->kind == RH_ACT_COMMIT) {
        struct rh_graph *graph =
            a->task->op == RH_OP_PLAN ? rh_graph_new(BLOCKS, 1, FILES, FILES) : NULL;
        rh_sched_committed(w->s, w->now, a->task_id, a->epoch, a->block, NULL, NULL, graph);
    } else if (a->kind == RH_ACT_ASSIGN) {
        struct running r = {.task = a->task_id, .epoch = a->epoch, .block = -1};
        if (a->task->op == RH_OP_TUNE)
            r.block = a->task->next;
        r.last = a->task->last;
        memcpy(r.worker, a->worker, sizeof r.worker);
        rh_sched_accept(w->s, w->now, a->worker, a->task_id, a->epoch);
        put(w, &r);
        w->assigned++;
    }
}

static void turn(struct world *w)
{
    struct rh_action a;
    clock_t began = clock();
    rh_sched_dispatch(w->s, w->now);
    w->spent += clock() - began;
    w->turns++;
    while (rh_sched_next(w->s, &a)) {
        take_action(w, &a);
        rh_action_done(&a);
    }
}

/* One worker is done with its task, or with a block that could be tuned by now. */
static void step(struct world *w)
{
    assert_true(w->count > 0);
    struct running r = w->queue[w->first];
    w->first = (w->first + 1) % 2048;
    w->count--;
    w->now += 5;
    rh_sched_beat(w->s, w->now, r.worker, 1, NULL, 0);
    const struct rh_sched_task *task = rh_sched_find_task(w->s, r.task);
    if (r.block >= 0 && task && task->next <= r.last) {
        rh_sched_checkpoint(w->s, w->now, r.worker, r.task, r.epoch, r.block++, NULL);
        put(w, &r);
    } else {
        rh_sched_result(w->s, w->now, r.worker, r.task, r.epoch, true, RH_FAILURE_PERMANENT, NULL,
                        NULL);
    }
    turn(w);
}

static void hire(struct world *w)
{
    for (size_t f = 0; f < sizeof fleet / sizeof *fleet; f++) {
        for (int i = 0; i < fleet[f].count; i++) {
            char id[RH_WORKER_ID_SIZE];
            snprintf(id, sizeof id, "%s-%d", rh_stage_name(fleet[f].stage), i);
            const struct rh_sched_hello hello = {
                .id = id, .incarnation = 1, .stage = fleet[f].stage, .slots = 1};
            rh_sched_hello(w->s, w->now, &hello);
        }
    }
}

static void submit_all(struct world *w)
{
    for (int j = 0; j < JOBS; j++) {
        struct rh_sched_job row = {.seq = j, .prefetch_blocks = 2};
        snprintf(row.id, sizeof row.id, "J%d", j);
        rh_sched_loaded(w->s, w->now, rh_sched_load_job(w->s, &row), NULL);
    }
}

static void a_turn_of_a_large_fleet_is_short(void **state)
{
    (void)state;
    struct world *w = rh_alloc(sizeof *w);
    const char *wanted = getenv("RH_FLEET_EVENTS");
    long events = wanted ? strtol(wanted, NULL, 10) : EVENTS;
    w->s = rh_sched_new(&rh_sched_defaults);
    hire(w);
    submit_all(w);
    turn(w);
    for (long i = 0; i < events; i++)
        step(w);
    double us = (double)w->spent * 1e6 / CLOCKS_PER_SEC / (double)w->turns;
    printf("%zu turns, %zu tasks given out, %.0f us a turn\n", w->turns, w->assigned, us);
    assert_true(w->assigned > (size_t)events / 4);
    assert_true(us < TURN_US_MAX);
    rh_sched_free(w->s);
    rh_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_of_a_large_fleet_is_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
