#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "publish/publish.h"
#include "publish/verify.h"
#include "quantized.h"
#include "store/store.h"

static const char recipe[] =
    "{\"calibration\": {\"dataset\": \"/somewhere/private/text.jsonl\", \"nsamples\": 16},"
    " \"quant\": {\"group_size\": 64, \"iters\": 20},"
    " \"output\": {\"max_shard_bytes\": 700000}, \"resources\": {\"threads\": 3}}";

static const char source_card[] = "---\n"
                                  "license: apache-2.0\n"
                                  "library_name: other\n"
                                  "tags:\n"
                                  "- small\n"
                                  "- bad: tag\n"
                                  "pipeline_tag: image-text-to-text\n"
                                  "---\n"
                                  "# Nano\n";

/* A job directory with every artifact that publication reads, and a place to publish to. */
struct job {
    struct quantized *nano;
    char *dir, *out; /* out: the parent of destinations */
};

static void commit(const struct job *j, char *dir, const char *op, int64_t index)
{
    assert_int_equal(rh_store_seal(dir, op, index, j->nano->recipe->digest, NULL, NULL), RH_OK);
    assert_int_equal(rh_store_commit(dir, j->dir, op, index, NULL), RH_OK);
    rh_free(dir);
}

static void copy_into(const char *dir, const char *from_dir, const char *name)
{
    char *from = rh_fs_join(from_dir, name), *to = rh_fs_join(dir, name);
    assert_int_equal(rh_fs_copy(from, to, NULL, NULL), RH_OK);
    rh_free(from);
    rh_free(to);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char *path = rh_fs_join(dir, name);
    assert_int_equal(rh_fs_write(path, text, strlen(text), NULL), RH_OK);
    rh_free(path);
}

static void make_plan(const struct job *j)
{
    char **names = NULL;
    size_t count = 0;
    char *dir = new_directory(), *meta = rh_fs_join(dir, "meta");
    struct rh_json *plan = rh_model_plan_to_json(j->nano->plan);
    write_document(dir, "plan.json", plan);
    rh_json_free(plan);
    assert_int_equal(rh_fs_mkdirs(meta, NULL), RH_OK);
    assert_int_equal(rh_fs_list(NANO, &names, &count, NULL), RH_OK);
    for (size_t i = 0; i < count; i++) {
        if (!strstr(names[i], ".safetensors"))
            copy_into(meta, NANO, names[i]);
    }
    rh_fs_list_free(names, count);
    write_text(meta, "README.md", source_card);
    write_text(meta, "LICENSE", "do what you like\n");
    rh_free(meta);
    commit(j, dir, "plan", 0);
}

static void make_digests(const struct job *j)
{
    for (size_t f = 0; f < j->nano->plan->file_count; f++) {
        char *dir = new_directory(), *path = rh_fs_join(NANO, j->nano->plan->files[f]);
        char hex[RH_SHA256_HEX_SIZE];
        uint64_t size = 0;
        struct rh_json *digest = rh_json_new_object();
        assert_int_equal(rh_sha256_file(path, hex, &size, NULL), RH_OK);
        rh_json_set_string(digest, "file", j->nano->plan->files[f]);
        rh_json_set_int(digest, "size", (int64_t)size);
        rh_json_set_string(digest, "sha256", hex);
        write_document(dir, "digest.json", digest);
        rh_json_free(digest);
        rh_free(path);
        commit(j, dir, "digest", (int64_t)f);
    }
}

static void make_reports(const struct job *j)
{
    for (int64_t b = 0; b < rh_model_plan_steps(j->nano->plan); b++) {
        char *dir = new_directory();
        struct rh_json *report = rh_json_new_object();
        if (b == j->nano->plan->config.num_hidden_layers)
            rh_json_set_string(report, "unit", "mtp");
        rh_json_set_number(report, "init_loss", 0.5 + (double)b);
        rh_json_set_number(report, "best_loss", 0.25 + (double)b);
        rh_json_set_int(report, "best_iter", 10 + b);
        write_document(dir, "report.json", report);
        rh_json_free(report);
        commit(j, dir, "tune", b);
    }
}

