#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "job.h"
#include "publish/verify.h"
#include "quant/group.h"
#include "quant/pack.h"
#include "store/store.h"

#define LAYER0  "model.language_model.layers.0."
#define EXPERT1 LAYER0 "mlp.experts.1."

static void must(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

static char *read_text(const char *dir, const char *name, size_t *size)
{
    struct rh_error err = {0};
    char *path = rh_fs_join(dir, name), *text = NULL;
    must(rh_fs_read(path, UINT64_C(1) << 26, &text, size, &err), &err);
    rh_free(path);
    return text;
}

/* Names, types, shapes and places are those of the plan, and nothing else is there. */
static void expect_the_planned_tensors(const struct job *j)
{
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    must(rh_checkpoint_open(j->out, false, &c, &err), &err);
    assert_int_equal(rh_checkpoint_tensor_count(c), j->plan->output_count);
    assert_int_equal(rh_checkpoint_file_count(c), j->plan->shard_count);
    for (size_t i = 0; i < j->plan->output_count; i++) {
        const struct rh_output_tensor *o = &j->plan->outputs[i];
        size_t file = 0;
        const struct rh_tensor_info *t = rh_checkpoint_find(c, o->name, &file);
        if (!t)
            fail_msg("%s is missing", o->name);
        assert_int_equal(t->dtype, o->dtype);
        assert_int_equal(t->rank, o->rank);
        assert_memory_equal(t->shape, o->shape, sizeof *t->shape * (size_t)t->rank);
        assert_string_equal(rh_checkpoint_file_name(c, file), j->plan->shards[o->shard].name);
    }
    rh_checkpoint_close(c);
}

/* No key is in two files or twice in one: the files' own counts add up to the number of names. */
static void expect_no_key_twice(const struct job *j)
{
    size_t keys = 0;
    for (size_t s = 0; s < j->plan->shard_count; s++) {
        struct rh_safetensors *file = NULL;
        struct rh_error err = {0};
        char *path = rh_fs_join(j->out, j->plan->shards[s].name);
        must(rh_safetensors_open(path, &file, &err), &err);
        assert_int_equal(rh_safetensors_count(file), j->plan->shards[s].tensor_count);
        keys += rh_safetensors_count(file);
        rh_safetensors_close(file);
        rh_free(path);
    }
    assert_int_equal(keys, j->plan->output_count);
}

static void *read_output(const struct rh_checkpoint *c, const char *linear, const char *part)
{
    struct rh_error err = {0};
    size_t file = 0;
    char *name = rh_format("%s.%s", linear, part);
    const struct rh_tensor_info *t = rh_checkpoint_find(c, name, &file);
    if (!t)
        fail_msg("%s is missing", name);
    void *data = rh_alloc(t->bytes);
    must(rh_safetensors_read(rh_checkpoint_file(c, file), t, 0, t->bytes, data, &err), &err);
    rh_free(name);
    return data;
}

/* Unpacks as a loader does, from the three published tensors alone. */
static float *load_linear(const struct rh_checkpoint *c, const struct rh_linear *l)
{
    int64_t out = l->out_features, in = l->in_features, groups = rh_linear_groups(l);
    int64_t group = l->group_size < 0 ? in : l->group_size;
    int32_t *qweight = read_output(c, l->name, "qweight"),
            *qzeros = read_output(c, l->name, "qzeros");
    uint16_t *packed = read_output(c, l->name, "scales");
    uint8_t *codes = rh_alloc((size_t)(out * in));
    uint16_t *zeros = rh_alloc_array((size_t)(out * groups), sizeof *zeros);
    float *weight = rh_alloc_array((size_t)(out * in), sizeof *weight);
    rh_unpack_qweight(qweight, out, in, l->bits, codes);
    rh_unpack_qzeros(qzeros, out, groups, l->bits, zeros);
    for (int64_t o = 0; o < out; o++) {
        for (int64_t i = 0; i < in; i++) {
            int64_t g = i / group;
            int steps = codes[o * in + i] - zeros[o * groups + g];
            weight[o * in + i] = rh_f16_to_f32(packed[g * out + o]) * (float)steps;
        }
    }
    rh_free(qweight);
    rh_free(qzeros);
    rh_free(packed);
    rh_free(codes);
    rh_free(zeros);
    return weight;
}

static void expect_rounded_by(const struct job *j, const char *name, bool search)
{
    const struct rh_linear *l = job_linear(j, name);
    struct rh_scheme scheme = {l->bits, l->sym, l->group_size};
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    size_t count = (size_t)(l->out_features * l->in_features);
    size_t groups = (size_t)(l->out_features * rh_linear_groups(l));
    assert_true(l->bits < 16);
    must(rh_checkpoint_open(j->out, false, &c, &err), &err);
    float *loaded = load_linear(c, l), *weight = job_weight(j, l);
    float *expected = rh_alloc_array(count, sizeof *expected);
    uint8_t *codes = rh_alloc(count), *zeros = rh_alloc(groups);
    uint16_t *scales = rh_alloc_array(groups, sizeof *scales);
    must(rh_round_to_nearest(&scheme, weight, l->out_features, l->in_features, search, codes,
                             scales, l->sym ? NULL : zeros, &err),
         &err);
    rh_dequantize(codes, scales, l->sym ? NULL : zeros, l->out_features, l->in_features,
                  rh_scheme_group(&scheme, l->in_features), l->bits, expected);
    assert_memory_equal(loaded, expected, count * sizeof *loaded);
    rh_free(loaded);
    rh_free(weight);
    rh_free(expected);
    rh_free(codes);
    rh_free(zeros);
    rh_free(scales);
    rh_checkpoint_close(c);
}

static void expect_rounded(const struct job *j, const char *name)
{
    expect_rounded_by(j, name, j->recipe->observer == RH_OBSERVER_MSE);
}

/* The product's own gate, with the source at hand. */
static void expect_verified(const struct job *j)
{
    struct rh_verify_report r;
    struct rh_error err = {0};
    must(rh_verify_checkpoint(j->out, j->model, NULL, &r, &err), &err);
    for (size_t i = 0; i < r.problem_count; i++)
        fprintf(stderr, "  %s: %s\n", r.checks[r.problems[i].check].name, r.problems[i].text);
    assert_true(r.ok);
    rh_verify_report_done(&r);
}

/* Adopts and returns j. */
static struct job *finish(struct job *j)
{
    job_finish(j);
    expect_the_planned_tensors(j);
    expect_no_key_twice(j);
    expect_verified(j);
    return j;
}

static struct job *finished(const char *recipe)
{
    return finish(job_new(recipe));
}

static void a_four_bit_checkpoint_says_what_rounding_says(void **state)
{
    (void)state;
    struct job *j = finished("{\"quant\": {\"group_size\": 64},"
                             "\"output\": {\"max_shard_bytes\": 700000}}");
    assert_true(j->plan->shard_count > 3);
    expect_rounded(j, LAYER0 "linear_attn.in_proj_qkv");
    expect_rounded(j, EXPERT1 "up_proj");
    expect_rounded(j, EXPERT1 "down_proj");
    expect_rounded(j, "mtp.layers.0.mlp.experts.3.gate_proj");
    expect_rounded(j, "mtp.layers.0.self_attn.q_proj");
    job_free(j);
}

/* Blocks come as they were tuned; what is rounded here follows the recipe's observer. */
static void the_observer_holds_for_mtp_too(void **state)
{
    (void)state;
    struct job *j = finished("{\"quant\": {\"observer\": \"mse\"}}");
    assert_int_equal(j->recipe->observer, RH_OBSERVER_MSE);
    expect_rounded(j, "mtp.layers.0.mlp.experts.3.gate_proj");
    expect_rounded(j, "mtp.layers.0.self_attn.q_proj");
    job_free(j);
}

static void a_tuned_mtp_head_is_packed_as_it_was_tuned(void **state)
{
    (void)state;
    struct job *j =
        finished("{\"quant\": {\"observer\": \"mse\"}, \"mtp\": {\"method\": \"tune\"}}");
    /* What stands in for tuning does not search, so these did not come from rounding here. */
    expect_rounded_by(j, "mtp.layers.0.mlp.experts.3.gate_proj", false);
    expect_rounded_by(j, "mtp.layers.0.self_attn.q_proj", false);
    job_free(j);
}

static void zero_points_of_asymmetric_codes_arrive(void **state)
{
    (void)state;
    static const char *const bits[] = {"2", "3", "4", "8"};
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        char *recipe =
            rh_format("{\"quant\": {\"bits\": %s, \"group_size\": 32, \"sym\": false}}", bits[i]);
        struct job *j = finished(recipe);
        expect_rounded(j, LAYER0 "mlp.shared_expert.down_proj");
        expect_rounded(j, EXPERT1 "gate_proj");
        expect_rounded(j, "mtp.layers.0.mlp.experts.0.down_proj");
        job_free(j);
        rh_free(recipe);
    }
}

