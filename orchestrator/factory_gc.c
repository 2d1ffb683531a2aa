#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"

/* What may go: files of finished jobs beyond what is retained, and, when asked for, those of jobs
 * that failed or were cancelled long ago. Never anything of a job that is active. */

struct heap {
    char id[RH_JOB_ID_SIZE];
    char *dir;
    int64_t ended_unix_ns, bytes;
    bool finished; /* else failed or cancelled */
};

struct collection {
    struct rh_factory *f;
    struct heap *heaps; /* by end, oldest first */
    size_t count;
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
    struct collection *c = arg;
    (void)err;
    if (job->state < RH_JOB_DONE || rh_sched_find_job(c->f->sched, row->id))
        return RH_OK;
    struct heap heap = {.ended_unix_ns = row->finished_unix_ns,
                        .finished = job->state == RH_JOB_DONE};
    memcpy(heap.id, job->id, sizeof heap.id);
    heap.dir = rh_format("%s/jobs/%s", c->f->state_dir, row->id);
    heap.bytes = tree_bytes(heap.dir, heap.finished ? rh_factory_is_keepsake : NULL);
    if (heap.bytes == 0) {
        rh_free(heap.dir);
        return RH_OK;
    }
    c->heaps = rh_realloc_array(c->heaps, c->count + 1, sizeof *c->heaps);
    c->heaps[c->count++] = heap;
    return RH_OK;
}

static int compare_ends(const void *a, const void *b)
{
    const struct heap *x = a;
    const struct heap *y = b;
    return x->ended_unix_ns < y->ended_unix_ns ? -1 : x->ended_unix_ns > y->ended_unix_ns;
}

static enum rh_rc collect(struct rh_factory *f, struct collection *c, struct rh_error *err)
{
    c->f = f;
    enum rh_rc rc = rh_database_jobs(f->db, RH_JOBS_ALL, NULL, note_job, c, err);
    if (rc == RH_OK && c->count > 0)
        qsort(c->heaps, c->count, sizeof *c->heaps, compare_ends);
    return rc;
}

static void collection_done(struct collection *c)
{
    for (size_t i = 0; i < c->count; i++)
        rh_free(c->heaps[i].dir);
    rh_free(c->heaps);
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

static int64_t finished_bytes(const struct collection *c)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < c->count; i++)
        bytes += c->heaps[i].finished ? c->heaps[i].bytes : 0;
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

enum rh_rc rh_factory_gc(struct rh_factory *f, const struct rh_gc_options *o, struct rh_json **out,
                         struct rh_error *err)
{
    struct collection c = {0};
    struct rh_json *items = rh_json_new_array();
    int64_t freed = 0;
    int64_t retain = o->retain_bytes >= 0 ? o->retain_bytes : f->retain_bytes;
    enum rh_rc rc = collect(f, &c, err);
    int64_t kept = finished_bytes(&c);
    for (size_t i = 0; i < c.count && rc == RH_OK; i++) {
        const struct heap *heap = &c.heaps[i];
        double age_s = (double)(rh_clock_unix_ns() - heap->ended_unix_ns) * 1e-9;
        bool goes = heap->finished ? kept > retain
                                   : o->failed_after_s >= 0 && age_s >= (double)o->failed_after_s;
        if (!goes)
            continue;
        kept -= heap->finished ? heap->bytes : 0;
        freed += heap->bytes;
        add_item(items, heap);
        if (!o->dry_run)
            rc = drop(f, heap, err);
    }
    collection_done(&c);
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

static void keep_at_most(struct rh_factory *f, int64_t bytes)
{
    struct rh_error err;
    struct rh_json *unused = NULL;
    const struct rh_gc_options options = {.retain_bytes = bytes, .failed_after_s = -1};
    if (rh_factory_gc(f, &options, &unused, &err) != RH_OK)
        rh_log(RH_LOG_WARN, "space.uncollected", "why=\"%s\"", err.message);
    rh_json_free(unused);
}

void rh_factory_retain(struct rh_factory *f, const struct rh_sched_job *job)
{
    const struct rh_job_info *info = job->user;
    if (f->retain_bytes == 0) {
        rh_factory_prune(f, info->dir);
        return;
    }
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
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++)
        blocked = blocked || rh_sched_job_at(f->sched, i)->state == RH_JOB_BLOCKED;
    if (f->retain_bytes == 0 || f->stuck || (!f->gc_due && !blocked) || now < f->next_gc)
        return;
    f->gc_due = false;
    f->next_gc = now + (blocked ? 10000 : 1000);
    /* What is kept for reuse makes room for what is to be done. */
    keep_at_most(f, blocked ? 0 : f->retain_bytes);
}
