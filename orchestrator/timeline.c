#include "timeline/timeline.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "scheduler/graph.h"

/* Text is borrowed from the events. */
struct span {
    const char *job, *op, *worker, *outcome; /* op NULL: a block; outcome NULL: still open */
    int64_t task, index;                     /* index: of the task, or the block */
    double begin, end;
};

struct spans {
    struct span *items;
    size_t count, capacity;
};

static struct span *add(struct spans *list, const struct span *span)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 64;
        list->items = rh_realloc_array(list->items, list->capacity, sizeof *list->items);
    }
    list->items[list->count] = *span;
    return &list->items[list->count++];
}

struct reading {
    struct spans tasks, blocks;
    double origin, last; /* unix seconds; origin negative: nothing yet */
};

static double seconds(const struct rh_json *event)
{
    return rh_json_number(rh_json_get(event, "unix_ns"), 0) * 1e-9;
}

static int64_t number(const struct rh_json *event, const char *key)
{
    int64_t value = -1;
    return rh_json_int(rh_json_get(event, key), &value) ? value : -1;
}

static void close_open(struct spans *list, int64_t task, int64_t index, double at,
                       const char *outcome)
{
    for (size_t i = list->count; i-- > 0;) {
        struct span *s = &list->items[i];
        if (s->task != task || s->outcome || (index >= 0 && s->index != index))
            continue;
        s->end = at;
        s->outcome = outcome;
        return;
    }
}

static const char *outcome_of(const char *type)
{
    static const char *const ends[] = {"done",   "lost",        "retry",   "stopped",
                                       "failed", "quarantined", "rejected"};
    if (strncmp(type, "task.", 5) != 0)
        return NULL;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (strcmp(type + 5, ends[i]) == 0)
            return ends[i];
    }
    return NULL;
}

static void take(struct reading *r, const struct rh_json *event)
{
    const char *type = rh_json_string(rh_json_get(event, "type"));
    struct span span = {.job = rh_json_string(rh_json_get(event, "job")),
                        .op = rh_json_string(rh_json_get(event, "op")),
                        .worker = rh_json_string(rh_json_get(event, "worker")),
                        .task = number(event, "task"),
                        .index = number(event, "index"),
                        .begin = seconds(event)};
    if (!type || !span.job || !span.op)
        return;
    const char *outcome = outcome_of(type);
    bool starts = strcmp(type, "task.started") == 0 || strcmp(type, "task.resumed") == 0;
    bool block_starts = strcmp(type, "block.started") == 0;
    bool block_ends = strcmp(type, "block.done") == 0;
    if (!outcome && !starts && !block_starts && !block_ends)
        return;
    if (r->origin < 0 || span.begin < r->origin)
        r->origin = span.begin;
    if (span.begin > r->last)
        r->last = span.begin;
    if (starts) {
        add(&r->tasks, &span);
    } else if (outcome) {
        close_open(&r->tasks, span.task, -1, span.begin, outcome);
        close_open(&r->blocks, span.task, -1, span.begin, outcome);
    } else if (block_starts) {
        span.index = number(event, "block");
        span.op = NULL;
        add(&r->blocks, &span);
    } else {
        close_open(&r->blocks, span.task, number(event, "block"), span.begin, "done");
    }
}

/* -- Sums ------------------------------------------------------------------------------------- */

struct interval {
    double begin, end;
};

static int compare_intervals(const void *a, const void *b)
{
    const struct interval *x = a;
    const struct interval *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Length of the union inside [from, to]; sorts. */
static double covered(struct interval *list, size_t count, double from, double to)
{
    double sum = 0;
    double at = from;
    qsort(list, count, sizeof *list, compare_intervals);
    for (size_t i = 0; i < count; i++) {
        double begin = list[i].begin > at ? list[i].begin : at;
        double end = list[i].end < to ? list[i].end : to;
        if (end <= begin)
            continue;
        sum += end - begin;
        at = end;
    }
    return sum;
}

static double busy(const struct reading *r, enum rh_stage_id stage)
{
    struct interval *list = rh_alloc_array(r->tasks.count + 1, sizeof *list);
    size_t count = 0;
    for (size_t i = 0; i < r->tasks.count; i++) {
        const struct span *s = &r->tasks.items[i];
        enum rh_op_id op;
        if (rh_op_from_name(s->op, &op) && rh_op_stage(op) == stage)
            list[count++] = (struct interval){s->begin, s->end};
    }
    double sum = covered(list, count, r->origin, r->last);
    rh_free(list);
    return sum;
}

struct edge {
    double at;
    int step; /* +1 begins, -1 ends */
    const char *job;
};

static int compare_edges(const void *a, const void *b)
{
    const struct edge *x = a;
    const struct edge *y = b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return x->step - y->step;
}

/* Sweeps over begins and ends, counting what runs by job. */
static double overlap(const struct reading *r, const struct rh_json *jobs)
{
    size_t job_count = rh_json_count(jobs);
    struct edge *edges = rh_alloc_array(2 * r->tasks.count + 1, sizeof *edges);
    int *running = rh_alloc_array(job_count + 1, sizeof *running);
    size_t count = 0;
    int active = 0;
    double sum = 0;
    for (size_t i = 0; i < r->tasks.count; i++) {
        const struct span *s = &r->tasks.items[i];
        edges[count++] = (struct edge){s->begin, 1, s->job};
        edges[count++] = (struct edge){s->end, -1, s->job};
    }
    qsort(edges, count, sizeof *edges, compare_edges);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && active > 1)
            sum += edges[i].at - edges[i - 1].at;
        size_t j = 0;
        for (const struct rh_json *job = rh_json_first(jobs); job; job = rh_json_next(job), j++) {
            const char *id = rh_json_string(rh_json_get(job, "id"));
            if (!id || strcmp(id, edges[i].job) != 0)
                continue;
            active -= running[j] > 0;
            running[j] += edges[i].step;
            active += running[j] > 0;
            break;
        }
    }
    rh_free(running);
    rh_free(edges);
    return sum;
}

