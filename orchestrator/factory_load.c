#include <math.h>
#include <string.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"
#include "store/store.h"

/* From rows back to jobs. */

#define METRIC_EVENTS_MAX (4 * RH_GRAPH_UNITS_MAX)

struct rh_job_info *rh_job_info_new(const struct rh_factory *f, const struct rh_job_row *row)
{
    struct rh_job_info *info = rh_alloc(sizeof *info);
    info->name = rh_strdup(row->name);
    info->model = rh_strdup(row->model);
    info->output = rh_strdup(row->output);
    info->recipe = rh_strdup(row->recipe);
    info->recipe_digest = rh_strdup(row->recipe_digest);
    info->dir = rh_format("%s/jobs/%s", f->state_dir, row->id);
    info->created_unix_ns = row->created_unix_ns;
    info->finished_unix_ns = row->finished_unix_ns;
    return info;
}

void rh_job_info_free(struct rh_job_info *info)
{
    if (!info)
        return;
    rh_free(info->name);
    rh_free(info->model);
    rh_free(info->output);
    rh_free(info->recipe);
    rh_free(info->recipe_digest);
    rh_free(info->dir);
    rh_free(info->metrics);
    rh_free(info->units);
    rh_free(info->unit_digests);
    rh_free(info);
}

/* -- Metrics of blocks ------------------------------------------------------------------------ */

static void read_experts(const struct rh_json *experts, struct rh_block_metric *m)
{
    if (!rh_json_int(rh_json_get(experts, "count"), &m->experts) ||
        !rh_json_int(rh_json_get(experts, "floor"), &m->floor) ||
        !rh_json_int(rh_json_get(experts, "below_floor"), &m->below_floor) ||
        !rh_json_int(rh_json_get(experts, "tokens_min"), &m->tokens_min) ||
        !rh_json_int(rh_json_get(experts, "tokens_median"), &m->tokens_median))
        m->experts = 0;
}

void rh_job_info_add_metric(struct rh_job_info *info, int64_t block, const struct rh_json *data)
{
    struct rh_block_metric m = {.block = block, .best_iter = -1};
    size_t at = info->metric_count;
    while (at > 0 && info->metrics[at - 1].block >= block)
        at--;
    m.init_loss = rh_json_number(rh_json_get(data, "init_loss"), (double)NAN);
    m.best_loss = rh_json_number(rh_json_get(data, "best_loss"), (double)NAN);
    m.seconds = rh_json_number(rh_json_get(data, "seconds"), (double)NAN);
    if (!rh_json_int(rh_json_get(data, "best_iter"), &m.best_iter))
        m.best_iter = -1;
    const char *unit = rh_json_string(rh_json_get(data, "unit"));
    m.mtp = unit && strcmp(unit, "mtp") == 0;
    read_experts(rh_json_get(data, "experts"), &m);
    if (at == info->metric_count || info->metrics[at].block != block) {
        info->metrics =
            rh_realloc_array(info->metrics, info->metric_count + 1, sizeof *info->metrics);
        memmove(&info->metrics[at + 1], &info->metrics[at],
                (info->metric_count - at) * sizeof *info->metrics);
        info->metric_count++;
    }
    info->metrics[at] = m;
}

enum rh_rc rh_factory_read_metrics(struct rh_factory *f, const char *job, struct rh_job_info *info,
                                   struct rh_error *err)
{
    struct rh_json *events = NULL;
    enum rh_rc rc =
        rh_database_events(f->db, job, "block.done", 0, METRIC_EVENTS_MAX, &events, err);
    for (const struct rh_json *e = rh_json_first(events); e; e = rh_json_next(e)) {
        int64_t block = -1;
        if (rh_json_int(rh_json_get(e, "block"), &block) && block >= 0)
            rh_job_info_add_metric(info, block, rh_json_get(e, "data"));
    }
    rh_json_free(events);
    return rc;
}

/* -- Tasks and graph -------------------------------------------------------------------------- */

struct loading {
    struct rh_factory *f;
    struct rh_sched_job *job;
};

