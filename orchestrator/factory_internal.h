#ifndef RH_FACTORY_INTERNAL_H
#define RH_FACTORY_INTERNAL_H

#include "base/sha256.h"
#include "database/database.h"
#include "factory.h"
#include "scheduler/scheduler.h"
#include "supervisor.h"
#include "wire/socket.h"

/* Shared by the factory's own files only. */

#define RH_PLAN_BYTES_MAX (UINT64_C(256) << 20)

/* One tuned block, from its block.done event; NAN: not said. */
struct rh_block_metric {
    int64_t block, best_iter; /* best_iter -1: not said */
    bool mtp;                 /* it is the MTP head, which counts as one more */
    double init_loss, best_loss, seconds;
    /* Experts and their calibration tokens; experts 0: not said. */
    int64_t experts, floor, below_floor, tokens_min, tokens_median;
};

/* What the scheduler does not need to know of a job; hangs at rh_sched_job.user. */
struct rh_job_info {
    char *name, *model, *output, *recipe, *recipe_digest;
    char *dir; /* <state>/jobs/<id> */
    int64_t created_unix_ns, finished_unix_ns;
    struct rh_block_metric *metrics; /* by block, rising */
    size_t metric_count;
    struct rh_job_tick { /* the newest iteration; task 0: none yet */
        int64_t task, epoch, block, iter, iters;
        double loss, loss_best;
        bool fresh; /* not yet told to the subscriber */
    } tick;
    struct rh_task_unit { /* what a task counts: "bytes" */
        int64_t task;
        char unit[16];
    } * units;
    size_t unit_count;
    double progress;                          /* never goes back */
    char (*unit_digests)[RH_SHA256_HEX_SIZE]; /* of the sources of each unit; NULL: not asked for */
    char config_digest[RH_SHA256_HEX_SIZE];
};

/* An action that waits for its transaction, with what the event table made of it. */
struct rh_pending {
    struct rh_action action;
    int64_t seq, unix_ns;
};

struct rh_peer_entry {
    struct rh_peer peer;
    char worker[RH_WORKER_ID_SIZE];
    uint64_t incarnation, session;
    uint32_t proto;
};

struct rh_factory {
    uv_loop_t *loop;
    char *state_dir, *run_dir;
    bool exit_when_idle;
    int lock_fd;
    uint64_t epoch;
    struct rh_database *db;
    struct rh_sched_config config;
    int64_t retain_bytes, grace_s;
    bool gc_due;
    struct rh_gc_run *gc_first;               /* under way, those that wait behind it */
    void (*gc_idle)(struct rh_factory *self); /* called once none is; NULL: nobody waits for it */
    int64_t next_gc;
    struct rh_sched *sched;
    struct rh_zmq *zmq;
    struct rh_socket *socket;
    struct rh_supervisor *supervisor; /* NULL: no daemons of our own */
    uv_timer_t timer;
    int64_t last_tick;

    struct rh_peer_entry *peers;
    size_t peer_count;
    uint64_t last_session;

    struct rh_pending *pending; /* in order */
    size_t pending_count, pending_capacity;
    bool in_turn;
    bool without_ballast; /* the file system sets no room aside */
    bool stuck; /* the last transaction failed; `fault` says why */
    struct rh_error fault;

    rh_event_fn subscriber;
    void *subscriber_arg;
    void (*on_idle)(void *arg);
    void *on_idle_arg;
    bool had_job, said_idle;

    bool stopping, closed;
    void (*stopped)(void *arg);
    void *stopped_arg;
};

int64_t rh_factory_now(void); /* monotonic milliseconds */

/* -- factory.c -------------------------------------------------------------------------------- */

/* Ends a batch of events: gives out work, stores what changed, then says it. */
void rh_factory_turn(struct rh_factory *f);
/* An event of our own; stored with the next transaction. job and worker may be NULL. */
void rh_factory_note(struct rh_factory *f, const char *type, struct rh_sched_job *job,
                     const char *worker, const char *text);

/* -- factory_look.c --------------------------------------------------------------------------- */

/* The whole id for a beginning of one. */
RH_MUST_USE enum rh_rc rh_factory_resolve(struct rh_factory *f, const char *given,
                                          char out[RH_JOB_ID_SIZE], struct rh_error *err);

/* -- factory_jobs.c --------------------------------------------------------------------------- */

/* Two jobs that write to one place would meet at its end, hours from now. */
RH_MUST_USE enum rh_rc rh_factory_check_output(struct rh_factory *f, const char *output,
                                               const struct rh_sched_job *except,
                                               struct rh_error *err);

/* -- factory_load.c --------------------------------------------------------------------------- */

/* Takes a stored job into the scheduler: rows, committed artifacts whose row was not saved, graph.
 */
RH_MUST_USE enum rh_rc rh_factory_load_job(struct rh_factory *f, struct rh_database *db,
                                           const struct rh_job_row *row,
                                           const struct rh_sched_job *sched, struct rh_error *err);
