#ifndef RH_PUBLISH_VERIFY_H
#define RH_PUBLISH_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/*
 * The gate before publication: is a directory the checkpoint that its config.json describes, will
 * loaders read it, and (with the source at hand) does it say the same as the source? The checks are
 * those of docs/formats.md. Memory is bounded by the largest linear plus one chunk of a tensor.
 */
enum rh_verify_id {
    RH_VERIFY_MANIFEST,     /* size and sha256 of every file that MANIFEST.json names */
    RH_VERIFY_FILES,        /* every .safetensors file is well formed */
    RH_VERIFY_INDEX,        /* every tensor once, where the index says; total_size */
    RH_VERIFY_CONFIG,       /* config.json and quantization_config.json, and that they agree */
    RH_VERIFY_SIDE_FILES,   /* tokenizer; with the source: byte copies of its side files */
    RH_VERIFY_INVENTORY,    /* the tensors are those that config and recipe ask for */
    RH_VERIFY_SHAPES,       /* shapes and types */
    RH_VERIFY_VALUES,       /* scales, zero points, codes; no NaN or infinity elsewhere */
    RH_VERIFY_PASS_THROUGH, /* unquantized tensors equal the source, byte for byte */
    RH_VERIFY_WEIGHTS,      /* dequantized linears against the source's weights */
    RH_VERIFY_COUNT,
};

enum rh_verify_state { RH_VERIFY_SKIPPED, RH_VERIFY_PASSED, RH_VERIFY_FAILED };

struct rh_verify_check {
    const char *name; /* "manifest", "pass-through", ... */
    enum rh_verify_state state;
    uint64_t count;    /* files, tensors or linears looked at */
    uint64_t problems; /* all of them, also those that are not in the list */
    char detail[200];  /* for people: what was counted, or why it was skipped */
};

struct rh_verify_problem {
    enum rh_verify_id check;
    char *text;
};

struct rh_verify_report {
    bool ok; /* no check failed */
    struct rh_verify_check checks[RH_VERIFY_COUNT];
    struct rh_verify_problem *problems; /* the first ones, in the order of discovery */
    size_t problem_count;
    uint64_t tensors, bytes;    /* of all .safetensors files */
    uint64_t quantized_linears; /* MTP included */
    /* Against the source: ||W' - W|| / ||W|| over a linear, its mean, and the worst one. */
    double error_mean, error_max;
    char *error_max_name; /* NULL when nothing was compared */
};

struct rh_verify_options {
    bool quick;         /* headers and sizes only: no digest, no value is read */
    size_t problem_max; /* texts kept of each check; 0: 10 */
    int threads;        /* 0: one per processor; never changes the report */
    /* Instead of a source directory: a job directory whose plan and fetch artifacts hold it. */
    const char *source_job;
    /* Called now and then, NULL allowed; anything but RH_OK ends the work with that error.
     * done and total in bytes of the phase. */
    enum rh_rc (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total,
                           struct rh_error *err);
    void *arg;
};

/*
 * Fills the report (zeroed first; free with rh_verify_report_done(), also after an error). RH_OK
 * means that the checks ran, not that they passed: see report->ok. Errors are reserved for what
 * keeps the checks from running (no such directory, a source that cannot be read, cancellation).
 * source_dir: a checkpoint directory as rh_model_plan_new() takes it, or NULL; options may be NULL.
 */
RH_MUST_USE enum rh_rc rh_verify_checkpoint(const char *dir, const char *source_dir,
                                            const struct rh_verify_options *options,
                                            struct rh_verify_report *report, struct rh_error *err);
void rh_verify_report_done(struct rh_verify_report *report);

const char *rh_verify_state_name(enum rh_verify_state state); /* "passed", "failed", "skipped" */
/* {schema: "roundhouse.verify/1", ok, tensors, bytes, quantized_linears, checks, problems}. */
struct rh_json *rh_verify_report_json(const struct rh_verify_report *report);

/* "rh-publish verify DIR ...": argv[1] is "verify". Returns the exit code. */
int rh_verify_command(int argc, char **argv);

#endif