bool rh_job_can_tune_from(const struct rh_job_info *info, int64_t block)
{
    if (block == 0)
        return true;
    char *dir = rh_store_artifact(info->dir, "tune", block - 1);
    char *chain = rh_fs_join(dir, "chain.safetensors");
    bool can = rh_fs_exists(chain);
    rh_free(chain);
    rh_free(dir);
    return can;
}

/* The rename came through and the row did not: the artifact is whole, so the task has done its
 * work. */
static bool adopt(struct rh_factory *f, const struct rh_job_info *info, struct rh_sched_task *task)
{
    const char *op = rh_op_name(task->op);
    if (task->state == RH_TASK_DONE)
        return false;
    if (task->op != RH_OP_TUNE) {
        if (!rh_store_has(info->dir, op, task->index))
            return false;
        task->state = RH_TASK_DONE;
        return true;
    }
    int64_t next = task->next;
    while (task->next <= task->last && rh_store_has(info->dir, op, task->next))
        task->next++;
    /* Tuning goes on behind a block whose chain is there. Where it is not (a deletion that was cut
     * off, or somebody else's), the blocks since the last one that has it are tuned again: they
     * come out the same. */
    while (task->next > 0 && task->next <= task->last && !rh_job_can_tune_from(info, task->next)) {
        char *dir = rh_store_artifact(info->dir, op, --task->next);
        rh_factory_discard(f, dir);
        rh_free(dir);
    }
    if (task->next > task->last)
        task->state = RH_TASK_DONE;
    return task->next != next;
}

static void save_adopted(struct rh_factory *f, struct rh_sched_task *task)
{
    struct rh_error err;
    /* Without the row the same is found out at the next start. */
    if (rh_database_save_task(f->db, task, &err) != RH_OK)
        rh_log(RH_LOG_WARN, "task.unsaved", "task=%lld why=\"%s\"", (long long)task->id,
               err.message);
    rh_log(RH_LOG_INFO, "task.adopted", "job=%s op=%s index=%lld next=%lld", task->job->id,
           rh_op_name(task->op), (long long)task->index, (long long)task->next);
}

static void load_task(void *arg, const struct rh_sched_task *row)
{
    struct loading *l = arg;
    struct rh_sched_task task = *row;
    bool adopted = adopt(l->f, l->job->user, &task);
    rh_sched_load_task(l->f->sched, l->job, &task);
    if (adopted)
        save_adopted(l->f, l->job->tasks[l->job->task_count - 1]);
}

enum rh_rc rh_factory_read_graph(const char *dir, struct rh_graph **out, struct rh_error *err)
{
    struct rh_json *plan = NULL;
    char *path = rh_fs_join(dir, "plan.json");
    enum rh_rc rc = rh_json_read(path, RH_PLAN_BYTES_MAX, &plan, err);
    if (rc == RH_OK)
        rc = rh_graph_from_plan(plan, path, out, err);
    rh_json_free(plan);
    rh_free(path);
    return rc;
}

static enum rh_rc load_graph(const struct rh_sched_job *job, struct rh_graph **out,
                             struct rh_error *err)
{
    const struct rh_job_info *info = job->user;
    bool planned = false;
    *out = NULL;
    for (size_t i = 0; i < job->task_count; i++)
        planned =
            planned || (job->tasks[i]->op == RH_OP_PLAN && job->tasks[i]->state == RH_TASK_DONE);
    if (!planned)
        return RH_OK;
    char *dir = rh_store_artifact(info->dir, "plan", 0);
    enum rh_rc rc = rh_factory_read_graph(dir, out, err);
    rh_free(dir);
    return rc;
}

/* The chain of a block is of no use once the next block is in place; its deletion may have been cut
 * off. */
static void drop_old_chains(struct rh_factory *f, const struct rh_sched_job *job)
{
    const struct rh_job_info *info = job->user;
    for (int64_t b = 0; b + 1 < rh_sched_current_block(job); b++) {
        char *dir = rh_store_artifact(info->dir, "tune", b);
        char *path = rh_fs_join(dir, "chain.safetensors");
        if (rh_fs_exists(path))
            rh_factory_discard(f, path);
        rh_free(path);
        rh_free(dir);
    }
}

