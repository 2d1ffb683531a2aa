#include "calibration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "calibrate/calibrate.h"
#include "checkpoint/safetensors.h"
#include "store/store.h"

static struct rh_error error;

static void must(enum rh_rc rc)
{
    if (rc == RH_OK)
        return;
    fprintf(stderr, "%s\n", error.message);
    abort();
}

struct calibration *calibration_new(const char *tokenizer)
{
    struct calibration *c = rh_alloc(sizeof *c);
    char here[4096];
    if (!getcwd(here, sizeof here))
        abort();
    c->root = rh_format("%s/test-calibrate-XXXXXX", here);
    if (!mkdtemp(c->root))
        abort();
    c->job = rh_fs_join(c->root, "job");
    c->dataset = rh_fs_join(c->root, "data.jsonl");
    char *plan = rh_store_artifact(c->job, "plan", 0);
    char *meta = rh_fs_join(plan, "meta");
    char *copy = rh_fs_join(meta, "tokenizer.json");
    must(rh_fs_mkdirs(meta, &error));
    if (tokenizer)
        must(rh_fs_copy(tokenizer, copy, NULL, &error));
    rh_free(copy);
    rh_free(meta);
    rh_free(plan);
    return c;
}

void calibration_free(struct calibration *c)
{
    must(rh_fs_remove_tree(c->root, &error));
    rh_free(c->dataset);
    rh_free(c->job);
    rh_free(c->root);
    rh_free(c);
}

void calibration_write(const struct calibration *c, const char *path_in_root, const char *text)
{
    char *path = rh_fs_join(c->root, path_in_root);
    must(rh_fs_write(path, text, strlen(text), &error));
    rh_free(path);
}

enum rh_rc calibration_run(const struct calibration *c, const char *dataset, const char *settings,
                           struct rh_error *err)
{
    struct rh_json *json = NULL;
    struct rh_recipe *recipe = NULL;
    char *text = rh_format("{\"name\":\"test\",\"quant\":{\"batch_size\":1},"
                           "\"calibration\":{\"dataset\":\"%s\",%s}}",
                           dataset ? dataset : c->dataset, settings);
    *err = (struct rh_error){0};
    must(rh_json_parse(text, strlen(text), "recipe", &json, &error));
    must(rh_recipe_from_json(json, "recipe", &recipe, &error));
    enum rh_rc rc = rh_stage_run_local(&rh_calibrate_stage, "calibrate", c->job, recipe,
                                       "file:/nowhere", "dir:/nowhere", 0, 0, err);
    rh_recipe_free(recipe);
    rh_json_free(json);
    rh_free(text);
    return rc;
}

static char *artifact(const struct calibration *c, const char *name)
{
    char *dir = rh_store_artifact(c->job, "calibrate", 0);
    must(rh_store_check(dir, true, &error));
    char *path = rh_fs_join(dir, name);
    rh_free(dir);
    return path;
}

static int32_t *read_ids(const struct calibration *c, const char *name, int64_t *rows,
                         int64_t *seqlen)
{
    char *path = artifact(c, name);
    struct rh_safetensors *file = NULL;
    must(rh_safetensors_open(path, &file, &error));
    const struct rh_tensor_info *t = rh_safetensors_find(file, "input_ids");
    RH_ASSERT(t && t->dtype == RH_I32 && t->rank == 2);
    int32_t *ids = rh_alloc(t->bytes);
    must(rh_safetensors_read(file, t, 0, t->bytes, ids, &error));
    *rows = t->shape[0];
    *seqlen = t->shape[1];
    rh_safetensors_close(file);
    rh_free(path);
    return ids;
}

int32_t *calibration_rows(const struct calibration *c, int64_t *rows, int64_t *seqlen)
{
    return read_ids(c, "ids.safetensors", rows, seqlen);
}

int32_t *calibration_candidates(const struct calibration *c, int64_t *rows, int64_t *seqlen)
{
    return read_ids(c, "candidates.safetensors", rows, seqlen);
}

struct rh_json *calibration_report(const struct calibration *c)
{
    char *path = artifact(c, "report.json");
    struct rh_json *report = NULL;
    must(rh_json_read(path, 1 << 20, &report, &error));
    rh_free(path);
    return report;
}
