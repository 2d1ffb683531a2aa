#include "download.h"

#include "base/fs.h"
#include "base/mem.h"

#include "download_ops.h"

#define PLAN_BYTES_MAX (UINT64_C(1) << 30)

enum rh_rc rh_download_load_plan(const struct rh_task *task, struct rh_model_plan **out,
                                 struct rh_error *err)
{
    char *dir = rh_task_artifact(task, "plan", 0);
    char *path = rh_fs_join(dir, "plan.json");
    struct rh_json *json = NULL;
    *out = NULL;
    enum rh_rc rc = rh_json_read(path, PLAN_BYTES_MAX, &json, err);
    if (rc == RH_OK)
        rc = rh_model_plan_from_json(json, path, out, err);
    rh_json_free(json);
    rh_free(path);
    rh_free(dir);
    return rc;
}

static enum rh_rc check(void *arg, struct rh_error *err)
{
    return rh_task_check(arg, err);
}

static void show(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    rh_task_progress(arg, phase, (double)done, (double)total, "bytes");
}

enum rh_rc rh_download_open_source(struct rh_task *task, struct rh_source **out,
                                   struct rh_error *err)
{
    struct rh_json *pin = NULL;
    char *dir = rh_task_artifact(task, "plan", 0);
    char *path = rh_fs_join(dir, SOURCE_PIN), *kept = rh_task_scratch(task);
    struct rh_source_use use = {.work_dir = kept, .check = check, .progress = show, .arg = task};
    enum rh_rc rc = RH_OK;
    *out = NULL;
    if (rh_fs_exists(path))
        rc = rh_json_read(path, PLAN_BYTES_MAX, &pin, err);
    use.pin = pin;
    if (rc == RH_OK)
        rc = rh_source_open(rh_task_model(task), &use, out, err);
    rh_json_free(pin);
    rh_free(kept);
    rh_free(path);
    rh_free(dir);
    return rc;
}

static const struct rh_stage_op ops[] = {
    {"plan", rh_download_plan},
    {"fetch", rh_download_fetch},
    {"digest", rh_download_digest},
};

const struct rh_stage rh_download_stage = {
    .name = "download",
    .ops = ops,
    .op_count = sizeof ops / sizeof ops[0],
    .default_slots = 2,
    .command = rh_download_command,
};
