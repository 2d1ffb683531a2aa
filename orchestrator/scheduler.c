#include "scheduler/scheduler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

const struct rh_sched_config rh_sched_defaults = {
    .lease_ms = 60000,
    .accept_ms = 5000,
    .grace_ms = 20000,
    /* Sealing digests and syncs what was written, which moves nothing: minutes on a slow disk. */
    .stall_ms = {300000, 600000, 900000, 600000, 600000},
    .blocked_ms = 30000,
    .retry_ms = 2000,
    .retry_max_ms = 300000,
    .blame_ms = 3600000,
    .headroom = INT64_C(1) << 30,
    .attempts_max = 10,
    .crashes_max = 3,
};

static const char *const task_states[] = {"waiting", "leased", "committing",
                                          "done",    "failed", "quarantined"};
static const char *const job_states[] = {"queued", "running", "blocked", "paused",
                                         "held",   "done",    "failed",  "cancelled"};
static const char *const desires[] = {"run", "pause", "cancel", "hold"};
static const char *const verdicts[] = {"accepted", "duplicate", "stale", "rehello"};

static bool name_index(const char *const *names, int count, const char *name, int *out)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

const char *rh_task_state_name(enum rh_task_state state)
{
    return task_states[state];
}

bool rh_task_state_from_name(const char *name, enum rh_task_state *out)
{
    int i;
    if (!name_index(task_states, 6, name, &i))
        return false;
    *out = (enum rh_task_state)i;
    return true;
}

const char *rh_job_state_name(enum rh_job_state state)
{
    return job_states[state];
}

bool rh_job_state_from_name(const char *name, enum rh_job_state *out)
{
    int i;
    if (!name_index(job_states, 8, name, &i))
        return false;
    *out = (enum rh_job_state)i;
    return true;
}

const char *rh_desired_name(enum rh_desired desired)
{
    return desires[desired];
}

bool rh_desired_from_name(const char *name, enum rh_desired *out)
{
    int i;
    if (!name_index(desires, 4, name, &i))
        return false;
    *out = (enum rh_desired)i;
    return true;
}

const char *rh_verdict_name(enum rh_verdict verdict)
{
    return verdicts[verdict];
}

struct rh_sched *rh_sched_new(const struct rh_sched_config *config)
{
    struct rh_sched *s = rh_alloc(sizeof *s);
    s->config = *config;
    s->next_task_id = 1;
    s->space = -1;
    return s;
}

static void job_free(struct rh_sched_job *job)
{
    for (size_t i = 0; i < job->task_count; i++) {
        rh_free(job->tasks[i]->error);
        rh_free(job->tasks[i]);
    }
    rh_free(job->tasks);
    rh_free(job->reason);
    rh_graph_free(job->graph);
    rh_free(job);
}

static void worker_free(struct rh_sched_worker *worker)
{
    rh_free(worker->why);
    rh_free(worker);
}

void rh_sched_free(struct rh_sched *s)
{
    if (!s)
        return;
    struct rh_action action;
    while (rh_sched_next(s, &action))
        rh_action_done(&action);
    for (size_t i = 0; i < s->job_count; i++)
        job_free(s->jobs[i]);
    for (size_t i = 0; i < s->worker_count; i++)
        worker_free(s->workers[i]);
    rh_free(s->buckets);
    rh_free(s->jobs);
    rh_free(s->workers);
    rh_free(s->queue);
    rh_free(s);
}

/* -- Actions ---------------------------------------------------------------------------------- */

struct rh_action *rh_sched_push(struct rh_sched *s, enum rh_action_kind kind)
{
    if (s->queue_count == s->queue_capacity) {
        s->queue_capacity = s->queue_capacity ? 2 * s->queue_capacity : 64;
        s->queue = rh_realloc_array(s->queue, s->queue_capacity, sizeof *s->queue);
    }
    struct rh_action *a = &s->queue[s->queue_count++];
    *a = (struct rh_action){.kind = kind, .block = -1};
    return a;
}

