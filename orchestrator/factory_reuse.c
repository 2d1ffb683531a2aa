#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "factory_internal.h"
#include "store/store.h"

/*
 * What was done before is not done again. A step's key says all that its outcome depends on, and
 * nothing else: the operation, the version of what it does, the parts of the recipe that it reads,
 * and the content of its inputs by digest. The build is no part of it, or every fix of a comment
 * would throw days of tuning away. What a key finds is linked into the job, not copied.
 */

/* Raise a number when the operation gives other bytes for the same inputs. 0: always done anew;
 * its inputs cannot be told by content, or it costs next to nothing. */
static const int versions[RH_OP_COUNT] = {
    [RH_OP_FETCH] = 1, [RH_OP_PROBE] = 1, [RH_OP_TUNE] = 1, [RH_OP_PACK] = 1, [RH_OP_SHARD] = 1};

/* -- Sources ---------------------------------------------------------------------------------- */

/* Where the files of a job's plan come from. */
struct origin {
    const char *dir;            /* of a local source; NULL: it is of the Hub */
    const struct rh_json *list; /* "files" of source.json */
};

/* A file of the Hub is known by its digest. False: it is not in the list. */
static bool add_listed(struct rh_strbuf *text, const struct rh_json *list, const char *name)
{
    for (const struct rh_json *f = rh_json_first(list); f; f = rh_json_next(f)) {
        const char *path = rh_json_string(rh_json_get(f, "path"));
        const struct rh_json *lfs = rh_json_get(f, "lfs");
        const char *digest = rh_json_string(rh_json_get(lfs ? lfs : f, "oid"));
        if (path && digest && strcmp(path, name) == 0) {
            rh_strbuf_printf(text, "%s %s\n", name, digest);
            return true;
        }
    }
    return false;
}

/* A local file is the same as long as nobody wrote to it: its inode's change time cannot be set.
 * False: it is not there. */
