#include "upkeep/doctor.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "database/database.h"
#include "store/store.h"

struct visit {
    const struct rh_doctor_options *options;
    const char *state_dir;
    struct rh_database *db;     /* for looking */
    struct rh_database *writer; /* NULL unless something may be fixed */
    struct rh_json *problems;
    int64_t jobs, artifacts, bytes;
};

/* One job's rows. */
struct patient {
    struct visit *v;
    struct rh_sched_job job; /* id and state are set */
    char *dir;
    struct rh_sched_task *tasks;
    size_t count;
};

static void complain(struct visit *v, const char *severity, const struct patient *p,
                     const char *path, const char *what, const char *remedy, bool fixed)
{
    struct rh_json *problem = rh_json_new_object();
    rh_json_set_string(problem, "severity", severity);
    rh_json_set_string(problem, "what", what);
    rh_json_set_string(problem, "path", path);
    if (p)
        rh_json_set_string(problem, "job", p->job.id);
    rh_json_set_string(problem, "remedy", remedy);
    rh_json_set_bool(problem, "fixed", fixed);
    rh_json_append(v->problems, problem);
}

/* Something that belongs to nobody. */
static void complain_of_orphan(struct visit *v, const struct patient *p, const char *path,
                               const char *what)
{
    bool fixed = v->writer && rh_fs_remove_tree(path, NULL) == RH_OK;
    complain(v, "warning", p, path, what, "roundhouse doctor --fix deletes it", fixed);
}

/* -- Artifacts -------------------------------------------------------------------------------- */

/* Tuning goes on behind a block whose chain is there. */
static int64_t tunable(const struct patient *p, int64_t block)
{
    for (; block > 0; block--) {
        char *dir = rh_store_artifact(p->dir, "tune", block - 1);
        char *chain = rh_fs_join(dir, "chain.safetensors");
        bool there = rh_fs_exists(chain);
        rh_free(chain);
        rh_free(dir);
        if (there)
            break;
    }
    return block;
}

/* The artifact goes and its task is to be done again; of a session from there on. */
static bool do_again(struct patient *p, struct rh_sched_task *task, int64_t index)
{
    struct rh_error err;
    if (!p->v->writer)
        return false;
    if (task->op == RH_OP_TUNE)
        index = tunable(p, index);
    char *dir = rh_store_artifact(p->dir, rh_op_name(task->op), index);
    enum rh_rc rc = rh_fs_remove_tree(dir, &err);
    rh_free(dir);
    for (int64_t b = index + 1; task->op == RH_OP_TUNE && b < task->next && rc == RH_OK; b++) {
        dir = rh_store_artifact(p->dir, "tune", b);
        rc = rh_fs_remove_tree(dir, &err);
        rh_free(dir);
    }
    if (task->op == RH_OP_TUNE)
        task->next = index;
    task->state = RH_TASK_WAITING;
    task->worker[0] = '\0';
    task->job = &p->job;
    return rc == RH_OK && rh_database_save_task(p->v->writer, task, &err) == RH_OK;
}

/* Of a block that another one follows the chain may be gone. */
static void check_artifact(struct patient *p, struct rh_sched_task *task, int64_t index)
{
    struct visit *v = p->v;
    struct rh_error err;
    uint64_t bytes = 0;
    char *dir = rh_store_artifact(p->dir, rh_op_name(task->op), index);
    bool inner = task->op == RH_OP_TUNE && (index + 1 < task->next || task->next > task->last);
    if (v->options->progress)
        v->options->progress(v->options->arg, dir, v->artifacts, 0);
    v->artifacts++;
    enum rh_rc rc = rh_store_check_except(dir, v->options->deep, inner ? "chain.safetensors" : NULL,
                                          &bytes, &err);
    v->bytes += (int64_t)bytes;
    if (rc != RH_OK) {
        bool fixed = do_again(p, task, index);
        complain(v, "error", p, dir, err.message,
                 "roundhouse doctor --fix drops it, so that its task is done again", fixed);
    }
    rh_free(dir);
}

static void check_task(struct patient *p, struct rh_sched_task *task)
{
    if (task->op != RH_OP_TUNE) {
        if (task->state == RH_TASK_DONE)
            check_artifact(p, task, task->index);
        return;
    }
    for (int64_t b = task->index; b < task->next; b++)
        check_artifact(p, task, b);
}

/* The artifacts of a finished job may be gone but for their reports; its receipt is not. */
static void check_finished(struct patient *p)
{
    char *publish = rh_store_artifact(p->dir, "publish", 0);
    char *receipt = rh_fs_join(publish, "receipt.json");
    if (!rh_fs_exists(receipt))
        complain(p->v, "warning", p, receipt, "a finished job without its receipt",
                 "roundhouse verify checks the published checkpoint itself", false);
    rh_free(receipt);
    rh_free(publish);
}

