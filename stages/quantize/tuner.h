#ifndef RH_TUNING_TUNER_H
#define RH_TUNING_TUNER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "models/block.h"
#include "quant/scheme.h"

/*
 * The tuning loop of one block (docs/numerics.md, "The tuning loop"). Pure computation: no files,
 * no random numbers, no clock. Same inputs, same bytes on one backend. The loop only fills the
 * backend's queue: what an iteration decides is decided there, and losses come back later.
 */

struct rh_tune_options {
    int64_t iters;      /* 0: round to nearest */
    int64_t rows;       /* rows of an iteration */
    int64_t batch_size; /* rows of one forward and backward; the gradients of an iteration's batches
                         * are summed before the step */
    double lr;          /* 0: 1 / iters */
    double minmax_lr;   /* 0: lr */
    bool minmax;        /* tune alpha and beta */
    bool search;        /* begin with the ranges of the lowest squared error of the weights */
    bool keep_last;     /* the result is the last iteration's, not that of the lowest loss */
};

/* All borrowed. */
struct rh_tune_data {
    int64_t samples, seq, hidden;
    const void *input;    /* [samples, seq, hidden]: what the quantized block sees; backend memory or
                           * memory of rh_backend_alloc_host(), activation type */
    const void *target;   /* likewise: what it should give */
    const int64_t *order; /* host, [iters, rows]: the samples of each iteration */
};

struct rh_tune_result {
    double init_loss; /* of iteration 0: round to nearest on its rows */
    double best_loss; /* lowest loss of an iteration's rows; the first of equals counts. With
                       * keep_last the loss of the last iteration's rows. */
    int64_t best_iter; /* the iteration that the result is of */
};

/* Called once an iteration, in order and after its step, maybe some iterations late; an error ends
 * the loop. */
struct rh_tune_watch {
    enum rh_rc (*each)(void *arg, int64_t iter, double loss, double best_loss,
                       struct rh_error *err);
    void *arg;
};

/* The result of one linear, in host memory. */
struct rh_tuned_linear {
    const struct rh_linear *linear; /* borrowed from the plan */
    struct rh_scheme scheme;
    int64_t out_features, in_features;
    const uint8_t *codes;   /* [out, in], one code a byte */
    const uint16_t *scales; /* [out, groups], bits of fp16 */
    const uint8_t *zeros;   /* [out, groups]; NULL when symmetric */
};

struct rh_tuned {
    size_t count;
    struct rh_tuned_linear *linears; /* in the block's order */
    void *codes, *scales, *zeros;    /* their memory */
};

/* The parameters of a block's linears, and the buffers of the loop. */
struct rh_tuner;

/* Backend memory that a tuner takes, known without a block: *quantizer for parameters and results,
 * *batches for minibatches and, when the rows of an iteration are cut, for sums of gradients.
 * elements: of an arena (rh_block_needs()). */
void rh_tuner_needs(struct rh_backend *backend, const struct rh_unit *unit, int64_t experts,
                    int64_t elements, const struct rh_tune_options *options, int64_t seq,
                    int64_t hidden, size_t *quantizer, size_t *batches);

/*
 * The block must be reserved for options->batch_size x data->seq, with backward unless iters is 0,
 * and outlive the tuner. Leaves the block's weights_q at round to nearest. RH_ERR_NUMERIC names a
 * damaged linear.
 */
RH_MUST_USE enum rh_rc rh_tuner_new(struct rh_backend *backend, struct rh_block *block,
                                    const struct rh_tune_options *options, int64_t seq,
                                    int64_t hidden, struct rh_tuner **out, struct rh_error *err);
void rh_tuner_free(struct rh_tuner *tuner);

/*
 * Runs all iterations, once per tuner. Afterwards codes, scales and zeros are those of the best
 * iteration (of the last one with keep_last) and the block's weights_q is made of them. reached (host, [num_experts], may be NULL) +=
 * tokens routed in the minibatches. watch may be NULL. With iters = 0 the result is that of
 * rounding to nearest and *result is all zeros. Errors name the iteration and, for a gradient, the
 * linear.
 */
RH_MUST_USE enum rh_rc rh_tune_block(struct rh_tuner *tuner, const struct rh_tune_data *data,
                                     const struct rh_tune_watch *watch, int64_t *reached,
                                     struct rh_tune_result *result, struct rh_error *err);

/* The result of rh_tune_block() for the host; it outlives tuner and block. */
RH_MUST_USE enum rh_rc rh_tuned_take(const struct rh_tuner *tuner, struct rh_tuned *out,
                                     struct rh_error *err);
void rh_tuned_done(struct rh_tuned *tuned);

/* The learning rate of the iteration after one of rate `lr`: the recurrence of torch's LinearLR in
 * fp32; iter >= 1 is the iteration that the result belongs to. */
float rh_tune_next_rate(float lr, int64_t iter, int64_t iters);

#endif
