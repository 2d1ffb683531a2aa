#include "scheduler/graph.h"

#include <string.h>

#include "base/mem.h"

/* 64 TiB for one unit or file: 4096 of each, some counted thrice, stay inside 64 bits. */
#define BYTES_MAX (INT64_C(1) << 46)

static const struct {
    const char *name;
    enum rh_stage_id stage;
} ops[RH_OP_COUNT] = {
    [RH_OP_PLAN] = {"plan", RH_STAGE_DOWNLOAD},
    [RH_OP_FETCH] = {"fetch", RH_STAGE_DOWNLOAD},
    [RH_OP_CALIBRATE] = {"calibrate", RH_STAGE_CALIBRATE},
    [RH_OP_PROBE] = {"probe", RH_STAGE_QUANTIZE},
    [RH_OP_TUNE] = {"tune", RH_STAGE_QUANTIZE},
    [RH_OP_PACK] = {"pack", RH_STAGE_PACK},
    [RH_OP_SHARD] = {"shard", RH_STAGE_PACK},
    [RH_OP_FINALIZE] = {"finalize", RH_STAGE_PACK},
    [RH_OP_DIGEST] = {"digest", RH_STAGE_DOWNLOAD},
    [RH_OP_PUBLISH] = {"publish", RH_STAGE_PUBLISH},
};

static const char *const stages[RH_STAGE_COUNT] = {"download", "calibrate", "quantize", "pack",
                                                   "publish"};

const char *rh_op_name(enum rh_op_id op)
{
    return ops[op].name;
}

bool rh_op_from_name(const char *name, enum rh_op_id *out)
{
    for (int i = 0; i < RH_OP_COUNT; i++) {
        if (strcmp(ops[i].name, name) == 0) {
            *out = (enum rh_op_id)i;
            return true;
        }
    }
    return false;
}

enum rh_stage_id rh_op_stage(enum rh_op_id op)
{
    return ops[op].stage;
}

const char *rh_stage_name(enum rh_stage_id stage)
{
    return stages[stage];
}

bool rh_stage_from_name(const char *name, enum rh_stage_id *out)
{
    for (int i = 0; i < RH_STAGE_COUNT; i++) {
        if (strcmp(stages[i], name) == 0) {
            *out = (enum rh_stage_id)i;
            return true;
        }
    }
    return false;
}

static struct rh_graph *graph_alloc(int64_t units, int64_t shards)
{
    struct rh_graph *g = rh_alloc(sizeof *g);
    g->units = units;
    g->mtp = -1;
    g->shards = shards;
    g->shard_units = rh_alloc((size_t)(units * shards) + 1);
    g->source_bytes = rh_alloc_array((size_t)units + 1, sizeof *g->source_bytes);
    g->output_bytes = rh_alloc_array((size_t)units + 1, sizeof *g->output_bytes);
    g->shard_bytes = rh_alloc_array((size_t)shards + 1, sizeof *g->shard_bytes);
    return g;
}

struct rh_graph *rh_graph_new(int64_t blocks, int64_t extra_units, int64_t files, int64_t shards)
{
    struct rh_graph *g = graph_alloc(1 + blocks + extra_units, shards);
    g->blocks = g->steps = blocks;
    g->files = files;
    for (int64_t u = 0; u < g->units && shards > 0; u++)
        g->shard_units[(u % shards) * g->units + u] = 1;
    return g;
}

void rh_graph_free(struct rh_graph *graph)
{
    if (!graph)
        return;
    rh_free(graph->shard_units);
    rh_free(graph->source_bytes);
    rh_free(graph->output_bytes);
    rh_free(graph->shard_bytes);
    rh_free(graph);
}

int64_t rh_graph_unit_of(const struct rh_graph *graph, int64_t step)
{
    if (step < 0 || step >= graph->steps)
        return -1;
    return step < graph->blocks ? step + 1 : graph->mtp;
}

int64_t rh_graph_step_of(const struct rh_graph *graph, int64_t unit)
{
    if (unit >= 1 && unit <= graph->blocks)
        return unit - 1;
    return unit >= 0 && unit == graph->mtp ? graph->blocks : -1;
}

