#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"
#include "store/store.h"

/* What may go: files of finished jobs beyond what is retained, and, when asked for, those of jobs
 * that failed or were cancelled long ago. Never anything of a job that is active. */

struct heap {
    char id[RH_JOB_ID_SIZE];
    char *dir;
    int64_t ended_unix_ns, bytes;
    bool finished; /* else failed or cancelled */
    bool unchanged; /* since it was measured */
};

/* Sizes take a walk through directories, which may take seconds: they are found out in a thread of
 * libuv's pool, and what follows from them is done on the loop again. One walk at a time. */
struct rh_gc_run {
    uv_work_t work;
    struct rh_factory *f;
    struct rh_gc_options options;
    rh_gc_fn done; /* NULL: nobody wants the report */
    void *arg;
    struct heap *heaps; /* by end, oldest first */
    size_t count;
    struct rh_gc_run *next;
};

/* Bytes that deleting would free: what has another name elsewhere stays. keep: names that stay. */
static int64_t tree_bytes(const char *path, bool (*keep)(const char *name))
{
    struct stat st;
    char **names = NULL;
    size_t count = 0;
    int64_t bytes = 0;
    if (lstat(path, &st) != 0)
        return 0;
    if (!S_ISDIR(st.st_mode))
        return st.st_nlink == 1 ? (int64_t)st.st_blocks * 512 : 0;
    if (rh_fs_list(path, &names, &count, NULL) != RH_OK)
        return 0;
    for (size_t i = 0; i < count; i++) {
        char *child = rh_fs_join(path, names[i]);
        if (!keep || !keep(names[i]))
            bytes += tree_bytes(child, keep);
        rh_free(child);
    }
    rh_fs_list_free(names, count);
    return bytes;
}

static enum rh_rc note_job(void *arg, const struct rh_job_row *row, const struct rh_sched_job *job,
                           struct rh_error *err)
{
    struct rh_gc_run *run = arg;
    (void)err;
    if (job->state < RH_JOB_DONE || rh_sched_find_job(run->f->sched, row->id))
        return RH_OK;
    struct heap heap = {.ended_unix_ns = row->finished_unix_ns,
                        .finished = job->state == RH_JOB_DONE};
    memcpy(heap.id, job->id, sizeof heap.id);
    heap.dir = rh_format("%s/jobs/%s", run->f->state_dir, row->id);
    run->heaps = rh_realloc_array(run->heaps, run->count + 1, sizeof *run->heaps);
    run->heaps[run->count++] = heap;
    return RH_OK;
}

static int compare_ends(const void *a, const void *b)
{
    const struct heap *x = a;
    const struct heap *y = b;
    return x->ended_unix_ns < y->ended_unix_ns ? -1 : x->ended_unix_ns > y->ended_unix_ns;
}

/* A failed job without its files starts from nothing when it is retried, so its tasks go too. */
static enum rh_rc drop(struct rh_factory *f, const struct heap *heap, struct rh_error *err)
{
    enum rh_rc rc = rh_database_forget_steps(f->db, heap->id, err);
    if (rc == RH_OK && !heap->finished)
        rc = rh_database_forget_tasks(f->db, heap->id, err);
    if (rc != RH_OK)
        return rc;
    if (heap->finished)
        rh_factory_prune(f, heap->dir);
    else
        rh_factory_discard(f, heap->dir);
    rh_log(RH_LOG_INFO, "space.collected", "job=%s bytes=%lld", heap->id, (long long)heap->bytes);
    return RH_OK;
}

static int64_t finished_bytes(const struct rh_gc_run *run)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < run->count; i++)
        bytes += run->heaps[i].finished ? run->heaps[i].bytes : 0;
    return bytes;
}

static void add_item(struct rh_json *items, const struct heap *heap)
{
    struct rh_json *item = rh_json_new_object();
    rh_json_add(item, "job", rh_json_new_string(heap->id));
    rh_json_add(item, "what", rh_json_new_string(heap->finished ? "finished" : "failed"));
    rh_json_add(item, "path", rh_json_new_string(heap->dir));
    rh_json_add(item, "bytes", rh_json_new_number((double)heap->bytes));
    rh_json_append(items, item);
}

static enum rh_rc note_end(void *arg, const struct rh_job_row *row, const struct rh_sched_job *job,
                           struct rh_error *err)
{
    struct heap *heap = arg;
    (void)err;
    heap->unchanged = (job->state == RH_JOB_DONE) == heap->finished &&
                      row->finished_unix_ns == heap->ended_unix_ns;
    return RH_OK;
}

/* Has the job stayed as it was since it was measured? It may also have been taken up and have ended
 * again. */
static bool is_unchanged(struct rh_factory *f, struct heap *heap)
{
    heap->unchanged = false;
    return !rh_sched_find_job(f->sched, heap->id) &&
           rh_database_jobs(f->db, RH_JOBS_ID, heap->id, note_end, heap, NULL) == RH_OK &&
           heap->unchanged;
}

