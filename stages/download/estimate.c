#include "estimate.h"

#include <string.h>

#include "base/mem.h"
#include "quant/pack.h"

#define FLOAT_BYTES UINT64_C(4)

static uint64_t linear_elements(const struct rh_linear *l)
{
    return (uint64_t)l->out_features * (uint64_t)l->in_features;
}

/* Bytes of a linear in block.safetensors. */
static uint64_t tuned_bytes(const struct rh_linear *l)
{
    uint64_t rows = (uint64_t)l->out_features, groups = (uint64_t)rh_linear_groups(l);
    return rows * (uint64_t)rh_codes_row_bytes(l->in_features, l->bits) + rows * groups * 2 +
           (l->sym ? 0 : rows * groups);
}

/* Weights that a token meets on its way through the layer, on average; `beside` it, as mtp.fc is.
 */
static double active_weights(const struct rh_model_config *config, const struct rh_unit *unit,
                             bool beside)
{
    double share = config->num_experts > 0
                       ? (double)config->num_experts_per_tok / (double)config->num_experts
                       : 1.0;
    double active = 0;
    for (size_t i = 0; i < unit->linear_count; i++) {
        const struct rh_linear *l = &unit->linears[i];
        if (rh_unit_has_in_layer(unit, l->name) != beside)
            active += (double)linear_elements(l) * (strstr(l->name, ".experts.") ? share : 1.0);
    }
    return active;
}

/* Weights three times, two vectors of rounding offsets for those that are quantized. */
static uint64_t block_memory(const struct rh_unit *unit)
{
    uint64_t weights = 0, quantized = 0;
    for (size_t i = 0; i < unit->tensor_count; i++) {
        const struct rh_tensor_info *t = &unit->tensors[i].info;
        weights += rh_unit_has_in_layer(unit, t->name) ? (uint64_t)rh_tensor_elements(t) : 0;
    }
    for (size_t i = 0; i < unit->linear_count; i++)
        quantized += unit->linears[i].bits < 16 ? linear_elements(&unit->linears[i]) : 0;
    return FLOAT_BYTES * (3 * weights + 2 * quantized);
}

/* Of each routed row: input, gate and up, product, output, and the gradients of the last three. */
static uint64_t activation_memory(const struct rh_model_config *c, const struct rh_recipe *recipe)
{
    uint64_t rows = (uint64_t)(recipe->batch_size * recipe->seqlen * c->num_experts_per_tok);
    return FLOAT_BYTES * rows * (uint64_t)(3 * c->hidden_size + 6 * c->moe_intermediate_size);
}

void rh_estimate_make(const struct rh_model_plan *plan, const struct rh_recipe *recipe,
                      struct rh_estimate *out)
{
    const struct rh_model_config *c = &plan->config;
    uint64_t block_peak = 0;
    uint64_t rows = (uint64_t)recipe->nsamples * (uint64_t)recipe->seqlen;
    uint64_t hidden_bytes = rows * (uint64_t)c->hidden_size * FLOAT_BYTES;
    double iteration_tokens = (double)recipe->batch_size *
                              (double)recipe->gradient_accumulate_steps * (double)recipe->seqlen;
    double passes = recipe->enable_quanted_input ? 2.0 : 1.0;
    memset(out, 0, sizeof *out);
    for (size_t u = 0; u < plan->unit_count; u++) {
        const struct rh_unit *unit = &plan->units[u];
        out->source_tensors += unit->tensor_count;
        out->source_bytes += unit->source_bytes;
        if (unit->step < 0)
            continue;
        double active = active_weights(c, unit, false);
        uint64_t peak = block_memory(unit);
        block_peak = peak > block_peak ? peak : block_peak;
        out->tuning_flop += 6.0 * active * iteration_tokens * (double)recipe->iters;
        out->forward_flop += 2.0 * (active + active_weights(c, unit, true)) * (double)rows * passes;
        for (size_t i = 0; i < unit->linear_count; i++)
            out->disk_tuned += unit->linears[i].bits < 16 ? tuned_bytes(&unit->linears[i]) : 0;
    }
    out->disk_source = out->source_bytes;
    out->disk_chains = 4 * hidden_bytes;
    out->disk_packed = out->disk_shards = plan->all.bytes;
    out->disk_all =
        out->disk_source + out->disk_tuned + out->disk_chains + out->disk_packed + out->disk_shards;
    out->memory = block_peak + activation_memory(c, recipe) + 3 * hidden_bytes;
}

uint64_t rh_estimate_files(const struct rh_model_plan *plan)
{
    /* A file goes when the task after next begins. */
    const size_t slack = 2;
    size_t *first = rh_alloc_array(plan->file_count + 1, sizeof *first);
    size_t *last = rh_alloc_array(plan->file_count + 1, sizeof *last);
    uint64_t most = 0;
    for (size_t f = 0; f < plan->file_count; f++)
        first[f] = plan->unit_count + slack + 1;
    for (size_t u = 0; u < plan->unit_count; u++) {
        for (size_t i = 0; i < plan->units[u].tensor_count; i++) {
            size_t f = plan->units[u].tensors[i].file;
            first[f] = first[f] < u ? first[f] : u;
            last[f] = u;
        }
    }
    for (size_t u = 0; u < plan->unit_count; u++) {
        uint64_t sum = 0;
        for (size_t f = 0; f < plan->file_count; f++)
            sum += first[f] <= u + slack && u <= last[f] + slack ? plan->file_bytes[f] : 0;
        most = sum > most ? sum : most;
    }
    rh_free(first);
    rh_free(last);
    return most;
}
