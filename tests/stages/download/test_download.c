#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "download/download.h"
#include "download/source.h"
#include "families/model_plan.h"
#include "store/store.h"

#define NANO    RH_SOURCE_DIR "/tests/data/nano"
#define WEIGHTS "model-00001-of-00001.safetensors"

static struct rh_recipe *recipe;
static char root[4096]; /* of one test */

static void must(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

static int load_recipe(void **state)
{
    (void)state;
    static const char text[] = "{\"quant\": {\"group_size\": 64}}";
    struct rh_json *json = NULL;
    struct rh_error err = {0};
    must(rh_json_parse(text, sizeof text - 1, "recipe", &json, &err), &err);
    must(rh_recipe_from_json(json, "recipe", &recipe, &err), &err);
    rh_json_free(json);
    return 0;
}

static int free_recipe(void **state)
{
    (void)state;
    rh_recipe_free(recipe);
    return 0;
}

static int make_root(void **state)
{
    (void)state;
    char name[] = "/test-download-XXXXXX";
    assert_non_null(getcwd(root, sizeof root - sizeof name));
    strcat(root, name);
    assert_non_null(mkdtemp(root));
    return 0;
}

static int remove_root(void **state)
{
    (void)state;
    struct rh_error err = {0};
    must(rh_fs_remove_tree(root, &err), &err);
    return 0;
}

/* "<root>/<name>"; for the test's life. */
static const char *at(const char *name)
{
    static char paths[8][5000];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static enum rh_rc run(const char *op, const char *model_dir, int64_t index, struct rh_error *err)
{
    char *model = rh_format("file:%s", model_dir);
    *err = (struct rh_error){0};
    enum rh_rc rc = rh_stage_run_local(&rh_download_stage, op, at("job"), recipe, model,
                                       "dir:/nowhere", index, index, err);
    rh_free(model);
    return rc;
}

static void must_run(const char *op, const char *model_dir, int64_t index)
{
    struct rh_error err;
    must(run(op, model_dir, index, &err), &err);
}

static char *read_file(const char *path, size_t *size)
{
    char *text = NULL;
    struct rh_error err = {0};
    must(rh_fs_read(path, UINT64_C(1) << 30, &text, size, &err), &err);
    return text;
}

static void write_file(const char *path, const void *data, size_t size)
{
    struct rh_error err = {0};
    must(rh_fs_write(path, data, size, &err), &err);
}

static void copy_nano(void)
{
    char **names = NULL;
    size_t count = 0;
    struct rh_error err = {0};
    must(rh_fs_mkdirs(at("model"), &err), &err);
    must(rh_fs_list(NANO, &names, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        char *from = rh_fs_join(NANO, names[i]), *to = rh_fs_join(at("model"), names[i]);
        must(rh_fs_copy(from, to, NULL, &err), &err);
        rh_free(from);
        rh_free(to);
    }
    rh_fs_list_free(names, count);
}

static struct rh_model_plan *committed_plan(void)
{
    struct rh_model_plan *plan = NULL;
    struct rh_json *json = NULL;
    struct rh_error err = {0};
    must(rh_json_read(at("job/artifacts/plan-00000/plan.json"), UINT64_C(1) << 30, &json, &err),
         &err);
    must(rh_model_plan_from_json(json, "plan.json", &plan, &err), &err);
    rh_json_free(json);
    return plan;
}

static void expect_same_file(const char *a, const char *b)
{
    size_t a_size = 0, b_size = 0;
    char *a_text = read_file(a, &a_size), *b_text = read_file(b, &b_size);
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a_text, b_text, a_size);
    rh_free(a_text);
    rh_free(b_text);
}

static void an_unknown_scheme_is_refused_with_a_remedy(void **state)
{
    (void)state;
    static const char *const references[] = {"gs:bucket/x", "/a/path", "", "files:/x"};
    for (size_t i = 0; i < sizeof references / sizeof references[0]; i++) {
        struct rh_source *source = NULL;
        struct rh_error err = {0};
        assert_int_equal(rh_source_open(references[i], NULL, &source, &err), RH_ERR_UNSUPPORTED);
        assert_null(source);
        assert_non_null(strstr(err.message, references[i]));
        assert_non_null(strstr(err.message, "file:/directory"));
    }
}

static void a_missing_directory_is_not_found_and_a_file_is_no_model(void **state)
{
    (void)state;
    struct rh_source *source = NULL;
    struct rh_error err = {0};
    char *missing = rh_format("file:%s", at("absent"));
    assert_int_equal(rh_source_open(missing, NULL, &source, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, at("absent")));
    assert_int_equal(rh_source_open("file:" NANO "/config.json", NULL, &source, &err),
                     RH_ERR_ARGUMENT);
    assert_int_equal(rh_source_open("file:", NULL, &source, &err), RH_ERR_ARGUMENT);
    rh_free(missing);
}

static void a_source_lists_plain_files_and_follows_links(void **state)
{
    (void)state;
    struct rh_source *source = NULL;
    struct rh_source_file *file = NULL;
    struct rh_error err = {0};
    char **names = NULL, text[3], *reference = rh_format("file:%s", at("model"));
    size_t count = 0;
    must(rh_fs_mkdirs(at("model/folder"), &err), &err);
    must(rh_fs_mkdirs(at("blobs"), &err), &err);
    write_file(at("model/b"), "b", 1);
    write_file(at("model/.hidden"), "h", 1);
    write_file(at("blobs/1234"), "linked", 6);
    assert_int_equal(symlink("../blobs/1234", at("model/a")), 0);
    assert_int_equal(symlink("../blobs/none", at("model/dangling")), 0);
    assert_int_equal(mkfifo(at("model/fifo"), 0600), 0);
    must(rh_source_open(reference, NULL, &source, &err), &err);
    must(rh_source_list(source, &names, &count, &err), &err);
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[1], "b");
    must(rh_source_file_open(source, "a", &file, &err), &err);
    assert_int_equal(rh_source_file_size(file), 6);
    must(rh_source_file_read(file, 2, 3, text, &err), &err);
    assert_memory_equal(text, "nke", 3);
    assert_int_equal(rh_source_file_read(file, 4, 3, text, &err), RH_ERR_IO);
    assert_int_equal(rh_source_file_read(file, UINT64_MAX, 1, text, &err), RH_ERR_IO);
    rh_source_file_close(file);
    assert_int_equal(rh_source_file_open(source, "fifo", &file, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_source_file_open(source, "../blobs/1234", &file, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_source_file_open(source, ".hidden", &file, &err), RH_ERR_FORMAT);
    assert_null(file);
    rh_fs_list_free(names, count);
    rh_source_close(source);
    rh_free(reference);
}

static void a_plan_keeps_every_file_that_is_not_weights(void **state)
{
    (void)state;
    struct rh_error err = {0};
    char **theirs = NULL, **ours = NULL;
    size_t their_count = 0, our_count = 0, side = 0;
    copy_nano();
    write_file(at("model/pytorch_model.bin"), "weights", 7);
    write_file(at("model/.gitattributes"), "x", 1);
    write_file(at("model/LICENSE"), "free", 4);
    write_file(at("model/empty"), "", 0);
    must_run("plan", at("model"), 0);
    must(rh_fs_list(at("model"), &theirs, &their_count, &err), &err);
    must(rh_fs_list(at("job/artifacts/plan-00000/meta"), &ours, &our_count, &err), &err);
    for (size_t i = 0; i < their_count; i++) {
        const char *name = theirs[i];
        if (name[0] == '.' || strstr(name, ".safetensors") || strstr(name, ".bin"))
            continue;
        char *from = rh_fs_join(at("model"), name);
        char *to = rh_format("%s/%s", at("job/artifacts/plan-00000/meta"), name);
        expect_same_file(from, to);
        rh_free(from);
        rh_free(to);
        side++;
    }
    assert_int_equal(our_count, side);
    assert_true(side >= 9);
    rh_fs_list_free(theirs, their_count);
    rh_fs_list_free(ours, our_count);
}

static void a_source_file_under_a_name_of_ours_is_refused(void **state)
{
    (void)state;
    struct rh_error err;
    copy_nano();
    write_file(at("model/MANIFEST.json"), "{}", 2);
    assert_int_equal(run("plan", at("model"), 0, &err), RH_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "MANIFEST.json"));
}

static void compare_tensor(const struct rh_safetensors *a, const struct rh_tensor_info *x,
                           const struct rh_safetensors *b, const struct rh_tensor_info *y)
{
    struct rh_error err = {0};
    assert_int_equal(x->dtype, y->dtype);
    assert_int_equal(x->rank, y->rank);
    assert_memory_equal(x->shape, y->shape, sizeof *x->shape * (size_t)x->rank);
    assert_int_equal(x->bytes, y->bytes);
    void *p = rh_alloc(x->bytes + 1), *q = rh_alloc(y->bytes + 1);
    must(rh_safetensors_read(a, x, 0, x->bytes, p, &err), &err);
    must(rh_safetensors_read(b, y, 0, y->bytes, q, &err), &err);
    assert_memory_equal(p, q, x->bytes);
    rh_free(p);
    rh_free(q);
}

static void fetched_units_hold_all_tensors_of_the_source_byte_for_byte(void **state)
{
    (void)state;
    struct rh_safetensors *source = NULL;
    struct rh_error err = {0};
    must_run("plan", NANO, 0);
    struct rh_model_plan *plan = committed_plan();
    must(rh_safetensors_open(NANO "/" WEIGHTS, &source, &err), &err);
    size_t total = 0;
    for (size_t u = 0; u < plan->unit_count; u++) {
        struct rh_safetensors *unit = NULL;
        must_run("fetch", NANO, (int64_t)u);
        char *dir = rh_store_artifact(at("job"), "fetch", (int64_t)u);
        char *path = rh_fs_join(dir, "tensors.safetensors");
        must(rh_safetensors_open(path, &unit, &err), &err);
        assert_int_equal(rh_safetensors_count(unit), plan->units[u].tensor_count);
        for (size_t i = 0; i < rh_safetensors_count(unit); i++) {
            const struct rh_tensor_info *t = rh_safetensors_at(unit, i);
            const struct rh_tensor_info *s = rh_safetensors_find(source, t->name);
            assert_non_null(s);
            compare_tensor(unit, t, source, s);
        }
        total += rh_safetensors_count(unit);
        rh_safetensors_close(unit);
        rh_free(path);
        rh_free(dir);
    }
    assert_int_equal(total, rh_safetensors_count(source));
    rh_safetensors_close(source);
    rh_model_plan_free(plan);
}

static void a_digest_is_that_of_the_whole_file(void **state)
{
    (void)state;
    struct rh_json *json = NULL;
    struct rh_error err = {0};
    char sha256[RH_SHA256_HEX_SIZE];
    uint64_t size = 0;
    int64_t said = 0;
    must_run("plan", NANO, 0);
    must_run("digest", NANO, 0);
    must(rh_sha256_file(NANO "/" WEIGHTS, sha256, &size, &err), &err);
    must(rh_json_read(at("job/artifacts/digest-00000/digest.json"), 10000, &json, &err), &err);
    assert_string_equal(rh_json_string(rh_json_get(json, "file")), WEIGHTS);
    assert_true(rh_json_int(rh_json_get(json, "size"), &said));
    assert_int_equal(said, size);
    assert_string_equal(rh_json_string(rh_json_get(json, "sha256")), sha256);
    rh_json_free(json);
}

static void what_the_plan_does_not_have_cannot_be_fetched(void **state)
{
    (void)state;
    struct rh_error err;
    must_run("plan", NANO, 0);
    struct rh_model_plan *plan = committed_plan();
    assert_int_equal(run("fetch", NANO, (int64_t)plan->unit_count, &err), RH_ERR_ARGUMENT);
    assert_int_equal(run("digest", NANO, 1, &err), RH_ERR_ARGUMENT);
    rh_model_plan_free(plan);
}

/* The first occurrence of `from` behind the name, in a header whose length must stay. */
static void edit_header(char *bytes, size_t size, const char *name, const char *from,
                        const char *to)
{
    size_t length = strlen(from);
    assert_int_equal(length, strlen(to));
    for (size_t i = 0; i + strlen(name) < size; i++) {
        if (memcmp(bytes + i, name, strlen(name)) != 0)
            continue;
        for (size_t k = i; k + length < size; k++) {
            if (memcmp(bytes + k, from, length) == 0) {
                memcpy(bytes + k, to, length);
                return;
            }
        }
    }
    fail_msg("%s has no %s", name, from);
}

static void a_tensor_that_changed_since_the_plan_is_named(void **state)
{
    (void)state;
    static const char norm[] = "model.language_model.layers.1.input_layernorm.weight";
    struct rh_error err;
    size_t size = 0;
    copy_nano();
    must_run("plan", at("model"), 0);
    char *bytes = read_file(at("model/" WEIGHTS), &size);
    edit_header(bytes, size, norm, "\"BF16\"", "\"I16\" ");
    write_file(at("model/" WEIGHTS), bytes, size);
    assert_int_equal(run("fetch", at("model"), 2, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, norm));
    assert_non_null(strstr(err.message, at("model/" WEIGHTS)));
    assert_non_null(strstr(err.message, "submit the job again"));
    assert_false(rh_store_has(at("job"), "fetch", 2));
    must_run("fetch", at("model"), 1);
    edit_header(bytes, size, norm, "input", "inpuT");
    write_file(at("model/" WEIGHTS), bytes, size);
    assert_int_equal(run("fetch", at("model"), 2, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "is gone"));
    rh_free(bytes);
}

static void a_truncated_file_is_named_by_every_operation(void **state)
{
    (void)state;
    struct rh_error err;
    size_t size = 0;
    copy_nano();
    must_run("plan", at("model"), 0);
    char *bytes = read_file(at("model/" WEIGHTS), &size);
    size_t header = 8 + (size_t)(unsigned char)bytes[0] + ((size_t)(unsigned char)bytes[1] << 8) +
                    ((size_t)(unsigned char)bytes[2] << 16);
    const size_t cuts[] = {0, 5, 8, header / 2, header, header + 1, size - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        write_file(at("model/" WEIGHTS), bytes, cuts[i]);
        assert_int_equal(run("fetch", at("model"), 0, &err), RH_ERR_FORMAT);
        assert_non_null(strstr(err.message, at("model/" WEIGHTS)));
        assert_int_equal(run("digest", at("model"), 0, &err), RH_ERR_FORMAT);
        assert_non_null(strstr(err.message, at("model/" WEIGHTS)));
    }
    struct rh_error ignored = {0};
    must(rh_fs_remove_tree(at("job"), &ignored), &ignored);
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        write_file(at("model/" WEIGHTS), bytes, cuts[i]);
        assert_int_equal(run("plan", at("model"), 0, &err), RH_ERR_FORMAT);
        assert_non_null(strstr(err.message, at("model/" WEIGHTS)));
        assert_false(rh_store_has(at("job"), "plan", 0));
    }
    rh_free(bytes);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_unknown_scheme_is_refused_with_a_remedy),
        TEST(a_missing_directory_is_not_found_and_a_file_is_no_model),
        TEST(a_source_lists_plain_files_and_follows_links),
        TEST(a_plan_keeps_every_file_that_is_not_weights),
        TEST(a_source_file_under_a_name_of_ours_is_refused),
        TEST(fetched_units_hold_all_tensors_of_the_source_byte_for_byte),
        TEST(a_digest_is_that_of_the_whole_file),
        TEST(what_the_plan_does_not_have_cannot_be_fetched),
        TEST(a_tensor_that_changed_since_the_plan_is_named),
        TEST(a_truncated_file_is_named_by_every_operation),
    };
    return cmocka_run_group_tests(tests, load_recipe, free_recipe);
}