/* The units' source tensors, as the download stage leaves them. */
static void make_fetches(const struct job *j)
{
    struct rh_checkpoint *c = NULL;
    assert_int_equal(rh_checkpoint_open(NANO, false, &c, NULL), RH_OK);
    for (size_t u = 0; u < j->nano->plan->unit_count; u++) {
        const struct rh_unit *unit = &j->nano->plan->units[u];
        char *dir = new_directory(), *path = rh_fs_join(dir, "tensors.safetensors");
        struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
        for (size_t i = 0; i < unit->tensor_count; i++) {
            const struct rh_tensor_info *t = &unit->tensors[i].info;
            assert_int_equal(rh_safetensors_writer_add(w, t->name, t->dtype, t->rank, t->shape), i);
        }
        assert_int_equal(rh_safetensors_writer_begin(w, NULL), RH_OK);
        for (size_t i = 0; i < unit->tensor_count; i++) {
            const struct rh_tensor_info *t = &unit->tensors[i].info;
            void *data = rh_alloc(t->bytes);
            assert_int_equal(rh_safetensors_read(rh_checkpoint_file(c, unit->tensors[i].file), t, 0,
                                                 t->bytes, data, NULL),
                             RH_OK);
            assert_int_equal(rh_safetensors_writer_put(w, i, 0, data, t->bytes, NULL), RH_OK);
            rh_free(data);
        }
        assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
        rh_safetensors_writer_free(w);
        rh_free(path);
        commit(j, dir, "fetch", (int64_t)u);
    }
    rh_checkpoint_close(c);
}

static struct job *job_of(const char *its_recipe, const struct mistakes *wrong)
{
    struct job *j = rh_alloc(sizeof *j);
    j->nano = quantized_new(its_recipe);
    j->dir = new_directory();
    j->out = new_directory();
    make_plan(j);
    make_digests(j);
    make_reports(j);
    for (size_t s = 0; s < j->nano->plan->shard_count; s++) {
        char *dir = new_directory();
        quantized_write_shard(j->nano, s, dir, wrong);
        commit(j, dir, "shard", (int64_t)s);
    }
    char *dir = new_directory();
    quantized_write_rest(j->nano, dir, wrong);
    commit(j, dir, "finalize", 0);
    return j;
}

static struct job *job_new(const struct mistakes *wrong)
{
    return job_of(recipe, wrong);
}

static void job_free(struct job *j)
{
    remove_directory(j->dir);
    remove_directory(j->out);
    quantized_free(j->nano);
    rh_free(j);
}

static enum rh_rc publish_from(struct job *j, const char *model, const char *name,
                               struct rh_error *err)
{
    char *output = rh_format("dir:%s/%s", j->out, name);
    enum rh_rc rc = rh_stage_run_local(&rh_publish_stage, "publish", j->dir, j->nano->recipe, model,
                                       output, 0, 0, err);
    rh_free(output);
    return rc;
}

static enum rh_rc publish(struct job *j, const char *name, struct rh_error *err)
{
    return publish_from(j, "file:" NANO, name, err);
}

static void must_publish(struct job *j, const char *name)
{
    struct rh_error err = {0};
    if (publish(j, name, &err) != RH_OK)
        fail_msg("%s", err.message);
}

/* As if the orchestrator had forgotten the task: the artifact goes, the destination stays. */
static void forget_receipt(struct job *j)
{
    char *dir = rh_store_artifact(j->dir, "publish", 0);
    assert_int_equal(rh_fs_remove_tree(dir, NULL), RH_OK);
    rh_free(dir);
}

static char *read_text(const char *dir, const char *name)
{
    char *path = rh_fs_join(dir, name), *text = NULL;
    size_t size = 0;
    assert_int_equal(rh_fs_read(path, UINT64_C(1) << 26, &text, &size, NULL), RH_OK);
    rh_free(path);
    return text;
}

static size_t count_entries(const char *dir)
{
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(rh_fs_list(dir, &names, &count, NULL), RH_OK);
    rh_fs_list_free(names, count);
    return count;
}

