/* The tune operation on the emulated GPU, with blocks loaded and files written beside the tuning: the
 * same job on the CPU gives nearly the same losses, and either may go on where the other stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fs.h"
#include "base/mem.h"
#include "calibrate/calibrate.h"
#include "device.h"
#include "download/download.h"
#include "emu_control.h"
#include "harness/stage.h"
#include "nano.h"
#include "quantize/quantize.h"
#include "task.h"

#define MODEL  "file:" RH_SOURCE_DIR "/tests/data/nano"
#define BLOCKS 4
#define STEPS  5 /* and the MTP head */
#define UNITS  7

struct job {
    char dir[64];
    struct rh_recipe *recipe;
};

static void run(const struct job *job, const struct rh_stage *stage, const char *op, int64_t first,
                int64_t last)
{
    struct rh_error err;
    nano_check(rh_stage_run_local(stage, op, job->dir, job->recipe, MODEL, "dir:/nowhere", first,
                                  last, &err),
               &err);
}

static void set(struct job *job, const char *assignment)
{
    struct rh_error err;
    nano_check(rh_recipe_set(job->recipe, assignment, &err), &err);
}

static void job_open(struct job *job)
{
    struct rh_error err;
    struct rh_json *empty = rh_json_new_object();
    strcpy(job->dir, "/tmp/rh-test-session-XXXXXX");
    assert_non_null(mkdtemp(job->dir));
    nano_check(rh_recipe_from_json(empty, "empty recipe", &job->recipe, &err), &err);
    rh_json_free(empty);
    set(job, "calibration.dataset=" RH_SOURCE_DIR "/tests/data/nano-samples.jsonl");
    set(job, "quant.batch_size=2");
    set(job, "calibration.nsamples=2");
    set(job, "calibration.seqlen=24");
    set(job, "quant.iters=2");
    set(job, "quant.lr=0.002");
    set(job, "mtp.method=tune");
    run(job, &rh_download_stage, "plan", 0, 0);
    for (int64_t u = 0; u < UNITS; u++)
        run(job, &rh_download_stage, "fetch", u, u);
    run(job, &rh_calibrate_stage, "calibrate", 0, 0);
}

static void job_close(struct job *job)
{
    nano_check(rh_fs_remove_tree(job->dir, NULL), NULL);
    rh_recipe_free(job->recipe);
}

/* Of the report of a block; checks what made it. */
static double final_loss(const struct job *job, int64_t block, const char *backend)
{
    struct rh_error err;
    struct rh_json *json = NULL;
    char *path = rh_format("%s/artifacts/tune-%05lld/report.json", job->dir, (long long)block);
    nano_check(rh_json_read(path, 1 << 20, &json, &err), &err);
    assert_string_equal(rh_json_string(rh_json_get(json, "backend")), backend);
    double loss = rh_json_number(rh_json_get(json, "final_loss"), -1.0);
    rh_json_free(json);
    rh_free(path);
    return loss;
}

static enum rh_dtype chain_type(const struct job *job, int64_t block)
{
    struct rh_error err;
    struct rh_safetensors *file = NULL;
    char *path = rh_format("%s/artifacts/tune-%05lld/chain.safetensors", job->dir, (long long)block);
    nano_check(rh_safetensors_open(path, &file, &err), &err);
    const struct rh_tensor_info *info = rh_safetensors_find(file, "quant");
    assert_non_null(info);
    enum rh_dtype dtype = info->dtype;
    rh_safetensors_close(file);
    rh_free(path);
    return dtype;
}

static void a_session_on_a_gpu_is_that_of_the_cpu(void **state)
{
    (void)state;
    struct job cpu;
    struct job gpu;
    rh_emu_set_memory((size_t)4 << 30);
    job_open(&cpu);
    job_open(&gpu);
    set(&cpu, "resources.backend=cpu");
    set(&gpu, "resources.backend=cuda");
    run(&cpu, &rh_quantize_stage, "tune", 0, STEPS - 1);
    run(&gpu, &rh_quantize_stage, "tune", 0, 1);
    assert_int_equal(chain_type(&gpu, 1), RH_BF16);
    set(&gpu, "resources.backend=cpu"); /* the GPU is gone */
    run(&gpu, &rh_quantize_stage, "tune", 0, 2);
    assert_int_equal(chain_type(&gpu, 2), RH_F32);
    set(&gpu, "resources.backend=cuda");
    run(&gpu, &rh_quantize_stage, "tune", 0, STEPS - 1);
    for (int64_t b = 0; b < STEPS; b++) {
        double x = final_loss(&gpu, b, b == 2 ? "cpu" : "cuda");
        double y = final_loss(&cpu, b, "cpu");
        print_message("block %lld: %.4e, the CPU has %.4e\n", (long long)b, x, y);
        /* One of 48 tokens that goes to another expert changes it by several percent. */
        assert_true(fabs(x - y) <= 0.25 * y);
    }
    job_close(&cpu);
    job_close(&gpu);
}

