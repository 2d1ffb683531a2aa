/* What operators get wrong, and what the world does to them: one clear error, the right exit code,
 * and nothing half-written. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "run.h"

#define SHARD "model-00001-of-00001.safetensors"

static char *model_file(const struct place *place, const char *name)
{
    return rh_fs_join(place->model, name);
}

/* Replaces text in a file by other text of the same length. */
static void replace(const char *path, const char *from, const char *to)
{
    struct rh_error err;
    char *data = NULL;
    size_t size = 0;
    size_t n = strlen(from);
    assert_int_equal(strlen(to), n);
    assert_int_equal(rh_fs_read(path, UINT64_C(64) << 20, &data, &size, &err), RH_OK);
    bool found = false;
    for (size_t i = 0; i + n <= size; i++) {
        if (memcmp(data + i, from, n) == 0) {
            memcpy(data + i, to, n);
            found = true;
        }
    }
    assert_true(found);
    assert_int_equal(rh_fs_write(path, data, size, &err), RH_OK);
    rh_free(data);
}

static void expect_failure(const struct place *place, const char *const settings[], int code,
                           const char *const words[])
{
    struct proc p;
    run_whole(place, "out", settings, &p);
    expect_exit(&p, code);
    expect_one_error(&p, words);
    proc_done(&p);
    char *out = place_path(place, "out");
    assert_false(rh_fs_exists(out));
    assert_int_equal(count_files(place->dir, ".out.roundhouse"), 0);
    rh_free(out);
}

static void a_truncated_shard_is_named(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    place_own_model(&place);
    char *shard = model_file(&place, SHARD);
    uint64_t size = 0;
    assert_int_equal(rh_fs_size(shard, &size, NULL), RH_OK);
    assert_int_equal(truncate(shard, (off_t)size - 1000), 0);
    expect_failure(&place, NULL, 1, (const char *[]){SHARD, NULL});
    rh_free(shard);
    place_done(&place);
}

static void a_shard_with_a_broken_header_is_named(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    place_own_model(&place);
    char *shard = model_file(&place, SHARD);
    replace(shard, "\"data_offsets\"", "\"data_offsetz\"");
    expect_failure(&place, NULL, 1, (const char *[]){SHARD, NULL});
    rh_free(shard);
    place_done(&place);
}

static void a_missing_tensor_is_named(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    place_own_model(&place);
    char *shard = model_file(&place, SHARD);
    char *index = model_file(&place, "model.safetensors.index.json");
    replace(shard, "layers.1.linear_attn.A_log", "layers.1.linear_attn.A_lag");
    if (rh_fs_exists(index))
        replace(index, "layers.1.linear_attn.A_log", "layers.1.linear_attn.A_lag");
    expect_failure(&place, NULL, 1, (const char *[]){"layers.1.linear_attn.A_log", NULL});
    rh_free(shard);
    rh_free(index);
    place_done(&place);
}

static void an_unknown_recipe_key_names_the_nearest(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    expect_failure(&place, (const char *[]){"quant.itres=3", NULL}, 2,
                   (const char *[]){"quant.itres", "quant.iters", NULL});
    assert_int_equal(count_files(place.dir, ""), 0);
    place_done(&place);
}

static void another_architecture_is_refused_by_name(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    place_own_model(&place);
    char *config = model_file(&place, "config.json");
    replace(config, "Qwen3_5MoeForConditionalGeneration", "LlamaForCausalLMxxxxxxxxxxxxxxxxxx");
    expect_failure(&place, NULL, 1,
                   (const char *[]){"LlamaForCausalLMxxxxxxxxxxxxxxxxxx",
                                    "Qwen3_5MoeForConditionalGeneration", NULL});
    rh_free(config);
    place_done(&place);
}

static void too_little_text_is_said_with_numbers(void **state)
{
    (void)state;
    struct place place;
    place_make(&place);
    expect_failure(&place, (const char *[]){"calibration.nsamples=5000", NULL}, 1,
                   (const char *[]){"5000", "calibration.accept_fewer", NULL});
    place_done(&place);
}

/* The state directory on a file system of 3 MB: the job parks, and goes on once there is room. */
static void a_full_disk_parks_the_job_until_there_is_room(void **state)
{
    (void)state;
    struct place place;
    struct proc p;
    place_make(&place);
    char *disk = place_path(&place, "out.state");
    struct rh_error err;
    assert_int_equal(rh_fs_mkdirs(disk, &err), RH_OK);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=3m") != 0) {
        printf("skipped: a small file system needs root (%s)\n", strerror(errno));
        place_done(&place);
        skip();
    }
    run_whole(&place, "out", NULL, &p);
    expect_exit(&p, 1);
    expect_one_error(&p, (const char *[]){"is parked", "make room", "goes on from here", NULL});
    proc_done(&p);
    char *out = place_path(&place, "out");
    assert_false(rh_fs_exists(out));
    assert_int_equal(mount("tmpfs", disk, "tmpfs", MS_REMOUNT, "size=300m"), 0);
    run_whole(&place, "out", NULL, &p);
    expect_exit(&p, 0);
    proc_done(&p);
    assert_true(rh_fs_exists(out));
    assert_int_equal(umount(disk), 0);
    rh_free(out);
    rh_free(disk);
    place_done(&place);
}

static bool socket_is_there(void *path)
{
    return rh_fs_exists(path);
}

static void a_second_orchestrator_names_the_first(void **state)
{
    (void)state;
    struct place place;
    struct proc first, second;
    place_make(&place);
    char *dir = place_path(&place, "s");
    char *api = place_path(&place, "s/run/api.sock");
    proc_start(&first, (const char *[]){"roundhoused", "--state", dir, NULL});
    assert_true(wait_until(socket_is_there, api, 20));
    proc_run(&second, 20, (const char *[]){"roundhoused", "--state", dir, NULL});
    char *pid = rh_format("%d", (int)first.pid);
    assert_int_equal(second.status, 5);
    assert_non_null(strstr(second.err, pid));
    assert_non_null(strstr(second.err, dir));
    proc_done(&second);
    kill(first.pid, SIGTERM);
    proc_wait(&first, 30);
    assert_int_equal(first.status, 0);
    proc_done(&first);
    rh_free(pid);
    rh_free(api);
    rh_free(dir);
    place_done(&place);
}

static void a_socket_that_someone_else_listens_on_is_left_alone(void **state)
{
    (void)state;
    struct place place;
    struct proc p;
    place_make(&place);
    char *run = place_path(&place, "s/run");
    char *dir = place_path(&place, "s");
    struct rh_error err;
    assert_int_equal(rh_fs_mkdirs(run, &err), RH_OK);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/work.sock", run);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    proc_run(&p, 20, (const char *[]){"roundhoused", "--state", dir, NULL});
    expect_exit(&p, 5);
    assert_non_null(strstr(p.err, "work.sock"));
    assert_true(rh_fs_exists(address.sun_path));
    proc_done(&p);
    close(fd);
    rh_free(run);
    rh_free(dir);
    place_done(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_truncated_shard_is_named),
        cmocka_unit_test(a_shard_with_a_broken_header_is_named),
        cmocka_unit_test(a_missing_tensor_is_named),
        cmocka_unit_test(an_unknown_recipe_key_names_the_nearest),
        cmocka_unit_test(another_architecture_is_refused_by_name),
        cmocka_unit_test(too_little_text_is_said_with_numbers),
        cmocka_unit_test(a_full_disk_parks_the_job_until_there_is_room),
        cmocka_unit_test(a_second_orchestrator_names_the_first),
        cmocka_unit_test(a_socket_that_someone_else_listens_on_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
