/*
 * Stands in for all five stages under their names: small files instead of tensors. Files beside the
 * model make it misbehave:
 *   odd-plan    the plan has no blocks
 *   fail-<op>   the operation fails for good       full-<op>  it finds no room
 *   crash-<op>  it kills its process, once         poison-<op>  each time
 *   hang-<op>   its thread hangs, once, deaf to everything
 *   with-mtp    the plan has an MTP head, which is tuned after the blocks
 *   slow        every block takes 300 ms
 *   large       tuning takes a device of 32 GB
 * The file $FAKE_DEVICE says what the device has, and has free: "80e9 79e9".
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "harness/stage.h"

#define BLOCKS 3

#define TENSOR(name) "{\"name\": \"" name "\", \"file\": 0}"
#define UNIT(kind)   "{\"kind\": \"" kind "\", \"source_tensors\": 1}"
#define OUTPUT(unit, shard) "{\"unit\": " unit ", \"shard\": " shard "}"
/* clang-format off */
#define PLAN(units, tensors, outputs)                                                              \
    "{\"units\": [" UNIT("head") ", " UNIT("block") ", " UNIT("block") ", " UNIT("block") ", "      \
    UNIT("tail") units "], \"tensors\": [" TENSOR("h") ", " TENSOR("0") ", " TENSOR("1") ", "       \
    TENSOR("2") ", " TENSOR("t") tensors "], \"files\": [{\"name\": \"weights\"}], "               \
    "\"shards\": [{}, {}], \"outputs\": [" OUTPUT("0", "1") ", " OUTPUT("1", "0") ", "              \
    OUTPUT("2", "0") ", " OUTPUT("3", "0") ", " OUTPUT("4", "1") outputs "]}"
/* clang-format on */

/* One tensor a unit, all in the file "weights" beside the model, which need not be there. */
static const char plan[] = PLAN("", "", "");
static const char plan_with_mtp[] =
    PLAN(", {\"kind\": \"mtp\", \"step\": 3, \"source_tensors\": 1}", ", " TENSOR("m"),
         ", " OUTPUT("5", "1"));

static void device_memory(uint64_t *total, uint64_t *free)
{
    const char *path = getenv("FAKE_DEVICE");
    FILE *file = path ? fopen(path, "r") : NULL;
    double bytes[2] = {0, 0};
    char text[64] = "";
    if (file && fgets(text, sizeof text, file)) {
        char *end = text;
        for (int i = 0; i < 2; i++)
            bytes[i] = strtod(end, &end);
    }
    if (file)
        fclose(file);
    *total = (uint64_t)bytes[0];
    *free = (uint64_t)bytes[1];
}

static bool is_there(const struct rh_task *task, const char *prefix, const char *op, char **out)
{
    const char *model = strchr(rh_task_model(task), ':') + 1;
    char *path = rh_format("%s/%s%s", model, prefix, op);
    bool there = rh_fs_exists(path);
    if (out)
        *out = path;
    else
        rh_free(path);
    return there;
}

static enum rh_rc misbehave(const struct rh_task *task, const char *op, struct rh_error *err)
{
    char *crash = NULL;
    if (is_there(task, "crash-", op, &crash)) {
        unlink(crash);
        raise(SIGKILL);
    }
    rh_free(crash);
    if (is_there(task, "poison-", op, NULL))
        raise(SIGSEGV);
    char *hang = NULL;
    if (is_there(task, "hang-", op, &hang)) {
        unlink(hang);
        for (;;)
            pause();
    }
    rh_free(hang);
    if (is_there(task, "fail-", op, NULL))
        return rh_fail(err, RH_ERR_FORMAT, "the fake %s was told to fail", op);
    if (is_there(task, "full-", op, NULL))
        return rh_fail(err, RH_ERR_NO_SPACE, "the fake %s has no room", op);
    return RH_OK;
}

static enum rh_rc write_text(const char *dir, const char *name, const char *text,
                             struct rh_error *err)
{
    char *path = rh_fs_join(dir, name);
    enum rh_rc rc = rh_fs_write(path, text, strlen(text), err);
    rh_free(path);
    return rc;
}

static enum rh_rc simple(struct rh_task *task, const char *op, const char *name, const char *text,
                         struct rh_error *err)
{
    enum rh_rc rc = misbehave(task, op, err);
    if (rc == RH_OK)
        rc = rh_task_check(task, err);
    return rc == RH_OK ? write_text(rh_task_staging(task), name, text, err) : rc;
}

static enum rh_rc run_plan(struct rh_task *task, struct rh_error *err)
{
    static const char odd[] = "{\"units\": [{\"kind\": \"head\"}], \"files\": [{}],"
                              " \"shards\": [{}], \"outputs\": [{\"unit\": 0, \"shard\": 0}]}";
    const char *text = is_there(task, "odd-", "plan", NULL)   ? odd
                       : is_there(task, "with-", "mtp", NULL) ? plan_with_mtp
                                                              : plan;
    char *probed = rh_format("{\"recipe\": {\"calibration\": {\"top_up_rows\": 1}}, %s", plan + 1);
    if (is_there(task, "probed", "", NULL))
        text = probed;
    enum rh_rc rc = simple(task, "plan", "plan.json", text, err);
    rh_free(probed);
    return rc;
}