static struct rh_task *task_of(const struct job *job, const char *op, int64_t last)
{
    struct rh_error err;
    struct rh_recipe *recipe = NULL;
    char *staging = rh_format("%s/staging/%s-00000.9", job->dir, op);
    nano_check(rh_recipe_from_json(job->recipe->canonical, "copy", &recipe, &err), &err);
    struct rh_task *t = rh_task_new(rh_stage_find_op(&rh_quantize_stage, op), "local", MODEL,
                                    "dir:/nowhere", job->dir, staging, recipe);
    t->local = true;
    t->last = last;
    rh_free(staging);
    return t;
}

static struct rh_json *probe_report(const struct job *job)
{
    struct rh_error err;
    struct rh_json *json = NULL;
    char *path = rh_format("%s/artifacts/probe-00000/report.json", job->dir);
    nano_check(rh_json_read(path, 1 << 20, &json, &err), &err);
    rh_free(path);
    return json;
}

static int64_t count_of(const struct rh_json *report, const char *part, const char *key)
{
    int64_t n = -1;
    assert_true(rh_json_int(rh_json_get(rh_json_get(report, part), key), &n));
    return n;
}

/* The rows and candidates of calibrate again, with the keys of a top-up. */
static void add_top_up(struct job *job, const char *backend)
{
    struct rh_error err;
    char *artifact = rh_format("%s/artifacts/calibrate-00000", job->dir);
    nano_check(rh_fs_remove_tree(artifact, &err), &err);
    rh_free(artifact);
    set(job, "calibration.top_up_rows=1");
    set(job, "calibration.top_up_pool=5");
    set(job, "calibration.expert_floor=8");
    set(job, backend);
    run(job, &rh_calibrate_stage, "calibrate", 0, 0);
}

/* Owned by the caller. */
static char *checked_report(const struct job *job, const char *backend)
{
    struct rh_json *report = probe_report(job);
    assert_true(count_of(report, "before", "missing") > count_of(report, "after", "missing"));
    assert_int_equal(rh_json_count(rh_json_get(report, "exchanged")), 1);
    assert_int_equal(rh_json_count(rh_json_get(report, "blocks")), BLOCKS);
    assert_string_equal(rh_json_string(rh_json_get(report, "backend")), backend);
    char *text = rh_json_canonical(report);
    rh_json_free(report);
    return text;
}

/* bf16 sends a few tokens elsewhere, but either backend tops up, and the tuning takes its rows. */
static void a_probe_tops_up_on_either_backend(void **state)
{
    (void)state;
    static const char *const backends[] = {"cpu", "cuda"};
    static const char *const settings[] = {"resources.backend=cpu", "resources.backend=cuda"};
    rh_emu_set_memory((size_t)4 << 30);
    for (int i = 0; i < 2; i++) {
        struct job job;
        job_open(&job);
        add_top_up(&job, settings[i]);
        run(&job, &rh_quantize_stage, "probe", 0, 0);
        rh_free(checked_report(&job, backends[i]));
        run(&job, &rh_quantize_stage, "tune", 0, 0);
        job_close(&job);
    }
    rh_emu_set_memory((size_t)1 << 30);
}

/* What it asks for then is enough with its rows on the host, and the result is the same. */
static void a_probe_on_a_gpu_that_is_too_small_says_what_it_takes(void **state)
{
    (void)state;
    struct job roomy, tight;
    rh_emu_set_memory((size_t)4 << 30);
    job_open(&roomy);
    job_open(&tight);
    add_top_up(&roomy, "resources.backend=cuda");
    add_top_up(&tight, "resources.backend=cuda");
    run(&roomy, &rh_quantize_stage, "probe", 0, 0);
    size_t used = rh_emu_allocated();
    rh_emu_set_memory(used + ((size_t)200 << 20));
    rh_device_look();
    struct rh_task *t = task_of(&tight, "probe", 0);
    rh_task_execute(t);
    assert_int_equal(t->err.failure, RH_FAILURE_RESOURCE);
    assert_true(t->device_need > (size_t)1 << 30);
    uint64_t need = t->device_need;
    rh_task_free(t);
    rh_emu_set_memory(used + need);
    t = task_of(&tight, "probe", 0);
    rh_task_execute(t);
    assert_int_equal(t->rc, RH_OK);
    rh_task_free(t);
    run(&tight, &rh_quantize_stage, "probe", 0, 0);
    char *a = checked_report(&roomy, "cuda");
    char *b = checked_report(&tight, "cuda");
    assert_string_equal(a, b);
    rh_free(a);
    rh_free(b);
    job_close(&roomy);
    job_close(&tight);
    rh_emu_set_memory((size_t)1 << 30);
}

