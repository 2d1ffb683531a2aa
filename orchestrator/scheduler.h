#ifndef RH_SCHEDULER_SCHEDULER_H
#define RH_SCHEDULER_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "scheduler/graph.h"

/*
 * The scheduler: events in, actions out. It knows no clock, socket, database or file; every event
 * carries `now` (monotonic milliseconds) and the caller carries out the actions in order:
 *
 *   - SAVE_* rows go into one transaction;
 *   - everything that leaves the process (ASSIGN, ACK, REVOKE, WELCOME) is sent after that
 *     transaction is durable;
 *   - COMMIT moves a sealed staging directory to its place and reports rh_sched_committed().
 *
 * Any message may be lost, repeated or late: what counts is the task's epoch, which rises with
 * every lease. A job's rows, and nothing else, bring the scheduler back after a crash.
 */
enum rh_task_state {
    RH_TASK_WAITING,    /* for its needs, a worker or the end of a back-off */
    RH_TASK_LEASED,     /* one worker holds it under the current epoch */
    RH_TASK_COMMITTING, /* result received; stored as LEASED */
    RH_TASK_DONE,       /* never changes again */
    RH_TASK_FAILED,
    RH_TASK_QUARANTINED, /* took its worker down too often; the job is held until somebody decides
                          */
};

enum rh_job_state {
    RH_JOB_QUEUED,
    RH_JOB_RUNNING,
    RH_JOB_BLOCKED, /* parked until there is room; `reason` says what is short */
    RH_JOB_PAUSED,
    RH_JOB_HELD, /* by the operator, or because a task is quarantined: `reason` says which */
    RH_JOB_DONE,
    RH_JOB_FAILED,
    RH_JOB_CANCELLED,
};

/* PAUSE stops tuning at the next block; HOLD lets what runs come to its end. */
enum rh_desired { RH_DESIRED_RUN, RH_DESIRED_PAUSE, RH_DESIRED_CANCEL, RH_DESIRED_HOLD };

enum rh_verdict {
    RH_VERDICT_ACCEPTED,
    RH_VERDICT_DUPLICATE,
    RH_VERDICT_STALE,
    RH_VERDICT_REHELLO, /* the sender is unknown here: say Hello first */
};

const char *rh_task_state_name(enum rh_task_state state);
bool rh_task_state_from_name(const char *name, enum rh_task_state *out);
const char *rh_job_state_name(enum rh_job_state state);
bool rh_job_state_from_name(const char *name, enum rh_job_state *out);
const char *rh_desired_name(enum rh_desired desired);
bool rh_desired_from_name(const char *name, enum rh_desired *out);
const char *rh_verdict_name(enum rh_verdict verdict);

#define RH_JOB_ID_SIZE    32
#define RH_WORKER_ID_SIZE 64

struct rh_sched_job;

/* Read-only for callers. Members up to `worker` are the row. */
struct rh_sched_task {
    int64_t id; /* unique in the state directory */
    struct rh_sched_job *job;
    enum rh_op_id op;
    int64_t index; /* first index; for tune the first block */
    int64_t last;  /* last index, inclusive; equal to index but for tune */
    enum rh_task_state state;
    int64_t epoch;
    int attempts; /* leases that ended without a result since the last progress */
    int crashes;  /* of those, how many took the worker down */
    char crashed_on[RH_WORKER_ID_SIZE]; /* the last worker that it took down */
    int64_t next;                       /* tune: first block that is not committed */
    int64_t device_need; /* tune: bytes that its device must have free; 0: not known */
    enum rh_failure failure;
    char *error; /* last failure, NULL for none */
    char worker[RH_WORKER_ID_SIZE];
    /* Memory only. */
    struct rh_sched_worker *holder; /* the worker, once it is known in this run */
    struct rh_sched_task *next_of_hash;
    struct rh_sched_task *next_claimed, **claimed_at; /* claimed_at NULL: not in that list */
    uint64_t incarnation; /* of the worker; 0 after a restart, until it says Hello */
    int64_t expect;       /* tune: next block whose checkpoint is acceptable */
    int early_results;    /* tune: results that came before their checkpoints */
    int64_t not_before;
    int64_t lease_end;
    int64_t accept_by; /* 0: accepted */
    int64_t revoke_at; /* 0: not being cancelled */
    int64_t started_at;
    int64_t moved_at; /* progress_seq changed */
    int64_t moves;    /* how often it did, under this lease */
    uint64_t progress_seq;
    bool stalled;          /* being cancelled for want of progress */
    bool looked_up;        /* the caller has looked whether there is something to reuse */
    int64_t started_block; /* tune: last block announced as started, -1 for none */
    int commits;           /* COMMIT actions under way */
    bool result_in;        /* tune: OK result received, checkpoints still being committed */
    bool stop_at_checkpoint;
    char phase[64];
    double done, total;
};

