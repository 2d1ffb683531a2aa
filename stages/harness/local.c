#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "store/store.h"
#include "task.h"

static enum rh_rc copy_recipe(const struct rh_recipe *recipe, struct rh_recipe **out,
                              struct rh_error *err)
{
    return rh_recipe_from_json(recipe->canonical, recipe->name, out, err);
}

enum rh_rc rh_stage_run_local(const struct rh_stage *stage, const char *op, const char *job_dir,
                              const struct rh_recipe *recipe, const char *model, const char *output,
                              int64_t index, int64_t last_index, struct rh_error *err)
{
    const struct rh_stage_op *found = rh_stage_find_op(stage, op);
    if (!found)
        return rh_fail(err, RH_ERR_ARGUMENT, "stage %s has no operation %s", stage->name, op);
    struct rh_recipe *own = NULL;
    enum rh_rc rc = copy_recipe(recipe, &own, err);
    if (rc != RH_OK)
        return rc;
    char *staging = rh_store_staging(job_dir, op, index, 1);
    struct rh_task *t = rh_task_new(found, "local", model, output, job_dir, staging, own);
    t->local = true;
    t->index = index;
    t->last = last_index;
    t->first = index;
    while (t->first < last_index && rh_store_has(job_dir, op, t->first))
        t->first++;
    rh_task_execute(t);
    rc = t->rc;
    if (rc != RH_OK && err)
        *err = t->err;
    if (rc == RH_OK && !t->session)
        rc = rh_store_commit(staging, job_dir, op, index, err);
    enum rh_rc swept = RH_OK;
    if (rc != RH_OK || t->session)
        swept = rh_fs_remove_tree(staging, rc == RH_OK ? err : NULL);
    if (rc == RH_OK)
        rc = swept;
    rh_task_free(t);
    rh_free(staging);
    return rc;
}
