#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/sha256.h"

#define PROGRAM   RH_BIN_DIR "/rh-download"
#define GENERATOR RH_SOURCE_DIR "/tests/data/make_header_only.py"
#define RECIPE    RH_SOURCE_DIR "/configs/recipes/qwen3.6-35b-a3b-int4-autoround-ec.json"
#define SKIP      77

static char root[4096];
static char model[4200];

/* Runs a program with its output in files; returns the exit code. */
static int run(const char *const *argv, char **out, char **errors)
{
    char *out_path = rh_fs_join(root, "out"), *errors_path = rh_fs_join(root, "errors");
    struct rh_error err = {0};
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen(out_path, "w", stdout) || !freopen(errors_path, "w", stderr))
            _exit(126);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (out && rh_fs_read(out_path, 1 << 24, out, NULL, &err) != RH_OK)
        fail_msg("%s", err.message);
    if (errors && rh_fs_read(errors_path, 1 << 24, errors, NULL, &err) != RH_OK)
        fail_msg("%s", err.message);
    rh_free(out_path);
    rh_free(errors_path);
    return WEXITSTATUS(status);
}

static int make_model(void **state)
{
    (void)state;
    char name[] = "/test-plan-XXXXXX";
    const char *const argv[] = {"python3", GENERATOR, model, NULL};
    char *errors = NULL;
    assert_non_null(getcwd(root, sizeof root - sizeof name));
    strcat(root, name);
    assert_non_null(mkdtemp(root));
    snprintf(model, sizeof model, "%s/model", root);
    int code = run(argv, NULL, &errors);
    if (code != 0)
        fprintf(stderr, "make_header_only.py: exit %d\n%s", code, errors);
    rh_free(errors);
    return code;
}

static int remove_model(void **state)
{
    (void)state;
    struct rh_error err = {0};
    return rh_fs_remove_tree(root, &err) == RH_OK ? 0 : -1;
}

static void the_header_only_model_has_the_published_config(void **state)
{
    (void)state;
    char sha256[RH_SHA256_HEX_SIZE];
    uint64_t size = 0;
    struct rh_error err = {0};
    char *path = rh_fs_join(model, "config.json");
    assert_int_equal(rh_sha256_file(path, sha256, &size, &err), RH_OK);
    assert_string_equal(sha256, "93a4693fa9d8392fbfccd4b3c9873f4bfdcb14fdede978b123d07d19675efe99");
    rh_free(path);
}

static void the_plan_of_the_35b_model_has_the_known_sums(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "\nmain    93,393 tensors  19,545,968,896 B\n",
        "\nmtp      2,335 tensors     452,031,488 B\n",
        "\nvisual     333 tensors     893,142,496 B\n",
        "\nall     96,061 tensors  20,891,142,880 B\n",
        " 1,045 tensors  71,903,645,408 B\n",
        "Qwen3_5MoeForConditionalGeneration",
        "units   44 (head, 40 blocks, tail, mtp, visual)",
        "linears 31,030 quantized, 80 at 16 bit in the blocks; 775 quantized in mtp\n",
        "  2,668 tensors   1,345,173,984 B  model_extra_tensors.safetensors\n",
        "     1 tensors   1,017,118,720 B  model-00010-of-00010.safetensors\n",
        "at an assumed 1 TFLOP/s, not measured",
    };
    const char *const argv[] = {PROGRAM, "plan", model, "--recipe", RECIPE, NULL};
    char *out = NULL, *errors = NULL;
    int code = run(argv, &out, &errors);
    assert_string_equal(errors, "");
    assert_int_equal(code, 0);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (!strstr(out, lines[i]))
            fail_msg("the output lacks \"%s\":\n%s", lines[i], out);
    }
    rh_free(out);
    rh_free(errors);
}

static int64_t number(const struct rh_json *root_node, const char *a, const char *b, const char *c)
{
    int64_t value = -1;
    const struct rh_json *node = rh_json_get(root_node, a);
    node = b ? rh_json_get(node, b) : node;
    node = c ? rh_json_get(node, c) : node;
    if (!rh_json_int(node, &value))
        fail_msg("no number at %s.%s.%s", a, b ? b : "", c ? c : "");
    return value;
}

static struct rh_json *plan_json(const char *reference, const char *set, const char *tflops)
{
    const char *const argv[] = {PROGRAM, "plan", "--json",   reference, "--recipe", RECIPE,
                                "--set", set,    "--tflops", tflops,    NULL};
    char *out = NULL, *errors = NULL;
    struct rh_json *json = NULL;
    struct rh_error err = {0};
    int code = run(argv, &out, &errors);
    assert_string_equal(errors, "");
    assert_int_equal(code, 0);
    if (rh_json_parse(out, strlen(out), "output", &json, &err) != RH_OK)
        fail_msg("%s", err.message);
    rh_free(out);
    rh_free(errors);
    return json;
}

