#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "publish/verify.h"
#include "quantized.h"

#define LAYER0 "model.language_model.layers.0."
#define LINEAR LAYER0 "linear_attn.in_proj_qkv" /* [256, 128] */

static const char recipe[] = "{\"quant\": {\"group_size\": 64},"
                             "\"output\": {\"max_shard_bytes\": 700000}}";

static struct quantized *nano;

static int set_up(void **state)
{
    (void)state;
    nano = quantized_new(recipe);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    quantized_free(nano);
    return 0;
}

static void print_problems(const struct rh_verify_report *r)
{
    for (size_t i = 0; i < r->problem_count; i++)
        fprintf(stderr, "  %s: %s\n", r->checks[r->problems[i].check].name, r->problems[i].text);
}

static void expect_good(const char *dir, const char *source)
{
    struct rh_verify_report r;
    struct rh_error err = {0};
    enum rh_rc rc = rh_verify_checkpoint(dir, source, NULL, &r, &err);
    if (rc != RH_OK)
        fail_msg("%s", err.message);
    print_problems(&r);
    assert_true(r.ok);
    assert_int_equal(r.problem_count, 0);
    assert_int_equal(r.tensors, nano->plan->all.tensors);
    assert_int_equal(r.bytes, nano->plan->all.bytes);
    rh_verify_report_done(&r);
}

/* Fails, and the named check says `text` of it. */
static void expect_problem(const char *dir, const char *source, enum rh_verify_id check,
                           const char *text)
{
    struct rh_verify_report r;
    struct rh_error err = {0};
    if (rh_verify_checkpoint(dir, source, NULL, &r, &err) != RH_OK)
        fail_msg("%s", err.message);
    bool found = false;
    for (size_t i = 0; i < r.problem_count; i++)
        found = found || (r.problems[i].check == check && strstr(r.problems[i].text, text));
    if (!found)
        print_problems(&r);
    assert_false(r.ok);
    assert_int_equal(r.checks[check].state, RH_VERIFY_FAILED);
    assert_true(found);
    rh_verify_report_done(&r);
}

static void a_checkpoint_by_the_book_passes_with_and_without_source(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    assert_true(nano->plan->shard_count > 2);
    expect_good(dir, NULL);
    expect_good(dir, NANO);
    quantized_add_manifest(nano, dir);
    expect_good(dir, NULL);
    expect_good(dir, NANO);
    remove_directory(dir);
}

static void other_widths_and_a_kept_head_pass_too(void **state)
{
    (void)state;
    static const char *const recipes[] = {
        "{\"quant\": {\"bits\": 2, \"group_size\": 32}}",
        "{\"quant\": {\"bits\": 3, \"group_size\": 128}}",
        "{\"quant\": {\"bits\": 8, \"group_size\": -1}, \"mtp\": {\"method\": \"keep\"}}",
        "{\"quant\": {\"ignore_layers\": [\"experts.3.\", \"o_proj\"]}}",
        "{\"mtp\": {\"method\": \"tune\"}}",
    };
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++) {
        struct quantized *q = quantized_new(recipes[i]);
        struct rh_verify_report r;
        struct rh_error err = {0};
        char *dir = quantized_write(q, NULL);
        for (int with = 0; with < 2; with++) {
            if (rh_verify_checkpoint(dir, with ? NANO : NULL, NULL, &r, &err) != RH_OK)
                fail_msg("%s", err.message);
            print_problems(&r);
            assert_true(r.ok);
            assert_int_equal(r.checks[RH_VERIFY_WEIGHTS].count, with ? r.quantized_linears : 0);
            rh_verify_report_done(&r);
        }
        remove_directory(dir);
        quantized_free(q);
    }
}

static void the_report_gives_the_error_of_the_weights(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    struct rh_verify_report r;
    assert_int_equal(rh_verify_checkpoint(dir, NANO, NULL, &r, NULL), RH_OK);
    /* Bell-shaped weights in groups of 64: a step is about max/8 = 0.3 standard deviations, whose
     * uniform error has an RMS of step / sqrt(12). */
    assert_true(r.error_mean > 0.06 && r.error_mean < 0.13);
    assert_true(r.error_max >= r.error_mean && r.error_max < 0.25);
    assert_non_null(r.error_max_name);
    struct rh_json *json = rh_verify_report_json(&r);
    assert_true(rh_json_bool(rh_json_get(json, "ok"), false));
    assert_int_equal(rh_json_count(rh_json_get(json, "checks")), RH_VERIFY_COUNT);
    rh_json_free(json);
    rh_verify_report_done(&r);
    remove_directory(dir);
}