bool rh_sched_next(struct rh_sched *s, struct rh_action *out)
{
    if (s->queue_first == s->queue_count) {
        s->queue_first = s->queue_count = 0;
        return false;
    }
    *out = s->queue[s->queue_first++];
    return true;
}

void rh_action_done(struct rh_action *action)
{
    rh_free(action->text);
    rh_free(action->data);
    rh_free(action->held);
    *action = (struct rh_action){0};
}

void rh_sched_touch(struct rh_sched_job *job)
{
    memset(job->quiet_until, 0, sizeof job->quiet_until);
    job->changed = true;
}

static void unclaim(struct rh_sched_task *task)
{
    if (!task->claimed_at)
        return;
    *task->claimed_at = task->next_claimed;
    if (task->next_claimed)
        task->next_claimed->claimed_at = task->claimed_at;
    task->claimed_at = NULL;
}

static void look_whether_claimed(struct rh_sched *s, struct rh_sched_task *task)
{
    bool claimed = task->state == RH_TASK_LEASED ||
                   (task->state == RH_TASK_WAITING && task->worker[0] != '\0');
    if (!claimed)
        unclaim(task);
    if (!claimed || task->claimed_at)
        return;
    task->next_claimed = s->claimed;
    if (s->claimed)
        s->claimed->claimed_at = &task->next_claimed;
    s->claimed = task;
    task->claimed_at = &s->claimed;
}

void rh_sched_save_task(struct rh_sched *s, struct rh_sched_task *task)
{
    look_whether_claimed(s, task);
    rh_sched_touch(task->job);
    struct rh_action *a = rh_sched_push(s, RH_ACT_SAVE_TASK);
    a->job = task->job;
    a->task = task;
}

void rh_sched_save_job(struct rh_sched *s, struct rh_sched_job *job)
{
    rh_sched_touch(job);
    rh_sched_push(s, RH_ACT_SAVE_JOB)->job = job;
}

void rh_sched_event(struct rh_sched *s, const char *event, struct rh_sched_job *job,
                    struct rh_sched_task *task, int64_t block, const char *text, const char *data)
{
    struct rh_action *a = rh_sched_push(s, RH_ACT_EVENT);
    a->event = event;
    a->job = job;
    a->task = task;
    a->block = block;
    a->text = rh_strdup(text);
    a->data = rh_strdup(data);
    if (!task)
        return;
    a->epoch = task->epoch;
    snprintf(a->worker, sizeof a->worker, "%s", task->worker);
    const struct rh_sched_worker *w = rh_sched_worker(s, task->worker);
    a->pid = w ? w->pid : 0;
}

/* -- Rows ------------------------------------------------------------------------------------- */