static bool add_source(struct rh_strbuf *text, const struct origin *origin,
                       const struct rh_json *files, int64_t file)
{
    struct stat st = {0};
    const struct rh_json *f = rh_json_first(files);
    while (f && file-- > 0)
        f = rh_json_next(f);
    const char *name = rh_json_string(rh_json_get(f, "name"));
    if (!origin->dir)
        return name && add_listed(text, origin->list, name);
    char *path = rh_fs_join(origin->dir, name ? name : "");
    bool there = name && stat(path, &st) == 0;
    if (there)
        rh_strbuf_printf(text, "%s %llu %llu %lld %lld.%09ld %lld.%09ld\n", name,
                         (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
                         (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                         (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
    rh_free(path);
    return there;
}

/* Tensors of one unit, beginning at *tensor, and the files they lie in; "" when the plan does not
 * say. */
static void digest_unit(const struct origin *origin, const struct rh_json *plan,
                        const struct rh_json *unit, const struct rh_json **tensor,
                        char out[RH_SHA256_HEX_SIZE])
{
    struct rh_strbuf text = {0};
    int64_t count = 0, last = -1;
    bool there = true;
    out[0] = '\0';
    if (!rh_json_int(rh_json_get(unit, "source_tensors"), &count))
        return;
    for (; count > 0 && *tensor; count--, *tensor = rh_json_next(*tensor)) {
        int64_t file = 0;
        char *canonical = rh_json_canonical(*tensor);
        rh_strbuf_puts(&text, canonical);
        rh_free(canonical);
        if (rh_json_int(rh_json_get(*tensor, "file"), &file) && file != last)
            there = add_source(&text, origin, rh_json_get(plan, "files"), file) && there;
        last = file;
    }
    if (count == 0 && text.text && there)
        rh_sha256_of(text.text, text.size, out);
    rh_strbuf_done(&text);
}

/* *source: what *origin refers to; rh_json_free(). False: nobody knows what the source is. */
static bool find_origin(const struct rh_job_info *info, const char *plan_dir, struct origin *origin,
                        struct rh_json **source)
{
    *source = NULL;
    *origin = (struct origin){0};
    if (strncmp(info->model, "file:", 5) == 0) {
        origin->dir = info->model + 5;
        return true;
    }
    char *path = rh_fs_join(plan_dir, "source.json");
    if (rh_fs_exists(path) && rh_json_read(path, RH_PLAN_BYTES_MAX, source, NULL) == RH_OK)
        origin->list = rh_json_get(*source, "files");
    rh_free(path);
    return origin->list != NULL;
}

/* Once a job: the plan of a large model is large. */
static void digest_units(struct rh_job_info *info, const struct rh_graph *graph)
{
    struct rh_json *plan = NULL, *source = NULL;
    struct origin origin;
    if (info->unit_digests)
        return;
    info->unit_digests = rh_alloc_array((size_t)graph->units + 1, sizeof *info->unit_digests);
    char *dir = rh_store_artifact(info->dir, "plan", 0);
    char *path = rh_fs_join(dir, "plan.json");
    if (find_origin(info, dir, &origin, &source) &&
        rh_json_read(path, RH_PLAN_BYTES_MAX, &plan, NULL) == RH_OK) {
        const struct rh_json *tensor = rh_json_first(rh_json_get(plan, "tensors"));
        int64_t u = 0;
        for (const struct rh_json *unit = rh_json_first(rh_json_get(plan, "units"));
             unit && u < graph->units; unit = rh_json_next(unit), u++)
            digest_unit(&origin, plan, unit, &tensor, info->unit_digests[u]);
        char *config = rh_json_canonical(rh_json_get(plan, "config"));
        rh_sha256_of(config, strlen(config), info->config_digest);
        rh_free(config);
    }
    rh_json_free(source);
    rh_json_free(plan);
    rh_free(path);
    rh_free(dir);
}

/* -- Keys ------------------------------------------------------------------------------------- */

/* False when an input is not there (yet). */
static bool add_input(struct rh_strbuf *text, const char *job_dir, const char *op, int64_t index)
{
    char digest[RH_SHA256_HEX_SIZE];
    if (rh_store_digest(job_dir, op, index, digest, NULL) != RH_OK)
        return false;
    rh_strbuf_printf(text, "%s %" PRId64 " %s\n", op, index, digest);
    return true;
}

static void add_recipe(struct rh_strbuf *text, const struct rh_job_info *info,
                       const char *const *sections)
{
    struct rh_json *recipe = NULL;
    if (rh_json_parse(info->recipe, strlen(info->recipe), "stored recipe", &recipe, NULL) != RH_OK)
        return;
    for (; *sections; sections++) {
        char *canonical = rh_json_canonical(rh_json_get(recipe, *sections));
        rh_strbuf_printf(text, "%s %s\n", *sections, canonical);
        rh_free(canonical);
    }
    rh_json_free(recipe);
}

static bool add_shard_inputs(struct rh_strbuf *text, const struct rh_sched_job *job, int64_t shard)
{
    const struct rh_job_info *info = job->user;
    const struct rh_graph *g = job->graph;
    bool whole = add_input(text, info->dir, "plan", 0);
    for (int64_t u = 0; u < g->units && whole; u++)
        whole = !g->shard_units[shard * g->units + u] || add_input(text, info->dir, "pack", u);
    return whole;
}

/* By the source's digests: a probe begins before all of the model is here. */
static bool add_probe_inputs(struct rh_strbuf *text, const struct rh_sched_job *job)
{
    static const char *const sections[] = {"calibration", NULL};
    const struct rh_job_info *info = job->user;
    bool whole = true;
    add_recipe(text, info, sections);
    rh_strbuf_printf(text, "config %s\n", info->config_digest);
    for (int64_t u = 0; u <= job->graph->blocks && whole; u++) {
        rh_strbuf_printf(text, "unit %" PRId64 " %s\n", u, info->unit_digests[u]);
        whole = info->unit_digests[u][0] != '\0';
    }
    return whole && add_input(text, info->dir, "calibrate", 0);
}

/* previous: the directory of the job that has the block before; for tune only. */
static bool add_inputs(struct rh_strbuf *text, const struct rh_sched_job *job, enum rh_op_id op,
                       int64_t index, const char *previous)
{
    static const char *const tune_sections[] = {"quant", NULL};
    static const char *const pack_sections[] = {"quant", "mtp", NULL};
    const struct rh_job_info *info = job->user;
    int64_t blocks = job->graph->blocks;
    int64_t step = rh_graph_step_of(job->graph, index); /* of a packed unit */
    switch (op) {
    case RH_OP_FETCH:
        rh_strbuf_puts(text, info->unit_digests[index]);
        return info->unit_digests[index][0] != '\0';
    case RH_OP_PROBE:
        return add_probe_inputs(text, job);
    case RH_OP_TUNE:
        add_recipe(text, info, tune_sections);
        rh_strbuf_printf(text, "config %s\nblock %" PRId64 "\n", info->config_digest, index);
        return add_input(text, info->dir, job->graph->probe ? "probe" : "calibrate", 0) &&
               add_input(text, info->dir, "fetch", 0) &&
               add_input(text, info->dir, "fetch", rh_graph_unit_of(job->graph, index)) &&
               /* The MTP head also takes the final norm. */
               (index < blocks || add_input(text, info->dir, "fetch", blocks + 1)) &&
               (index == 0 || add_input(text, previous, "tune", index - 1));
    case RH_OP_PACK:
        add_recipe(text, info, pack_sections);
        rh_strbuf_printf(text, "config %s\nunit %" PRId64 "\n", info->config_digest, index);
        return add_input(text, info->dir, "fetch", index) &&
               (step < 0 || add_input(text, info->dir, "tune", step));
    case RH_OP_SHARD:
        return add_shard_inputs(text, job, index);
    default:
        return false;
    }
}

static bool make_key(const struct rh_sched_job *job, enum rh_op_id op, int64_t index,
                     const char *previous, char out[RH_SHA256_HEX_SIZE])
{
    struct rh_strbuf text = {0};
    if (versions[op] == 0 || !job->graph)
        return false;
    digest_units(job->user, job->graph);
    rh_strbuf_printf(&text, "%s %d\n", rh_op_name(op), versions[op]);
    bool whole = add_inputs(&text, job, op, index, previous);
    if (whole)
        rh_sha256_of(text.text, text.size, out);
    rh_strbuf_done(&text);
    return whole;
}

enum rh_rc rh_factory_save_step(struct rh_factory *f, const struct rh_sched_task *task,
                                int64_t block, struct rh_error *err)
{
    char key[RH_SHA256_HEX_SIZE];
    const struct rh_job_info *info = task->job->user;
    int64_t index = block >= 0 ? block : task->index;
    if ((task->op == RH_OP_TUNE && block < 0) ||
        !make_key(task->job, task->op, index, info->dir, key))
        return RH_OK;
    return rh_database_save_step(f->db, key, task->job->id, rh_op_name(task->op), index, err);
}

/* -- Reuse ------------------------------------------------------------------------------------ */

/* Another job's directory in which the outcome is; NULL: nowhere. Owned by caller. */
static char *find_donor(struct rh_factory *f, const struct rh_sched_job *job, enum rh_op_id op,
                        int64_t index, const char *previous, char from[RH_JOB_ID_SIZE])
{
    char key[RH_SHA256_HEX_SIZE];
    struct rh_step_row row;
    if (!make_key(job, op, index, previous, key) ||
        rh_database_find_step(f->db, key, &row, NULL) != RH_OK || row.job[0] == '\0' ||
        strcmp(row.job, job->id) == 0 || row.index != index || strcmp(row.op, rh_op_name(op)) != 0)
        return NULL;
    char *dir = rh_format("%s/jobs/%s", f->state_dir, row.job);
    char *artifact = rh_store_artifact(dir, row.op, index);
    /* Its chain may be gone, its result must be there. */
    const char *result = op == RH_OP_TUNE    ? "block.safetensors"
                         : op == RH_OP_PROBE ? "ids.safetensors"
                                             : "";
    char *main_file = rh_fs_join(artifact, result);
    if (!rh_store_has(dir, row.op, index) || !rh_fs_exists(main_file)) {
        rh_free(dir);
        dir = NULL;
    }
    memcpy(from, row.job, sizeof row.job);
    rh_free(main_file);
    rh_free(artifact);
    return dir;
}

static bool clone(const struct rh_job_info *info, const char *donor, const char *op, int64_t index)
{
    struct rh_error err;
    char *artifact = rh_store_artifact(donor, op, index);
    char *staging = rh_store_staging(info->dir, op, index, 0);
    enum rh_rc rc = rh_fs_remove_tree(staging, &err);
    if (rc == RH_OK)
        rc = rh_store_clone(artifact, staging, &err);
    if (rc == RH_OK)
        rc = rh_store_commit(staging, info->dir, op, index, &err);
    if (rc != RH_OK) {
        rh_log(RH_LOG_INFO, "task.not_reused", "artifact=%s why=\"%s\"", artifact, err.message);
        (void)!rh_fs_remove_tree(staging, NULL);
    }
    rh_free(staging);
    rh_free(artifact);
    return rc == RH_OK;
}

struct donor {
    char *dir;
    char job[RH_JOB_ID_SIZE];
};

/* The blocks that others have, from the next one on, as far as tuning could go on behind them. */
static size_t find_blocks(struct rh_factory *f, const struct rh_sched_task *tune,
                          struct donor *donors)
{
    const struct rh_job_info *info = tune->job->user;
    size_t found = 0, usable = 0;
    for (int64_t b = tune->next; b <= tune->last; b++) {
        const char *previous = found > 0 ? donors[found - 1].dir : info->dir;
        struct donor *d = &donors[found];
        d->dir = find_donor(f, tune->job, RH_OP_TUNE, b, previous, d->job);
        if (!d->dir)
            break;
        found++;
        char *artifact = rh_store_artifact(d->dir, "tune", b);
        char *chain = rh_fs_join(artifact, "chain.safetensors");
        if (b == tune->last || rh_fs_exists(chain))
            usable = found;
        rh_free(chain);
        rh_free(artifact);
    }
    return usable;
}

/* All of them or none: behind a part of them there may be no chain to go on from. */
static void reuse_blocks(struct rh_factory *f, struct rh_sched_task *tune)
{
    const struct rh_job_info *info = tune->job->user;
    size_t count = (size_t)(tune->last - tune->next + 1);
    struct donor *donors = rh_alloc_array(count + 1, sizeof *donors);
    size_t usable = find_blocks(f, tune, donors);
    size_t linked = 0;
    while (linked < usable && clone(info, donors[linked].dir, "tune", tune->next + (int64_t)linked))
        linked++;
    for (size_t i = linked; linked < usable && i-- > 0;) {
        char *dir = rh_store_artifact(info->dir, "tune", tune->next + (int64_t)i);
        rh_factory_discard(f, dir);
        rh_free(dir);
    }
    for (size_t i = 0; i < usable && linked == usable; i++)
        rh_sched_reused(f->sched, rh_factory_now(), tune, tune->next, donors[i].job);
    for (size_t i = 0; i < count; i++)
        rh_free(donors[i].dir);
    rh_free(donors);
}

static void reuse(struct rh_factory *f, struct rh_sched_task *task)
{
    struct donor d = {0};
    task->looked_up = true;
    if (versions[task->op] == 0)
        return;
    if (task->op == RH_OP_TUNE) {
        reuse_blocks(f, task);
        return;
    }
    const struct rh_job_info *info = task->job->user;
    d.dir = find_donor(f, task->job, task->op, task->index, info->dir, d.job);
    if (d.dir && clone(info, d.dir, rh_op_name(task->op), task->index))
        rh_sched_reused(f->sched, rh_factory_now(), task, -1, d.job);
    rh_free(d.dir);
}

void rh_factory_reuse(struct rh_factory *f)
{
    int64_t now = rh_factory_now();
    if (f->stuck || f->stopping)
        return;
    rh_sched_prepare(f->sched, now);
    for (size_t j = 0; j < rh_sched_job_count(f->sched); j++) {
        struct rh_sched_job *job = rh_sched_job_at(f->sched, j);
        size_t count = job->changed ? job->task_count : 0;
        job->changed = false;
        for (size_t i = 0; i < count; i++) {
            struct rh_sched_task *task = job->tasks[i];
            if (!task->looked_up && rh_sched_ready(task, now))
                reuse(f, task);
        }
    }
}
