#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* Disk: what jobs will still write is known from their plans to the byte, so it is set aside before
 * they begin, and a job that does not fit waits instead of failing half way. */

void rh_sched_space(struct rh_sched *s, int64_t free_bytes)
{
    s->space = free_bytes;
}

void rh_sched_set_headroom(struct rh_sched *s, int64_t bytes)
{
    s->config.headroom = bytes;
}

int64_t rh_sched_headroom_for(uint64_t disk_bytes)
{
    uint64_t share = disk_bytes / 20;
    return share < (uint64_t)rh_sched_defaults.headroom ? (int64_t)share
                                                        : rh_sched_defaults.headroom;
}

static bool is_done(const struct rh_sched_job *job, enum rh_op_id op, int64_t index)
{
    const struct rh_sched_task *task = rh_sched_task_of(job, op, index);
    return task && task->state == RH_TASK_DONE;
}

/* What is still to be tuned, and the chains around the block being tuned; behind the MTP head
 * there is none. */
static int64_t unwritten_blocks(const struct rh_sched_job *job)
{
    const struct rh_graph *g = job->graph;
    int64_t next = rh_sched_current_block(job);
    int64_t bytes = 0;
    for (int64_t step = next; step < g->steps; step++)
        bytes += g->output_bytes[rh_graph_unit_of(g, step)];
    if (next < g->blocks)
        bytes += next == 0 && g->blocks > 1 ? 2 * g->chain_bytes : g->chain_bytes;
    return bytes;
}

int64_t rh_sched_unwritten(const struct rh_sched_job *job)
{
    const struct rh_graph *g = job->graph;
    if (!g || job->state >= RH_JOB_DONE)
        return 0;
    bool fetched = true;
    int64_t bytes = unwritten_blocks(job);
    for (int64_t u = 0; u < g->units; u++) {
        fetched = fetched && is_done(job, RH_OP_FETCH, u);
        bytes += is_done(job, RH_OP_FETCH, u) ? 0 : g->source_bytes[u];
        bytes += is_done(job, RH_OP_PACK, u) ? 0 : g->output_bytes[u];
    }
    for (int64_t i = 0; i < g->shards; i++)
        bytes += is_done(job, RH_OP_SHARD, i) ? 0 : g->shard_bytes[i];
    bytes += fetched ? 0 : g->download_bytes;
    return bytes; /* publishing links, or writes to another disk */
}

/* Parked with files on the disk already: the room it frees by ending is only had by letting it end,
 * which one that waits for a device cannot. */
static bool has_begun(const struct rh_sched_job *job)
{
    return job->state == RH_JOB_BLOCKED && !job->lacks_device && is_done(job, RH_OP_FETCH, 0);
}

/* To jobs that have their reservation, and to those before `job` that wait for theirs. */
static int64_t promised(const struct rh_sched *s, const struct rh_sched_job *job)
{
    int64_t bytes = 0;
    bool before = true;
    for (size_t i = 0; i < s->job_count; i++) {
        const struct rh_sched_job *other = s->jobs[i];
        before = before && other != job;
        if (other != job && (other->reserved || (before && has_begun(other))))
            bytes += rh_sched_unwritten(other);
    }
    return bytes;
}

char *rh_sched_shortage(const struct rh_sched *s, const struct rh_sched_job *job, const char *why)
{
    if (s->space < 0)
        return rh_format("%s; it is tried again by itself", why);
    return rh_format("%s: %lld bytes are still to be written; %lld are free, of which %lld are "
                     "promised to other jobs and %lld stay free; make room, and it goes on by "
                     "itself",
                     why, (long long)rh_sched_unwritten(job), (long long)s->space,
                     (long long)promised(s, job), (long long)s->config.headroom);
}

static bool fits(const struct rh_sched *s, const struct rh_sched_job *job)
{
    return s->space < 0 ||
           rh_sched_unwritten(job) <= s->space - s->config.headroom - promised(s, job);
}

/* What is parked says why, with the figures of now; nothing is stored for a change of figures. */
static void refresh_reason(const struct rh_sched *s, struct rh_sched_job *job)
{
    bool device = job->reason && strncmp(job->reason, RH_NO_DEVICE, sizeof RH_NO_DEVICE - 1) == 0;
    if (!device && (!job->reason || strncmp(job->reason, RH_NO_ROOM, sizeof RH_NO_ROOM - 1) != 0))
        return;
    char *reason = rh_sched_shortage(s, job, RH_NO_ROOM);
    rh_free(job->reason);
    job->reason = reason;
}

/* Without a plan nobody knows what a job will write: it waits as long as nothing may come in. */
static void wait_without_plan(struct rh_sched *s, struct rh_sched_job *job)
{
    if (!rh_sched_short_of_space(s, RH_STAGE_DOWNLOAD))
        return;
    if (job->state == RH_JOB_BLOCKED) {
        refresh_reason(s, job);
    } else if (rh_sched_live_tasks(job) == 0) {
        char *reason = rh_sched_shortage(s, job, RH_NO_ROOM);
        rh_sched_job_state(s, job, RH_JOB_BLOCKED, reason);
        rh_free(reason);
    }
}

static void reserve(struct rh_sched *s, int64_t now, struct rh_sched_job *job)
{
    bool waits = job->state == RH_JOB_BLOCKED;
    if (!waits && job->state != RH_JOB_RUNNING) {
        job->reserved = false;
        return;
    }
    if (!job->graph)
        wait_without_plan(s, job);
    if (!job->graph || rh_sched_wait_for_device(s, job))
        return;
    if (job->reserved || (waits && now < job->blocked_until))
        return;
    job->reserved = fits(s, job);
    if (job->reserved)
        rh_sched_touch(job);
    if (job->reserved && waits) {
        rh_sched_job_state(s, job, RH_JOB_RUNNING, NULL);
    } else if (!job->reserved && waits) {
        refresh_reason(s, job);
    } else if (!job->reserved && rh_sched_live_tasks(job) == 0) {
        char *reason = rh_sched_shortage(s, job, RH_NO_ROOM);
        rh_sched_job_state(s, job, RH_JOB_BLOCKED, reason);
        rh_free(reason);
    }
}

/* Somebody else may fill the disk: below the headroom nothing new comes in, below a quarter of it
 * nothing is written at all. */
static void watch_level(struct rh_sched *s)
{
    bool low = s->space >= 0 && s->space < s->config.headroom;
    if (low == s->space_low)
        return;
    char *text = rh_format("%lld bytes are free, %lld are to stay free", (long long)s->space,
                           (long long)s->config.headroom);
    rh_sched_event(s, low ? "space.low" : "space.enough", NULL, NULL, -1, text, NULL);
    rh_free(text);
    s->space_low = low;
}

bool rh_sched_short_of_space(const struct rh_sched *s, enum rh_stage_id stage)
{
    if (s->space < 0 || s->space >= s->config.headroom)
        return false;
    return stage == RH_STAGE_DOWNLOAD || s->space < s->config.headroom / 4;
}

void rh_sched_reserve(struct rh_sched *s, int64_t now)
{
    watch_level(s);
    for (size_t i = 0; i < s->job_count; i++)
        reserve(s, now, s->jobs[i]);
}