enum rh_rc rh_factory_load_job(struct rh_factory *f, struct rh_database *db,
                               const struct rh_job_row *row, const struct rh_sched_job *sched,
                               struct rh_error *err)
{
    struct rh_sched_job copy = *sched;
    struct rh_job_info *info = rh_job_info_new(f, row);
    struct rh_graph *graph = NULL;
    copy.user = info;
    struct rh_sched_job *job = rh_sched_load_job(f->sched, &copy);
    struct loading loading = {f, job};
    enum rh_rc rc = rh_fs_mkdirs(info->dir, err); /* gc may have taken it */
    if (rc == RH_OK)
        rc = rh_database_tasks(db, row->id, load_task, &loading, err);
    if (rc == RH_OK)
        rc = rh_factory_read_metrics(f, row->id, info, err);
    if (rc == RH_OK)
        rc = load_graph(job, &graph, err);
    if (rc != RH_OK) {
        rh_sched_forget(f->sched, job);
        rh_job_info_free(info);
        return rh_error_prefix(err, "job %s", row->id);
    }
    rh_sched_loaded(f->sched, rh_factory_now(), job, graph);
    rh_factory_sweep(f, job, NULL);
    drop_old_chains(f, job);
    return RH_OK;
}

/* -- At start --------------------------------------------------------------------------------- */

/* A job that cannot be taken up must not keep the others from running. */
static enum rh_rc load_active(void *arg, const struct rh_job_row *row,
                              const struct rh_sched_job *sched, struct rh_error *err)
{
    struct rh_factory *f = arg;
    struct rh_error why;
    if (rh_factory_load_job(f, f->db, row, sched, &why) == RH_OK)
        return RH_OK;
    struct rh_sched_job failed = *sched;
    rh_log(RH_LOG_ERROR, "job.unloadable", "job=%s why=\"%s\"", row->id, why.message);
    failed.state = RH_JOB_FAILED;
    failed.reason = why.message;
    return rh_database_save_job(f->db, &failed, row->created_unix_ns, err);
}

static enum rh_rc prune_if_done(void *arg, const struct rh_job_row *row,
                                const struct rh_sched_job *sched, struct rh_error *err)
{
    struct rh_factory *f = arg;
    (void)err;
    if (sched->state == RH_JOB_DONE) {
        char *dir = rh_format("%s/jobs/%s", f->state_dir, row->id);
        rh_factory_prune(f, dir);
        rh_free(dir);
    }
    return RH_OK;
}

/* Finished jobs that still have a staging folder: their pruning was cut off. */
static enum rh_rc prune_finished(struct rh_factory *f, struct rh_error *err)
{
    char *jobs = rh_fs_join(f->state_dir, "jobs");
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = rh_fs_list(jobs, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        char *staging = rh_format("%s/%s/staging", jobs, names[i]);
        if (!rh_sched_find_job(f->sched, names[i]) && rh_fs_is_dir(staging))
            rc = rh_database_jobs(f->db, RH_JOBS_ID, names[i], prune_if_done, f, err);
        rh_free(staging);
    }
    rh_fs_list_free(names, count);
    rh_free(jobs);
    return rc;
}

static void load_worker(void *factory, const char *id, enum rh_stage_id stage, const char *why)
{
    const struct rh_factory *f = factory;
    if (strlen(id) < RH_WORKER_ID_SIZE)
        rh_sched_load_worker(f->sched, id, stage, why);
}

enum rh_rc rh_factory_load(struct rh_factory *f, struct rh_error *err)
{
    int64_t job_seq = 0;
    int64_t task_id = 0;
    enum rh_rc rc = rh_database_next_numbers(f->db, &job_seq, &task_id, err);
    if (rc != RH_OK)
        return rc;
    rh_sched_reserve_ids(f->sched, task_id);
    rc = rh_database_workers(f->db, load_worker, f, err);
    if (rc != RH_OK)
        return rc;
    rc = rh_database_jobs(f->db, RH_JOBS_ACTIVE, NULL, load_active, f, err);
    return rc == RH_OK ? prune_finished(f, err) : rc;
}