/* -- The document ----------------------------------------------------------------------------- */

static struct rh_json *span_json(const struct reading *r, const struct span *s)
{
    struct rh_json *out = rh_json_new_object();
    enum rh_op_id op;
    rh_json_add(out, "job", rh_json_new_string(s->job));
    if (s->op && rh_op_from_name(s->op, &op))
        rh_json_add(out, "stage", rh_json_new_string(rh_stage_name(rh_op_stage(op))));
    if (s->op)
        rh_json_add(out, "op", rh_json_new_string(s->op));
    rh_json_add(out, s->op ? "index" : "block", rh_json_new_int(s->index));
    rh_json_add(out, "worker", rh_json_new_string(s->worker ? s->worker : ""));
    rh_json_add(out, "begin_s", rh_json_new_number(s->begin - r->origin));
    rh_json_add(out, "end_s", rh_json_new_number(s->end - r->origin));
    rh_json_add(out, "outcome", rh_json_new_string(s->outcome ? s->outcome : "running"));
    return out;
}

static struct rh_json *span_list(const struct reading *r, const struct spans *list)
{
    struct rh_json *out = rh_json_new_array();
    for (size_t i = 0; i < list->count; i++)
        rh_json_append(out, span_json(r, &list->items[i]));
    return out;
}

/* One worker's blocks: adds its wall and busy time. False: it did none, or was counted before. */
static bool tuner_of(const struct spans *blocks, size_t first, double *wall, double *sum)
{
    const char *worker = blocks->items[first].worker;
    struct interval *list = rh_alloc_array(blocks->count + 1, sizeof *list);
    size_t count = 0;
    double from = 0, to = 0;
    bool fresh = worker != NULL;
    for (size_t i = 0; i < blocks->count && fresh; i++) {
        const struct span *s = &blocks->items[i];
        if (!s->worker || strcmp(s->worker, worker) != 0)
            continue;
        fresh = i >= first;
        list[count++] = (struct interval){s->begin, s->end};
        if (!s->outcome || strcmp(s->outcome, "done") != 0)
            continue;
        from = from == 0 || s->end < from ? s->end : from;
        to = s->end > to ? s->end : to;
    }
    if (fresh && to > from) {
        *wall += to - from;
        *sum += covered(list, count, from, to);
    }
    rh_free(list);
    return fresh;
}

static struct rh_json *tuner_json(const struct reading *r)
{
    struct rh_json *out = rh_json_new_object();
    double wall = 0, sum = 0;
    int64_t workers = 0;
    for (size_t i = 0; i < r->blocks.count; i++)
        workers += tuner_of(&r->blocks, i, &wall, &sum);
    rh_json_add(out, "workers", rh_json_new_int(workers));
    rh_json_add(out, "wall_s", rh_json_new_number(wall));
    rh_json_add(out, "busy_s", rh_json_new_number(sum));
    rh_json_add(out, "idle_s", rh_json_new_number(wall - sum));
    rh_json_add(out, "idle_share",
                wall > 0 ? rh_json_new_number((wall - sum) / wall) : rh_json_new_null());
    return out;
}

static void end_open(struct spans *list, double at)
{
    for (size_t i = 0; i < list->count; i++) {
        if (!list->items[i].outcome)
            list->items[i].end = at;
    }
}

struct rh_json *rh_timeline(const struct rh_json *const *logs, const struct rh_json *jobs)
{
    struct reading r = {.origin = -1};
    for (size_t i = 0; i < rh_json_count(jobs); i++) {
        for (const struct rh_json *e = rh_json_first(logs[i]); e; e = rh_json_next(e))
            take(&r, e);
    }
    if (r.origin < 0)
        r.origin = 0;
    end_open(&r.tasks, r.last);
    end_open(&r.blocks, r.last);
    struct rh_json *out = rh_json_new_object();
    struct rh_json *stages = rh_json_new_object();
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        struct rh_json *stage = rh_json_new_object();
        rh_json_add(stage, "busy_s", rh_json_new_number(busy(&r, (enum rh_stage_id)i)));
        rh_json_add(stages, rh_stage_name((enum rh_stage_id)i), stage);
    }
    rh_json_add(out, "schema", rh_json_new_string("roundhouse.timeline/1"));
    rh_json_add(out, "from_unix_ns", rh_json_new_number(r.origin * 1e9));
    rh_json_add(out, "to_unix_ns", rh_json_new_number(r.last * 1e9));
    rh_json_add(out, "jobs", rh_json_copy(jobs));
    rh_json_add(out, "spans", span_list(&r, &r.tasks));
    rh_json_add(out, "blocks", span_list(&r, &r.blocks));
    rh_json_add(out, "stages", stages);
    rh_json_add(out, "overlap_s", rh_json_new_number(overlap(&r, jobs)));
    rh_json_add(out, "tuner", tuner_json(&r));
    rh_free(r.tasks.items);
    rh_free(r.blocks.items);
    return out;
}
