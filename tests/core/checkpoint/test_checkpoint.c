#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "checkpoint/safetensors.h"

#define NANO RH_SOURCE_DIR "/tests/data/nano"

static void write_shard(const char *dir, const char *name, const char *tensor, const char *other)
{
    char *path = rh_fs_join(dir, name);
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    size_t first = rh_safetensors_writer_add(w, tensor, RH_U8, 1, (int64_t[]){2});
    size_t second = rh_safetensors_writer_add(w, other, RH_U8, 1, (int64_t[]){2});
    assert_int_equal(rh_safetensors_writer_begin(w, NULL), RH_OK);
    assert_int_equal(rh_safetensors_writer_put(w, first, 0, "12", 2, NULL), RH_OK);
    assert_int_equal(rh_safetensors_writer_put(w, second, 0, "34", 2, NULL), RH_OK);
    assert_int_equal(rh_safetensors_writer_finish(w, NULL), RH_OK);
    rh_safetensors_writer_free(w);
    rh_free(path);
}

static void write_index(const char *dir, const char *weight_map)
{
    char *path = rh_fs_join(dir, "model.safetensors.index.json");
    char *text = rh_format("{\"metadata\":{},\"weight_map\":%s}", weight_map);
    assert_int_equal(rh_fs_write(path, text, strlen(text), NULL), RH_OK);
    rh_free(text);
    rh_free(path);
}

static void refuses(const char *dir, enum rh_rc expected, const char *text)
{
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    enum rh_rc rc = rh_checkpoint_open(dir, false, &c, &err);
    if (rc != expected || !strstr(err.message, text))
        print_error("got %d, \"%s\"; expected \"%s\"\n", rc, err.message, text);
    assert_int_equal(rc, expected);
    assert_non_null(strstr(err.message, text));
    assert_null(c);
}

static void the_sample_model_opens(void **state)
{
    (void)state;
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    size_t file = 7;
    assert_int_equal(rh_checkpoint_open(NANO, false, &c, &err), RH_OK);
    assert_int_equal(rh_checkpoint_file_count(c), 1);
    assert_int_equal(rh_checkpoint_tensor_count(c), 124);
    assert_string_equal(rh_checkpoint_file_name(c, 0), "model-00001-of-00001.safetensors");
    const struct rh_tensor_info *t = rh_checkpoint_find(c, "mtp.norm.weight", &file);
    assert_non_null(t);
    assert_int_equal(file, 0);
    assert_ptr_equal(t, rh_safetensors_find(rh_checkpoint_file(c, 0), "mtp.norm.weight"));
    assert_null(rh_checkpoint_find(c, "mtp.norm", NULL));
    rh_checkpoint_close(c);
}

static void without_an_index_all_shards_are_opened_in_order(void **state)
{
    const char *dir = *state;
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    size_t file = 7;
    write_shard(dir, "b.safetensors", "x", "y");
    write_shard(dir, "a.safetensors", "v", "w");
    assert_int_equal(rh_checkpoint_open(dir, false, &c, &err), RH_OK);
    assert_int_equal(rh_checkpoint_file_count(c), 2);
    assert_int_equal(rh_checkpoint_tensor_count(c), 4);
    assert_string_equal(rh_checkpoint_file_name(c, 0), "a.safetensors");
    assert_non_null(rh_checkpoint_find(c, "y", &file));
    assert_int_equal(file, 1);
    rh_checkpoint_close(c);
    write_shard(dir, "c.safetensors", "z", "w");
    refuses(dir, RH_ERR_FORMAT, "tensor w is both in a.safetensors and in c.safetensors");
}

static void an_index_that_disagrees_with_the_files_is_refused(void **state)
{
    const char *dir = *state;
    struct rh_checkpoint *c = NULL;
    write_shard(dir, "a.safetensors", "v", "w");
    write_shard(dir, "b.safetensors", "x", "y");
    write_index(dir, "{\"v\":\"a.safetensors\",\"w\":\"a.safetensors\"}");
    assert_int_equal(rh_checkpoint_open(dir, false, &c, NULL), RH_OK);
    assert_int_equal(rh_checkpoint_file_count(c), 1);
    assert_null(rh_checkpoint_find(c, "x", NULL));
    rh_checkpoint_close(c);
    write_index(dir, "{\"v\":\"a.safetensors\",\"q\":\"a.safetensors\"}");
    refuses(dir, RH_ERR_FORMAT, "tensor q is not in a.safetensors");
    write_index(dir, "{\"v\":\"a.safetensors\",\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}");
    refuses(dir, RH_ERR_FORMAT, "tensor x is not in a.safetensors but in b.safetensors");
    write_index(dir, "{\"v\":\"c.safetensors\"}");
    refuses(dir, RH_ERR_NOT_FOUND, "c.safetensors");
    write_index(dir, "{}");
    refuses(dir, RH_ERR_FORMAT, "empty");
    write_index(dir, "[]");
    refuses(dir, RH_ERR_FORMAT, "weight_map");
}

static void file_names_that_lead_elsewhere_are_refused(void **state)
{
    const char *dir = *state;
    static const char *const names[] = {"../a.safetensors",
                                        "sub/a.safetensors",
                                        "/etc/a.safetensors",
                                        "..",
                                        "",
                                        "a..b.safetensors",
                                        "sub\\\\a.safetensors",
                                        ".safetensors",
                                        "config.json",
                                        ".hidden.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *map = rh_format("{\"v\":\"%s\"}", names[i]);
        write_index(dir, map);
        refuses(dir, RH_ERR_FORMAT, "no plain .safetensors file name");
        rh_free(map);
    }
    write_index(dir, "{\"v\":1}");
    refuses(dir, RH_ERR_FORMAT, "no plain .safetensors file name");
}

static void a_directory_without_weights_is_not_found(void **state)
{
    refuses(*state, RH_ERR_NOT_FOUND, "holds no .safetensors file");
    refuses("no-such-directory", RH_ERR_NOT_FOUND, "no-such-directory");
}

static void header_only_files_open_for_planning_only(void **state)
{
    const char *dir = *state;
    struct rh_checkpoint *c = NULL;
    struct rh_error err = {0};
    char *text = NULL;
    size_t size = 0;
    char byte;
    char *path = rh_fs_join(dir, "a.safetensors");
    write_shard(dir, "a.safetensors", "v", "w");
    assert_int_equal(rh_fs_read(path, 1000, &text, &size, NULL), RH_OK);
    assert_int_equal(rh_fs_write(path, text, size - 4, NULL), RH_OK);
    assert_int_equal(rh_checkpoint_open(dir, true, &c, &err), RH_OK);
    assert_int_equal(rh_safetensors_read(rh_checkpoint_file(c, 0), rh_checkpoint_find(c, "v", NULL),
                                         0, 1, &byte, &err),
                     RH_ERR_IO);
    rh_checkpoint_close(c);
    refuses(dir, RH_ERR_FORMAT, "a.safetensors");
    rh_free(text);
    rh_free(path);
}

static int set_up(void **state)
{
    static char dir[32];
    strcpy(dir, "test-checkpoint-XXXXXX");
    *state = mkdtemp(dir);
    return *state ? 0 : -1;
}

static int tear_down(void **state)
{
    return rh_fs_remove_tree(*state, NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sample_model_opens),
        TEST(without_an_index_all_shards_are_opened_in_order),
        TEST(an_index_that_disagrees_with_the_files_is_refused),
        TEST(file_names_that_lead_elsewhere_are_refused),
        TEST(a_directory_without_weights_is_not_found),
        TEST(header_only_files_open_for_planning_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