static enum rh_rc run_fetch(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "fetch", "tensors.safetensors", "weights", err);
}

static enum rh_rc run_digest(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "digest", "digest.json", "{}", err);
}

static enum rh_rc run_calibrate(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "calibrate", "ids.safetensors", "ids", err);
}

static enum rh_rc run_probe(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "probe", "ids.safetensors", "other ids", err);
}

static enum rh_rc run_pack(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "pack", "tensors.safetensors", "packed", err);
}

static enum rh_rc run_shard(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "shard", "model.safetensors", "shard", err);
}

static enum rh_rc run_finalize(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "finalize", "config.json", "{}", err);
}

static enum rh_rc run_publish(struct rh_task *task, struct rh_error *err)
{
    return simple(task, "publish", "receipt.json", "{\"published\": true}", err);
}

static enum rh_rc work_on_block(struct rh_task *task, int64_t block, struct rh_error *err)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    int steps = is_there(task, "slow", "", NULL) ? 30 : 1;
    char *phase = block < BLOCKS ? rh_format("block %d", (int)block) : rh_strdup("mtp");
    enum rh_rc rc = RH_OK;
    for (int i = 0; i < steps && rc == RH_OK; i++) {
        rh_task_progress(task, phase, i, steps, "iterations");
        rh_task_tick(task, block, i, steps, 2.0 / (1 + i), 2.0 / (1 + i));
        nanosleep(&pause, NULL);
        rc = rh_task_check(task, err);
    }
    rh_free(phase);
    return rc;
}

static enum rh_rc hand_in_block(struct rh_task *task, int64_t block, struct rh_error *err)
{
    char *name = rh_format("tune-%05d", (int)block);
    char *dir = rh_fs_join(rh_task_staging(task), name);
    struct rh_json *metrics = rh_json_new_object();
    if (block == BLOCKS)
        rh_json_set_string(metrics, "unit", "mtp");
    rh_json_set_number(metrics, "init_loss", 2);
    rh_json_set_number(metrics, "best_loss", 1);
    rh_json_set_int(metrics, "best_iter", 7);
    struct rh_json *experts = rh_json_new_object();
    rh_json_set_int(experts, "count", 8);
    rh_json_set_int(experts, "floor", 256);
    rh_json_set_int(experts, "below_floor", 2);
    rh_json_set_int(experts, "tokens_min", 11);
    rh_json_set_int(experts, "tokens_median", 700);
    rh_json_set(metrics, "experts", experts);
    rh_json_set_number(metrics, "seconds", 0.25);
    enum rh_rc rc = rh_fs_mkdirs(dir, err);
    if (rc == RH_OK)
        rc = write_text(dir, "block.safetensors", "block", err);
    if (rc == RH_OK && block < BLOCKS)
        rc = write_text(dir, "chain.safetensors", "chain", err);
    if (rc == RH_OK)
        rc = write_text(dir, "report.json", "{}", err);
    if (rc == RH_OK)
        rc = rh_task_checkpoint(task, name, block, metrics, err);
    else
        rh_json_free(metrics);
    rh_free(dir);
    rh_free(name);
    return rc;
}

static enum rh_rc run_tune(struct rh_task *task, struct rh_error *err)
{
    enum rh_rc rc = misbehave(task, "tune", err);
    uint64_t total = 0;
    uint64_t room = 0;
    device_memory(&total, &room);
    if (rc == RH_OK && total > 0 && room < 32 * (uint64_t)1e9 && is_there(task, "large", "", NULL)) {
        rh_task_device_short(task, 32 * (uint64_t)1e9, room);
        return rh_fail(err, RH_ERR_NO_MEMORY, "the fake device is too small");
    }
    for (int64_t b = rh_task_first_index(task); b <= rh_task_last_index(task) && rc == RH_OK; b++) {
        rc = rh_task_next_part(task, err);
        if (rc == RH_OK)
            rc = rh_task_wait_artifact(task, "fetch", b < BLOCKS ? b + 1 : b + 2, err);
        if (rc == RH_OK)
            rc = work_on_block(task, b, err);
        if (rc == RH_OK)
            rc = hand_in_block(task, b, err);
    }
    return rc;
}

int main(int argc, char **argv)
{
    static const struct rh_stage_op ops[] = {
        {"plan", run_plan},           {"fetch", run_fetch},       {"digest", run_digest},
        {"calibrate", run_calibrate}, {"probe", run_probe},       {"tune", run_tune},
        {"pack", run_pack},           {"shard", run_shard},       {"finalize", run_finalize},
        {"publish", run_publish},
    };
    const char *leaf = strrchr(argv[0], '/');
    const char *stage = strstr(leaf ? leaf : argv[0], "rh-");
    if (!stage) {
        fprintf(stderr, "%s: call it rh-<stage>\n", argv[0]);
        return 2;
    }
    return rh_stage_main(&(struct rh_stage){.name = stage + 3,
                                            .ops = ops,
                                            .op_count = sizeof ops / sizeof *ops,
                                            .default_slots = 1,
                                            .device_memory = device_memory},
                         argc, argv);
}