static void an_ignored_expert_of_a_fused_tensor_keeps_its_rows(void **state)
{
    (void)state;
    struct job *j = finished("{\"quant\": {\"group_size\": 64,"
                             "\"ignore_layers\": [\"layers.0.mlp.experts.1.up_proj\"]},"
                             "\"mtp\": {\"method\": \"keep\"}}");
    const struct rh_linear *l = job_linear(j, EXPERT1 "up_proj");
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    assert_int_equal(l->bits, 16);
    must(rh_checkpoint_open(j->out, false, &c, &err), &err);
    size_t count = (size_t)(l->out_features * l->in_features);
    void *raw = read_output(c, l->name, "weight");
    float *rows = rh_alloc_array(count, sizeof *rows), *weight = job_weight(j, l);
    rh_to_f32(l->dtype, raw, rows, count);
    assert_memory_equal(rows, weight, count * sizeof *rows);
    expect_rounded(j, EXPERT1 "gate_proj");
    expect_rounded(j, LAYER0 "mlp.experts.2.up_proj");
    rh_free(raw);
    rh_free(rows);
    rh_free(weight);
    rh_checkpoint_close(c);
    job_free(j);
}

static void experts_one_by_one_give_what_fused_ones_give(void **state)
{
    (void)state;
    static const char recipe[] = "{\"quant\": {\"group_size\": 64}}";
    struct job *fused = finished(recipe), *split = finish(job_new_split(recipe));
    size_t size = 0, split_size = 0;
    assert_true(split->plan->name_count > fused->plan->name_count);
    char *a = read_text(fused->out, "model_extra_tensors.safetensors", &size);
    char *b = read_text(split->out, "model_extra_tensors.safetensors", &split_size);
    assert_int_equal(size, split_size);
    assert_memory_equal(a, b, size);
    rh_free(a);
    rh_free(b);
    job_free(fused);
    job_free(split);
}

