#include "tuning/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void set_losses(struct rh_json *json, const struct rh_block_report *r)
{
    rh_json_set_number(json, "init_loss", r->iters > 0 ? r->result.init_loss : r->final_loss);
    rh_json_set_number(json, "best_loss", r->iters > 0 ? r->result.best_loss : r->final_loss);
    rh_json_set_int(json, "best_iter", r->result.best_iter);
    rh_json_set_number(json, "final_loss", r->final_loss);
}

static struct rh_json *experts_json(const struct rh_block_report *r)
{
    struct rh_json *json = rh_json_new_object();
    struct rh_json *tokens = rh_json_new_array();
    struct rh_json *below = rh_json_new_array();
    struct rh_json *untuned = rh_json_new_array();
    int64_t without = 0;
    for (int64_t e = 0; e < r->experts; e++) {
        rh_json_append(tokens, rh_json_new_int(r->tokens[e]));
        without += r->tokens[e] == 0;
        if (r->tokens[e] < r->expert_floor)
            rh_json_append(below, rh_json_new_int(e));
        if (r->reached[e] == 0)
            rh_json_append(untuned, rh_json_new_int(e));
    }
    rh_json_set(json, "tokens", tokens);
    rh_json_set_int(json, "floor", r->expert_floor);
    rh_json_set(json, "below_floor", below);
    rh_json_set_int(json, "without_tokens", without);
    rh_json_set(json, "untuned", untuned);
    return json;
}

struct rh_json *rh_block_report_json(const struct rh_block_report *r)
{
    struct rh_json *json = rh_json_new_object();
    rh_json_set_int(json, "block", r->block);
    if (r->unit)
        rh_json_set_string(json, "unit", r->unit);
    rh_json_set_int(json, "iters", r->iters);
    rh_json_set(json, "backend", rh_json_new_string(r->backend));
    if (r->device)
        rh_json_set(json, "device", rh_json_new_string(r->device));
    rh_json_set_int(json, "batch_size", r->batch_size);
    set_losses(json, r);
    rh_json_set_int(json, "linears", (int64_t)r->linears);
    rh_json_set(json, "experts", experts_json(r));
    return json;
}

static int compare(const void *a, const void *b)
{
    const int64_t *x = a;
    const int64_t *y = b;
    return (*x > *y) - (*x < *y);
}

struct rh_expert_coverage rh_block_report_coverage(const struct rh_block_report *r)
{
    struct rh_expert_coverage c = {.experts = r->experts, .floor = r->expert_floor};
    if (r->experts == 0)
        return c;
    int64_t *sorted = rh_alloc_array((size_t)r->experts, sizeof *sorted);
    memcpy(sorted, r->tokens, (size_t)r->experts * sizeof *sorted);
    qsort(sorted, (size_t)r->experts, sizeof *sorted, compare);
    c.tokens_min = sorted[0];
    c.tokens_median = sorted[(r->experts - 1) / 2];
    for (int64_t e = 0; e < r->experts; e++) {
        c.below_floor += sorted[e] < c.floor;
        c.without_tokens += sorted[e] == 0;
    }
    rh_free(sorted);
    return c;
}

static struct rh_json *coverage_json(const struct rh_block_report *r)
{
    struct rh_expert_coverage c = rh_block_report_coverage(r);
    struct rh_json *json = rh_json_new_object();
    rh_json_set_int(json, "count", c.experts);
    rh_json_set_int(json, "floor", c.floor);
    rh_json_set_int(json, "below_floor", c.below_floor);
    rh_json_set_int(json, "without_tokens", c.without_tokens);
    rh_json_set_int(json, "tokens_min", c.tokens_min);
    rh_json_set_int(json, "tokens_median", c.tokens_median);
    return json;
}

struct rh_json *rh_block_report_metrics(const struct rh_block_report *r, double seconds)
{
    struct rh_json *json = rh_json_new_object();
    if (r->unit)
        rh_json_set_string(json, "unit", r->unit);
    rh_json_set_number(json, "seconds", seconds);
    set_losses(json, r);
    rh_json_set(json, "experts", coverage_json(r));
    return json;
}
