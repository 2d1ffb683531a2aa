#include "families/model_plan.h"

#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "family.h"

const char *rh_unit_kind_name(enum rh_unit_kind kind)
{
    switch (kind) {
    case RH_UNIT_HEAD:
        return "head";
    case RH_UNIT_BLOCK:
        return "block";
    case RH_UNIT_TAIL:
        return "tail";
    case RH_UNIT_MTP:
        return "mtp";
    case RH_UNIT_VISUAL:
        return "visual";
    }
    return "unknown";
}

/* Size of the whole file: after the last tensor, also when only the header is here. */
static uint64_t full_size(const struct rh_safetensors *file)
{
    uint64_t end = 0;
    for (size_t i = 0; i < rh_safetensors_count(file); i++) {
        const struct rh_tensor_info *t = rh_safetensors_at(file, i);
        if (t->offset + t->bytes > end)
            end = t->offset + t->bytes;
    }
    return end;
}

static void take_sources(const struct rh_checkpoint *c, struct rh_model_plan *plan,
                         struct rh_sources *sources)
{
    plan->file_count = rh_checkpoint_file_count(c);
    plan->files = rh_alloc_array(plan->file_count + 1, sizeof *plan->files);
    plan->file_bytes = rh_alloc_array(plan->file_count + 1, sizeof *plan->file_bytes);
    plan->name_count = rh_checkpoint_tensor_count(c);
    plan->names = rh_alloc_array(plan->name_count + 1, sizeof *plan->names);
    sources->items = rh_alloc_array(plan->name_count + 1, sizeof *sources->items);
    for (size_t f = 0; f < plan->file_count; f++) {
        const struct rh_safetensors *file = rh_checkpoint_file(c, f);
        plan->files[f] = rh_strdup(rh_checkpoint_file_name(c, f));
        plan->file_bytes[f] = full_size(file);
        for (size_t i = 0; i < rh_safetensors_count(file); i++) {
            struct rh_source_tensor *s = &sources->items[sources->count];
            RH_ASSERT(sources->count < plan->name_count);
            s->info = *rh_safetensors_at(file, i);
            s->file = f;
            s->info.name = plan->names[sources->count++] = rh_strdup(s->info.name);
        }
    }
}

enum rh_rc rh_model_plan_new(const char *model_dir, const struct rh_recipe *recipe,
                             struct rh_model_plan **out, struct rh_error *err)
{
    struct rh_model_plan *plan = rh_alloc(sizeof *plan);
    struct rh_checkpoint *checkpoint = NULL;
    struct rh_sources sources = {0};
    char *config_path = rh_fs_join(model_dir, "config.json");
    *out = NULL;
    enum rh_rc rc = rh_model_config_read(config_path, &plan->config, err);
    if (rc == RH_OK)
        rc = rh_checkpoint_open(model_dir, true, &checkpoint, err);
    if (rc != RH_OK)
        goto out;
    take_sources(checkpoint, plan, &sources);
    plan->recipe = rh_json_copy(recipe->canonical);
    rc = rh_plan_derive(recipe, &sources, model_dir, plan, err);
    if (rc != RH_OK)
        goto out;
    *out = plan;
    plan = NULL;
out:
    rh_model_plan_free(plan);
    rh_checkpoint_close(checkpoint);
    rh_free(sources.items);
    rh_free(config_path);
    return rc;
}

enum rh_rc rh_model_plan_from_tensors(struct rh_json *config, const struct rh_recipe *recipe,
                                      const struct rh_tensor_info *tensors, size_t count,
                                      const char *what, struct rh_model_plan **out,
                                      struct rh_error *err)
{
    struct rh_model_plan *plan = rh_alloc(sizeof *plan);
    struct rh_sources sources = {.count = count};
    *out = NULL;
    enum rh_rc rc = rh_config_from_json(config, what, &plan->config, err);
    if (rc != RH_OK)
        goto out;
    plan->file_count = 1;
    plan->files = rh_alloc_array(1, sizeof *plan->files);
    plan->file_bytes = rh_alloc_array(1, sizeof *plan->file_bytes);
    plan->files[0] = rh_strdup("tensors");
    plan->names = rh_alloc_array(count + 1, sizeof *plan->names);
    plan->name_count = count;
    sources.items = rh_alloc_array(count + 1, sizeof *sources.items);
    for (size_t i = 0; i < count; i++) {
        sources.items[i].info = tensors[i];
        sources.items[i].info.name = plan->names[i] = rh_strdup(tensors[i].name);
        plan->file_bytes[0] += tensors[i].bytes;
    }
    plan->recipe = rh_json_copy(recipe->canonical);
    rc = rh_plan_derive(recipe, &sources, what, plan, err);
    if (rc != RH_OK)
        goto out;
    *out = plan;
    plan = NULL;
out:
    rh_model_plan_free(plan);
    rh_free(sources.items);
    return rc;
}

static void unit_done(struct rh_unit *unit)
{
    for (size_t i = 0; i < unit->linear_count; i++) {
        rh_free(unit->linears[i].name);
        rh_free(unit->linears[i].source);
    }
    rh_free(unit->linears);
    rh_free(unit->tensors);
    rh_free(unit->name);
    rh_free(unit->prefix);
}

void rh_model_plan_free(struct rh_model_plan *plan)
{
    if (!plan)
        return;
    rh_model_config_done(&plan->config);
    for (size_t i = 0; i < plan->unit_count; i++)
        unit_done(&plan->units[i]);
    for (size_t i = 0; i < plan->file_count; i++)
        rh_free(plan->files[i]);
    for (size_t i = 0; i < plan->output_count; i++)
        rh_free(plan->outputs[i].name);
    for (size_t i = 0; i < plan->shard_count; i++)
        rh_free(plan->shards[i].name);
    for (size_t i = 0; i < plan->name_count; i++)
        rh_free(plan->names[i]);
    rh_free(plan->units);
    rh_free(plan->files);
    rh_free(plan->file_bytes);
    rh_free(plan->outputs);
    rh_free(plan->shards);
    rh_free(plan->names);
    rh_json_free(plan->recipe);
    rh_free(plan);
}

const struct rh_unit *rh_model_plan_block(const struct rh_model_plan *plan, int64_t block)
{
    for (size_t i = 0; i < plan->unit_count; i++) {
        if (plan->units[i].kind == RH_UNIT_BLOCK && plan->units[i].block == block)
            return &plan->units[i];
    }
    return NULL;
}

int64_t rh_model_plan_steps(const struct rh_model_plan *plan)
{
    int64_t steps = 0;
    for (size_t i = 0; i < plan->unit_count; i++)
        steps += plan->units[i].step >= 0;
    return steps;
}

const struct rh_unit *rh_model_plan_step(const struct rh_model_plan *plan, int64_t step)
{
    for (size_t i = 0; i < plan->unit_count && step >= 0; i++) {
        if (plan->units[i].step == step)
            return &plan->units[i];
    }
    return NULL;
}

const struct rh_unit *rh_model_plan_kind(const struct rh_model_plan *plan, enum rh_unit_kind kind)
{
    for (size_t i = 0; i < plan->unit_count; i++) {
        if (plan->units[i].kind == kind)
            return &plan->units[i];
    }
    return NULL;
}

bool rh_unit_has_in_layer(const struct rh_unit *unit, const char *name)
{
    return strncmp(name, unit->prefix, strlen(unit->prefix)) == 0;
}