/* The graph of the plan in `dir`. */
RH_MUST_USE enum rh_rc rh_factory_read_graph(const char *dir, struct rh_graph **out,
                                             struct rh_error *err);
/* Can tuning start at this block? Where the chain of the block before is, and at the first one. */
bool rh_job_can_tune_from(const struct rh_job_info *info, int64_t block);
/* All active jobs, at start. */
RH_MUST_USE enum rh_rc rh_factory_load(struct rh_factory *f, struct rh_error *err);
struct rh_job_info *rh_job_info_new(const struct rh_factory *f, const struct rh_job_row *row);
void rh_job_info_free(struct rh_job_info *info);
/* Adds what a block.done event says. data: its JSON object, may be NULL. */
void rh_job_info_add_metric(struct rh_job_info *info, int64_t block, const struct rh_json *data);
/* The metrics of all blocks from the event table. */
RH_MUST_USE enum rh_rc rh_factory_read_metrics(struct rh_factory *f, const char *job,
                                               struct rh_job_info *info, struct rh_error *err);

/* -- factory_actions.c ------------------------------------------------------------------------ */

/* COMMIT: moves the sealed directory to its place and tells the scheduler. */
void rh_factory_commit(struct rh_factory *f, const struct rh_action *action);
/* What is allowed once the transaction is durable: messages, deletions. */
void rh_factory_carry_out(struct rh_factory *f, const struct rh_action *action);

/* -- factory_space.c -------------------------------------------------------------------------- */

/* Deletes a file or directory in the background; absent is fine. */
void rh_factory_discard(struct rh_factory *f, const char *path);
/* Deletes, in the background, all of a finished job's files but its reports. */
void rh_factory_prune(struct rh_factory *f, const char *job_dir);
/* The staging directory of the task's newest lease. */
void rh_factory_sweep_task(struct rh_factory *f, const struct rh_sched_task *task);
/* Staging directories that no lease of the job can still need. task: only those of this one, of
 * epochs other than its own; NULL: of all tasks. */
void rh_factory_sweep(struct rh_factory *f, const struct rh_sched_job *job,
                      const struct rh_sched_task *task);
/* What an earlier process meant to delete. */
void rh_factory_sweep_trash(struct rh_factory *f);

/* What stays of a finished job: small, and worth reading later. */
bool rh_factory_is_keepsake(const char *name);

/* -- factory_ballast.c ------------------------------------------------------------------------ */

/* Makes <state>/ballast, where there is room for it: a quarter of the headroom, at most 256 MiB. */
void rh_factory_keep_ballast(struct rh_factory *f);
/* Gives its room back; false: it was not there. */
bool rh_factory_drop_ballast(struct rh_factory *f);

/* -- factory_gc.c ----------------------------------------------------------------------------- */

/* A job is done: its files go, or stay for others as far as they may. */
void rh_factory_retain(struct rh_factory *f, const struct rh_sched_job *job);
/* Keeps what is retained within its bounds; all of it goes when a job waits for room. */
void rh_factory_look_after_space(struct rh_factory *f);

/* -- factory_reuse.c -------------------------------------------------------------------------- */

/* Looks, once a task, whether another job has done the same, and links what it finds. */
void rh_factory_reuse(struct rh_factory *f);
/* Makes the outcome of a task (block: of a session) known to later jobs. */
RH_MUST_USE enum rh_rc rh_factory_save_step(struct rh_factory *f, const struct rh_sched_task *task,
                                            int64_t block, struct rh_error *err);

/* -- factory_messages.c ----------------------------------------------------------------------- */

void rh_factory_message(void *factory, const struct rh_peer *peer,
                        const struct rh_message *message);
void rh_factory_garbage(void *factory, const struct rh_peer *peer, int kind,
                        const struct rh_error *why);
/* Where a worker is reached; NULL: nowhere. */
const struct rh_peer_entry *rh_factory_peer_of(const struct rh_factory *f, const char *worker);
void rh_factory_send(struct rh_factory *f, const struct rh_peer *peer, enum rh_kind kind,
                     const ProtobufCMessage *body);

/* -- progress.c ------------------------------------------------------------------------------- */

/* 0..1; keeps info->progress. */
double rh_job_progress(const struct rh_sched_job *job, struct rh_job_info *info);
/* Seconds; negative: unknown. */
double rh_job_eta(const struct rh_sched_job *job, const struct rh_job_info *info);
/* Tells the subscriber the newest iteration of every job that has one. */
void rh_factory_tell_ticks(struct rh_factory *f);

/* -- factory_describe.c ----------------------------------------------------------------------- */

struct rh_json *rh_factory_describe(const struct rh_factory *f, const struct rh_sched_job *job,
                                    struct rh_job_info *info, bool in_full);

#endif