struct rh_sched_job {
    char id[RH_JOB_ID_SIZE];
    int priority; /* higher first */
    int64_t seq;  /* submission order */
    int64_t prefetch_blocks;
    enum rh_desired desired;
    enum rh_job_state state;
    char *reason; /* why it is blocked, failed or cancelled; NULL for none */
    /* Memory only. */
    struct rh_graph *graph; /* NULL until planned */
    struct rh_sched_task **tasks;
    size_t task_count;
    size_t first_of[RH_OP_COUNT + 1]; /* where the tasks of an operation begin, once unfolded */
    bool unfolded;
    /* Nothing of a stage is ready before; 0 when the job has changed since it was looked through. */
    int64_t quiet_until[RH_STAGE_COUNT];
    bool changed; /* since the caller cleared it */
    int64_t blocked_until;
    bool reserved; /* the bytes it will still write are set aside */
    bool failing;  /* winding down towards FAILED */
    bool lacks_device; /* no worker has the memory that tuning needs */
    void *user;    /* the caller's */
};

struct rh_sched_config {
    int64_t lease_ms;
    int64_t accept_ms; /* an assignment must be answered within */
    int64_t grace_ms;  /* a cancelled task must answer within */
    /* No progress for so long, by stage: the task is taken for stuck; 0: never. A task that moves
     * slowly but steadily has 20 times its own pace. */
    int64_t stall_ms[RH_STAGE_COUNT];
    int64_t blocked_ms; /* a parked job is tried again after */
    int64_t retry_ms;   /* first back-off; doubles up to retry_max_ms */
    int64_t retry_max_ms;
    int64_t blame_ms;              /* how long a crash counts against its worker */
    int64_t headroom;              /* bytes that must stay free on the disk; below 0: the factory asks
                                    * rh_sched_headroom_for() */
    int attempts_max;              /* transient failures in a row */
    int crashes_max;               /* workers lost in a row before a task is quarantined */
    int stage_max[RH_STAGE_COUNT]; /* leases of a stage at the same time; 0: as workers have slots
                                    */
};
/* lease 60 s, accept 5 s, grace 20 s, stall 5..15 min, blocked 30 s, retry 2 s..300 s, blame 1 h,
 * headroom 1 GiB, 10 attempts, 3 crashes. */
extern const struct rh_sched_config rh_sched_defaults;

/* What a worker says of itself. */
struct rh_sched_hello {
    const char *id;
    uint64_t incarnation; /* grows with every start of the process */
    enum rh_stage_id stage;
    int slots;
    int64_t pid;
    const char *host;
    int64_t device_bytes; /* memory of its device; 0: has none or does not say */
    const struct rh_sched_held {
        int64_t task, epoch;
    } * held;
    size_t held_count;
};

struct rh_sched_worker {
    char id[RH_WORKER_ID_SIZE];
    char host[64];
    uint64_t incarnation;
    enum rh_stage_id stage;
    int slots;
    int64_t pid;
    bool connected;
    bool leaving; /* has said that it is going */
    bool drained; /* gets nothing new until an operator says so; a row */
    char *why;    /* drained: the reason */
    int64_t last_seen;
    int64_t busy_until;                /* would not take a task: nothing new before */
    int64_t device_bytes, device_free; /* 0: not said */
    int64_t device_room;               /* what was free when it last held no task */
    int load;                          /* leases, as counted by the last dispatch */
    struct rh_sched_blame {
        int64_t task, at; /* task 0: none */
        bool fatal;       /* the task was quarantined */
    } blames[8];          /* the last crashes, a ring */
    int blame_next;
};

enum rh_action_kind {
    RH_ACT_SAVE_JOB,
    RH_ACT_SAVE_TASK,
    RH_ACT_WELCOME, /* worker; `held` with keep flags */
    RH_ACT_ASSIGN,  /* worker, task, epoch */
    RH_ACT_ACK,     /* worker, task_id, epoch, verdict; block >= 0 for a checkpoint */
    RH_ACT_REVOKE,  /* worker, task_id, epoch, text: stop working on it; `keep`: it is stuck */
    RH_ACT_COMMIT, /* task, epoch, block (-1: the task's only artifact), data: facts to give back */
    RH_ACT_SAVE_WORKER,   /* worker, drained (in `keep`), text: why */
    RH_ACT_KILL,          /* worker, pid: it holds on to a task that was revoked; text: why */
    RH_ACT_DROP_CHAIN,    /* job, block: chain.safetensors of tune-<block> is no longer needed */
    RH_ACT_DROP_ARTIFACT, /* job, op, block (its index): is to be made anew */
    RH_ACT_EVENT,         /* event, job, task (may be NULL), block, worker, text, data */
    RH_ACT_JOB_ENDED,     /* job reached DONE, FAILED or CANCELLED; rh_sched_forget() allowed */
};