/* tests/golden/make_rounding.py */
static void the_words_of_mtp_are_those_of_auto_round(void **state)
{
    (void)state;
    struct job *j = finished("{}");
    struct rh_checkpoint *c = NULL;
    struct rh_json *golden = NULL;
    struct rh_error err = {0};
    size_t packed = 0;
    must(rh_json_read(RH_SOURCE_DIR "/tests/golden/rounding.json", 1 << 20, &golden, &err), &err);
    must(rh_checkpoint_open(j->out, false, &c, &err), &err);
    for (size_t i = 0; i < j->plan->output_count; i++) {
        const char *name = j->plan->outputs[i].name, *part = strrchr(name, '.') + 1;
        packed += strncmp(name, "mtp.", 4) == 0 &&
                  (strcmp(part, "qweight") == 0 || strcmp(part, "qzeros") == 0 ||
                   strcmp(part, "scales") == 0);
    }
    assert_int_equal(packed, 93);
    assert_int_equal(rh_json_count(golden), packed);
    for (const struct rh_json *g = rh_json_first(golden); g; g = rh_json_next(g)) {
        char *linear = rh_strdup(rh_json_key(g)), *part = strrchr(linear, '.');
        char digest[RH_SHA256_HEX_SIZE];
        size_t file = 0;
        *part++ = 0;
        void *words = read_output(c, linear, part);
        rh_sha256_of(words, rh_checkpoint_find(c, rh_json_key(g), &file)->bytes, digest);
        if (strcmp(digest, rh_json_string(g)) != 0)
            fail_msg("%s differs from auto-round's", rh_json_key(g));
        rh_free(words);
        rh_free(linear);
    }
    rh_json_free(golden);
    rh_checkpoint_close(c);
    job_free(j);
}