static int compare_jobs(const void *a, const void *b)
{
    const struct rh_sched_job *x = *(struct rh_sched_job *const *)a;
    const struct rh_sched_job *y = *(struct rh_sched_job *const *)b;
    if (x->priority != y->priority)
        return x->priority > y->priority ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void rh_sched_sort_jobs(struct rh_sched *s)
{
    qsort(s->jobs, s->job_count, sizeof(struct rh_sched_job *), compare_jobs);
}

struct rh_sched_job *rh_sched_load_job(struct rh_sched *s, const struct rh_sched_job *row)
{
    struct rh_sched_job *job = rh_alloc(sizeof *job);
    memcpy(job->id, row->id, sizeof job->id);
    job->priority = row->priority;
    job->seq = row->seq;
    job->prefetch_blocks = row->prefetch_blocks;
    job->desired = row->desired;
    job->state = row->state;
    job->reason = rh_strdup(row->reason);
    job->user = row->user;
    s->jobs = rh_realloc_array(s->jobs, s->job_count + 1, sizeof(struct rh_sched_job *));
    size_t at = s->job_count++; /* mostly the last: it was submitted last */
    for (; at > 0 && compare_jobs(&s->jobs[at - 1], &job) > 0; at--)
        s->jobs[at] = s->jobs[at - 1];
    s->jobs[at] = job;
    return job;
}

/* -- Tasks by id ------------------------------------------------------------------------------ */

static void hash_task(struct rh_sched *s, struct rh_sched_task *task)
{
    struct rh_sched_task **bucket = &s->buckets[(size_t)task->id & (s->bucket_count - 1)];
    task->next_of_hash = *bucket;
    *bucket = task;
}

static void grow_buckets(struct rh_sched *s)
{
    rh_free(s->buckets);
    s->bucket_count = s->bucket_count ? 2 * s->bucket_count : 1024;
    s->buckets = rh_alloc_array(s->bucket_count, sizeof(struct rh_sched_task *));
    for (size_t j = 0; j < s->job_count; j++) {
        for (size_t i = 0; i < s->jobs[j]->task_count; i++)
            hash_task(s, s->jobs[j]->tasks[i]);
    }
}

static void unhash_task(struct rh_sched *s, const struct rh_sched_task *task)
{
    struct rh_sched_task **at = &s->buckets[(size_t)task->id & (s->bucket_count - 1)];
    while (*at != task)
        at = &(*at)->next_of_hash;
    *at = task->next_of_hash;
    s->task_count--;
}

static struct rh_sched_task *add_task(struct rh_sched *s, struct rh_sched_job *job, int64_t id)
{
    struct rh_sched_task *task = rh_alloc(sizeof *task);
    job->tasks = rh_realloc_array(job->tasks, job->task_count + 1, sizeof(struct rh_sched_task *));
    job->tasks[job->task_count++] = task;
    task->job = job;
    task->id = id;
    task->started_block = -1;
    if (++s->task_count > s->bucket_count)
        grow_buckets(s);
    else
        hash_task(s, task);
    return task;
}

void rh_sched_load_task(struct rh_sched *s, struct rh_sched_job *job,
                        const struct rh_sched_task *row)
{
    struct rh_sched_task *task = add_task(s, job, row->id);
    task->op = row->op;
    task->index = row->index;
    task->last = row->last;
    task->state = row->state == RH_TASK_COMMITTING ? RH_TASK_LEASED : row->state;
    task->epoch = row->epoch;
    task->attempts = row->attempts;
    task->crashes = row->crashes;
    memcpy(task->crashed_on, row->crashed_on, sizeof task->crashed_on);
    task->next = row->next;
    task->device_need = row->device_need;
    task->expect = row->next;
    task->started_block = row->next - 1;
    task->failure = row->failure;
    task->error = rh_strdup(row->error);
    memcpy(task->worker, row->worker, sizeof task->worker);
    look_whether_claimed(s, task);
    if (task->id >= s->next_task_id)
        s->next_task_id = task->id + 1;
}

/* Order of tasks in a job: operation, then index. Dispatch takes the first that is ready. */
static int compare_tasks(const void *a, const void *b)
{
    const struct rh_sched_task *x = *(struct rh_sched_task *const *)a;
    const struct rh_sched_task *y = *(struct rh_sched_task *const *)b;
    if (x->op != y->op)
        return x->op < y->op ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

void rh_sched_expand(struct rh_sched *s, struct rh_sched_job *job)
{
    for (int op = 0; op < RH_OP_COUNT; op++) {
        int64_t count = rh_graph_count(job->graph, (enum rh_op_id)op);
        for (int64_t i = 0; i < count; i++) {
            if (rh_sched_task_of(job, (enum rh_op_id)op, i))
                continue;
            struct rh_sched_task *task = add_task(s, job, s->next_task_id++);
            task->op = (enum rh_op_id)op;
            task->index = i;
            task->last = op == RH_OP_TUNE ? job->graph->steps - 1 : i;
            rh_sched_save_task(s, task);
        }
    }
    qsort(job->tasks, job->task_count, sizeof(struct rh_sched_task *), compare_tasks);
    size_t at = 0;
    for (int op = 0; op < RH_OP_COUNT; op++) {
        job->first_of[op] = at;
        while (at < job->task_count && job->tasks[at]->op == (enum rh_op_id)op)
            at++;
    }
    job->first_of[RH_OP_COUNT] = at;
    job->unfolded = true;
    rh_sched_touch(job);
}

void rh_sched_loaded(struct rh_sched *s, int64_t now, struct rh_sched_job *job,
                     struct rh_graph *graph)
{
    job->graph = graph;
    rh_sched_expand(s, job);
    for (size_t i = 0; i < job->task_count; i++) {
        struct rh_sched_task *task = job->tasks[i];
        if (task->state == RH_TASK_LEASED) {
            task->lease_end = now + s->config.lease_ms;
            task->moved_at = now;
        }
        if (task->state == RH_TASK_FAILED && job->state < RH_JOB_DONE)
            job->failing = true;
    }
    rh_sched_settle(s, now, job);
}

void rh_sched_reserve_ids(struct rh_sched *s, int64_t first)
{
    if (first > s->next_task_id)
        s->next_task_id = first;
}

void rh_sched_forget(struct rh_sched *s, struct rh_sched_job *job)
{
    for (size_t i = 0; i < s->job_count; i++) {
        if (s->jobs[i] != job)
            continue;
        memmove(&s->jobs[i], &s->jobs[i + 1],
                (s->job_count - i - 1) * sizeof(struct rh_sched_job *));
        s->job_count--;
        for (size_t t = 0; t < job->task_count; t++) {
            unhash_task(s, job->tasks[t]);
            unclaim(job->tasks[t]);
        }
        job_free(job);
        return;
    }
}

/* -- Look-up ---------------------------------------------------------------------------------- */

struct rh_sched_job *rh_sched_find_job(struct rh_sched *s, const char *id)
{
    for (size_t i = 0; i < s->job_count; i++) {
        if (strcmp(s->jobs[i]->id, id) == 0)
            return s->jobs[i];
    }
    return NULL;
}

size_t rh_sched_job_count(const struct rh_sched *s)
{
    return s->job_count;
}

struct rh_sched_job *rh_sched_job_at(const struct rh_sched *s, size_t index)
{
    return s->jobs[index];
}

struct rh_sched_task *rh_sched_find_task(struct rh_sched *s, int64_t id)
{
    struct rh_sched_task *task =
        s->bucket_count ? s->buckets[(size_t)id & (s->bucket_count - 1)] : NULL;
    while (task && task->id != id)
        task = task->next_of_hash;
    return task;
}

struct rh_sched_task *rh_sched_task_of(const struct rh_sched_job *job, enum rh_op_id op,
                                       int64_t index)
{
    if (job->unfolded) {
        size_t count = job->first_of[op + 1] - job->first_of[op];
        if (index < 0 || (uint64_t)index >= count)
            return NULL;
        struct rh_sched_task *task = job->tasks[job->first_of[op] + (size_t)index];
        return task->index == index ? task : NULL;
    }
    for (size_t i = 0; i < job->task_count; i++) {
        if (job->tasks[i]->op == op && job->tasks[i]->index == index)
            return job->tasks[i];
    }
    return NULL;
}

struct rh_sched_worker *rh_sched_worker(const struct rh_sched *s, const char *id)
{
    for (size_t i = 0; i < s->worker_count; i++) {
        if (strcmp(s->workers[i]->id, id) == 0)
            return s->workers[i];
    }
    return NULL;
}

size_t rh_sched_worker_count(const struct rh_sched *s)
{
    return s->worker_count;
}

const struct rh_sched_worker *rh_sched_worker_at(const struct rh_sched *s, size_t index)
{
    return s->workers[index];
}

const struct rh_sched_worker *rh_sched_find_worker(const struct rh_sched *s, const char *id)
{
    return rh_sched_worker(s, id);
}

void rh_sched_hold(struct rh_sched *s, bool hold)
{
    s->hold = hold;
}