static void the_document_has_the_same_sums_and_an_exact_count_of_work(void **state)
{
    (void)state;
    char *reference = rh_format("file:%s", model);
    struct rh_json *json = plan_json(reference, "quant.iters=200", "2.5");
    assert_string_equal(rh_json_string(rh_json_get(json, "schema")), "roundhouse.plan-report/1");
    assert_int_equal(number(json, "output", "main", "tensors"), 93393);
    assert_int_equal(number(json, "output", "main", "bytes"), INT64_C(19545968896));
    assert_int_equal(number(json, "output", "mtp", "tensors"), 2335);
    assert_int_equal(number(json, "output", "mtp", "bytes"), 452031488);
    assert_int_equal(number(json, "output", "visual", "bytes"), 893142496);
    assert_int_equal(number(json, "output", "all", "tensors"), 96061);
    assert_int_equal(number(json, "output", "all", "bytes"), INT64_C(20891142880));
    assert_int_equal(number(json, "source_files", NULL, NULL), 26);
    assert_int_equal(rh_json_count(rh_json_get(json, "shards")), 11);
    assert_int_equal(rh_json_count(rh_json_get(json, "units")), 44);
    /* Weights that a token meets: projections, router, shared expert with its gate, 8 experts. */
    double shared = 256.0 * 2048 + 3.0 * 512 * 2048 + 2048 + 8.0 * 3 * 512 * 2048;
    double linear = shared + (8192.0 + 4096 + 64) * 2048 + 2048.0 * 4096;
    double full = shared + (8192.0 + 1024) * 2048 + 2048.0 * 4096;
    double active = 30 * linear + 10 * full;
    double tuning = 6 * active * 8 * 4096 * 200, forward = 2 * 2 * active * 256 * 4096;
    assert_true(rh_json_number(rh_json_get(json, "tuning_flop_estimate"), 0) == tuning);
    assert_true(rh_json_number(rh_json_get(json, "forward_flop_estimate"), 0) == forward);
    double hours = rh_json_number(rh_json_get(json, "hours_estimate"), 0);
    double expected = (tuning + forward) / 2.5e12 / 3600;
    assert_true(hours > expected * 0.999999 && hours < expected * 1.000001);
    rh_json_free(json);
    rh_free(reference);
}

static void the_recipe_decides_what_is_quantized(void **state)
{
    (void)state;
    struct rh_json *json = plan_json(model, "mtp.method=\"keep\"", "1");
    assert_int_equal(number(json, "output", "mtp", "tensors"), 19);
    assert_int_equal(number(json, "output", "mtp", "bytes"), 1689281536);
    assert_int_equal(number(json, "linears", "mtp_quantized", NULL), 0);
    rh_json_free(json);
}

/* One more layer of full attention, and fc for every pass over the rows. */
static void a_tuned_mtp_head_counts_as_work(void **state)
{
    (void)state;
    struct rh_json *rounded = plan_json(model, "mtp.method=\"rtn\"", "1");
    struct rh_json *tuned = plan_json(model, "mtp.method=\"tune\"", "1");
    double shared = 256.0 * 2048 + 3.0 * 512 * 2048 + 2048 + 8.0 * 3 * 512 * 2048;
    double full = shared + (8192.0 + 1024) * 2048 + 2048.0 * 4096;
    double more[2] = {6 * full * 8 * 4096 * 400, 2 * 2 * (full + 4096.0 * 2048) * 256 * 4096};
    static const char *const keys[2] = {"tuning_flop_estimate", "forward_flop_estimate"};
    for (int i = 0; i < 2; i++) {
        double a = rh_json_number(rh_json_get(rounded, keys[i]), 0);
        double b = rh_json_number(rh_json_get(tuned, keys[i]), 0);
        assert_true(fabs(b - a - more[i]) <= 1e-9 * b);
    }
    /* 775 linears of INT4 codes, two a byte, and an fp16 scale for each 128. */
    double codes =
        256 * 3.0 * 512 * 2048 + 3 * 512 * 2048.0 + (8192.0 + 1024) * 2048 + 2048.0 * 4096;
    assert_true((double)(number(tuned, "disk_bytes", "tuned", NULL) -
                         number(rounded, "disk_bytes", "tuned", NULL)) == codes / 2 + codes / 64);
    assert_int_equal(number(tuned, "output", "mtp", "bytes"), 452031488);
    assert_true(rh_json_bool(rh_json_get(rh_json_get(tuned, "linears"), "mtp_tuned"), false));
    assert_false(rh_json_bool(rh_json_get(rh_json_get(rounded, "linears"), "mtp_tuned"), true));
    rh_json_free(tuned);
    rh_json_free(rounded);
}

