#include <string.h>

#include "base/fs.h"
#include "base/hash_map.h"
#include "base/mem.h"

#include "linear.h"
#include "pack_ops.h"

struct packing {
    struct rh_task *task;
    const struct rh_model_plan *plan;
    const struct rh_unit *unit;
    struct rh_safetensors *source; /* fetch artifact */
    struct rh_safetensors *block;  /* tune artifact; NULL: round to nearest here */
    struct rh_safetensors_writer *writer;
    size_t *numbers;             /* storage of the map's values */
    struct rh_hash_map *outputs; /* name to the writer's index */
    struct rh_hash_map *sources; /* name to struct rh_source_tensor */
    struct pack_linear linear;
    void *buffer; /* [PACK_CHUNK] */
    uint64_t done, total;
};

static bool has_quantized(const struct rh_unit *unit)
{
    for (size_t i = 0; i < unit->linear_count; i++) {
        if (unit->linears[i].bits < 16)
            return true;
    }
    return false;
}

static enum rh_rc open_inputs(struct packing *p, struct rh_error *err)
{
    enum rh_rc rc =
        rh_pack_open(p->task, "fetch", (int64_t)p->unit->index, PACK_TENSORS, &p->source, err);
    if (rc == RH_OK && p->unit->step >= 0 && has_quantized(p->unit))
        rc = rh_pack_open(p->task, "tune", p->unit->step, "block.safetensors", &p->block, err);
    if (rc == RH_OK)
        rc = rh_try_alloc(PACK_CHUNK, "a copy buffer", &p->buffer, err);
    if (rc == RH_OK)
        rc = pack_linear_init(&p->linear, p->unit, err);
    return rc;
}

static enum rh_rc declare_outputs(struct packing *p, struct rh_error *err)
{
    p->outputs = rh_hash_map_new();
    p->sources = rh_hash_map_new();
    p->numbers = rh_alloc_array(p->plan->output_count + 1, sizeof *p->numbers);
    for (size_t i = 0; i < p->unit->tensor_count; i++)
        (void)rh_hash_map_add(p->sources, p->unit->tensors[i].info.name, &p->unit->tensors[i]);
    for (size_t i = 0; i < p->plan->output_count; i++) {
        const struct rh_output_tensor *o = &p->plan->outputs[i];
        if (o->unit != p->unit->index)
            continue;
        p->numbers[i] = rh_safetensors_writer_add(p->writer, o->name, o->dtype, o->rank, o->shape);
        p->total += o->bytes;
        if (!rh_hash_map_add(p->outputs, o->name, &p->numbers[i]))
            return rh_fail(err, RH_ERR_INTERNAL, "the plan makes %.300s twice", o->name);
    }
    return rh_safetensors_writer_begin(p->writer, err);
}

static enum rh_rc output_of(const struct packing *p, const char *name, size_t *out,
                            struct rh_error *err)
{
    const size_t *number = rh_hash_map_find(p->outputs, name);
    if (!number)
        return rh_fail(err, RH_ERR_INTERNAL, "the plan has no output %.300s in %s", name,
                       p->unit->name);
    *out = *number;
    return RH_OK;
}

static void advance(struct packing *p, uint64_t bytes)
{
    p->done += bytes;
    rh_task_progress(p->task, p->unit->name, (double)p->done, (double)p->total, "bytes");
}

/* Byte for byte under its own name. */
static enum rh_rc pass_through(struct packing *p, const struct rh_tensor_info *t,
                               struct rh_error *err)
{
    const struct rh_tensor_info *info = NULL;
    size_t to = 0;
    enum rh_rc rc = rh_pack_find(p->source, t->name, t->dtype, t->rank, t->shape, &info, err);
    if (rc == RH_OK)
        rc = output_of(p, t->name, &to, err);
    if (rc == RH_OK)
        rc = rh_pack_copy(p->task, p->source, info, 0, info->bytes, p->writer, to, p->buffer, err);
    advance(p, t->bytes);
    return rc;
}

