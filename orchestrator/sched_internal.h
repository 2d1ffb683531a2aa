#ifndef RH_SCHED_INTERNAL_H
#define RH_SCHED_INTERNAL_H

#include "scheduler/scheduler.h"

/* Shared by the scheduler's own files only. */
struct rh_sched {
    struct rh_sched_config config;
    struct rh_sched_job **jobs; /* in dispatch order: priority, then submission */
    size_t job_count;
    struct rh_sched_worker **workers;
    size_t worker_count;
    int64_t next_task_id;
    bool hold;
    struct rh_action *queue; /* ring is not needed: drained after every event */
    size_t queue_first, queue_count, queue_capacity;
};

/* Queues an action and returns it for filling in; valid until the next push. */
struct rh_action *rh_sched_push(struct rh_sched *s, enum rh_action_kind kind);
void rh_sched_save_task(struct rh_sched *s, struct rh_sched_task *task);
void rh_sched_save_job(struct rh_sched *s, struct rh_sched_job *job);
/* text and data may be NULL; both are copied. */
void rh_sched_event(struct rh_sched *s, const char *event, struct rh_sched_job *job,
                    struct rh_sched_task *task, int64_t block, const char *text, const char *data);
void rh_sched_sort_jobs(struct rh_sched *s);

struct rh_sched_task *rh_sched_find_task(struct rh_sched *s, int64_t id);
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
void rh_sched_admit(struct rh_sched *s);

/* Answers. block: -1 for a result. */
void rh_sched_ack(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                  int64_t block, enum rh_verdict verdict);
void rh_sched_revoke(struct rh_sched *s, const char *worker, int64_t task, int64_t epoch,
                     const char *why);

/* Task life. release: LEASED or COMMITTING -> WAITING, nobody blamed. */
void rh_sched_release(struct rh_sched *s, struct rh_sched_task *task, const char *event,
                      const char *why);
void rh_sched_lost(struct rh_sched *s, int64_t now, struct rh_sched_task *task, bool blame,
                   const char *why);
void rh_sched_failed(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                     enum rh_failure failure, const char *error);
void rh_sched_cancel_lease(struct rh_sched *s, int64_t now, struct rh_sched_task *task,
                           const char *why);
void rh_sched_expire(struct rh_sched *s, int64_t now, struct rh_sched_task *task);

#endif