static void a_job_is_published_and_passes_verification(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    struct rh_verify_report report;
    must_publish(j, "new-model");
    char *dir = rh_fs_join(j->out, "new-model");
    assert_int_equal(count_entries(j->out), 1);
    assert_int_equal(rh_verify_checkpoint(dir, NANO, NULL, &report, NULL), RH_OK);
    assert_true(report.ok);
    assert_int_equal(report.checks[RH_VERIFY_MANIFEST].count, count_entries(dir) - 1);
    rh_verify_report_done(&report);
    char *artifact = rh_store_artifact(j->dir, "publish", 0);
    struct rh_json *receipt = read_document(artifact, "receipt.json");
    int64_t files = 0;
    char hex[RH_SHA256_HEX_SIZE];
    uint64_t size = 0;
    char *manifest = rh_fs_join(dir, "MANIFEST.json");
    assert_int_equal(rh_sha256_file(manifest, hex, &size, NULL), RH_OK);
    assert_true(rh_json_int(rh_json_get(receipt, "files"), &files));
    assert_int_equal(files, count_entries(dir));
    assert_string_equal(rh_json_string(rh_json_get(receipt, "manifest_sha256")), hex);
    assert_true(rh_json_bool(rh_json_get(rh_json_get(receipt, "verify"), "ok"), false));
    rh_json_free(receipt);
    rh_free(manifest);
    rh_free(artifact);
    rh_free(dir);
    job_free(j);
}

static void the_manifest_names_its_origin_and_no_machine(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    must_publish(j, "new-model");
    char *dir = rh_fs_join(j->out, "new-model"), *text = read_text(dir, "MANIFEST.json");
    assert_null(strstr(text, "/somewhere"));
    assert_null(strstr(text, RH_SOURCE_DIR));
    assert_null(strstr(text, j->out));
    assert_non_null(strstr(text, j->nano->recipe->digest));
    struct rh_json *manifest = read_document(dir, "MANIFEST.json");
    const struct rh_json *source = rh_json_get(manifest, "source");
    assert_string_equal(rh_json_string(rh_json_get(source, "reference")), "nano");
    bool weights = false, config = false;
    for (const struct rh_json *f = rh_json_first(rh_json_get(source, "files")); f;
         f = rh_json_next(f)) {
        const char *name = rh_json_string(rh_json_get(f, "name"));
        weights = weights || strcmp(name, j->nano->plan->files[0]) == 0;
        config = config || strcmp(name, "config.json") == 0;
    }
    assert_true(weights && config);
    assert_null(rh_json_get(rh_json_get(manifest, "recipe"), "resources"));
    assert_int_equal(rh_json_count(rh_json_get(manifest, "blocks")), 4);
    rh_json_free(manifest);
    rh_free(text);
    rh_free(dir);
    job_free(j);
}

static void the_card_says_what_was_done(void **state)
{
    (void)state;
    static const char *const facts[] = {
        "license: apache-2.0\n",
        "pipeline_tag: image-text-to-text\n",
        "library_name: transformers\n",
        "- small\n",
        "- int4\n",
        "# new-model\n",
        "`nano`",
        "| `quant.iters` | 20 |",
        "`text.jsonl`",
        "| 3 | 3.5000e+00 | 3.2500e+00 | 0.929 | 13 |",
        "MTP head is included. Its",
        "vllm serve new-model",
        "from_pretrained",
        "roundhouse run SOURCE --recipe recipe.json --output new-model\n",
    };
    struct job *j = job_new(NULL);
    must_publish(j, "new-model");
    char *dir = rh_fs_join(j->out, "new-model"), *text = read_text(dir, "README.md");
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        if (!strstr(text, facts[i]))
            fail_msg("the card lacks: %s", facts[i]);
    }
    assert_null(strstr(text, "library_name: other"));
    assert_null(strstr(text, "bad: tag"));
    assert_null(strstr(text, "/somewhere"));
    assert_null(strstr(text, "base_model"));
    rh_free(text);
    rh_free(dir);
    job_free(j);
}

static void the_card_says_that_the_mtp_head_was_tuned(void **state)
{
    (void)state;
    static const char *const facts[] = {
        "Its 31 linears are INT4, tuned like those of a decoder block",
        "Each decoder block, and the MTP head, was tuned for 20 iterations",
        "| MTP head | 4.5000e+00 | 4.2500e+00 | 0.944 | 14 |",
        "| `mtp.method` | \"tune\" |",
    };
    struct job *j = job_of("{\"calibration\": {\"dataset\": \"/a/text.jsonl\"},"
                           " \"quant\": {\"iters\": 20}, \"mtp\": {\"method\": \"tune\"}}",
                           NULL);
    must_publish(j, "new-model");
    char *dir = rh_fs_join(j->out, "new-model"), *text = read_text(dir, "README.md");
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        if (!strstr(text, facts[i]))
            fail_msg("the card lacks: %s", facts[i]);
    }
    assert_null(strstr(text, "without calibration"));
    rh_free(text);
    text = read_text(dir, "quantization_config.json");
    assert_non_null(strstr(text, "\"mtp_method\": \"tune\""));
    rh_free(text);
    rh_free(dir);
    job_free(j);
}