static void config_json_is_the_source_and_one_more_member(void **state)
{
    (void)state;
    struct job *j = finished("{\"quant\": {\"group_size\": 64}}");
    struct rh_json *config = NULL;
    struct rh_error err = {0};
    size_t source_size = 0, size = 0, alone_size = 0;
    char *source = read_text(NANO, "config.json", &source_size);
    char *text = read_text(j->out, "config.json", &size);
    char *alone = read_text(j->out, "quantization_config.json", &alone_size);
    size_t kept = source_size;
    while (kept > 0 && source[kept - 1] != '}')
        kept--;
    kept--;
    while (kept > 0 && strchr(" \n\r\t", source[kept - 1]))
        kept--;
    assert_memory_equal(text, source, kept);
    assert_int_equal(text[kept], ',');
    must(rh_json_parse(text, size, "config.json", &config, &err), &err);
    struct rh_json *parsed = NULL;
    must(rh_json_parse(alone, alone_size, "quantization_config.json", &parsed, &err), &err);
    char *inside = rh_json_canonical(rh_json_get(config, "quantization_config"));
    char *outside = rh_json_canonical(parsed);
    assert_string_equal(inside, outside);
    assert_string_equal(rh_json_string(rh_json_get(parsed, "packing_format")),
                        "auto_round:auto_gptq");
    rh_free(inside);
    rh_free(outside);
    rh_json_free(parsed);
    rh_json_free(config);
    rh_free(source);
    rh_free(text);
    rh_free(alone);
    job_free(j);
}

static void the_index_is_sorted_and_its_total_is_true(void **state)
{
    (void)state;
    struct job *j = finished("{\"quant\": {\"group_size\": 64},"
                             "\"output\": {\"max_shard_bytes\": 700000}}");
    struct rh_json *index = NULL;
    struct rh_error err = {0};
    const char *before = "";
    int64_t total = 0;
    uint64_t bytes = 0;
    char *path = rh_fs_join(j->out, "model.safetensors.index.json");
    must(rh_json_read(path, UINT64_C(1) << 26, &index, &err), &err);
    const struct rh_json *map = rh_json_get(index, "weight_map");
    assert_int_equal(rh_json_count(map), j->plan->output_count);
    for (const struct rh_json *m = rh_json_first(map); m; m = rh_json_next(m)) {
        assert_true(strcmp(before, rh_json_key(m)) < 0);
        before = rh_json_key(m);
    }
    for (size_t s = 0; s < j->plan->shard_count; s++) {
        struct rh_safetensors *file = NULL;
        char *shard = rh_fs_join(j->out, j->plan->shards[s].name);
        must(rh_safetensors_open(shard, &file, &err), &err);
        for (size_t i = 0; i < rh_safetensors_count(file); i++)
            bytes += rh_safetensors_at(file, i)->bytes;
        rh_safetensors_close(file);
        rh_free(shard);
    }
    assert_true(rh_json_int(rh_json_get(rh_json_get(index, "metadata"), "total_size"), &total));
    assert_int_equal(total, bytes);
    rh_json_free(index);
    rh_free(path);
    job_free(j);
}

static void the_same_inputs_give_the_same_bytes(void **state)
{
    (void)state;
    static const char recipe[] = "{\"quant\": {\"group_size\": 32}}";
    struct job *a = finished(recipe), *b = finished(recipe);
    static const struct {
        const char *op;
        int64_t index;
    } artifacts[] = {{"plan", 0}, {"fetch", 1}, {"pack", 1}, {"shard", 0}, {"finalize", 0}};
    for (size_t i = 0; i < sizeof artifacts / sizeof artifacts[0]; i++) {
        size_t a_size = 0, b_size = 0;
        char *x = job_path(a, artifacts[i].op, artifacts[i].index, "");
        char *y = job_path(b, artifacts[i].op, artifacts[i].index, "");
        char *p = read_text(x, "MANIFEST.json", &a_size),
             *q = read_text(y, "MANIFEST.json", &b_size);
        assert_string_equal(p, q);
        rh_free(x);
        rh_free(y);
        rh_free(p);
        rh_free(q);
    }
    job_free(a);
    job_free(b);
}

