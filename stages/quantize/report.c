#include "tuning/report.h"

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
    struct rh_json *untuned = rh_json_new_array();
    int64_t without = 0;
    for (int64_t e = 0; e < r->experts; e++) {
        rh_json_append(tokens, rh_json_new_int(r->tokens[e]));
        without += r->tokens[e] == 0;
        if (r->reached[e] == 0)
            rh_json_append(untuned, rh_json_new_int(e));
    }
    rh_json_set(json, "tokens", tokens);
    rh_json_set_int(json, "without_tokens", without);
    rh_json_set(json, "untuned", untuned);
    return json;
}

struct rh_json *rh_block_report_json(const struct rh_block_report *r)
{
    struct rh_json *json = rh_json_new_object();
    rh_json_set_int(json, "block", r->block);
    rh_json_set_int(json, "iters", r->iters);
    set_losses(json, r);
    rh_json_set_int(json, "linears", (int64_t)r->linears);
    rh_json_set(json, "experts", experts_json(r));
    return json;
}

struct rh_json *rh_block_report_metrics(const struct rh_block_report *r, double seconds)
{
    struct rh_json *json = rh_json_new_object();
    rh_json_set_number(json, "seconds", seconds);
    set_losses(json, r);
    return json;
}
