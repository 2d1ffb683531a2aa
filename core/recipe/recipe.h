#ifndef RH_RECIPE_RECIPE_H
#define RH_RECIPE_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/*
 * What a model becomes. A recipe is JSON with comments; every key has a row in recipe.c's table
 * (name, type, bounds, default, help), which also makes the JSON Schema. Unknown keys are errors
 * that name the nearest known one. AutoRound's names are used where it has one.
 */
enum rh_dataset_order {
    RH_ORDER_AUTO,   /* python for local files, numpy for hub data sets */
    RH_ORDER_PYTHON, /* CPython random.Random(seed).shuffle */
    RH_ORDER_NUMPY,  /* numpy default_rng(seed).permutation */
    RH_ORDER_NONE,
};

enum rh_mtp_method { RH_MTP_RTN, RH_MTP_KEEP, RH_MTP_TUNE };

/* What the range of a group of weights is, before it is tuned. */
enum rh_observer {
    RH_OBSERVER_MINMAX, /* that of its weights */
    RH_OBSERVER_MSE,    /* the part of it in which rounding has the lowest squared error */
};

enum rh_backend_choice { RH_BACKEND_AUTO, RH_BACKEND_CPU, RH_BACKEND_CUDA };

struct rh_recipe {
    char *name;
    /* calibration.* */
    /* Data sets in AutoRound's notation (dataset_spec.h): paths, made absolute when the recipe is
     * loaded, or hub names ("owner/name" without a file suffix), with options; "" when the recipe
     * leaves it open. */
    char *dataset;
    int64_t nsamples;
    int64_t seqlen;
    int64_t calibration_seed;
    enum rh_dataset_order order;
    bool concat;       /* calibration.concat: pack documents end to end */
    int64_t expert_floor; /* calibration.expert_floor: fewer tokens of an expert are warned of */
    int64_t top_up_rows;  /* calibration.top_up_rows: exchange at most so many rows; 0: none */
    int64_t top_up_pool;  /* calibration.top_up_pool: rows to choose from; 0: as many as nsamples */
    bool accept_fewer; /* calibration.accept_fewer: go on with fewer rows than nsamples */
    /* quant.* */
    int bits;
    int64_t group_size; /* -1: one group per row */
    bool sym;
    enum rh_observer observer;
    int64_t iters; /* 0: round to nearest */
    int64_t batch_size;
    int64_t gradient_accumulate_steps;
    double lr;        /* 0: 1/iters */
    double minmax_lr; /* 0: lr */
    bool enable_minmax_tuning;
    bool enable_quanted_input;
    bool not_use_best_mse;
    int64_t seed;
    char **ignore_layers; /* AutoRound's rule: full name, else substring */
    int ignore_layers_count;
    /* mtp.*, output.*, resources.* */
    enum rh_mtp_method mtp;
    int64_t max_shard_bytes; /* 0: AutoRound's rule */
    enum rh_backend_choice backend;
    int64_t threads;         /* 0: all processors; never changes the result */
    int64_t prefetch_blocks; /* 0: no limit; else fetch at most so many blocks ahead of tuning */

    struct rh_json *canonical; /* every key with its value; owned */
    char digest[65];           /* sha256 of the canonical text without resources.*, name */
};

/* `reference`: a path, or the name of a shipped recipe ("tiny"), looked up in the recipe folders
 * (RH_RECIPE_PATH, ../share/roundhouse/recipes beside the program, configs/recipes of a checkout).
 */
RH_MUST_USE enum rh_rc rh_recipe_load(const char *reference, struct rh_recipe **out,
                                      struct rh_error *err);
/* From an already parsed object (stored canonical form included). */
RH_MUST_USE enum rh_rc rh_recipe_from_json(const struct rh_json *object, const char *what,
                                           struct rh_recipe **out, struct rh_error *err);
/* "quant.iters=200"; value parsed as JSON when it is one, else a string. Revalidates everything;
 * the recipe is unchanged on error. A dataset path is relative to the working directory. */
RH_MUST_USE enum rh_rc rh_recipe_set(struct rh_recipe *recipe, const char *assignment,
                                     struct rh_error *err);
void rh_recipe_free(struct rh_recipe *recipe);
/* What a job needs and a shipped recipe need not have: a calibration data set. */
RH_MUST_USE enum rh_rc rh_recipe_check_complete(const struct rh_recipe *recipe,
                                                struct rh_error *err);
struct rh_json *rh_recipe_schema(void); /* JSON Schema made from the table; owned by caller */

/* AutoRound's ignore rule: the full name, or a substring; an entry ending in a digit gets a dot. */
bool rh_recipe_ignores(const struct rh_recipe *recipe, const char *layer_name);

#endif