struct rh_action {
    enum rh_action_kind kind;
    struct rh_sched_job *job;
    struct rh_sched_task *task;
    int64_t task_id;
    int64_t epoch;
    int64_t block;
    enum rh_op_id op;
    bool keep;
    enum rh_verdict verdict;
    char worker[RH_WORKER_ID_SIZE];
    int64_t pid;
    const char *event; /* "task.done"; static */
    char *text;        /* owned by the action, NULL for none */
    char *data;        /* JSON object, owned by the action, NULL for none */
    struct rh_sched_keep {
        int64_t task, epoch;
        bool keep;
    } * held; /* owned by the action */
    size_t held_count;
};

struct rh_sched;

struct rh_sched *rh_sched_new(const struct rh_sched_config *config);
void rh_sched_free(struct rh_sched *s);

/* The next thing to do; false when there is nothing. Release with rh_action_done(). Pointers in it
 * stay valid until rh_sched_forget(). */
bool rh_sched_next(struct rh_sched *s, struct rh_action *out);
void rh_action_done(struct rh_action *action);

/* -- Jobs ------------------------------------------------------------------------------------- */

/* A job from its row (a new one included): id, priority, seq, prefetch_blocks, desired, state,
 * reason and user are copied. Then its task rows, then rh_sched_loaded(). */
struct rh_sched_job *rh_sched_load_job(struct rh_sched *s, const struct rh_sched_job *row);
void rh_sched_load_task(struct rh_sched *s, struct rh_sched_job *job,
                        const struct rh_sched_task *row);
/* graph: adopted; NULL when the plan is not committed yet. Creates missing tasks. Leases found in
 * the rows hold for one lease time, so that their workers can claim them. */
void rh_sched_loaded(struct rh_sched *s, int64_t now, struct rh_sched_job *job,
                     struct rh_graph *graph);
/* Task ids below `first` are taken by jobs that are not loaded. */
void rh_sched_reserve_ids(struct rh_sched *s, int64_t first);
struct rh_sched_task *rh_sched_find_task(struct rh_sched *s, int64_t id); /* NULL: not loaded */
struct rh_sched_job *rh_sched_find_job(struct rh_sched *s, const char *id);
size_t rh_sched_job_count(const struct rh_sched *s);
struct rh_sched_job *rh_sched_job_at(const struct rh_sched *s, size_t index);
void rh_sched_forget(struct rh_sched *s, struct rh_sched_job *job);

/* RUN also takes up a job that is paused, held, blocked, failed or cancelled, quarantined tasks
 * included. RH_ERR_ARGUMENT when the job is done already (or, for the others, has ended). */
RH_MUST_USE enum rh_rc rh_sched_set_desired(struct rh_sched *s, int64_t now,
                                            struct rh_sched_job *job, enum rh_desired desired,
                                            struct rh_error *err);
void rh_sched_set_priority(struct rh_sched *s, int64_t now, struct rh_sched_job *job, int priority);

/* Takes up one task that failed or is quarantined, or waits for the end of its back-off, and the
 * job with it. RH_ERR_ARGUMENT in any other state. */
RH_MUST_USE enum rh_rc rh_sched_retry_task(struct rh_sched *s, int64_t now,
                                           struct rh_sched_task *task, struct rh_error *err);
/*
 * Tunes again from `block` on: that block, what follows it and all that was made of them go, and
 * the job is taken up. The caller has made sure that tuning can start there (docs/architecture.md:
 * the chain of the block before). RH_ERR_ARGUMENT while tasks of the job run, when it is done, has
 * no plan yet or did not come so far.
 */
RH_MUST_USE enum rh_rc rh_sched_rewind(struct rh_sched *s, int64_t now, struct rh_sched_job *job,
                                       int64_t block, struct rh_error *err);

/* Bytes free on the disk of the state directory, told before a dispatch; negative: not known, and
 * nothing is held back. A job starts to download once all that it will still write fits beside what
 * is promised to others. */