static void a_flipped_byte_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    uint8_t byte = 0;
    quantized_add_manifest(nano, dir);
    tensor_read(dir, "lm_head.weight", 1001, &byte, 1);
    byte ^= 1;
    tensor_write(dir, "lm_head.weight", 1001, &byte, 1);
    expect_problem(dir, NULL, RH_VERIFY_MANIFEST, "has sha256");
    expect_problem(dir, NANO, RH_VERIFY_PASS_THROUGH, "lm_head.weight differs");
    remove_directory(dir);
}

static void a_missing_file_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    quantized_add_manifest(nano, dir);
    char *path = rh_fs_join(dir, nano->plan->shards[1].name);
    assert_int_equal(rh_fs_remove_tree(path, NULL), RH_OK);
    rh_free(path);
    expect_problem(dir, NULL, RH_VERIFY_MANIFEST, "is missing");
    expect_problem(dir, NULL, RH_VERIFY_INDEX, nano->plan->shards[1].name);
    remove_directory(dir);
    dir = quantized_write(nano, NULL);
    path = rh_fs_join(dir, "tokenizer.json");
    assert_int_equal(rh_fs_remove_tree(path, NULL), RH_OK);
    rh_free(path);
    expect_problem(dir, NULL, RH_VERIFY_SIDE_FILES, "tokenizer is missing");
    expect_problem(dir, NANO, RH_VERIFY_SIDE_FILES, "tokenizer.json is missing");
    remove_directory(dir);
}

static void a_cut_file_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    char *path = rh_fs_join(dir, nano->plan->shards[0].name), *data = NULL;
    size_t size = 0;
    assert_int_equal(rh_fs_read(path, UINT64_C(1) << 30, &data, &size, NULL), RH_OK);
    assert_int_equal(rh_fs_write(path, data, size - 1, NULL), RH_OK);
    rh_free(data);
    rh_free(path);
    expect_problem(dir, NULL, RH_VERIFY_FILES, nano->plan->shards[0].name);
    remove_directory(dir);
}

static void a_missing_mtp_tensor_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.leave_out = "mtp.norm.weight"});
    expect_problem(dir, NULL, RH_VERIFY_INVENTORY, "mtp.norm.weight");
    expect_problem(dir, NANO, RH_VERIFY_INVENTORY, "tensor mtp.norm.weight is missing");
    remove_directory(dir);
    dir = quantized_write(
        nano, &(struct mistakes){.leave_out = "mtp.layers.0.mlp.experts.5.up_proj.qweight"});
    expect_problem(dir, NULL, RH_VERIFY_INVENTORY, "experts.5.up_proj has qzeros but no qweight");
    remove_directory(dir);
}

static void a_missing_mtp_head_is_called_by_its_name(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.leave_out = "mtp."});
    expect_problem(dir, NULL, RH_VERIFY_INVENTORY, "the MTP head is missing");
    expect_problem(dir, NANO, RH_VERIFY_INVENTORY, "the MTP head is missing");
    remove_directory(dir);
}

static void a_missing_visual_tower_is_found_with_the_source(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.leave_out = "model.visual."});
    expect_problem(dir, NANO, RH_VERIFY_INVENTORY, "the visual tower is missing");
    remove_directory(dir);
}

static void a_tensor_in_two_files_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.extra = "mtp.norm.weight"});
    expect_problem(dir, NULL, RH_VERIFY_INDEX, "tensor mtp.norm.weight is both in");
    remove_directory(dir);
}

static void an_extra_tensor_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.extra = "model.surplus.weight"});
    expect_problem(dir, NULL, RH_VERIFY_INVENTORY, "model.surplus.weight");
    expect_problem(dir, NANO, RH_VERIFY_INVENTORY, "model.surplus.weight of model-00001");
    remove_directory(dir);
    dir = quantized_write(
        nano, &(struct mistakes){.extra = "model.surplus.weight", .not_in_index = true});
    expect_problem(dir, NULL, RH_VERIFY_INDEX, "is not in model.safetensors.index.json");
    remove_directory(dir);
    dir = quantized_write(nano, &(struct mistakes){.extra = LINEAR ".weight"});
    expect_problem(dir, NULL, RH_VERIFY_INVENTORY, "has a weight beside its qweight");
    remove_directory(dir);
}