/* "fetch-00003" or "fetch-00003.7"; false: no such name. */
static bool parse_name(const char *name, enum rh_op_id *op, int64_t *index, int64_t *epoch)
{
    char word[32] = "";
    char *end = NULL;
    size_t size = strcspn(name, "-");
    if (size >= sizeof word || name[size] == '\0')
        return false;
    memcpy(word, name, size);
    *index = strtoll(name + size + 1, &end, 10);
    *epoch = *end == '.' ? strtoll(end + 1, &end, 10) : 0;
    return *end == '\0' && rh_op_from_name(word, op);
}

static const struct rh_sched_task *task_of(const struct patient *p, enum rh_op_id op, int64_t index)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct rh_sched_task *t = &p->tasks[i];
        if (t->op == op && index >= t->index && index <= t->last)
            return t;
    }
    return NULL;
}

static bool is_known_artifact(const struct patient *p, const char *name)
{
    enum rh_op_id op;
    int64_t index = 0, epoch = 0;
    if (!parse_name(name, &op, &index, &epoch))
        return false;
    const struct rh_sched_task *t = task_of(p, op, index);
    return t && (t->state == RH_TASK_DONE || (op == RH_OP_TUNE && index < t->next));
}

/* Staging of a lease, or the evidence of a failure. */
static bool is_known_staging(const struct patient *p, const char *name)
{
    enum rh_op_id op;
    int64_t index = 0, epoch = 0;
    if (!parse_name(name, &op, &index, &epoch))
        return false;
    const struct rh_sched_task *t = task_of(p, op, index);
    return t && t->epoch == epoch && t->state != RH_TASK_DONE &&
           (t->worker[0] != '\0' || t->state == RH_TASK_FAILED || t->state == RH_TASK_QUARANTINED);
}

static void check_names(struct patient *p, const char *folder,
                        bool (*is_known)(const struct patient *p, const char *name),
                        const char *what)
{
    char *dir = rh_fs_join(p->dir, folder);
    char **names = NULL;
    size_t count = 0;
    if (rh_fs_is_dir(dir) && rh_fs_list(dir, &names, &count, NULL) != RH_OK)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        char *path = rh_fs_join(dir, names[i]);
        if (!is_known(p, names[i]))
            complain_of_orphan(p->v, p, path, what);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    rh_free(dir);
}

/* -- Jobs ------------------------------------------------------------------------------------- */

static void keep_task(void *arg, const struct rh_sched_task *row)
{
    struct patient *p = arg;
    p->tasks = rh_realloc_array(p->tasks, p->count + 1, sizeof *p->tasks);
    p->tasks[p->count] = *row;
    p->tasks[p->count].error = rh_strdup(row->error);
    p->count++;
}

static enum rh_rc check_job(void *arg, const struct rh_job_row *row, const struct rh_sched_job *job,
                            struct rh_error *err)
{
    struct visit *v = arg;
    struct patient p = {.v = v, .job = *job};
    p.dir = rh_format("%s/jobs/%s", v->state_dir, row->id);
    enum rh_rc rc = rh_database_tasks(v->db, row->id, keep_task, &p, err);
    v->jobs++;
    if (rc == RH_OK && job->state == RH_JOB_DONE) {
        check_finished(&p);
    } else if (rc == RH_OK) {
        check_names(&p, "artifacts", is_known_artifact,
                    "an artifact that no finished task has made");
        check_names(&p, "staging", is_known_staging, "a staging directory without a lease");
        for (size_t i = 0; i < p.count; i++)
            check_task(&p, &p.tasks[i]);
    }
    for (size_t i = 0; i < p.count; i++)
        rh_free(p.tasks[i].error);
    rh_free(p.tasks);
    rh_free(p.dir);
    return rc;
}

static enum rh_rc note_found(void *arg, const struct rh_job_row *row,
                             const struct rh_sched_job *job, struct rh_error *err)
{
    (void)row;
    (void)job;
    (void)err;
    *(bool *)arg = true;
    return RH_OK;
}