void rh_sched_space(struct rh_sched *s, int64_t free_bytes);
/* Changes config.headroom. */
void rh_sched_set_headroom(struct rh_sched *s, int64_t bytes);
/* What should stay free on a disk of that size: a twentieth, at most 1 GiB. */
int64_t rh_sched_headroom_for(uint64_t disk_bytes);
/* Bytes that the job has still to write, by its plan; 0 before it has one. */
int64_t rh_sched_unwritten(const struct rh_sched_job *job);

/* Could this task be given out now, were there a worker? */
bool rh_sched_ready(const struct rh_sched_task *task, int64_t now);
/* The block being tuned: first one not committed; 0 before tuning, `blocks` after it. */
int64_t rh_sched_current_block(const struct rh_sched_job *job);

/* -- Workers ---------------------------------------------------------------------------------- */

void rh_sched_hello(struct rh_sched *s, int64_t now, const struct rh_sched_hello *hello);
/* Renews the leases of the tasks listed, and of no others. */
struct rh_sched_progress {
    int64_t task, epoch;
    uint64_t progress_seq;
    const char *phase; /* "block 3" */
    double done, total;
};
void rh_sched_beat(struct rh_sched *s, int64_t now, const char *worker, uint64_t incarnation,
                   const struct rh_sched_progress *held, size_t count);
void rh_sched_accept(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                     int64_t epoch);
/* The worker will not take it; it costs no attempt. */
void rh_sched_reject(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                     int64_t epoch, const char *why);
/* A block of a session is sealed in staging. metrics: JSON object or NULL. */
void rh_sched_checkpoint(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                         int64_t epoch, int64_t block, const char *metrics);
/* ok, or why not. meta: JSON object or NULL. */
void rh_sched_result(struct rh_sched *s, int64_t now, const char *worker, int64_t task,
                     int64_t epoch, bool ok, enum rh_failure failure, const char *error,
                     const char *meta);
/* Bytes free on the worker's device; idle: while the worker holds no task, so that all of them are
 * there for the next one. */
void rh_sched_device(struct rh_sched *s, const char *worker, int64_t device_free, bool idle);
/* Told before rh_sched_result(): the task failed because its device would have to have `need` bytes
 * free and had `room`. It goes to a worker with that much; without one the job is parked. */
void rh_sched_device_short(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                           int64_t need, int64_t room);
/* The process is gone: its leases end now. blame: it died of its own accord. */
void rh_sched_worker_gone(struct rh_sched *s, int64_t now, const char *worker, bool blame,
                          const char *why);
/* The worker itself wants no new tasks. */
void rh_sched_leaving(struct rh_sched *s, const char *worker);
/* No new tasks for this worker until it is undrained, whatever it says. RH_ERR_NOT_FOUND. */
RH_MUST_USE enum rh_rc rh_sched_drain(struct rh_sched *s, const char *worker, bool drained,
                                      const char *why, struct rh_error *err);
/* A drained worker from its row. */
void rh_sched_load_worker(struct rh_sched *s, const char *id, enum rh_stage_id stage,
                          const char *why);
size_t rh_sched_worker_count(const struct rh_sched *s);
const struct rh_sched_worker *rh_sched_worker_at(const struct rh_sched *s, size_t index);
/* Tasks it holds a lease on. */
int rh_sched_leases(const struct rh_sched *s, const struct rh_sched_worker *worker);
const struct rh_sched_worker *rh_sched_find_worker(const struct rh_sched *s, const char *id);

/* -- The caller's own work -------------------------------------------------------------------- */

/* The COMMIT action of (task, epoch, block) ended. failed: NULL when the artifact is in place, also
 * when it was there already. data: that of the action. graph: adopted, required when a plan was
 * committed, else NULL. Commits of one task must end in the order in which they were asked for. */
void rh_sched_committed(struct rh_sched *s, int64_t now, int64_t task, int64_t epoch, int64_t block,
                        const struct rh_error *failed, const char *data, struct rh_graph *graph);
/*
 * A task that is ready need not be done: an equal artifact is in its place. block: of a session,
 * its next one; -1: the task's only one. from: the job it comes from.
 */
void rh_sched_reused(struct rh_sched *s, int64_t now, struct rh_sched_task *task, int64_t block,
                     const char *from);
/* Expires leases and back-offs; call at least once a second. */
void rh_sched_tick(struct rh_sched *s, int64_t now);
/* Admits jobs and sets disk aside for them: after it, what is ready is known. Dispatch does it too.
 */
void rh_sched_prepare(struct rh_sched *s, int64_t now);
/* Gives out what can be given out; call once after a batch of events. */
void rh_sched_dispatch(struct rh_sched *s, int64_t now);
/* No new leases, for shutting down. */
void rh_sched_hold(struct rh_sched *s, bool hold);

#endif