/* What it asks for is enough, and a byte less is not. */
static void a_gpu_that_is_too_small_says_what_it_takes(void **state)
{
    (void)state;
    struct job job;
    job_open(&job);
    set(&job, "resources.backend=cuda");
    size_t used = rh_emu_allocated();
    rh_emu_set_memory(used + ((size_t)200 << 20));
    rh_device_watch("cuda");
    struct rh_task *t = task_of(&job, "tune", BLOCKS - 1);
    rh_task_execute(t);
    assert_int_equal(t->rc, RH_ERR_NO_MEMORY);
    assert_int_equal(t->err.failure, RH_FAILURE_RESOURCE);
    assert_true(t->device_room <= (size_t)200 << 20);
    assert_true(t->device_need > (size_t)1 << 30 && t->device_need < (size_t)2 << 30);
    uint64_t need = t->device_need;
    rh_task_free(t);
    rh_emu_set_memory(used + need - 1);
    t = task_of(&job, "tune", BLOCKS - 1);
    rh_task_execute(t);
    assert_int_equal(t->device_need, need);
    assert_int_equal(t->device_room, need - 1);
    rh_task_free(t);
    rh_emu_set_memory(used + need);
    t = task_of(&job, "tune", BLOCKS - 1);
    rh_task_execute(t);
    assert_int_equal(t->rc, RH_OK);
    assert_int_equal(t->device_need, 0);
    rh_task_free(t);
    job_close(&job);
    rh_emu_set_memory((size_t)1 << 30);
}

static void the_device_is_looked_at_again_and_again(void **state)
{
    (void)state;
    const struct timespec pause = {.tv_nsec = 50000000};
    uint64_t total = 0;
    uint64_t available = 0;
    rh_emu_set_memory((size_t)5 << 30); /* watched since the last test */
    for (int i = 0; i < 200 && total != (size_t)5 << 30; i++) {
        nanosleep(&pause, NULL);
        rh_quantize_stage.device_memory(&total, &available);
    }
    assert_int_equal(total, (size_t)5 << 30);
    assert_true(available > 0 && available <= total);
    assert_int_equal(rh_device_look(), available);
    rh_emu_set_memory((size_t)1 << 30);
}

static void assert_same_files(const struct job *a, const struct job *b, int64_t block,
                              const char *name)
{
    char *bytes[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    const struct job *jobs[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        struct rh_error err;
        char *path = rh_format("%s/artifacts/tune-%05lld/%s", jobs[i]->dir, (long long)block, name);
        nano_check(rh_fs_read(path, 1 << 26, &bytes[i], &sizes[i], &err), &err);
        rh_free(path);
    }
    assert_true(sizes[0] > 0 && sizes[0] == sizes[1]);
    assert_memory_equal(bytes[0], bytes[1], sizes[0]);
    rh_free(bytes[0]);
    rh_free(bytes[1]);
}

static void neither_threads_nor_a_stop_change_a_byte(void **state)
{
    (void)state;
    struct job whole;
    struct job parts;
    job_open(&whole);
    job_open(&parts);
    struct job *jobs[2] = {&whole, &parts};
    for (int i = 0; i < 2; i++) {
        set(jobs[i], "resources.backend=cpu");
        set(jobs[i], "quant.observer=mse");
    }
    set(&whole, "resources.threads=1");
    set(&parts, "resources.threads=2");
    run(&whole, &rh_quantize_stage, "tune", 0, STEPS - 1);
    run(&parts, &rh_quantize_stage, "tune", 0, 0);
    run(&parts, &rh_quantize_stage, "tune", 1, BLOCKS - 1);
    run(&parts, &rh_quantize_stage, "tune", BLOCKS, BLOCKS); /* the MTP head alone */
    for (int64_t b = 0; b < STEPS; b++) {
        assert_same_files(&whole, &parts, b, "block.safetensors");
        if (b < BLOCKS)
            assert_same_files(&whole, &parts, b, "chain.safetensors");
        assert_same_files(&whole, &parts, b, "report.json");
    }
    job_close(&whole);
    job_close(&parts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neither_threads_nor_a_stop_change_a_byte),
        cmocka_unit_test(a_session_on_a_gpu_is_that_of_the_cpu),
        cmocka_unit_test(a_gpu_that_is_too_small_says_what_it_takes),
        cmocka_unit_test(a_probe_tops_up_on_either_backend),
        cmocka_unit_test(a_probe_on_a_gpu_that_is_too_small_says_what_it_takes),
        cmocka_unit_test(the_device_is_looked_at_again_and_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
