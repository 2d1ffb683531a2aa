#ifndef RH_KERNELS_TUNE_OPS_H
#define RH_KERNELS_TUNE_OPS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Operations of the tuning loop (docs/numerics.md, "The tuning loop"), part of the table in
 * kernels/ops.h and under its rules. What one iteration decides (is this the best loss, is
 * anything damaged) stays in backend memory, so that the host need not wait for it.
 */

/* No damage yet. Otherwise the lowest of iter << 32 | (item + 1), where item -1 is the loss: the
 * earliest iteration, and in it the loss before the linears in their order. */
#define RH_FAULT_NONE UINT64_MAX

/* One per block, in backend memory; at first fault is RH_FAULT_NONE, better 1 and the rest 0. */
struct rh_tune_state {
    double loss; /* of the iteration at hand */
    double best_loss;
    int64_t best_iter;
    uint64_t fault;
    int32_t better; /* the iteration at hand has the lowest loss so far; the first of equals counts */
    int32_t unused;
};

/* After the loss of iteration `iter` is complete: sets loss, better, best_loss and best_iter (iteration 0
 * is always better), and fault = min(fault, iter << 32) when the loss is not finite. */
struct rh_judge {
    int64_t iter;
    const double *loss;
    struct rh_tune_state *state;
};

/*
 * A tuned linear. weight, weight_q, grad, sums, v and codes are arenas that share one layout: this
 * linear is the out_features * in_features elements from `at`, row-major; at is a multiple of 16.
 * Groups are runs of `group` weights along a row (the last one of a row may be shorter); its
 * group k of row r is the element group_at + r * groups + k of lo, hi, alpha, beta, scales, zeros.
 */
struct rh_quant_item {
    int64_t out_features, in_features;
    int64_t at, group_at;
    int64_t row_at;        /* rows of the items before this one */
    int64_t group, groups; /* length of a full group; groups of a row */
    int32_t expert;        /* -1: every token reaches it */
    int32_t bits;          /* 2, 3, 4 or 8 */
    int32_t sym;           /* int_sym (full range, signed scales), else int_asym */
    int32_t unused;
};

/* The quantizer of all tuned linears of a block. Formulas: docs/numerics.md, core's quant/grid.h. */
struct rh_quantizer {
    const struct rh_quant_item *items;      /* [count] */
    const struct rh_quant_item *host_items; /* the same in host memory */
    int64_t count, rows, groups;            /* items; sums of out_features and of all groups */
    const void *weight;                     /* never changes */
    void *weight_q;                         /* what the forward pass of the block uses */
    float *v;
    float *lo, *hi;      /* min(min w, 0), max(max w, 0) of a group */
    float *alpha, *beta; /* clamped to [0, 1] by every forward */
    uint8_t *codes;      /* one code a byte */
    uint16_t *scales;    /* bits of fp16 */
    uint8_t *zeros;      /* NULL when all items are symmetric */
    uint64_t *fault;     /* of rh_tune_state */
    bool search;         /* fake_quant_start looks for the factors, see quant/grid.h */
    /* fake_quant_start: fills lo, hi, v = 0, alpha = beta = 1, or what the search finds, and
     *   weight_q (round to nearest).
     *   fault = min(fault, item + 1) for an item with a weight that is not finite or needs a scale
     *   beyond fp16.
     * fake_quant_restore: weight_q = scale * (code - zero).
     * fake_quant_advance: where *emit, codes, scales and zeros of the parameters as they are; then,
     *   for every item with a gradient, one step of v, alpha and beta and weight_q of the new
     *   parameters. fault = min(fault, iter << 32 | item + 1) when a gradient is not finite.
     * What follows is for advance. */
    const void *grad;      /* dL/dweight_q in the activation type; NULL: no item has a gradient */
    const float *grad_sum; /* when not NULL, the gradient instead of grad */
    const int64_t *tokens; /* [experts]: an item whose expert has 0 here has no gradient */
    float rate;            /* of v */
    float minmax_rate;     /* of alpha and beta */
    bool minmax;           /* tune alpha and beta at all */
    const int32_t *emit;   /* better of rh_tune_state */
    int64_t iter;
};

/*
 * Sums the gradients of the batches of an iteration in their order: sums = grad for the first batch
 * that reaches an item, then sums += grad. An item is reached when its expert has rows in `offsets`,
 * and was so before when `tokens` of its expert, counted up to the batch before, is not 0; an item of
 * expert -1 is reached always and was so before unless `first`.
 */
struct rh_sum_gradients {
    const struct rh_quant_item *items, *host_items;
    int64_t count, rows;
    const void *grad;
    float *sums;
    const int64_t *offsets; /* [experts + 1] of this batch */
    const int64_t *tokens;  /* [experts] */
    bool first;
};

/* The item that holds a row, by row_at; row is in 0..rows-1. */
static inline int64_t rh_quant_item_of_row(const struct rh_quant_item *items, int64_t count,
                                           int64_t row)
{
    int64_t low = 0;
    int64_t high = count - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (items[middle].row_at <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* cpu: which inner loops of the quantizer run, "plain", "avx2" or "avx512". The best one that the
 * processor has is chosen at first use; force is for tests and false when this processor or build
 * lacks it. All give the same bytes. */
const char *rh_fake_quant_isa(void);
bool rh_fake_quant_force_isa(const char *name);

#endif