int64_t rh_graph_count(const struct rh_graph *graph, enum rh_op_id op)
{
    if (op == RH_OP_PLAN)
        return 1;
    if (!graph)
        return 0;
    switch (op) {
    case RH_OP_FETCH:
    case RH_OP_PACK:
        return graph->units;
    case RH_OP_SHARD:
        return graph->shards;
    case RH_OP_DIGEST:
        return graph->files;
    case RH_OP_PROBE:
        return graph->probe;
    default:
        return 1;
    }
}

static enum rh_rc bounded_array(const struct rh_json *plan, const char *key, const char *what,
                                size_t max, const struct rh_json **out, struct rh_error *err)
{
    enum rh_rc rc = rh_json_want_array(plan, key, what, out, err);
    if (rc != RH_OK)
        return rc;
    size_t count = rh_json_count(*out);
    if (count == 0 || count > max)
        return rh_fail(err, RH_ERR_FORMAT, "%s: \"%s\" has %zu entries, allowed are 1 to %zu", what,
                       key, count, max);
    return RH_OK;
}

/* Blocks must be the units 1..B, in order: the numbering rule of docs/architecture.md. */
static enum rh_rc count_blocks(const struct rh_json *units, const char *what, int64_t *out,
                               struct rh_error *err)
{
    int64_t blocks = 0, position = 0;
    for (const struct rh_json *u = rh_json_first(units); u; u = rh_json_next(u), position++) {
        const char *kind;
        enum rh_rc rc = rh_json_want_string(u, "kind", what, &kind, err);
        if (rc != RH_OK)
            return rc;
        if (strcmp(kind, "block") != 0)
            continue;
        if (position != blocks + 1)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: unit %lld is a block, but blocks must follow the head directly",
                           what, (long long)position);
        blocks++;
    }
    if (blocks == 0)
        return rh_fail(err, RH_ERR_FORMAT, "%s: no unit of kind \"block\"", what);
    *out = blocks;
    return RH_OK;
}

/* The MTP head is tuned after the last block, on the final norm, which is the unit in between. */
static enum rh_rc find_mtp(struct rh_graph *g, const struct rh_json *units, const char *what,
                           struct rh_error *err)
{
    int64_t position = 0, step = 0;
    for (const struct rh_json *u = rh_json_first(units); u; u = rh_json_next(u), position++) {
        const char *kind = rh_json_string(rh_json_get(u, "kind"));
        bool tuned = rh_json_int(rh_json_get(u, "step"), &step);
        if (!tuned || strcmp(kind, "block") == 0)
            continue;
        if (strcmp(kind, "mtp") != 0 || step != g->blocks || g->mtp >= 0 ||
            position <= g->blocks + 1)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: unit %lld is step %lld of tuning, but only an MTP head behind the "
                           "unit of the final norm can be, as step %lld",
                           what, (long long)position, (long long)step, (long long)g->blocks);
        g->mtp = position;
        g->steps++;
    }
    return RH_OK;
}

/* An optional size; sums cannot overflow with what a plan may hold. */
static enum rh_rc add_bytes(const struct rh_json *object, const char *key, const char *what,
                            int64_t *sum, struct rh_error *err)
{
    int64_t bytes = 0;
    if (rh_json_is_null(rh_json_get(object, key)))
        return RH_OK;
    enum rh_rc rc = rh_json_want_int(object, key, what, &bytes, err);
    if (rc == RH_OK && (bytes < 0 || *sum > BYTES_MAX - bytes))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: \"%s\" is %lld bytes, or too much in sum", what, key,
                     (long long)bytes);
    if (rc == RH_OK)
        *sum += bytes;
    return rc;
}

