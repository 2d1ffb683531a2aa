/* What the CUDA backend's delta rule refuses; what it computes is test_op_parity's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "kernels/backend.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_it_has_no_tiles_for_are_named_at_the_next_sync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