static void expect_error(const struct job *j, const char *op, int64_t index, enum rh_rc rc,
                         const char *a, const char *b)
{
    struct rh_error err;
    assert_int_equal(job_run(j, op, index, &err), rc);
    if (!strstr(err.message, a) || !strstr(err.message, b))
        fail_msg("the error lacks \"%s\" or \"%s\": %s", a, b, err.message);
    assert_false(rh_store_has(j->dir, op, index));
}

static void what_tuning_broke_is_named(void **state)
{
    (void)state;
    static const char linear[] = LAYER0 "mlp.shared_expert.up_proj";
    struct job *j = job_new("{\"quant\": {\"group_size\": 64, \"bits\": 3}}");
    struct rh_error err = {0};
    char *artifact = rh_store_artifact(j->dir, "tune", 0);
    /* 3 bit codes lie in nibbles, which could hold more. */
    job_tune(j, 0, &(struct job_damage){.linear = linear, .code = 0x2A});
    expect_error(j, "pack", 1, RH_ERR_FORMAT, linear, "code 0 is 10");
    must(rh_fs_remove_tree(artifact, &err), &err);
    job_tune(j, 0, &(struct job_damage){.linear = linear, .scale = 0x7C00});
    expect_error(j, "pack", 1, RH_ERR_NUMERIC, linear, "scale 0 is inf");
    must(rh_fs_remove_tree(artifact, &err), &err);
    expect_error(j, "pack", 1, RH_ERR_NOT_FOUND, "tune-00000", "block.safetensors");
    rh_free(artifact);
    job_free(j);
}

static void a_truncated_artifact_is_named(void **state)
{
    (void)state;
    struct job *j = job_new("{\"quant\": {\"group_size\": 64}}");
    struct rh_error err = {0};
    size_t size = 0;
    char *dir = rh_store_artifact(j->dir, "fetch", 0);
    char *path = rh_fs_join(dir, "tensors.safetensors");
    char *bytes = read_text(dir, "tensors.safetensors", &size);
    must(rh_fs_write(path, bytes, size - 1, &err), &err);
    expect_error(j, "pack", 0, RH_ERR_FORMAT, path, "");
    rh_free(bytes);
    rh_free(path);
    rh_free(dir);
    job_free(j);
}

static void a_job_is_packed_by_the_recipe_it_was_planned_for(void **state)
{
    (void)state;
    struct job *j = job_new("{\"quant\": {\"group_size\": 64}}");
    struct rh_error err = {0};
    must(rh_recipe_set(j->recipe, "quant.bits=8", &err), &err);
    expect_error(j, "pack", 0, RH_ERR_FORMAT, "plan.json", "recipe");
    job_free(j);
}

static void what_the_plan_does_not_have_cannot_be_packed(void **state)
{
    (void)state;
    struct job *j = job_new("{\"quant\": {\"group_size\": 64}}");
    expect_error(j, "pack", (int64_t)j->plan->unit_count, RH_ERR_ARGUMENT, "units", "");
    expect_error(j, "shard", (int64_t)j->plan->shard_count, RH_ERR_ARGUMENT, "output files", "");
    expect_error(j, "finalize", 1, RH_ERR_ARGUMENT, "finalize 1", "");
    job_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_four_bit_checkpoint_says_what_rounding_says),
        cmocka_unit_test(the_observer_holds_for_mtp_too),
        cmocka_unit_test(a_tuned_mtp_head_is_packed_as_it_was_tuned),
        cmocka_unit_test(zero_points_of_asymmetric_codes_arrive),
        cmocka_unit_test(an_ignored_expert_of_a_fused_tensor_keeps_its_rows),
        cmocka_unit_test(experts_one_by_one_give_what_fused_ones_give),
        cmocka_unit_test(the_words_of_mtp_are_those_of_auto_round),
        cmocka_unit_test(config_json_is_the_source_and_one_more_member),
        cmocka_unit_test(the_index_is_sorted_and_its_total_is_true),
        cmocka_unit_test(the_same_inputs_give_the_same_bytes),
        cmocka_unit_test(what_tuning_broke_is_named),
        cmocka_unit_test(a_truncated_artifact_is_named),
        cmocka_unit_test(a_job_is_packed_by_the_recipe_it_was_planned_for),
        cmocka_unit_test(what_the_plan_does_not_have_cannot_be_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
