/* Rows against those that auto-round 0.16.1 samples. RH_FIXTURES: the folder with nano/, text/ and
 * peer/. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "calibration.h"
#include "checkpoint/safetensors.h"

static void rows_equal_those_of_auto_round(void **state)
{
    (void)state;
    struct rh_error err;
    char *fixtures = rh_strdup(getenv("RH_FIXTURES"));
    char *tokenizer = rh_fs_join(fixtures, "nano/tokenizer.json");
    char *dataset = rh_fs_join(fixtures, "text/calib.jsonl");
    char *peer = rh_fs_join(fixtures, "peer/calib_ids_64x512_seed42.safetensors");
    struct calibration *c = calibration_new(tokenizer);
    struct rh_safetensors *file = NULL;
    if (calibration_run(c, dataset, "\"nsamples\":64,\"seqlen\":512,\"seed\":42", &err) != RH_OK ||
        rh_safetensors_open(peer, &file, &err) != RH_OK)
        fail_msg("%s", err.message);
    const struct rh_tensor_info *t = rh_safetensors_find(file, "input_ids");
    assert_int_equal(t->bytes, 64 * 512 * sizeof(int32_t));
    int32_t *expected = rh_alloc(t->bytes);
    assert_int_equal(rh_safetensors_read(file, t, 0, t->bytes, expected, &err), RH_OK);
    int64_t rows = 0;
    int64_t seqlen = 0;
    int32_t *ids = calibration_rows(c, &rows, &seqlen);
    assert_int_equal(rows, 64);
    assert_int_equal(seqlen, 512);
    assert_memory_equal(ids, expected, t->bytes);
    rh_free(ids);
    rh_free(expected);
    rh_safetensors_close(file);
    calibration_free(c);
    rh_free(peer);
    rh_free(dataset);
    rh_free(tokenizer);
    rh_free(fixtures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_equal_those_of_auto_round)};
    if (!getenv("RH_FIXTURES")) {
        printf("skipped: RH_FIXTURES does not name the fixtures' folder\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