/* Renames a weight file, in the index too. */
static void rename_weights(const char *dir, const char *from, const char *to)
{
    char *index = rh_fs_join(dir, "model.safetensors.index.json"), *text = NULL;
    char *a = rh_fs_join(dir, from), *b = rh_fs_join(dir, to);
    struct rh_strbuf out = {0};
    size_t size = 0;
    assert_int_equal(rh_fs_read(index, 1 << 24, &text, &size, NULL), RH_OK);
    char *at = text;
    for (char *hit; (hit = strstr(at, from)); at = hit + strlen(from)) {
        rh_strbuf_append(&out, at, (size_t)(hit - at));
        rh_strbuf_puts(&out, to);
    }
    assert_true(out.size > 0);
    rh_strbuf_puts(&out, at);
    assert_int_equal(rh_fs_write(index, out.text, out.size, NULL), RH_OK);
    assert_int_equal(rename(a, b), 0);
    rh_strbuf_done(&out);
    rh_free(text);
    rh_free(index);
    rh_free(a);
    rh_free(b);
}

/* transformers loads a model.safetensors alone, and would leave the rest at random values. */
static void a_lone_name_beside_other_files_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    rename_weights(dir, nano->plan->shards[0].name, "model.safetensors");
    expect_problem(dir, NULL, RH_VERIFY_INDEX, "name it model-00001-of-00001.safetensors");
    remove_directory(dir);
}

static void a_stray_file_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    char *from = rh_fs_join(NANO, "model-00001-of-00001.safetensors");
    char *to = rh_fs_join(dir, "old.safetensors");
    assert_int_equal(rh_fs_copy(from, to, NULL, NULL), RH_OK);
    rh_free(from);
    rh_free(to);
    expect_problem(dir, NULL, RH_VERIFY_INDEX, "old.safetensors is not named");
    remove_directory(dir);
}

static void a_wrong_total_size_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.size_error = 2});
    expect_problem(dir, NULL, RH_VERIFY_INDEX, "total_size");
    remove_directory(dir);
}

static void a_tensor_that_the_index_forgot_is_found(void **state)
{
    (void)state;
    char *dir =
        quantized_write(nano, &(struct mistakes){.index_skip = "model.language_model.norm.weight"});
    expect_problem(dir, NULL, RH_VERIFY_INDEX, "tensor model.language_model.norm.weight of");
    remove_directory(dir);
}

static void swap_bytes(const char *dir, const char *name, uint64_t a, uint64_t b, size_t size)
{
    uint8_t *x = rh_alloc(size), *y = rh_alloc(size);
    tensor_read(dir, name, a, x, size);
    tensor_read(dir, name, b, y, size);
    tensor_write(dir, name, a, y, size);
    tensor_write(dir, name, b, x, size);
    rh_free(x);
    rh_free(y);
}

static void swapped_rows_of_a_qweight_are_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    /* Two rows of words: inputs 0..7 of every output change places with inputs 8..15. */
    swap_bytes(dir, LINEAR ".qweight", 0, 256 * 4, 256 * 4);
    expect_good(dir, NULL);
    expect_problem(dir, NANO, RH_VERIFY_WEIGHTS, LINEAR);
    remove_directory(dir);
}

static void swapped_columns_of_the_scales_are_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    swap_bytes(dir, LINEAR ".scales", 0, 2, 2);
    expect_problem(dir, NANO, RH_VERIFY_WEIGHTS, "steps off the source");
    remove_directory(dir);
}

static void shuffled_experts_are_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    static const char *const parts[] = {"qweight", "scales"};
    for (size_t i = 0; i < 2; i++) {
        char *a = rh_format(LAYER0 "mlp.experts.1.up_proj.%s", parts[i]);
        char *b = rh_format(LAYER0 "mlp.experts.2.up_proj.%s", parts[i]);
        size_t size = i == 0 ? 16 * 128 * 4 : 2 * 128 * 2;
        uint8_t *x = rh_alloc(size), *y = rh_alloc(size);
        tensor_read(dir, a, 0, x, size);
        tensor_read(dir, b, 0, y, size);
        tensor_write(dir, a, 0, y, size);
        tensor_write(dir, b, 0, x, size);
        rh_free(x);
        rh_free(y);
        rh_free(a);
        rh_free(b);
    }
    expect_good(dir, NULL);
    expect_problem(dir, NANO, RH_VERIFY_WEIGHTS, "correlation");
    expect_problem(dir, NANO, RH_VERIFY_WEIGHTS, "relative error");
    remove_directory(dir);
}