static void expect_failure(const char *const *argv, int code, const char *text)
{
    char *out = NULL, *errors = NULL;
    assert_int_equal(run(argv, &out, &errors), code);
    assert_string_equal(out, "");
    if (!strstr(errors, text))
        fail_msg("the error lacks \"%s\":\n%s", text, errors);
    rh_free(out);
    rh_free(errors);
}

static void exit_codes_tell_usage_from_absence_and_failure(void **state)
{
    (void)state;
    const char *const no_model[] = {PROGRAM, "plan", "--recipe", RECIPE, NULL};
    const char *const no_recipe[] = {PROGRAM, "plan", model, NULL};
    const char *const no_value[] = {PROGRAM, "plan", model, "--recipe", NULL};
    const char *const unknown[] = {PROGRAM, "plan", model, "--recipe", RECIPE, "--fast", NULL};
    const char *const two[] = {PROGRAM, "plan", model, model, "--recipe", RECIPE, NULL};
    const char *const bad_rate[] = {PROGRAM, "plan",     model, "--recipe",
                                    RECIPE,  "--tflops", "-3",  NULL};
    const char *const bad_key[] = {PROGRAM, "plan",  model,          "--recipe",
                                   RECIPE,  "--set", "quant.iter=1", NULL};
    const char *const absent[] = {PROGRAM, "plan", "/no/such/model", "--recipe", RECIPE, NULL};
    const char *const remote[] = {PROGRAM, "plan", "gs:a/b", "--recipe", RECIPE, NULL};
    const char *const no_config[] = {PROGRAM, "plan", root, "--recipe", RECIPE, NULL};
    expect_failure(no_model, 2, "no MODEL given");
    expect_failure(no_recipe, 2, "--recipe");
    expect_failure(no_value, 2, "--recipe needs a value");
    expect_failure(unknown, 2, "--fast");
    expect_failure(two, 2, "one MODEL");
    expect_failure(bad_rate, 2, "-3");
    expect_failure(bad_key, 2, "quant.iters");
    expect_failure(absent, 4, "/no/such/model");
    expect_failure(remote, 1, "gs:a/b");
    expect_failure(no_config, 4, "config.json");
}

/* Before anything is read but config.json. */
static void an_mtp_head_of_two_layers_is_refused(void **state)
{
    (void)state;
    char *dir = rh_fs_join(root, "two");
    char *from = rh_fs_join(model, "config.json");
    char *to = rh_fs_join(dir, "config.json");
    char *text = NULL;
    size_t size = 0;
    struct rh_error err = {0};
    assert_int_equal(rh_fs_mkdirs(dir, &err), RH_OK);
    assert_int_equal(rh_fs_read(from, 1 << 20, &text, &size, &err), RH_OK);
    char *count = strstr(text, "\"mtp_num_hidden_layers\": 1");
    assert_non_null(count);
    *strchr(count, '1') = '2';
    assert_int_equal(rh_fs_write(to, text, size, &err), RH_OK);
    const char *const argv[] = {PROGRAM, "plan", dir, "--recipe", RECIPE, NULL};
    expect_failure(argv, 1, "mtp_num_hidden_layers is 2; an MTP head has one layer here");
    rh_free(text);
    rh_free(to);
    rh_free(from);
    rh_free(dir);
}

static bool has_python(void)
{
    const char *const argv[] = {"python3", "-c", "", NULL};
    snprintf(root, sizeof root, ".");
    bool there = run(argv, NULL, NULL) == 0;
    unlink("out");
    unlink("errors");
    return there;
}

int main(void)
{
    if (!has_python()) {
        fprintf(stderr, "skipped: python3, which makes the header-only model, is not here\n");
        return SKIP;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_only_model_has_the_published_config),
        cmocka_unit_test(the_plan_of_the_35b_model_has_the_known_sums),
        cmocka_unit_test(the_document_has_the_same_sums_and_an_exact_count_of_work),
        cmocka_unit_test(the_recipe_decides_what_is_quantized),
        cmocka_unit_test(a_tuned_mtp_head_counts_as_work),
        cmocka_unit_test(an_mtp_head_of_two_layers_is_refused),
        cmocka_unit_test(exit_codes_tell_usage_from_absence_and_failure),
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