static enum rh_rc place_output(struct rh_graph *g, const struct rh_json *output, const char *what,
                               struct rh_error *err)
{
    int64_t unit, shard;
    enum rh_rc rc = rh_json_want_int(output, "unit", what, &unit, err);
    if (rc == RH_OK)
        rc = rh_json_want_int(output, "shard", what, &shard, err);
    if (rc != RH_OK)
        return rc;
    if (unit < 0 || unit >= g->units || shard < 0 || shard >= g->shards)
        return rh_fail(
            err, RH_ERR_FORMAT,
            "%s: output of unit %lld in shard %lld, there are %lld units and %lld shards", what,
            (long long)unit, (long long)shard, (long long)g->units, (long long)g->shards);
    g->shard_units[shard * g->units + unit] = 1;
    return add_bytes(output, "bytes", what, &g->output_bytes[unit], err);
}

static enum rh_rc read_sizes(struct rh_graph *g, const struct rh_json *units,
                             const struct rh_json *shards, const char *what, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    int64_t *at = g->source_bytes;
    for (const struct rh_json *u = rh_json_first(units); u && rc == RH_OK; u = rh_json_next(u))
        rc = add_bytes(u, "source_bytes", what, at++, err);
    at = g->shard_bytes;
    for (const struct rh_json *s = rh_json_first(shards); s && rc == RH_OK; s = rh_json_next(s))
        rc = add_bytes(s, "bytes", what, at++, err);
    return rc;
}

static bool wants_probe(const struct rh_json *plan)
{
    const struct rh_json *calibration = rh_json_get(rh_json_get(plan, "recipe"), "calibration");
    return rh_json_number(rh_json_get(calibration, "top_up_rows"), 0) > 0;
}

/* Two chains of nsamples * seqlen * hidden_size float32. */
static int64_t chain_bytes(const struct rh_json *plan)
{
    const struct rh_json *config = rh_json_get(plan, "config");
    const struct rh_json *text = rh_json_get(config, "text_config");
    const struct rh_json *calibration = rh_json_get(rh_json_get(plan, "recipe"), "calibration");
    double hidden = rh_json_number(rh_json_get(text ? text : config, "hidden_size"), 0);
    double rows = rh_json_number(rh_json_get(calibration, "nsamples"), 0);
    double tokens = rows * rh_json_number(rh_json_get(calibration, "seqlen"), 0);
    double bytes = tokens * hidden * 2 * 4;
    return bytes >= 0 && bytes < (double)BYTES_MAX ? (int64_t)bytes : 0;
}

enum rh_rc rh_graph_from_plan(const struct rh_json *plan, const char *what, struct rh_graph **out,
                              struct rh_error *err)
{
    const struct rh_json *units, *files, *shards, *outputs;
    int64_t blocks = 0;
    enum rh_rc rc = bounded_array(plan, "units", what, RH_GRAPH_UNITS_MAX, &units, err);
    if (rc == RH_OK)
        rc = bounded_array(plan, "files", what, RH_GRAPH_FILES_MAX, &files, err);
    if (rc == RH_OK)
        rc = bounded_array(plan, "shards", what, RH_GRAPH_SHARDS_MAX, &shards, err);
    if (rc == RH_OK)
        rc = bounded_array(plan, "outputs", what, 1u << 24, &outputs, err);
    if (rc == RH_OK)
        rc = count_blocks(units, what, &blocks, err);
    if (rc != RH_OK)
        return rc;
    struct rh_graph *g = graph_alloc((int64_t)rh_json_count(units), (int64_t)rh_json_count(shards));
    g->blocks = g->steps = blocks;
    g->files = (int64_t)rh_json_count(files);
    rc = find_mtp(g, units, what, err);
    for (const struct rh_json *o = rh_json_first(outputs); o && rc == RH_OK; o = rh_json_next(o))
        rc = place_output(g, o, what, err);
    if (rc == RH_OK)
        rc = read_sizes(g, units, shards, what, err);
    if (rc == RH_OK)
        rc = add_bytes(plan, "download_bytes", what, &g->download_bytes, err);
    g->chain_bytes = chain_bytes(plan);
    g->probe = wants_probe(plan);
    if (rc != RH_OK) {
        rh_graph_free(g);
        return rc;
    }
    *out = g;
    return RH_OK;
}