static void a_scale_that_is_no_number_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    uint16_t nan = 0x7E00, zero = 0x8000;
    tensor_write(dir, LINEAR ".scales", 6, &nan, 2);
    expect_problem(dir, NULL, RH_VERIFY_VALUES, LINEAR ".scales: 1 of 512 are NaN");
    tensor_write(dir, LINEAR ".scales", 6, &zero, 2);
    expect_problem(dir, NULL, RH_VERIFY_VALUES, LINEAR ".scales: 1 of 512 are 0");
    remove_directory(dir);
}

static void a_weight_that_is_no_number_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    uint16_t infinity = 0x7F80;
    tensor_write(dir, "model.visual.merger.norm.weight", 4, &infinity, 2);
    expect_problem(dir, NULL, RH_VERIFY_VALUES, "model.visual.merger.norm.weight: 1 elements");
    remove_directory(dir);
}

static void wrong_zero_points_are_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    uint32_t word = 0x77777778;
    tensor_write(dir, LINEAR ".qzeros", 8, &word, 4);
    expect_problem(dir, NULL, RH_VERIFY_VALUES, ".qzeros: 1 of 64 words are wrong");
    uint32_t all[64];
    memset(all, 0x88, sizeof all);
    tensor_write(dir, LINEAR ".qzeros", 0, all, sizeof all);
    expect_problem(dir, NULL, RH_VERIFY_VALUES, "without taking one off");
    expect_problem(dir, NANO, RH_VERIFY_WEIGHTS, LINEAR);
    remove_directory(dir);
}

static void a_config_without_quantization_config_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    struct rh_json *config = read_document(dir, "config.json");
    rh_json_remove(config, "quantization_config");
    write_document(dir, "config.json", config);
    expect_problem(dir, NULL, RH_VERIFY_CONFIG, "has no quantization_config");
    rh_json_free(config);
    remove_directory(dir);
}

static void two_configs_that_disagree_are_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    struct rh_json *config = read_document(dir, "quantization_config.json");
    rh_json_set_int(config, "iters", 7);
    write_document(dir, "quantization_config.json", config);
    expect_problem(dir, NULL, RH_VERIFY_CONFIG, "differ");
    rh_json_free(config);
    remove_directory(dir);
}

/* Changes a member of both copies of the configuration. */
static void set_both(const char *dir, const char *key, struct rh_json *value)
{
    struct rh_json *config = read_document(dir, "config.json");
    rh_json_set(rh_json_get_mutable(config, "quantization_config"), key, value);
    write_document(dir, "config.json", config);
    write_document(dir, "quantization_config.json", rh_json_get(config, "quantization_config"));
    rh_json_free(config);
}

static void a_config_that_says_something_else_than_the_tensors_is_found(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    struct rh_json *blocks = rh_json_new_array();
    rh_json_append(blocks, rh_json_new_string("model.language_model.layers"));
    set_both(dir, "block_name_to_quantize", blocks);
    expect_problem(dir, NANO, RH_VERIFY_INVENTORY, "mtp.");
    quantized_add_manifest(nano, dir);
    expect_problem(dir, NANO, RH_VERIFY_CONFIG, "lacks mtp.layers");
    remove_directory(dir);
    dir = quantized_write(nano, NULL);
    set_both(dir, "extra_config", rh_json_new_object());
    expect_problem(dir, NULL, RH_VERIFY_CONFIG, "says quantized for " LAYER0 "linear_attn.in_proj");
    remove_directory(dir);
    dir = quantized_write(nano, NULL);
    set_both(dir, "bits", rh_json_new_int(8));
    expect_problem(dir, NANO, RH_VERIFY_SHAPES, "qweight is I32");
    remove_directory(dir);
}

static void a_changed_model_config_is_found_with_the_source(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    struct rh_json *config = read_document(dir, "config.json");
    rh_json_set_number(rh_json_get_mutable(config, "text_config"), "rms_norm_eps", 1e-5);
    write_document(dir, "config.json", config);
    rh_json_free(config);
    expect_problem(dir, NANO, RH_VERIFY_CONFIG, "differs from the source's");
    remove_directory(dir);
}

