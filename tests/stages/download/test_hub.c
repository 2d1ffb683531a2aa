/* The Hub as a source, against tests/support/fake_hub.py, which also misbehaves. */
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
#include "hub_server.h"
#include "store/store.h"

#define NANO    RH_SOURCE_DIR "/tests/data/nano"
#define WEIGHTS "model-00001-of-00001.safetensors"
#define SMALL   "config.json"
#define SIZE    6647120 /* of the weights */
/* A server that says so is asked again at once. */
#define AT_ONCE "\"headers\": {\"Retry-After\": \"0\"}"

static char root[4096]; /* of one test */
static struct hub_server server;

static void must(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
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

/* No token, an empty cache, impatience. */
static int make_root(void **state)
{
    static const char *const others[] = {"HF_TOKEN",
                                         "HUGGING_FACE_HUB_TOKEN",
                                         "HF_TOKEN_PATH",
                                         "HF_HUB_CACHE",
                                         "HUGGINGFACE_HUB_CACHE",
                                         "HF_HUB_OFFLINE",
                                         "TRANSFORMERS_OFFLINE",
                                         "http_proxy",
                                         "https_proxy",
                                         "HF_HUB_ETAG_TIMEOUT"};
    char name[] = "/test-hub-XXXXXX";
    (void)state;
    assert_non_null(getcwd(root, sizeof root - sizeof name));
    strcat(root, name);
    assert_non_null(mkdtemp(root));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        unsetenv(others[i]);
    setenv("HF_HOME", at("home"), 1);
    setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2", 1);
    return 0;
}

static int remove_root(void **state)
{
    struct rh_error err = {0};
    (void)state;
    if (server.pid)
        hub_server_stop(&server);
    must(rh_fs_remove_tree(root, &err), &err);
    return 0;
}

static void serve(const char *faults)
{
    if (server.pid)
        hub_server_stop(&server);
    hub_server_start(&server, root, NANO,
                     faults ? (const char *[]){"--faults", faults, NULL} : NULL);
}

/* Opens the model and fetches the file whole into work/; the source is closed again. */
static enum rh_rc fetch(const char *name, struct rh_error *err)
{
    struct rh_source *source = NULL;
    struct rh_source_file *file = NULL;
    struct rh_source_use use = {.work_dir = at("work")};
    *err = (struct rh_error){0};
    enum rh_rc rc = rh_source_open("hf:acme/nano", &use, &source, err);
    if (rc == RH_OK)
        rc = rh_source_file_open(source, name, &file, err);
    if (rc == RH_OK) {
        char ours[RH_SHA256_HEX_SIZE], theirs[RH_SHA256_HEX_SIZE];
        char *path = rh_fs_join(NANO, name);
        must(rh_sha256_file(rh_source_file_path(file), ours, NULL, err), err);
        must(rh_sha256_file(path, theirs, NULL, err), err);
        assert_string_equal(ours, theirs);
        rh_free(path);
    }
    rh_source_file_close(file);
    rh_source_close(source);
    return rc;
}

/* What is in work/ under a name with that text; NULL: nothing. */
static const char *in_work(const char *part)
{
    char **names = NULL;
    size_t count = 0;
    const char *found = NULL;
    struct rh_error err;
    must(rh_fs_list(at("work"), &names, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        if (strstr(names[i], part)) {
            char *name = rh_format("work/%s", names[i]);
            found = at(name);
            rh_free(name);
        }
    }
    rh_fs_list_free(names, count);
    return found;
}

/* -- What must end well ----------------------------------------------------------------------- */

static void faults_that_pass_end_in_the_right_bytes(void **state)
{
    static const struct {
        const char *faults;
        size_t cdn; /* requests for content, 0: it does not matter */
    } cases[] = {
        {"[]", 1},
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 503, \"times\": 4, " AT_ONCE "}]", 1},
        {"[{\"at\": \"tree\", \"do\": \"status\", \"status\": 429, \"times\": 2, " AT_ONCE "}]", 1},
        {"[{\"at\": \"resolve\", \"do\": \"status\", \"status\": 500, \"times\": 1, " AT_ONCE "}]",
         1},
        {"[{\"at\": \"cdn\", \"do\": \"status\", \"status\": 403, \"times\": 2, " AT_ONCE "}]", 3},
        {"[{\"at\": \"cdn\", \"do\": \"status\", \"status\": 429, \"times\": 1, \"headers\": "
         "{\"Retry-After\": \"Thu, 01 Jan 2015 00:00:00 GMT\"}}]",
         2},
        {"[{\"at\": \"cdn\", \"do\": \"cut\", \"bytes\": 3000000, \"times\": 2}]", 3},
        {"[{\"at\": \"cdn\", \"do\": \"cut\", \"bytes\": 0, \"times\": 1}]", 2},
        {"[{\"at\": \"cdn\", \"do\": \"stall\", \"bytes\": 1000000, \"times\": 1}]", 2},
        {"[{\"at\": \"cdn\", \"do\": \"whole\"}]", 1},
        {"[{\"at\": \"cdn\", \"do\": \"cut\", \"bytes\": 2000000, \"times\": 1},"
         " {\"at\": \"cdn\", \"do\": \"whole\"}]",
         2},
        {"[{\"at\": \"cdn\", \"do\": \"flip\", \"times\": 2}]", 3},
        {"[{\"at\": \"cdn\", \"do\": \"short\", \"times\": 1}]", 2},
        {"[{\"at\": \"cdn\", \"do\": \"html\", \"times\": 1}]", 2},
        {"[{\"at\": \"cdn\", \"do\": \"gzip\", \"times\": 1}]", 2},
        {"[{\"at\": \"resolve\", \"do\": \"down\", \"times\": 1}]", 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rh_error err;
        serve(cases[i].faults);
        if (fetch(WEIGHTS, &err) != RH_OK)
            fail_msg("%s: %s", cases[i].faults, err.message);
        size_t asked = hub_server_count(&server, "\"cdn\"", NULL);
        if (cases[i].cdn > 0 && asked != cases[i].cdn)
            fail_msg("%s: %zu requests instead of %zu", cases[i].faults, asked, cases[i].cdn);
        assert_null(in_work(".part"));
        must(rh_fs_remove_tree(at("work"), &err), &err);
    }
}

static void a_transfer_goes_on_where_it_broke(void **state)
{
    struct rh_error err;
    (void)state;
    serve("[{\"at\": \"cdn\", \"do\": \"cut\", \"bytes\": 3000000, \"times\": 1}]");
    must(fetch(WEIGHTS, &err), &err);
    assert_int_equal(hub_server_count(&server, "\"cdn\"", "bytes=0-"), 1);
    assert_int_equal(hub_server_count(&server, "\"cdn\"", "bytes=3000000-"), 1);
}

static void a_mirror_s_listing_is_read_to_its_end_at_the_mirror(void **state)
{
    struct rh_error err;
    (void)state;
    hub_server_start(&server, root, NANO, (const char *[]){"--mirror", "--page", "3", NULL});
    must(fetch("tokenizer_config.json", &err), &err);
    assert_int_equal(hub_server_count(&server, "/tree/", NULL), 4);
}

/* -- What must end in words ------------------------------------------------------------------- */

static void faults_that_stay_end_in_one_message(void **state)
{
    static const struct {
        const char *faults, *file;
        enum rh_rc rc;
        enum rh_failure failure;
        const char *words[3];
    } cases[] = {
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 503, " AT_ONCE "}]",
         WEIGHTS,
         RH_ERR_REMOTE,
         RH_FAILURE_TRANSIENT,
         {"503", "acme/nano", NULL}},
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 429, \"headers\": {\"Retry-After\": "
         "\"86400\"}}]",
         WEIGHTS,
         RH_ERR_REMOTE,
         RH_FAILURE_TRANSIENT,
         {"429", "86400 s", NULL}},
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 401, \"headers\": {\"X-Error-Code\": "
         "\"GatedRepo\"}}]",
         WEIGHTS,
         RH_ERR_AUTH,
         RH_FAILURE_PERMANENT,
         {"acme/nano is gated", "accept its terms at http://", "HF_TOKEN"}},
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 403, \"body\": \"{\\\"error\\\": "
         "\\\"Access to this resource is disabled.\\\"}\"}]",
         WEIGHTS,
         RH_ERR_AUTH,
         RH_FAILURE_PERMANENT,
         {"acme/nano", "is disabled", NULL}},
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 404, \"headers\": {\"X-Error-Code\": "
         "\"RepoNotFound\"}}]",
         WEIGHTS,
         RH_ERR_NOT_FOUND,
         RH_FAILURE_PERMANENT,
         {"no model acme/nano", "check the name", NULL}},
        {"[{\"at\": \"resolve\", \"do\": \"status\", \"status\": 404, \"headers\": "
         "{\"X-Error-Code\": \"EntryNotFound\"}}]",
         WEIGHTS,
         RH_ERR_NOT_FOUND,
         RH_FAILURE_PERMANENT,
         {"acme/nano/" WEIGHTS, "no such file", NULL}},
        {"[{\"at\": \"info\", \"do\": \"status\", \"status\": 418}]",
         WEIGHTS,
         RH_ERR_PROTOCOL,
         RH_FAILURE_PERMANENT,
         {"418", "HF_ENDPOINT", NULL}},
        {"[{\"at\": \"info\", \"do\": \"html\"}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"acme/nano", NULL}},
        {"[{\"at\": \"info\", \"do\": \"text\", \"text\": \"{\\\"sha\\\": \\\"../../x\\\"}\"}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"no commit", NULL}},
        {"[{\"at\": \"tree\", \"do\": \"names\", \"names\": [\"a/../../etc/passwd\"]}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"a/../../etc/passwd", "leads out", NULL}},
        {"[{\"at\": \"tree\", \"do\": \"names\", \"names\": [\"config.json\"]}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"config.json", "listed twice", NULL}},
        {"[{\"at\": \"tree\", \"do\": \"huge\", \"bytes\": 70000000}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"its files", "more than", NULL}},
        {"[{\"at\": \"resolve\", \"do\": \"loop\"}]",
         WEIGHTS,
         RH_ERR_PROTOCOL,
         RH_FAILURE_PERMANENT,
         {"redirects", WEIGHTS, NULL}},
        {"[{\"at\": \"resolve\", \"do\": \"away\"}]",
         WEIGHTS,
         RH_ERR_PROTOCOL,
         RH_FAILURE_PERMANENT,
         {"leads nowhere", NULL}},
        {"[{\"at\": \"resolve\", \"do\": \"commit\"}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"commit ffffffff", WEIGHTS, NULL}},
        {"[{\"at\": \"resolve\", \"do\": \"etag\"}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {"etag eeeeeeee", WEIGHTS, NULL}},
        {"[{\"at\": \"tree\", \"do\": \"names\", \"names\": [\"huge.bin\"], \"size\": "
         "1000000000000000}]",
         "huge.bin",
         RH_ERR_NO_SPACE,
         RH_FAILURE_RESOURCE,
         {"1000000000000000 bytes are still to come", "free", "make room"}},
        {"[{\"at\": \"cdn\", \"do\": \"flip\"}]",
         WEIGHTS,
         RH_ERR_FORMAT,
         RH_FAILURE_PERMANENT,
         {WEIGHTS, "digest", "proxy"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rh_error err;
        serve(cases[i].faults);
        enum rh_rc rc = fetch(cases[i].file, &err);
        if (rc != cases[i].rc || err.failure != cases[i].failure)
            fail_msg("%s: %s %s: %s", cases[i].faults, rh_rc_name(rc), rh_failure_name(err.failure),
                     err.message);
        for (int w = 0; w < 3 && cases[i].words[w]; w++) {
            if (!strstr(err.message, cases[i].words[w]))
                fail_msg("\"%s\" is not in: %s", cases[i].words[w], err.message);
        }
        assert_null(strstr(err.message, "secret"));
        must(rh_fs_remove_tree(at("work"), &err), &err);
    }
}

static void without_a_network_it_says_so_soon(void **state)
{
    struct rh_error err;
    (void)state;
    setenv("HF_ENDPOINT", "http://127.0.0.1:9", 1);
    assert_int_equal(fetch(SMALL, &err), RH_ERR_REMOTE);
    assert_int_equal(err.failure, RH_FAILURE_TRANSIENT);
    assert_non_null(strstr(err.message, "cannot be reached"));
    assert_non_null(strstr(err.message, "HF_HUB_OFFLINE"));
}

/* -- Tokens ----------------------------------------------------------------------------------- */

static void serve_with_token(void)
{
    hub_server_start(&server, root, NANO, (const char *[]){"--token", "sesame", NULL});
}

static void the_token_goes_to_the_hub_and_to_nobody_else(void **state)
{
    struct rh_error err;
    (void)state;
    serve_with_token();
    setenv("HF_TOKEN", " sesame\n", 1);
    must(fetch(WEIGHTS, &err), &err);
    assert_int_equal(hub_server_count(&server, "\"cdn\"", NULL), 1);
    assert_int_equal(hub_server_count(&server, "\"cdn\"", "sesame"), 0);
    assert_int_equal(hub_server_count(&server, "\"hub\"", NULL),
                     hub_server_count(&server, "\"hub\"", "Bearer sesame"));
}

static void a_token_file_counts_and_a_wrong_token_is_named_by_its_place(void **state)
{
    struct rh_error err;
    (void)state;
    serve_with_token();
    assert_int_equal(fetch(SMALL, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "set HF_TOKEN"));
    must(rh_fs_mkdirs(at("home"), &err), &err);
    must(rh_fs_write(at("home/token"), "sesame\n", 7, &err), &err);
    must(fetch(SMALL, &err), &err);
    must(rh_fs_write(at("home/token"), "barley\n", 7, &err), &err);
    must(rh_fs_remove_tree(at("work"), &err), &err);
    assert_int_equal(fetch(SMALL, &err), RH_ERR_AUTH);
    assert_non_null(strstr(err.message, "home/token"));
    assert_null(strstr(err.message, "barley"));
    setenv("HF_TOKEN", "two\nlines", 1);
    assert_int_equal(fetch(SMALL, &err), RH_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "HF_TOKEN"));
}

/* -- What is here already --------------------------------------------------------------------- */

static void a_partial_file_is_continued_and_a_damaged_one_replaced(void **state)
{
    struct rh_error err;
    char *text = NULL, *part = NULL;
    (void)state;
    must(rh_fs_read(NANO "/" WEIGHTS, UINT64_C(1) << 30, &text, NULL, &err), &err);
    for (int damaged = 0; damaged < 2; damaged++) {
        serve("[{\"at\": \"cdn\", \"do\": \"status\", \"status\": 500, \"times\": 6, " AT_ONCE
              "}]");
        assert_int_equal(fetch(WEIGHTS, &err), RH_ERR_REMOTE);
        part = rh_strdup(in_work(".part"));
        assert_non_null(part);
        FILE *f = fopen(part, "wb");
        assert_non_null(f);
        text[17] ^= (char)damaged;
        assert_int_equal(fwrite(text, 1, 4000000, f), 4000000);
        assert_int_equal(fclose(f), 0);
        serve(NULL);
        must(fetch(WEIGHTS, &err), &err);
        assert_int_equal(hub_server_count(&server, "\"cdn\"", "bytes=4000000-"), 1);
        assert_int_equal(hub_server_count(&server, "\"cdn\"", NULL), damaged ? 2 : 1);
        must(rh_fs_remove_tree(at("work"), &err), &err);
        rh_free(part);
    }
    rh_free(text);
}

/* models--acme--nano as huggingface_hub lays it out, of the weights only. */
static void make_cache(const char *commit, bool damaged)
{
    char hex[RH_SHA256_HEX_SIZE];
    struct rh_error err;
    char *dir = rh_format("%s/home/hub/models--acme--nano/snapshots/%s", root, commit);
    char *link = rh_fs_join(dir, WEIGHTS);
    must(rh_sha256_file(NANO "/" WEIGHTS, hex, NULL, &err), &err);
    char *target = rh_format("../../blobs/%s", hex);
    char *blob = rh_format("%s/home/hub/models--acme--nano/blobs/%s", root, hex);
    must(rh_fs_mkdirs(dir, &err), &err);
    must(rh_fs_mkdirs(at("home/hub/models--acme--nano/blobs"), &err), &err);
    must(rh_fs_mkdirs(at("home/hub/models--acme--nano/refs"), &err), &err);
    must(rh_fs_write(at("home/hub/models--acme--nano/refs/main"), commit, 40, &err), &err);
    must(rh_fs_copy(NANO "/" WEIGHTS, blob, NULL, &err), &err);
    if (damaged) {
        FILE *f = fopen(blob, "r+b");
        assert_non_null(f);
        assert_int_equal(fputc('x', f), 'x');
        assert_int_equal(fclose(f), 0);
    }
    assert_int_equal(symlink(target, link), 0);
    rh_free(blob);
    rh_free(target);
    rh_free(link);
    rh_free(dir);
}

static char *served_commit(void)
{
    struct rh_source *source = NULL;
    struct rh_source_use use = {.work_dir = at("work")};
    struct rh_error err;
    must(rh_source_open("hf:acme/nano", &use, &source, &err), &err);
    struct rh_json *pin = rh_source_pin(source);
    char *commit = rh_strdup(rh_json_string(rh_json_get(pin, "commit")));
    rh_json_free(pin);
    rh_source_close(source);
    return commit;
}

static void the_local_cache_is_used_when_it_is_right(void **state)
{
    struct rh_error err;
    (void)state;
    for (int damaged = 0; damaged < 2; damaged++) {
        serve(NULL);
        char *commit = served_commit();
        make_cache(commit, damaged);
        must(fetch(WEIGHTS, &err), &err);
        assert_int_equal(hub_server_count(&server, "\"cdn\"", NULL), damaged);
        if (!damaged) {
            setenv("HF_HUB_OFFLINE", "1", 1);
            hub_server_stop(&server);
            must(fetch(WEIGHTS, &err), &err);
            assert_int_equal(fetch(SMALL, &err), RH_ERR_NOT_FOUND);
            unsetenv("HF_HUB_OFFLINE");
        }
        must(rh_fs_remove_tree(at("work"), &err), &err);
        must(rh_fs_remove_tree(at("home"), &err), &err);
        rh_free(commit);
    }
    setenv("HF_HUB_OFFLINE", "true", 1);
    assert_int_equal(fetch(WEIGHTS, &err), RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "HF_HUB_OFFLINE"));
    assert_non_null(strstr(err.message, "home/hub"));
}

/* -- Jobs ------------------------------------------------------------------------------------- */

static struct rh_recipe *recipe;

static int load_recipe(void **state)
{
    static const char text[] = "{\"quant\": {\"group_size\": 64}}";
    struct rh_json *json = NULL;
    struct rh_error err = {0};
    (void)state;
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

static void run_op(const char *job, const char *model, const char *op, int64_t index)
{
    struct rh_error err = {0};
    must(rh_stage_run_local(&rh_download_stage, op, at(job), recipe, model, "dir:/nowhere", index,
                            index, &err),
         &err);
}

static void expect_same(const char *a, const char *b)
{
    char left[RH_SHA256_HEX_SIZE], right[RH_SHA256_HEX_SIZE];
    struct rh_error err;
    must(rh_sha256_file(at(a), left, NULL, &err), &err);
    must(rh_sha256_file(at(b), right, NULL, &err), &err);
    assert_string_equal(left, right);
}

/* Another model appears under the branch once the plan is made. */
static void make_moved(void)
{
    struct rh_error err;
    must(rh_fs_mkdirs(at("moved"), &err), &err);
    must(rh_fs_write(at("moved/config.json"), "{}", 2, &err), &err);
}

static void a_job_fetches_what_a_directory_gives_though_the_branch_moves(void **state)
{
    struct rh_error err;
    (void)state;
    make_moved();
    hub_server_start(&server, root, NANO, (const char *[]){"--moved", at("moved"), NULL});
    run_op("hub", "hf:acme/nano", "plan", 0);
    run_op("dir", "file:" NANO, "plan", 0);
    expect_same("hub/artifacts/plan-00000/meta/tokenizer.json",
                "dir/artifacts/plan-00000/meta/tokenizer.json");
    for (int unit = 0; unit < 8; unit++) {
        char *name = rh_format("artifacts/fetch-%05d/tensors.safetensors", unit);
        char *ours = rh_format("hub/%s", name), *theirs = rh_format("dir/%s", name);
        run_op("hub", "hf:acme/nano", "fetch", unit);
        run_op("dir", "file:" NANO, "fetch", unit);
        expect_same(ours, theirs);
        rh_free(theirs);
        rh_free(ours);
        rh_free(name);
    }
    run_op("hub", "hf:acme/nano", "digest", 0);
    run_op("dir", "file:" NANO, "digest", 0);
    expect_same("hub/artifacts/digest-00000/digest.json", "dir/artifacts/digest-00000/digest.json");
    /* Its header for the plan, then once whole for all units. */
    assert_int_equal(hub_server_count(&server, "\"cdn\"", WEIGHTS), 2);
    assert_true(rh_fs_size(at("hub/artifacts/plan-00000/source.json"), &(uint64_t){0}, &err) ==
                RH_OK);
    assert_false(rh_fs_exists(at("dir/artifacts/plan-00000/source.json")));
}

/* nano in two files: the embedding and the first two blocks in "a", the rest in "b". */
static bool is_early(const char *name)
{
    return strstr(name, "embed_tokens") || strstr(name, "language_model.layers.0.") ||
           strstr(name, "language_model.layers.1.");
}

static void write_half(const struct rh_safetensors *whole, bool early, const char *path)
{
    struct rh_error err;
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    for (size_t i = 0; i < rh_safetensors_count(whole); i++) {
        const struct rh_tensor_info *t = rh_safetensors_at(whole, i);
        if (is_early(t->name) == early)
            (void)rh_safetensors_writer_add(w, t->name, t->dtype, t->rank, t->shape);
    }
    must(rh_safetensors_writer_begin(w, &err), &err);
    for (size_t i = 0, n = 0; i < rh_safetensors_count(whole); i++) {
        const struct rh_tensor_info *t = rh_safetensors_at(whole, i);
        void *bytes = NULL;
        if (is_early(t->name) != early)
            continue;
        must(rh_try_alloc((size_t)t->bytes, t->name, &bytes, &err), &err);
        must(rh_safetensors_read(whole, t, 0, (size_t)t->bytes, bytes, &err), &err);
        must(rh_safetensors_writer_put(w, n++, 0, bytes, (size_t)t->bytes, &err), &err);
        rh_free(bytes);
    }
    must(rh_safetensors_writer_finish(w, &err), &err);
    rh_safetensors_writer_free(w);
}

static void make_halves(void)
{
    struct rh_error err;
    struct rh_safetensors *whole = NULL;
    must(rh_fs_mkdirs(at("halves"), &err), &err);
    must(rh_fs_copy(NANO "/config.json", at("halves/config.json"), NULL, &err), &err);
    must(rh_safetensors_open(NANO "/" WEIGHTS, &whole, &err), &err);
    write_half(whole, true, at("halves/a.safetensors"));
    write_half(whole, false, at("halves/b.safetensors"));
    rh_safetensors_close(whole);
}

static void a_downloaded_file_goes_when_all_of_its_units_are_cut(void **state)
{
    struct rh_error err;
    char hex[RH_SHA256_HEX_SIZE];
    (void)state;
    make_halves();
    hub_server_start(&server, root, at("halves"), NULL);
    must(rh_sha256_file(at("halves/a.safetensors"), hex, NULL, &err), &err);
    char *kept = rh_format("%s/job/scratch/%s", root, hex);
    run_op("job", "hf:acme/nano", "plan", 0);
    for (int unit = 0; unit < 8; unit++) {
        run_op("job", "hf:acme/nano", "fetch", unit);
        /* Head and two blocks are in it; the unit behind them finds it without use. */
        assert_int_equal(rh_fs_exists(kept), unit < 3);
    }
    assert_int_equal(hub_server_count(&server, "\"cdn\"", "/a.safetensors"), 2);
    assert_int_equal(hub_server_count(&server, "\"cdn\"", "/b.safetensors"), 2);
    rh_free(kept);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        TEST(faults_that_pass_end_in_the_right_bytes),
        TEST(a_transfer_goes_on_where_it_broke),
        TEST(a_mirror_s_listing_is_read_to_its_end_at_the_mirror),
        TEST(faults_that_stay_end_in_one_message),
        TEST(without_a_network_it_says_so_soon),
        TEST(the_token_goes_to_the_hub_and_to_nobody_else),
        TEST(a_token_file_counts_and_a_wrong_token_is_named_by_its_place),
        TEST(a_partial_file_is_continued_and_a_damaged_one_replaced),
        TEST(the_local_cache_is_used_when_it_is_right),
        TEST(a_job_fetches_what_a_directory_gives_though_the_branch_moves),
        TEST(a_downloaded_file_goes_when_all_of_its_units_are_cut),
    };
    return cmocka_run_group_tests(tests, load_recipe, free_recipe);
}
