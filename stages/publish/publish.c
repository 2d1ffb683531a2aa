#include "publish/publish.h"

#include <stdlib.h>
#include <string.h>

#include "base/crash.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "publish/verify.h"

#include "publication.h"

static enum rh_rc load_plan(struct publication *p, struct rh_error *err)
{
    char *dir = rh_task_artifact(p->task, "plan", 0);
    char *path = rh_fs_join(dir, "plan.json");
    struct rh_json *json = NULL;
    enum rh_rc rc = rh_json_read(path, UINT64_C(1) << 30, &json, err);
    if (rc == RH_OK)
        rc = rh_model_plan_from_json(json, path, &p->plan, err);
    rh_json_free(json);
    rh_free(path);
    rh_free(dir);
    return rc;
}

static enum rh_rc occupied(const struct publication *p, struct rh_error *err)
{
    return rh_fail(err, RH_ERR_EXISTS,
                   "%s exists already and holds something else; remove it or submit the job with "
                   "another destination",
                   p->destination);
}

/* Before any work: a destination without a manifest can never be an earlier run of this job. */
static enum rh_rc check_destination(const struct publication *p, struct rh_error *err)
{
    char *manifest = rh_fs_join(p->destination, PUBLICATION_MANIFEST);
    bool foreign = rh_fs_exists(p->destination) && !rh_fs_exists(manifest);
    rh_free(manifest);
    return foreign ? occupied(p, err) : RH_OK;
}

static enum rh_rc same_manifest(const struct publication *p, bool *same, struct rh_error *err)
{
    char *ours = rh_fs_join(p->staging, PUBLICATION_MANIFEST);
    char *theirs = rh_fs_join(p->destination, PUBLICATION_MANIFEST);
    char a[RH_SHA256_HEX_SIZE], b[RH_SHA256_HEX_SIZE];
    uint64_t size;
    enum rh_rc rc = rh_sha256_file(ours, a, &size, err);
    if (rc == RH_OK)
        rc = rh_sha256_file(theirs, b, &size, err);
    *same = rc == RH_OK && strcmp(a, b) == 0;
    rh_free(ours);
    rh_free(theirs);
    return rc;
}

static enum rh_rc show_progress(void *arg, const char *phase, uint64_t done, uint64_t total,
                                struct rh_error *err)
{
    char *text = rh_format("verifying %s", phase);
    rh_task_progress(arg, text, (double)done, (double)total, "bytes");
    rh_free(text);
    return rh_task_check(arg, err);
}

/* A local source is read where it is; of a hub model the job has every tensor. */
static enum rh_rc verify(struct publication *p, const char *dir, struct rh_verify_report *report,
                         struct rh_error *err)
{
    static const char local[] = "file:";
    const char *model = rh_task_model(p->task), *source = NULL;
    struct rh_verify_options options = {.progress = show_progress, .arg = p->task};
    options.threads = (int)rh_task_recipe(p->task)->threads;
    if (strncmp(model, local, strlen(local)) == 0 && rh_fs_is_dir(model + strlen(local)))
        source = model + strlen(local);
    else
        options.source_job = rh_task_job_dir(p->task);
    enum rh_rc rc = rh_verify_checkpoint(dir, source, &options, report, err);
    if (rc != RH_OK || report->ok)
        return rc;
    uint64_t problems = 0;
    for (int i = 0; i < RH_VERIFY_COUNT; i++)
        problems += report->checks[i].problems;
    return rh_fail(err, RH_ERR_FORMAT,
                   "the checkpoint does not pass verification, nothing was published: %llu "
                   "problems, the first is: %.600s",
                   (unsigned long long)problems, report->problems[0].text);
}

static struct rh_json *verify_summary(const struct rh_verify_report *report)
{
    struct rh_json *summary = rh_verify_report_json(report);
    rh_json_remove(summary, "problems");
    rh_json_remove(summary, "schema");
    return summary;
}