static void quick_reads_no_values(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    uint16_t nan = 0x7E00;
    tensor_write(dir, LINEAR ".scales", 6, &nan, 2);
    struct rh_verify_report r;
    struct rh_verify_options options = {.quick = true};
    assert_int_equal(rh_verify_checkpoint(dir, NANO, &options, &r, NULL), RH_OK);
    assert_true(r.ok);
    assert_int_equal(r.checks[RH_VERIFY_VALUES].state, RH_VERIFY_SKIPPED);
    assert_int_equal(r.checks[RH_VERIFY_INVENTORY].state, RH_VERIFY_PASSED);
    rh_verify_report_done(&r);
    remove_directory(dir);
}

static enum rh_rc stop_soon(void *arg, const char *phase, uint64_t done, uint64_t total,
                            struct rh_error *err)
{
    int *calls = arg;
    assert_true(done <= total);
    if (++*calls < 5)
        return RH_OK;
    return rh_fail(err, RH_ERR_CANCELLED, "enough of %s", phase);
}

static void progress_can_end_the_work(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, NULL);
    int calls = 0;
    struct rh_verify_report r;
    struct rh_verify_options options = {.progress = stop_soon, .arg = &calls};
    struct rh_error err = {0};
    assert_int_equal(rh_verify_checkpoint(dir, NANO, &options, &r, &err), RH_ERR_CANCELLED);
    assert_int_equal(calls, 5);
    rh_verify_report_done(&r);
    remove_directory(dir);
}

static void problems_beyond_the_limit_are_counted_only(void **state)
{
    (void)state;
    char *dir = quantized_write(nano, &(struct mistakes){.leave_out = "model.visual."});
    struct rh_verify_report r;
    struct rh_verify_options options = {.problem_max = 3};
    assert_int_equal(rh_verify_checkpoint(dir, NANO, &options, &r, NULL), RH_OK);
    assert_int_equal(r.problem_count, 3);
    assert_int_equal(r.checks[RH_VERIFY_INVENTORY].problems, nano->plan->visual.tensors + 1);
    rh_verify_report_done(&r);
    remove_directory(dir);
}

static void a_directory_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    struct rh_verify_report r;
    struct rh_error err = {0};
    assert_int_equal(rh_verify_checkpoint("no/such", NULL, NULL, &r, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "no/such"));
    rh_verify_report_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_by_the_book_passes_with_and_without_source),
        cmocka_unit_test(other_widths_and_a_kept_head_pass_too),
        cmocka_unit_test(the_report_gives_the_error_of_the_weights),
        cmocka_unit_test(a_flipped_byte_is_found),
        cmocka_unit_test(a_missing_file_is_found),
        cmocka_unit_test(a_cut_file_is_found),
        cmocka_unit_test(a_missing_mtp_tensor_is_found),
        cmocka_unit_test(a_missing_mtp_head_is_called_by_its_name),
        cmocka_unit_test(a_missing_visual_tower_is_found_with_the_source),
        cmocka_unit_test(a_tensor_in_two_files_is_found),
        cmocka_unit_test(an_extra_tensor_is_found),
        cmocka_unit_test(a_lone_name_beside_other_files_is_found),
        cmocka_unit_test(a_stray_file_is_found),
        cmocka_unit_test(a_wrong_total_size_is_found),
        cmocka_unit_test(a_tensor_that_the_index_forgot_is_found),
        cmocka_unit_test(swapped_rows_of_a_qweight_are_found),
        cmocka_unit_test(swapped_columns_of_the_scales_are_found),
        cmocka_unit_test(shuffled_experts_are_found),
        cmocka_unit_test(a_scale_that_is_no_number_is_found),
        cmocka_unit_test(a_weight_that_is_no_number_is_found),
        cmocka_unit_test(wrong_zero_points_are_found),
        cmocka_unit_test(a_config_without_quantization_config_is_found),
        cmocka_unit_test(two_configs_that_disagree_are_found),
        cmocka_unit_test(a_config_that_says_something_else_than_the_tensors_is_found),
        cmocka_unit_test(a_changed_model_config_is_found_with_the_source),
        cmocka_unit_test(quick_reads_no_values),
        cmocka_unit_test(progress_can_end_the_work),
        cmocka_unit_test(problems_beyond_the_limit_are_counted_only),
        cmocka_unit_test(a_directory_that_is_not_there_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
