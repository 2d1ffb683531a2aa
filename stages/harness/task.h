#ifndef RH_HARNESS_TASK_H
#define RH_HARNESS_TASK_H

#include <pthread.h>
#include <stdatomic.h>

#include "harness/stage.h"

/* Private to the library: a task, shared by its compute thread and the control loop. */
struct rh_checkpoint_note {
    int64_t index;
    char *metrics; /* JSON or NULL; owned */
    int64_t sent_at;
    int tries;
    struct rh_checkpoint_note *next;
};

struct rh_tick {
    int64_t block, iter, iters;
    double loss, best_loss;
    bool fresh;
};

struct rh_task {
    /* Fixed before the thread starts. */
    const struct rh_stage_op *op;
    int64_t id, epoch;
    int64_t index, first, last;
    char *job, *model, *output, *job_dir, *staging;
    struct rh_recipe *recipe;
    /* local: commits by itself, has no link. */
    bool local;
    void (*wake)(void *arg); /* tells the control loop to look; any thread */
    void *wake_arg;

    _Atomic bool cancelled;
    _Atomic uint64_t progress_seq;
    _Atomic int64_t leave_by; /* rh_clock_ns(); the worker leaves, and waits so long; 0: it stays */

    pthread_mutex_t lock; /* of the rest */
    char phase[64];
    char unit[16];
    double done, total;
    int64_t part_started; /* rh_clock_ns(): the phase is so old; 0: none yet */
    int64_t part_took;    /* ns: how long the phase before it took; 0: not known */
    struct rh_tick tick;
    struct rh_json *meta;
    struct rh_checkpoint_note *notes; /* in order, oldest first */
    bool session;                     /* has handed in a checkpoint */
    int64_t expect;                   /* next index to hand in */
    bool urgent;                      /* something people wait for has changed */
    bool finished;
    enum rh_rc rc;
    struct rh_error err;
    uint64_t device_need, device_room; /* bytes; 0: the device was large enough */

    /* Control loop only. */
    pthread_t thread;
    int64_t started_at;
    int64_t stop_by; /* not stopped by then: its thread hangs; 0: no such time */
    int64_t result_sent_at; /* 0: not yet */
    int result_tries;
    bool joined;
    bool drop; /* no longer ours: the result goes nowhere */
    struct rh_task *next;
};

/* Strings copied, recipe adopted; it may be NULL for a task that will not be executed. */
struct rh_task *rh_task_new(const struct rh_stage_op *op, const char *job, const char *model,
                            const char *output, const char *job_dir, const char *staging,
                            struct rh_recipe *recipe);
void rh_task_free(struct rh_task *task);
/* Makes the staging directory, runs the operation and seals what it left. Sets finished. */
void rh_task_execute(struct rh_task *task);
/* The worker leaves: a session may end the part it is at if that is expected to take `grace_ms` at
 * most, and begins no other. Any thread. */
void rh_task_leave(struct rh_task *task, int64_t grace_ms);
/* Replaces what is not UTF-8 by '?', in place: messages carry nothing else. */
void rh_task_clean_text(char *text);
const struct rh_stage_op *rh_stage_find_op(const struct rh_stage *stage, const char *name);

#endif