static enum rh_rc write_receipt(const struct publication *p, const struct rh_verify_report *report,
                                struct rh_error *err)
{
    char *path = rh_fs_join(rh_task_staging(p->task), "receipt.json");
    char *manifest = rh_fs_join(p->destination, PUBLICATION_MANIFEST);
    char hex[RH_SHA256_HEX_SIZE];
    uint64_t size = 0;
    enum rh_rc rc = rh_sha256_file(manifest, hex, &size, err);
    if (rc == RH_OK) {
        struct rh_json *root = rh_json_new_object();
        rh_json_set_string(root, "schema", "roundhouse.receipt/1");
        rh_json_set_string(root, "destination", rh_task_output(p->task));
        rh_json_set_int(root, "files", (int64_t)rh_json_count(p->files) + 1);
        rh_json_set_int(root, "bytes", (int64_t)(p->bytes + size));
        rh_json_set_string(root, "manifest_sha256", hex);
        rh_json_set(root, "verify", verify_summary(report));
        rc = rh_json_write(path, root, err);
        rh_json_free(root);
    }
    rh_free(manifest);
    rh_free(path);
    return rc;
}

/* Everything into the hidden directory. */
static enum rh_rc assemble(struct publication *p, struct rh_error *err)
{
    enum rh_rc rc = rh_fs_remove_tree(p->staging, err);
    if (rc == RH_OK)
        rc = rh_fs_mkdirs(p->staging, err);
    if (rc == RH_OK)
        rc = publication_gather(p, err);
    if (rc == RH_OK)
        rc = publication_history(p, err);
    if (rc == RH_OK)
        rc = publication_card(p, err);
    if (rc == RH_OK)
        rc = publication_manifest(p, err);
    if (rc == RH_OK)
        rc = rh_fs_sync_dir(p->staging, err);
    return rc;
}

/* Puts the assembled directory into its place, or finds that it is there already. */
static enum rh_rc release(struct publication *p, struct rh_verify_report *report,
                          struct rh_error *err)
{
    bool same = false;
    if (rh_fs_exists(p->destination)) {
        enum rh_rc rc = same_manifest(p, &same, err);
        if (rc != RH_OK)
            return rc;
        return same ? verify(p, p->destination, report, err) : occupied(p, err);
    }
    enum rh_rc rc = verify(p, p->staging, report, err);
    if (rc == RH_OK)
        rc = rh_task_check(p->task, err);
    rh_crash_point("before_appearance");
    if (rc == RH_OK)
        rc = rh_fs_rename_new(p->staging, p->destination, err);
    rh_crash_point("after_appearance");
    return rc;
}

static void publication_done(struct publication *p)
{
    rh_free(p->destination);
    rh_free(p->base);
    rh_free(p->staging);
    rh_free(p->source_name);
    rh_model_plan_free(p->plan);
    rh_json_free(p->files);
    rh_json_free(p->source);
    rh_json_free(p->blocks);
}

static enum rh_rc run_publish(struct rh_task *task, struct rh_error *err)
{
    struct publication p = {.task = task, .files = rh_json_new_array()};
    struct rh_verify_report report = {0};
    enum rh_rc rc = publication_place(&p, err);
    if (rc == RH_OK)
        rc = check_destination(&p, err);
    if (rc == RH_OK)
        rc = load_plan(&p, err);
    if (rc != RH_OK)
        goto out;
    rc = assemble(&p, err);
    if (rc == RH_OK)
        rc = release(&p, &report, err);
    if (rc == RH_OK)
        rc = write_receipt(&p, &report, err);
    /* Gone already after the rename; the artifacts keep the evidence of a failure. */
    if (rh_fs_exists(p.staging)) {
        enum rh_rc swept = rh_fs_remove_tree(p.staging, rc == RH_OK ? err : NULL);
        rc = rc == RH_OK ? swept : rc;
    }
out:
    rh_verify_report_done(&report);
    publication_done(&p);
    return rc;
}

static int run_command(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "verify") == 0 ? rh_verify_command(argc, argv) : -1;
}

static const struct rh_stage_op ops[] = {{"publish", run_publish}};

const struct rh_stage rh_publish_stage = {
    .name = "publish",
    .ops = ops,
    .op_count = 1,
    .default_slots = 1,
    .command = run_command,
};
