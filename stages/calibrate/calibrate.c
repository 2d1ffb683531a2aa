#include "calibrate.h"

#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "sample.h"
#include "tokenize_command.h"

#define CONFIG_MAX ((uint64_t)64 << 20)

static enum rh_rc row_done(void *arg, int64_t rows, struct rh_error *err)
{
    struct rh_task *task = arg;
    const struct rh_recipe *recipe = rh_task_recipe(task);
    rh_task_progress(task, "sampling rows", (double)rows,
                     (double)(recipe->nsamples + rh_sample_pool(recipe)), "rows");
    return rh_task_check(task, err);
}

/* transformers takes this key before the pattern of tokenizer.json. Owned by caller, NULL: none. */
static enum rh_rc preferred_pattern(const char *meta, char **out, struct rh_error *err)
{
    *out = NULL;
    char *path = rh_fs_join(meta, "tokenizer_config.json");
    struct rh_json *config = NULL;
    enum rh_rc rc = rh_fs_exists(path) ? rh_json_read(path, CONFIG_MAX, &config, err) : RH_OK;
    if (rc == RH_OK)
        *out = rh_strdup(rh_json_string(rh_json_get(config, "pretokenize_regex")));
    rh_json_free(config);
    rh_free(path);
    return rc;
}

static enum rh_rc load_tokenizer(const struct rh_task *task, struct rh_tokenizer **out,
                                 char sha256[RH_SHA256_HEX_SIZE], struct rh_error *err)
{
    char *plan = rh_task_artifact(task, "plan", 0);
    char *meta = rh_fs_join(plan, "meta");
    char *path = rh_fs_join(meta, "tokenizer.json");
    char *pattern = NULL;
    enum rh_rc rc = RH_OK;
    *out = NULL;
    if (!rh_fs_exists(path))
        rc = rh_fail(err, RH_ERR_NOT_FOUND,
                     "%s has no tokenizer.json: calibration text cannot be "
                     "tokenized",
                     rh_task_model(task));
    if (rc == RH_OK)
        rc = rh_sha256_file(path, sha256, NULL, err);
    if (rc == RH_OK)
        rc = preferred_pattern(meta, &pattern, err);
    if (rc == RH_OK)
        rc = rh_tokenizer_load(path, pattern, out, err);
    rh_free(pattern);
    rh_free(path);
    rh_free(meta);
    rh_free(plan);
    return rc;
}

static enum rh_rc write_ids(const struct rh_task *task, const char *name, const int32_t *ids,
                            int64_t rows, struct rh_error *err)
{
    int64_t seqlen = rh_task_recipe(task)->seqlen;
    char *path = rh_fs_join(rh_task_staging(task), name);
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    const int64_t shape[2] = {rows, seqlen};
    size_t index = rh_safetensors_writer_add(w, "input_ids", RH_I32, 2, shape);
    enum rh_rc rc = rh_safetensors_writer_begin(w, err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_put(w, index, 0, ids, (uint64_t)(rows * seqlen) * sizeof *ids,
                                       err);
    if (rc == RH_OK)
        rc = rh_safetensors_writer_finish(w, err);
    rh_safetensors_writer_free(w);
    rh_free(path);
    return rc;
}

static struct rh_json *set_report(const struct rh_set_sampling *s, bool with_candidates)
{
    struct rh_json *r = rh_json_new_object();
    rh_json_set_string(r, "name", s->name);
    rh_json_set_string(r, "sha256", s->sha256);
    rh_json_set_bool(r, "concat", s->concat);
    rh_json_set_int(r, "documents", s->documents);
    rh_json_set_int(r, "considered", s->considered);
    rh_json_set_int(r, "too_short", s->too_short);
    rh_json_set_int(r, "repetitive", s->repetitive);
    rh_json_set_int(r, "rows_found", s->rows);
    rh_json_set_int(r, "rows", s->taken);
    if (with_candidates)
        rh_json_set_int(r, "candidates", s->candidates);
    return r;
}

static struct rh_json *report(const struct rh_recipe *recipe, const struct rh_sampling *s,
                              const char *tokenizer_sha256)
{
    struct rh_json *r = rh_json_new_object();
    struct rh_json *sets = rh_json_new_array();
    rh_json_set_string(r, "schema", "roundhouse.calibration/2");
    rh_json_set_int(r, "rows", s->rows);
    rh_json_set_int(r, "seqlen", recipe->seqlen);
    rh_json_set_int(r, "tokens", s->rows * recipe->seqlen);
    if (recipe->top_up_rows > 0)
        rh_json_set_int(r, "candidates", s->candidate_rows);
    for (int i = 0; i < s->set_count; i++)
        rh_json_append(sets, set_report(&s->sets[i], recipe->top_up_rows > 0));
    rh_json_set(r, "datasets", sets);
    rh_json_set_string(r, "tokenizer_sha256", tokenizer_sha256);
    return r;
}

static enum rh_rc write_results(struct rh_task *task, const struct rh_sampling *s,
                                const char *tokenizer_sha256, struct rh_error *err)
{
    char *path = rh_fs_join(rh_task_staging(task), "report.json");
    struct rh_json *r = report(rh_task_recipe(task), s, tokenizer_sha256);
    enum rh_rc rc = write_ids(task, "ids.safetensors", s->ids, s->rows, err);
    if (rc == RH_OK && s->candidates)
        rc = write_ids(task, "candidates.safetensors", s->candidates, s->candidate_rows, err);
    if (rc == RH_OK)
        rc = rh_json_write(path, r, err);
    rh_free(path);
    rh_task_set_meta(task, r);
    return rc;
}

static enum rh_rc run_calibrate(struct rh_task *task, struct rh_error *err)
{
    const struct rh_recipe *recipe = rh_task_recipe(task);
    struct rh_tokenizer *tokenizer = NULL;
    struct rh_sampling sampling = {0};
    char tokenizer_sha256[RH_SHA256_HEX_SIZE];
    enum rh_rc rc = rh_recipe_check_complete(recipe, err);
    if (rc == RH_OK)
        rc = load_tokenizer(task, &tokenizer, tokenizer_sha256, err);
    if (rc == RH_OK)
        rc = rh_sample_rows(recipe, tokenizer, row_done, task, &sampling, err);
    if (rc == RH_OK)
        rc = write_results(task, &sampling, tokenizer_sha256, err);
    rh_sampling_done(&sampling);
    rh_tokenizer_free(tokenizer);
    return rc;
}

static const struct rh_stage_op ops[] = {{"calibrate", run_calibrate}};

const struct rh_stage rh_calibrate_stage = {
    .name = "calibrate",
    .ops = ops,
    .op_count = 1,
    .default_slots = 1,
    .command = rh_tokenize_command,
};
