#ifndef RH_SCHEDULER_GRAPH_H
#define RH_SCHEDULER_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/*
 * The job graph of docs/architecture.md: which tasks a planned job has and what each one needs.
 * Dependencies follow from the plan's shape, so none of them is stored.
 */
enum rh_op_id {
    RH_OP_PLAN,
    RH_OP_FETCH,
    RH_OP_CALIBRATE,
    RH_OP_PROBE,
    RH_OP_TUNE,
    RH_OP_PACK,
    RH_OP_SHARD,
    RH_OP_FINALIZE,
    RH_OP_DIGEST,
    RH_OP_PUBLISH,
    RH_OP_COUNT,
};

enum rh_stage_id {
    RH_STAGE_DOWNLOAD,
    RH_STAGE_CALIBRATE,
    RH_STAGE_QUANTIZE,
    RH_STAGE_PACK,
    RH_STAGE_PUBLISH,
    RH_STAGE_COUNT,
};

const char *rh_op_name(enum rh_op_id op);
bool rh_op_from_name(const char *name, enum rh_op_id *out);
enum rh_stage_id rh_op_stage(enum rh_op_id op);
const char *rh_stage_name(enum rh_stage_id stage); /* "download" */
bool rh_stage_from_name(const char *name, enum rh_stage_id *out);

/* Bounds on what a plan may ask for; a plan beyond them is refused. */
#define RH_GRAPH_UNITS_MAX  4096
#define RH_GRAPH_SHARDS_MAX 4096
#define RH_GRAPH_FILES_MAX  4096

/* What scheduling needs to know of plan.json. Unit 0 is the head, block b is unit b + 1. */
struct rh_graph {
    int64_t units;
    int64_t blocks;
    int64_t steps;        /* of tuning: the blocks, then the MTP head where it is tuned */
    int64_t mtp;          /* unit of the MTP head where it is tuned, else -1 */
    int64_t files;        /* source shards: one digest each */
    int64_t shards;       /* output files */
    uint8_t *shard_units; /* [shards][units]: 1 when the shard holds a tensor of the unit */
    /* Bytes that tasks write, as far as the plan says (else 0). */
    int64_t *source_bytes; /* [units] */
    int64_t *output_bytes; /* [units] */
    int64_t *shard_bytes;  /* [shards] */
    bool probe;            /* the recipe tops experts up: rows are chosen before the tuning */
    int64_t chain_bytes;   /* of one chain.safetensors; two exist at a time */
    int64_t
        download_bytes; /* of source files that are kept until they are cut, at most at a time */
};

/* Reads the stored form of a model plan. Errors: RH_ERR_FORMAT naming `what` and the member. */
RH_MUST_USE enum rh_rc rh_graph_from_plan(const struct rh_json *plan, const char *what,
                                          struct rh_graph **out, struct rh_error *err);
/* A graph of the given shape in which shard s holds the units u with u % shards == s. */
struct rh_graph *rh_graph_new(int64_t blocks, int64_t extra_units, int64_t files, int64_t shards);
void rh_graph_free(struct rh_graph *graph);

/* The unit that a step of tuning is about, and the step that tunes a unit: -1 for none. */
int64_t rh_graph_unit_of(const struct rh_graph *graph, int64_t step);
int64_t rh_graph_step_of(const struct rh_graph *graph, int64_t unit);

/* How many tasks of an operation a job has: plan is 1 also before there is a graph (NULL), tune is
 * one session for all steps, probe is there where the recipe asks for it. */
int64_t rh_graph_count(const struct rh_graph *graph, enum rh_op_id op);

#endif
