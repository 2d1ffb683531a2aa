#ifndef RH_SCHED_INTERNAL_H
#define RH_SCHED_INTERNAL_H

#include "scheduler/scheduler.h"

/* How the reason of a job begins that waits for disk space. */
#define RH_NO_ROOM "no room on the disk"
/* And of one that waits for a device. */
#define RH_NO_DEVICE "tune needs "

/* Shared by the scheduler's own files only. */
struct rh_sched {
    struct rh_sched_config config;
    struct rh_sched_job **jobs; /* in dispatch order: priority, then submission */
    size_t job_count;
    struct rh_sched_worker **workers;
    size_t worker_count;
    struct rh_sched_task **buckets; /* tasks by id */
    size_t bucket_count, task_count;
    /* Tasks that are leased, or wait and still name the worker that may take its lease up again. */
    struct rh_sched_task *claimed;
    int64_t next_task_id;
    int64_t space; /* free bytes; negative: not known */
    bool space_low;
    bool hold;
    struct rh_action *queue; /* ring is not needed: drained after every event */
    size_t queue_first, queue_count, queue_capacity;
};

/* Queues an action and returns it for filling in; valid until the next push. */
struct rh_action *rh_sched_push(struct rh_sched *s, enum rh_action_kind kind);
/* Every change of a row passes through these two, and with it what is derived from rows. */
void rh_sched_save_task(struct rh_sched *s, struct rh_sched_task *task);
void rh_sched_save_job(struct rh_sched *s, struct rh_sched_job *job);
/* Other tasks of the job may have become ready. */
void rh_sched_touch(struct rh_sched_job *job);
/* text and data may be NULL; both are copied. */
void rh_sched_event(struct rh_sched *s, const char *event, struct rh_sched_job *job,
                    struct rh_sched_task *task, int64_t block, const char *text, const char *data);
void rh_sched_sort_jobs(struct rh_sched *s);

struct rh_sched_task *rh_sched_task_of(const struct rh_sched_job *job, enum rh_op_id op,
                                       int64_t index);
struct rh_sched_worker *rh_sched_worker(const struct rh_sched *s, const char *id);
/* Creates the tasks that the graph asks for and that have no row yet. */
void rh_sched_expand(struct rh_sched *s, struct rh_sched_job *job);

/* Job life. */
void rh_sched_job_state(struct rh_sched *s, struct rh_sched_job *job, enum rh_job_state state,
                        const char *reason);
void rh_sched_settle(struct rh_sched *s, int64_t now, struct rh_sched_job *job);
void rh_sched_fail_job(struct rh_sched *s, int64_t now, struct rh_sched_job *job,
                       const char *reason);
size_t rh_sched_live_tasks(const struct rh_sched_job *job);
void rh_sched_admit(struct rh_sched *s);

/* sched_space.c. reserve: sets disk aside for jobs that begin, and parks those that do not fit.
 * short_of: must this stage wait until there is more room? */
void rh_sched_reserve(struct rh_sched *s, int64_t now);
bool rh_sched_short_of_space(const struct rh_sched *s, enum rh_stage_id stage);
/* Why a job is parked, with the figures; owned by caller. */
char *rh_sched_shortage(const struct rh_sched *s, const struct rh_sched_job *job, const char *why);

/* sched_device.c. fits: may the worker have the task? lack: why the job must wait for another device,
 * owned by the caller; NULL: it need not. wait_for: parks a job that must, and says so. */
bool rh_sched_fits_device(const struct rh_sched_task *task, const struct rh_sched_worker *worker);
char *rh_sched_device_lack(const struct rh_sched *s, const struct rh_sched_job *job);
bool rh_sched_wait_for_device(struct rh_sched *s, struct rh_sched_job *job);

/* sched_blame.c. A lease ended with its worker: whose fault is it? */
void rh_sched_crashed(struct rh_sched *s, int64_t now, struct rh_sched_task *task, const char *why);
bool rh_sched_usable(const struct rh_sched_worker *worker);
/* Would another worker of the stage be the better choice for this task? */
bool rh_sched_avoids(const struct rh_sched *s, const struct rh_sched_task *task,
                     const struct rh_sched_worker *worker);
/* May `worker` still act under this epoch? */
bool rh_sched_holds(const struct rh_sched_task *task, const char *worker, int64_t epoch);
/* Makes sure that a task which the worker holds is leased to it, and renews the lease. */
void rh_sched_renew(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                    struct rh_sched_worker *worker);

/* Answers. block: -1 for a result. */
void rh_sched_ack(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                  int64_t block, enum rh_verdict verdict);
void rh_sched_revoke(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                     const char *why);

/* Task life. release: LEASED or COMMITTING -> WAITING, nobody blamed. */
void rh_sched_release(struct rh_sched *s, struct rh_sched_task *task, const char *event,
                      const char *why);
int64_t rh_sched_back_off(const struct rh_sched *s, int attempts);
void rh_sched_lost(struct rh_sched *s, int64_t now, struct rh_sched_task *task, bool blame,
                   const char *why);
void rh_sched_failed(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                     enum rh_failure failure, const char *error);
void rh_sched_cancel_lease(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                           const char *why);
void rh_sched_expire(struct rh_sched *s, int64_t now, struct rh_sched_task *task);

#endif
