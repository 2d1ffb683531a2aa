#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "pack_ops.h"

struct assembly {
    struct rh_task *task;
    const struct rh_model_plan *plan;
    size_t shard;
    struct rh_safetensors_writer *writer;
    void *buffer;    /* [PACK_CHUNK] */
    size_t *numbers; /* [output_count] the writer's index */
    uint64_t done;
};

static enum rh_rc copy_output(struct assembly *a, const struct rh_safetensors *file, size_t output,
                              struct rh_error *err)
{
    const struct rh_output_tensor *o = &a->plan->outputs[output];
    const struct rh_output_shard *shard = &a->plan->shards[a->shard];
    const struct rh_tensor_info *info = NULL;
    enum rh_rc rc = rh_pack_find(file, o->name, o->dtype, o->rank, o->shape, &info, err);
    if (rc == RH_OK)
        rc = rh_pack_copy(a->task, file, info, 0, info->bytes, a->writer, a->numbers[output],
                          a->buffer, err);
    a->done += o->bytes;
    rh_task_progress(a->task, shard->name, (double)a->done, (double)shard->bytes, "bytes");
    return rc;
}

/* Outputs stand in plan order, so those of one unit follow each other. */
static enum rh_rc copy_outputs(struct assembly *a, struct rh_error *err)
{
    struct rh_safetensors *file = NULL;
    size_t open_unit = a->plan->unit_count;
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < a->plan->output_count && rc == RH_OK; i++) {
        const struct rh_output_tensor *o = &a->plan->outputs[i];
        if (o->shard != a->shard)
            continue;
        if (o->unit != open_unit) {
            rh_safetensors_close(file);
            rc = rh_pack_open(a->task, "pack", (int64_t)o->unit, PACK_TENSORS, &file, err);
            open_unit = o->unit;
        }
        if (rc == RH_OK)
            rc = copy_output(a, file, i, err);
    }
    rh_safetensors_close(file);
    return rc;
}

static enum rh_rc assemble(struct assembly *a, struct rh_error *err)
{
    a->numbers = rh_alloc_array(a->plan->output_count + 1, sizeof *a->numbers);
    for (size_t i = 0; i < a->plan->output_count; i++) {
        const struct rh_output_tensor *o = &a->plan->outputs[i];
        if (o->shard == a->shard)
            a->numbers[i] =
                rh_safetensors_writer_add(a->writer, o->name, o->dtype, o->rank, o->shape);
    }
    enum rh_rc rc = rh_try_alloc(PACK_CHUNK, "a copy buffer", &a->buffer, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_begin(a->writer, err);
    if (rc == RH_OK)
        rc = copy_outputs(a, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(a->writer, err);
    return rc;
}

enum rh_rc rh_pack_shard(struct rh_task *task, struct rh_error *err)
{
    struct assembly a = {.task = task};
    struct rh_model_plan *plan = NULL;
    int64_t index = rh_task_index(task);
    enum rh_rc rc = rh_pack_load_plan(task, &plan, err);
    if (rc == RH_OK && (index < 0 || (uint64_t)index >= plan->shard_count))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "shard %lld: the plan has %zu output files",
                     (long long)index, plan->shard_count);
    if (rc == RH_OK) {
        char *path = rh_fs_join(rh_task_staging(task), plan->shards[index].name);
        a.plan = plan;
        a.shard = (size_t)index;
        a.writer = rh_safetensors_writer_new(path);
        rc = assemble(&a, err);
        rh_safetensors_writer_free(a.writer);
        rh_free(path);
    }
    rh_free(a.numbers);
    rh_free(a.buffer);
    rh_model_plan_free(plan);
    return rc;
}