/* On the loop, with the sizes known. A job that was taken up meanwhile keeps its files. */
static enum rh_rc decide(struct rh_gc_run *run, struct rh_json **out, struct rh_error *err)
{
    struct rh_factory *f = run->f;
    const struct rh_gc_options *o = &run->options;
    struct rh_json *items = rh_json_new_array();
    int64_t freed = 0;
    int64_t retain = o->retain_bytes >= 0 ? o->retain_bytes : f->retain_bytes;
    int64_t kept = finished_bytes(run);
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < run->count && rc == RH_OK; i++) {
        struct heap *heap = &run->heaps[i];
        double age_s = (double)(rh_clock_unix_ns() - heap->ended_unix_ns) * 1e-9;
        bool goes = heap->finished ? kept > retain
                                   : o->failed_after_s >= 0 && age_s >= (double)o->failed_after_s;
        if (!goes || heap->bytes == 0 || !is_unchanged(f, heap))
            continue;
        kept -= heap->finished ? heap->bytes : 0;
        freed += heap->bytes;
        add_item(items, heap);
        if (!o->dry_run)
            rc = drop(f, heap, err);
    }
    if (rc != RH_OK) {
        rh_json_free(items);
        return rc;
    }
    *out = rh_json_new_object();
    rh_json_add(*out, "schema", rh_json_new_string("roundhouse.gc/1"));
    rh_json_add(*out, "dry_run", rh_json_new_bool(o->dry_run));
    rh_json_add(*out, "freed_bytes", rh_json_new_number((double)freed));
    rh_json_add(*out, "retained_bytes", rh_json_new_number((double)kept));
    rh_json_add(*out, "items", items);
    return RH_OK;
}

static void measure(uv_work_t *work)
{
    struct rh_gc_run *run = work->data;
    for (size_t i = 0; i < run->count; i++) {
        struct heap *heap = &run->heaps[i];
        heap->bytes = tree_bytes(heap->dir, heap->finished ? rh_factory_is_keepsake : NULL);
    }
}

static void start_run(struct rh_gc_run *run);

/* Reports, whatever has become of it, and lets the next one begin. */
static void finish(struct rh_gc_run *run, enum rh_rc rc, struct rh_json *report,
                   const struct rh_error *err)
{
    struct rh_factory *f = run->f;
    f->gc_first = run->next;
    if (rc != RH_OK && !run->done)
        rh_log(RH_LOG_WARN, "space.uncollected", "why=\"%s\"", err->message);
    if (run->done)
        run->done(run->arg, report, rc == RH_OK ? NULL : err);
    rh_json_free(report);
    for (size_t i = 0; i < run->count; i++)
        rh_free(run->heaps[i].dir);
    rh_free(run->heaps);
    rh_free(run);
    if (f->gc_first)
        start_run(f->gc_first);
    else if (f->gc_idle)
        f->gc_idle(f);
}

static void measured(uv_work_t *work, int status)
{
    struct rh_gc_run *run = work->data;
    struct rh_json *report = NULL;
    struct rh_error err = {0};
    enum rh_rc rc = status == 0 && !run->f->stopping
                        ? decide(run, &report, &err)
                        : rh_fail(&err, RH_ERR_CANCELLED, "the factory is shutting down");
    finish(run, rc, report, &err);
}

static void start_run(struct rh_gc_run *run)
{
    struct rh_error err = {0};
    enum rh_rc rc = rh_database_jobs(run->f->db, RH_JOBS_ALL, NULL, note_job, run, &err);
    if (rc == RH_OK && run->count > 0)
        qsort(run->heaps, run->count, sizeof *run->heaps, compare_ends);
    run->work.data = run;
    if (rc == RH_OK && uv_queue_work(run->f->loop, &run->work, measure, measured) != 0)
        rc = rh_fail(&err, RH_ERR_INTERNAL, "no thread to be had");
    if (rc != RH_OK)
        finish(run, rc, NULL, &err);
}

void rh_factory_gc(struct rh_factory *f, const struct rh_gc_options *options, rh_gc_fn done,
                   void *arg)
{
    struct rh_gc_run **end = &f->gc_first;
    if (f->stopping) { /* nobody waits for a walk that begins now */
        struct rh_error err;
        (void)!rh_fail(&err, RH_ERR_CANCELLED, "the factory is shutting down");
        if (done)
            done(arg, NULL, &err);
        return;
    }
    struct rh_gc_run *run = rh_alloc(sizeof *run);
    *run = (struct rh_gc_run){.f = f, .options = *options, .done = done, .arg = arg};
    while (*end)
        end = &(*end)->next;
    *end = run;
    if (f->gc_first == run)
        start_run(run);
}

void rh_factory_retain(struct rh_factory *f, const struct rh_sched_job *job)
{
    const struct rh_job_info *info = job->user;
    if (f->retain_bytes == 0) {
        rh_factory_prune(f, info->dir);
        return;
    }
    char *scratch = rh_fs_join(info->dir, RH_STORE_SCRATCH);
    rh_factory_discard(f, scratch);
    rh_free(scratch);
    /* Without a staging folder it is not taken for a job whose pruning was cut off. */
    char *staging = rh_fs_join(info->dir, "staging");
    rh_factory_discard(f, staging);
    rh_free(staging);
    f->gc_due = true;
}

void rh_factory_look_after_space(struct rh_factory *f)
{
    bool blocked = false;
    int64_t now = rh_factory_now();
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++) {
        const struct rh_sched_job *job = rh_sched_job_at(f->sched, i);
        /* No file that goes makes a device larger. */
        blocked = blocked || (job->state == RH_JOB_BLOCKED && !job->lacks_device);
    }
    if (f->retain_bytes == 0 || f->stuck || f->stopping || f->gc_first || (!f->gc_due && !blocked) ||
        now < f->next_gc)
        return;
    f->gc_due = false;
    f->next_gc = now + (blocked ? 10000 : 1000);
    /* What is kept for reuse makes room for what is to be done. */
    const struct rh_gc_options options = {.retain_bytes = blocked ? 0 : f->retain_bytes,
                                          .failed_after_s = -1};
    rh_factory_gc(f, &options, NULL, NULL);
}