static void two_publications_are_equal_byte_for_byte(void **state)
{
    (void)state;
    struct job *j = job_new(NULL), *k = job_new(NULL);
    must_publish(j, "new-model");
    must_publish(k, "new-model");
    char *a = rh_fs_join(j->out, "new-model"), *b = rh_fs_join(k->out, "new-model");
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(rh_fs_list(a, &names, &count, NULL), RH_OK);
    assert_int_equal(count, count_entries(b));
    for (size_t i = 0; i < count; i++) {
        char *x = rh_fs_join(a, names[i]), *y = rh_fs_join(b, names[i]);
        char hex[2][RH_SHA256_HEX_SIZE];
        uint64_t size = 0;
        assert_int_equal(rh_sha256_file(x, hex[0], &size, NULL), RH_OK);
        assert_int_equal(rh_sha256_file(y, hex[1], &size, NULL), RH_OK);
        assert_string_equal(hex[0], hex[1]);
        rh_free(x);
        rh_free(y);
    }
    rh_fs_list_free(names, count);
    rh_free(a);
    rh_free(b);
    job_free(j);
    job_free(k);
}

static void the_same_result_may_be_published_again(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    must_publish(j, "new-model");
    forget_receipt(j);
    must_publish(j, "new-model");
    assert_int_equal(count_entries(j->out), 1);
    job_free(j);
}

static void a_published_result_that_was_damaged_is_not_confirmed(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    struct rh_error err = {0};
    must_publish(j, "new-model");
    forget_receipt(j);
    char *dir = rh_fs_join(j->out, "new-model");
    write_text(dir, "tokenizer_config.json", "{}");
    assert_int_equal(publish(j, "new-model", &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "tokenizer_config.json"));
    rh_free(dir);
    job_free(j);
}

static void another_destination_is_never_replaced(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    struct rh_error err = {0};
    char *dir = rh_fs_join(j->out, "new-model");
    assert_int_equal(rh_fs_mkdirs(dir, NULL), RH_OK);
    assert_int_equal(publish(j, "new-model", &err), RH_ERR_EXISTS);
    assert_non_null(strstr(err.message, "another destination"));
    write_text(dir, "MANIFEST.json", "{}");
    assert_int_equal(publish(j, "new-model", &err), RH_ERR_EXISTS);
    assert_int_equal(count_entries(j->out), 1);
    assert_int_equal(count_entries(dir), 1);
    rh_free(dir);
    job_free(j);
}

static void what_fails_verification_does_not_appear(void **state)
{
    (void)state;
    struct job *j = job_new(&(struct mistakes){.leave_out = "mtp."});
    struct rh_error err = {0};
    assert_int_equal(publish(j, "new-model", &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "does not pass verification"));
    assert_non_null(strstr(err.message, "mtp"));
    assert_int_equal(count_entries(j->out), 0);
    job_free(j);
}

/* Kills a publishing process as soon as its hidden directory is there. Returns that directory's
 * name, owned by caller; NULL when the process was faster. */
static char *kill_in_the_middle(struct job *j)
{
    char *hidden = NULL;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(publish(j, "new-model", NULL) == RH_OK ? 0 : 1);
    while (!hidden && waitpid(child, NULL, WNOHANG) == 0) {
        char **names = NULL;
        size_t count = 0;
        assert_int_equal(rh_fs_list(j->out, &names, &count, NULL), RH_OK);
        if (count > 0 && names[0][0] == '.')
            hidden = rh_strdup(names[0]);
        rh_fs_list_free(names, count);
    }
    if (hidden) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return hidden;
}

