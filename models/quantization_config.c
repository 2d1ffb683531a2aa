#include "base/mem.h"

#include "family.h"

/* Whether loaders take the linears of this unit for quantized ones: it lies under an entry of
 * block_name_to_quantize. */
static bool is_listed(const struct rh_unit *unit, bool mtp)
{
    return unit->kind == RH_UNIT_BLOCK || (mtp && unit->kind == RH_UNIT_MTP);
}

static bool quantizes_mtp(const struct rh_model_plan *plan)
{
    for (size_t u = 0; u < plan->unit_count; u++) {
        const struct rh_unit *unit = &plan->units[u];
        for (size_t i = 0; unit->kind == RH_UNIT_MTP && i < unit->linear_count; i++) {
            if (unit->linears[i].bits < 16)
                return true;
        }
    }
    return false;
}

static void except(struct rh_json *extra, const char *name, const char *data_type)
{
    struct rh_json *entry = rh_json_new_object();
    rh_json_set_int(entry, "bits", 16);
    rh_json_set_string(entry, "data_type", data_type);
    rh_json_set(extra, name, entry);
}

/* Exact names first: they win in every loader and need no regex engine. */
static struct rh_json *extra_config(const struct rh_model_plan *plan, bool mtp)
{
    const struct rh_family *family = rh_family_find(plan->config.architecture);
    struct rh_json *extra = rh_json_new_object();
    for (size_t u = 0; u < plan->unit_count; u++) {
        const struct rh_unit *unit = &plan->units[u];
        for (size_t i = 0; is_listed(unit, mtp) && i < unit->linear_count; i++) {
            if (unit->linears[i].bits >= 16)
                except(extra, unit->linears[i].name, "fp");
        }
    }
    for (const char *const *p = family->keep_patterns; *p; p++)
        except(extra, *p, "float");
    return extra;
}

static const char *mtp_method(enum rh_mtp_method method)
{
    static const char *const names[] = {
        [RH_MTP_RTN] = "rtn", [RH_MTP_KEEP] = "keep", [RH_MTP_TUNE] = "tune"};
    return names[method];
}

/* What was done, for readers; no loader looks at it. */
static struct rh_json *provenance(const struct rh_recipe *recipe)
{
    struct rh_json *node = rh_json_new_object();
    rh_json_set_string(node, "version", RH_VERSION);
    rh_json_set_string(node, "recipe", recipe->name);
    rh_json_set_string(node, "recipe_sha256", recipe->digest);
    rh_json_set_int(node, "seed", recipe->seed);
    rh_json_set_int(node, "calibration_seed", recipe->calibration_seed);
    rh_json_set_bool(node, "enable_minmax_tuning", recipe->enable_minmax_tuning);
    rh_json_set_string(node, "mtp_method", mtp_method(recipe->mtp));
    return node;
}

struct rh_json *rh_quantization_config(const struct rh_model_plan *plan,
                                       const struct rh_recipe *recipe)
{
    const struct rh_family *family = rh_family_find(plan->config.architecture);
    bool mtp = quantizes_mtp(plan);
    struct rh_json *q = rh_json_new_object();
    struct rh_json *blocks = rh_json_new_array();
    rh_json_append(blocks, rh_json_new_string(family->blocks_name));
    if (mtp)
        rh_json_append(blocks, rh_json_new_string(family->mtp_blocks_name));
    rh_json_set_string(q, "quant_method", "auto-round");
    rh_json_set_string(q, "packing_format", "auto_round:auto_gptq");
    rh_json_set_int(q, "bits", recipe->bits);
    rh_json_set_int(q, "group_size", recipe->group_size);
    rh_json_set_bool(q, "sym", recipe->sym);
    rh_json_set_string(q, "data_type", "int");
    rh_json_set(q, "block_name_to_quantize", blocks);
    rh_json_set_string(q, "autoround_version", "roundhouse-" RH_VERSION);
    rh_json_set_int(q, "iters", recipe->iters);
    rh_json_set_int(q, "nsamples", recipe->nsamples);
    rh_json_set_int(q, "seqlen", recipe->seqlen);
    rh_json_set_int(q, "batch_size", recipe->batch_size);
    rh_json_set_int(q, "gradient_accumulate_steps", recipe->gradient_accumulate_steps);
    if (recipe->lr > 0)
        rh_json_set_number(q, "lr", recipe->lr);
    if (recipe->minmax_lr > 0)
        rh_json_set_number(q, "minmax_lr", recipe->minmax_lr);
    rh_json_set_bool(q, "enable_quanted_input", recipe->enable_quanted_input);
    if (recipe->not_use_best_mse)
        rh_json_set_bool(q, "not_use_best_mse", true);
    rh_json_set(q, "roundhouse", provenance(recipe));
    rh_json_set(q, "extra_config", extra_config(plan, mtp));
    return q;
}
