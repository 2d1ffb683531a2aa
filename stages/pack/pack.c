#include "pack.h"

#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "pack_ops.h"

#define PLAN_BYTES_MAX (UINT64_C(1) << 30)

/* A plan for another recipe would pack other linears than were tuned. */
static enum rh_rc check_recipe(const struct rh_task *task, const struct rh_model_plan *plan,
                               const char *path, struct rh_error *err)
{
    struct rh_recipe *planned = NULL;
    enum rh_rc rc = rh_recipe_from_json(plan->recipe, path, &planned, err);
    if (rc == RH_OK && strcmp(planned->digest, rh_task_recipe(task)->digest) != 0)
        rc = rh_fail(err, RH_ERR_FORMAT,
                     "%s was made for recipe %.12s, the task has %.12s; submit the job again", path,
                     planned->digest, rh_task_recipe(task)->digest);
    rh_recipe_free(planned);
    return rc;
}

enum rh_rc rh_pack_load_plan(const struct rh_task *task, struct rh_model_plan **out,
                             struct rh_error *err)
{
    char *dir = rh_task_artifact(task, "plan", 0);
    char *path = rh_fs_join(dir, "plan.json");
    struct rh_json *json = NULL;
    *out = NULL;
    enum rh_rc rc = rh_json_read(path, PLAN_BYTES_MAX, &json, err);
    if (rc == RH_OK)
        rc = rh_model_plan_from_json(json, path, out, err);
    if (rc == RH_OK)
        rc = check_recipe(task, *out, path, err);
    rh_json_free(json);
    rh_free(path);
    rh_free(dir);
    if (rc != RH_OK) {
        rh_model_plan_free(*out);
        *out = NULL;
    }
    return rc;
}

enum rh_rc rh_pack_open(const struct rh_task *task, const char *op, int64_t index, const char *name,
                        struct rh_safetensors **out, struct rh_error *err)
{
    char *dir = rh_task_artifact(task, op, index);
    char *path = rh_fs_join(dir, name);
    enum rh_rc rc = rh_safetensors_open(path, out, err);
    rh_free(path);
    rh_free(dir);
    return rc;
}

enum rh_rc rh_pack_find(const struct rh_safetensors *file, const char *name, enum rh_dtype dtype,
                        int rank, const int64_t *shape, const struct rh_tensor_info **out,
                        struct rh_error *err)
{
    const struct rh_tensor_info *info = rh_safetensors_find(file, name);
    *out = info;
    if (!info)
        return rh_fail(err, RH_ERR_FORMAT, "%s has no tensor %.300s", rh_safetensors_path(file),
                       name);
    if (info->dtype != dtype)
        return rh_fail(err, RH_ERR_DTYPE, "%s: %.300s is %s, expected %s",
                       rh_safetensors_path(file), name, rh_dtype_name(info->dtype),
                       rh_dtype_name(dtype));
    if (info->rank == rank && memcmp(info->shape, shape, sizeof *shape * (size_t)rank) == 0)
        return RH_OK;
    return rh_fail(err, RH_ERR_SHAPE, "%s: %.300s has not the shape that the plan gives it",
                   rh_safetensors_path(file), name);
}

enum rh_rc rh_pack_copy(struct rh_task *task, const struct rh_safetensors *file,
                        const struct rh_tensor_info *tensor, uint64_t begin, uint64_t size,
                        struct rh_safetensors_writer *writer, size_t to, void *buffer,
                        struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (uint64_t at = 0; at < size && rc == RH_OK;) {
        uint64_t step = size - at < PACK_CHUNK ? size - at : PACK_CHUNK;
        rc = rh_task_check(task, err);
        if (rc == RH_OK)
            rc = rh_safetensors_read(file, tensor, begin + at, step, buffer, err);
        if (rc == RH_OK)
            rc = rh_safetensors_writer_put(writer, to, at, buffer, step, err);
        at += step;
    }
    return rc;
}

static const struct rh_stage_op ops[] = {
    {"pack", rh_pack_unit},
    {"shard", rh_pack_shard},
    {"finalize", rh_pack_finalize},
};

const struct rh_stage rh_pack_stage = {
    .name = "pack",
    .ops = ops,
    .op_count = sizeof ops / sizeof ops[0],
    .default_slots = 1,
};