/* A 16-bit linear out of a fused tensor: its rows as they are. */
static enum rh_rc copy_rows(struct packing *p, const struct rh_linear *l,
                            const struct rh_source_tensor *source, struct rh_error *err)
{
    const struct rh_tensor_info *t = &source->info, *info = NULL;
    uint64_t row = (uint64_t)l->in_features * rh_dtype_size(l->dtype);
    uint64_t bytes = (uint64_t)l->out_features * row;
    size_t to = 0;
    char *name = rh_format("%s.weight", l->name);
    enum rh_rc rc = rh_pack_find(p->source, t->name, t->dtype, t->rank, t->shape, &info, err);
    if (rc == RH_OK)
        rc = output_of(p, name, &to, err);
    if (rc == RH_OK)
        rc = rh_pack_copy(p->task, p->source, info, (uint64_t)l->source_row * row, bytes, p->writer,
                          to, p->buffer, err);
    advance(p, bytes);
    rh_free(name);
    return rc;
}

static enum rh_rc pack_quantized(struct packing *p, const struct rh_linear *l, struct rh_error *err)
{
    static const char *const parts[] = {"qweight", "qzeros", "scales"};
    const struct rh_recipe *recipe = rh_task_recipe(p->task);
    struct rh_output_tensor packed[3];
    size_t to[3] = {0};
    uint64_t bytes = 0;
    enum rh_rc rc = RH_OK;
    rh_linear_packed(l, packed);
    for (int k = 0; k < 3; k++) {
        char *name = rh_format("%s.%s", l->name, parts[k]);
        if (rc == RH_OK)
            rc = output_of(p, name, &to[k], err);
        bytes += packed[k].bytes;
        rh_free(packed[k].name);
        rh_free(name);
    }
    if (rc == RH_OK)
        rc = rh_task_check(p->task, err);
    if (rc == RH_OK)
        rc = p->block ? pack_linear_load(&p->linear, l, p->block, err)
                      : pack_linear_round(&p->linear, l, p->source, recipe->observer, err);
    if (rc == RH_OK)
        rc = pack_linear_put(&p->linear, l, p->writer, to, err);
    advance(p, bytes);
    return rc;
}

static enum rh_rc pack_linear(struct packing *p, const struct rh_linear *l, struct rh_error *err)
{
    const struct rh_source_tensor *source = rh_hash_map_find(p->sources, l->source);
    if (!source)
        return rh_fail(err, RH_ERR_INTERNAL, "%.300s comes from no tensor of %s", l->name,
                       p->unit->name);
    if (l->bits < 16)
        return pack_quantized(p, l, err);
    return source->pass_through ? RH_OK : copy_rows(p, l, source, err);
}

static enum rh_rc pack_all(struct packing *p, struct rh_error *err)
{
    enum rh_rc rc = open_inputs(p, err);
    if (rc == RH_OK)
        rc = declare_outputs(p, err);
    for (size_t i = 0; i < p->unit->tensor_count && rc == RH_OK; i++) {
        if (p->unit->tensors[i].pass_through)
            rc = pass_through(p, &p->unit->tensors[i].info, err);
    }
    for (size_t i = 0; i < p->unit->linear_count && rc == RH_OK; i++)
        rc = pack_linear(p, &p->unit->linears[i], err);
    /* Refuses when an output was not written. */
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(p->writer, err);
    return rc;
}

enum rh_rc rh_pack_unit(struct rh_task *task, struct rh_error *err)
{
    struct packing p = {.task = task};
    struct rh_model_plan *plan = NULL;
    int64_t index = rh_task_index(task);
    char *path = rh_fs_join(rh_task_staging(task), PACK_TENSORS);
    enum rh_rc rc = rh_pack_load_plan(task, &plan, err);
    if (rc == RH_OK && (index < 0 || (uint64_t)index >= plan->unit_count))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "pack %lld: the plan has %zu units", (long long)index,
                     plan->unit_count);
    if (rc == RH_OK) {
        p.plan = plan;
        p.unit = &plan->units[index];
        p.writer = rh_safetensors_writer_new(path);
        rc = pack_all(&p, err);
        rh_safetensors_writer_free(p.writer);
    }
    pack_linear_done(&p.linear);
    rh_hash_map_free(p.outputs);
    rh_hash_map_free(p.sources);
    rh_free(p.numbers);
    rh_free(p.buffer);
    rh_safetensors_close(p.block);
    rh_safetensors_close(p.source);
    rh_model_plan_free(plan);
    rh_free(path);
    return rc;
}