static void the_remains_of_a_crash_do_no_harm(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    char *published = rh_fs_join(j->out, "new-model"), *remains = NULL;
    for (int attempt = 0; attempt < 50 && !remains; attempt++) {
        char *hidden = kill_in_the_middle(j);
        char *path = hidden ? rh_fs_join(j->out, hidden) : NULL;
        if (path && rh_fs_is_dir(path)) {
            remains = path;
        } else {
            rh_free(path);
            assert_int_equal(rh_fs_remove_tree(published, NULL), RH_OK);
            forget_receipt(j);
        }
        rh_free(hidden);
    }
    assert_non_null(remains);
    assert_false(rh_fs_exists(published));
    write_text(remains, "stranger.txt", "old");
    must_publish(j, "new-model");
    assert_int_equal(count_entries(j->out), 1);
    char *stranger = rh_fs_join(published, "stranger.txt");
    assert_false(rh_fs_exists(stranger));
    rh_free(stranger);
    rh_free(remains);
    rh_free(published);
    job_free(j);
}

static void a_missing_artifact_leaves_nothing_behind(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    struct rh_error err = {0};
    char *artifact = rh_store_artifact(j->dir, "shard", 1);
    assert_int_equal(rh_fs_remove_tree(artifact, NULL), RH_OK);
    assert_int_not_equal(publish(j, "new-model", &err), RH_OK);
    assert_non_null(strstr(err.message, "shard-00001"));
    assert_int_equal(count_entries(j->out), 0);
    rh_free(artifact);
    job_free(j);
}

static void a_hub_model_is_compared_with_what_was_fetched(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    struct rh_error err = {0};
    make_fetches(j);
    if (publish_from(j, "hf:someone/Nano@0123abcd", "new-model", &err) != RH_OK)
        fail_msg("%s", err.message);
    char *dir = rh_fs_join(j->out, "new-model"), *text = read_text(dir, "README.md");
    assert_non_null(strstr(text, "base_model: someone/Nano\nbase_model_relation: quantized\n"));
    assert_non_null(strstr(text, "roundhouse run hf:someone/Nano@0123abcd --recipe"));
    char *artifact = rh_store_artifact(j->dir, "publish", 0);
    struct rh_json *receipt = read_document(artifact, "receipt.json");
    assert_non_null(rh_json_get(rh_json_get(receipt, "verify"), "relative_error"));
    rh_json_free(receipt);
    rh_free(artifact);
    rh_free(text);
    rh_free(dir);
    job_free(j);
}

static void unknown_destinations_are_refused_with_advice(void **state)
{
    (void)state;
    struct job *j = job_new(NULL);
    struct rh_error err = {0};
    static const struct {
        const char *output;
        enum rh_rc rc;
        const char *text;
    } cases[] = {
        {"hf:someone/new-model", RH_ERR_UNSUPPORTED, "only dir:/absolute/path"},
        {"s3://bucket/x", RH_ERR_UNSUPPORTED, "only dir:/absolute/path"},
        {"dir:relative/path", RH_ERR_ARGUMENT, "not an absolute path"},
        {"dir:/", RH_ERR_ARGUMENT, "does not end in a name"},
        {"dir:/tmp/..", RH_ERR_ARGUMENT, "does not end in a name"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(rh_stage_run_local(&rh_publish_stage, "publish", j->dir, j->nano->recipe,
                                            "file:" NANO, cases[i].output, 0, 0, &err),
                         cases[i].rc);
        if (!strstr(err.message, cases[i].text))
            fail_msg("%s", err.message);
    }
    job_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_is_published_and_passes_verification),
        cmocka_unit_test(the_manifest_names_its_origin_and_no_machine),
        cmocka_unit_test(the_card_says_what_was_done),
        cmocka_unit_test(the_card_says_that_the_mtp_head_was_tuned),
        cmocka_unit_test(two_publications_are_equal_byte_for_byte),
        cmocka_unit_test(the_same_result_may_be_published_again),
        cmocka_unit_test(a_published_result_that_was_damaged_is_not_confirmed),
        cmocka_unit_test(another_destination_is_never_replaced),
        cmocka_unit_test(what_fails_verification_does_not_appear),
        cmocka_unit_test(the_remains_of_a_crash_do_no_harm),
        cmocka_unit_test(a_missing_artifact_leaves_nothing_behind),
        cmocka_unit_test(a_hub_model_is_compared_with_what_was_fetched),
        cmocka_unit_test(unknown_destinations_are_refused_with_advice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