static enum rh_rc check_job_dirs(struct visit *v, struct rh_error *err)
{
    char *jobs = rh_fs_join(v->state_dir, "jobs");
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = rh_fs_list(jobs, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++) {
        bool found = false;
        char *path = rh_fs_join(jobs, names[i]);
        rc = rh_database_jobs(v->db, RH_JOBS_ID, names[i], note_found, &found, err);
        if (rc == RH_OK && !found)
            complain_of_orphan(v, NULL, path, "a job's directory without a job");
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    rh_free(jobs);
    return rc;
}

/* -- The whole -------------------------------------------------------------------------------- */

static enum rh_rc check_events(struct visit *v, struct rh_error *err)
{
    int64_t first = 0, last = 0, count = 0;
    enum rh_rc rc = rh_database_event_range(v->db, &first, &last, &count, err);
    if (rc == RH_OK && count > 0 && last - first + 1 != count)
        complain(v, "error", NULL, "roundhouse.db", "the events are not numbered without a gap",
                 "restore the database from a backup", false);
    return rc;
}

static void check_room(struct visit *v)
{
    uint64_t bytes = 0;
    uint64_t disk = 0;
    if (rh_fs_free_bytes(v->state_dir, &bytes, NULL) != RH_OK ||
        rh_fs_disk_bytes(v->state_dir, &disk, NULL) != RH_OK)
        return;
    int64_t headroom = rh_sched_headroom_for(disk);
    if (bytes >= (uint64_t)headroom)
        return;
    char *text = rh_format("%llu bytes are free, %lld are to stay free", (unsigned long long)bytes,
                           (long long)headroom);
    complain(v, "warning", NULL, v->state_dir, text, "roundhouse gc, or make room otherwise",
             false);
    rh_free(text);
}

static enum rh_rc look(struct visit *v, struct rh_error *err)
{
    v->problems = rh_json_new_array();
    v->jobs = v->artifacts = v->bytes = 0;
    char *path = rh_fs_join(v->state_dir, "roundhouse.db");
    enum rh_rc rc = rh_database_open_reader(path, &v->db, err);
    if (rc == RH_OK)
        rc = check_events(v, err);
    if (rc == RH_OK)
        rc = rh_database_jobs(v->db, RH_JOBS_ALL, NULL, check_job, v, err);
    if (rc == RH_OK)
        rc = check_job_dirs(v, err);
    check_room(v);
    rh_database_close(v->db);
    v->db = NULL;
    rh_free(path);
    return rc;
}

static bool is_in(const struct rh_json *list, const struct rh_json *problem)
{
    const char *path = rh_json_string(rh_json_get(problem, "path"));
    for (const struct rh_json *p = rh_json_first(list); p; p = rh_json_next(p)) {
        if (strcmp(rh_json_string(rh_json_get(p, "path")), path) == 0)
            return true;
    }
    return false;
}

/* Beside a running orchestrator things are on their way: only what is wrong twice is wrong. */
static enum rh_rc look_again(struct visit *v, struct rh_error *err)
{
    struct rh_json *before = v->problems;
    struct rh_json *both = rh_json_new_array();
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    enum rh_rc rc = look(v, err);
    for (const struct rh_json *p = rh_json_first(v->problems); p; p = rh_json_next(p)) {
        if (is_in(before, p))
            rh_json_append(both, rh_json_copy(p));
    }
    rh_json_free(before);
    rh_json_free(v->problems);
    v->problems = both;
    return rc;
}

static struct rh_json *report(const struct visit *v, bool running)
{
    struct rh_json *out = rh_json_new_object();
    struct rh_json *checked = rh_json_new_object();
    rh_json_set_int(checked, "jobs", v->jobs);
    rh_json_set_int(checked, "artifacts", v->artifacts);
    rh_json_set_int(checked, "bytes", v->bytes);
    rh_json_set_string(out, "schema", "roundhouse.doctor/1");
    rh_json_set_string(out, "state", v->state_dir);
    rh_json_set_bool(out, "running", running);
    rh_json_set_bool(out, "deep", v->options->deep);
    rh_json_set(out, "checked", checked);
    rh_json_set(out, "problems", v->problems);
    return out;
}

/* Whoever can lock the directory is alone in it. */
static enum rh_rc open_writer(struct visit *v, struct rh_error *err)
{
    char *path = rh_fs_join(v->state_dir, "roundhouse.db");
    enum rh_rc rc = rh_database_open(path, &v->writer, err);
    rh_free(path);
    return rc;
}

enum rh_rc rh_doctor(const char *state_dir, const struct rh_doctor_options *options,
                     struct rh_json **out, struct rh_error *err)
{
    struct visit v = {.options = options, .state_dir = state_dir};
    struct rh_error why;
    int lock = -1;
    *out = NULL;
    char *path = rh_fs_join(state_dir, "roundhouse.db");
    bool there = rh_fs_exists(path);
    rh_free(path);
    if (!there)
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s is no state directory, it has no roundhouse.db",
                       state_dir);
    enum rh_rc rc = rh_lock_dir(state_dir, &lock, &why);
    bool running = rc == RH_ERR_EXISTS;
    if (rc != RH_OK && (!running || options->fix))
        return rh_fail(err, rc, "%s", why.message);
    rc = options->fix ? open_writer(&v, err) : RH_OK;
    if (rc == RH_OK)
        rc = look(&v, err);
    if (rc == RH_OK && running && rh_json_count(v.problems) > 0)
        rc = look_again(&v, err);
    rh_database_close(v.writer);
    if (lock >= 0)
        close(lock);
    if (rc == RH_OK)
        *out = report(&v, running);
    else
        rh_json_free(v.problems);
    return rc;
}

int rh_doctor_errors(const struct rh_json *doctor_report)
{
    int errors = 0;
    const struct rh_json *problems = rh_json_get(doctor_report, "problems");
    for (const struct rh_json *p = rh_json_first(problems); p; p = rh_json_next(p))
        errors += strcmp(rh_json_string(rh_json_get(p, "severity")), "error") == 0 &&
                  !rh_json_bool(rh_json_get(p, "fixed"), false);
    return errors;
}
