/* What the CUDA backend's delta rule refuses, and that its layouts agree; what it computes is test_op_parity's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "emu_control.h"
#include "kernels/backend.h"
#include "op_cases.h"

static void heads_it_has_no_tiles_for_are_named_at_the_next_sync(void **state)
{
    (void)state;
    static const struct {
        int64_t key_size, value_size, ldv;
    } bad[] = {{256, 32, 544}, {32, 136, 200}, {20, 32, 72}, {32, 32, 97}};
    for (int i = 0; i < 4; i++) {
        for (int backward = 0; backward < 2; backward++) {
            struct rh_error err;
            struct rh_backend *backend = NULL;
            assert_int_equal(rh_backend_new("cuda", 1, &backend, &err), RH_OK);
            struct rh_delta_rule p = {.batch = 1, .seq = 64, .key_heads = 1, .value_heads = 1,
                                      .key_size = bad[i].key_size, .ldv = bad[i].ldv,
                                      .value_size = bad[i].value_size, .lddv = bad[i].ldv};
            if (backward)
                rh_backend_ops(backend)->delta_rule_backward(backend, &p);
            else
                rh_backend_ops(backend)->delta_rule(backend, &p);
            assert_int_equal(rh_backend_sync(backend, &err), RH_ERR_DEVICE);
            assert_non_null(strstr(err.message, "delta rule of heads above 128"));
            rh_backend_free(backend);
        }
    }
}

static void the_layout_of_99_kib_gives_the_same_bytes(void **state)
{
    (void)state;
    static const struct rh_op_shape shape = {"delta_rule", {1, 140, 1, 2, 128, 128}};
    struct rh_error err;
    struct rh_backend *backend = NULL;
    struct rh_case whole, small;
    const size_t most = rh_emu_shared_limit();
    assert_int_equal(rh_backend_new("cuda", 1, &backend, &err), RH_OK);
    assert_true(rh_case_open(&whole, backend, &shape, 3));
    assert_true(rh_case_open(&small, backend, &shape, 3));
    rh_case_run(&whole, RH_CASE_FORWARD | RH_CASE_BACKWARD);
    assert_int_equal(rh_backend_sync(backend, &err), RH_OK);
    rh_emu_set_shared((size_t)99 << 10);
    rh_case_run(&small, RH_CASE_FORWARD | RH_CASE_BACKWARD);
    assert_int_equal(rh_backend_sync(backend, &err), RH_OK);
    rh_emu_set_shared(most);
    int outputs = 0;
    for (int i = 0; i < whole.count; i++) {
        if (whole.tensors[i].role != RH_CASE_OUT)
            continue;
        void *a = rh_case_read(&whole, &whole.tensors[i]);
        void *b = rh_case_read(&small, &small.tensors[i]);
        assert_memory_equal(a, b,
                            (size_t)whole.tensors[i].count * rh_case_width(whole.tensors[i].type));
        free(a);
        free(b);
        outputs++;
    }
    assert_true(outputs >= 6); /* o, dq, dk, dv, dg, dbeta */
    rh_case_close(&whole);
    rh_case_close(&small);
    rh_backend_free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_it_has_no_tiles_for_are_named_at_the_next_sync),
        cmocka_unit_test(the_layout_of_99_kib_gives_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
