/* The experts' way in one op gives the bytes of the ops it is made of, for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/mem.h"
#include "kernels/backend.h"

enum { EXPERTS = 20, HIDDEN = 40, WIDTH = 24, ROWS = 980 };

/* Experts without rows, one of several tiles, ends of tiles that are no multiple of anything, and so many
 * experts that a thread takes several at a time. */
static const int64_t offsets[EXPERTS + 1] = {0,   401, 401, 430, 471, 500, 517, 550, 560, 597, 630,
                                             631, 660, 700, 700, 750, 790, 830, 871, 900, ROWS};

struct tensors {
    float x[ROWS * HIDDEN], gate_up[EXPERTS * 2 * WIDTH * HIDDEN], down[EXPERTS * HIDDEN * WIDTH];
    float u[ROWS * 2 * WIDTH], act[ROWS * WIDTH], y[ROWS * HIDDEN];
    float dy[ROWS * HIDDEN], d_act[ROWS * WIDTH], du[ROWS * 2 * WIDTH], dx[ROWS * HIDDEN];
};

static void fill(float *x, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525U + 1013904223U;
        x[i] = (float)(int32_t)seed / 2147483648.0F;
    }
}

static struct tensors *make(void)
{
    struct tensors *t = rh_alloc(sizeof *t);
    fill(t->x, sizeof t->x / sizeof *t->x, 1);
    fill(t->gate_up, sizeof t->gate_up / sizeof *t->gate_up, 2);
    fill(t->down, sizeof t->down / sizeof *t->down, 3);
    fill(t->dy, sizeof t->dy / sizeof *t->dy, 4);
    fill(t->dx, sizeof t->dx / sizeof *t->dx, 5);
    return t;
}

static void product(struct rh_backend *b, enum rh_form form, float *x, int64_t k, float *w, float *y,
                    int64_t n)
{
    struct rh_expert_matmul p = {.form = form, .experts = EXPERTS, .n = n, .k = k, .rows = ROWS,
                                 .offsets = offsets, .x = x, .ldx = k, .y = y, .ldy = n, .w = w,
                                 .w_stride = n * k};
    rh_backend_ops(b)->expert_matmul(b, &p);
}

static void by_parts(struct rh_backend *b, struct tensors *t)
{
    const struct rh_ops *ops = rh_backend_ops(b);
    struct rh_swiglu gate = {.rows = ROWS, .size = WIDTH, .x = t->u, .y = t->act, .dy = t->d_act,
                             .dx = t->du};
    product(b, RH_NT, t->x, HIDDEN, t->gate_up, t->u, 2 * WIDTH);
    ops->swiglu(b, &gate);
    product(b, RH_NT, t->act, WIDTH, t->down, t->y, HIDDEN);
    product(b, RH_NN, t->dy, HIDDEN, t->down, t->d_act, WIDTH);
    ops->swiglu_backward(b, &gate);
    product(b, RH_NN, t->du, 2 * WIDTH, t->gate_up, t->dx, HIDDEN);
}

static struct rh_mlp whole(struct tensors *t)
{
    return (struct rh_mlp){.experts = EXPERTS, .hidden = HIDDEN, .width = WIDTH, .offsets = offsets,
                           .gate_up = t->gate_up, .down = t->down, .x = t->x, .u = t->u,
                           .act = t->act, .y = t->y, .dy = t->dy, .du = t->du, .dx = t->dx};
}

static struct rh_backend *backend_of(int threads)
{
    struct rh_error err;
    struct rh_backend *b = NULL;
    assert_int_equal(rh_backend_new("cpu", threads, &b, &err), RH_OK);
    return b;
}

static void one_op_gives_the_bytes_of_its_parts(void **state)
{
    (void)state;
    struct tensors *parts = make();
    struct rh_backend *b = backend_of(1);
    by_parts(b, parts);
    rh_backend_free(b);
    for (int threads = 1; threads <= 3; threads++) {
        struct tensors *t = make();
        struct rh_mlp p = whole(t);
        b = backend_of(threads);
        rh_backend_ops(b)->mlp(b, &p);
        rh_backend_ops(b)->mlp_backward(b, &p);
        assert_memory_equal(t->u, parts->u, sizeof t->u);
        assert_memory_equal(t->act, parts->act, sizeof t->act);
        assert_memory_equal(t->y, parts->y, sizeof t->y);
        assert_memory_equal(t->du, parts->du, sizeof t->du);
        assert_memory_equal(t->dx, parts->dx, sizeof t->dx);
        rh_backend_free(b);
        rh_free(t);
    }
    rh_free(parts);
}

/* dx in the place of dy, and added to what is there. */
static void gradients_of_the_rows_go_where_they_are_wanted(void **state)
{
    (void)state;
    struct tensors *parts = make();
    struct tensors *t = make();
    struct rh_backend *b = backend_of(2);
    by_parts(b, parts);
    struct rh_mlp p = whole(t);
    rh_backend_ops(b)->mlp(b, &p);
    p.accumulate = true;
    rh_backend_ops(b)->mlp_backward(b, &p);
    struct tensors *before = make();
    for (size_t i = 0; i < ROWS * HIDDEN; i++)
        assert_true(t->dx[i] == before->dx[i] + parts->dx[i]);
    p.accumulate = false;
    p.dx = t->dy;
    rh_backend_ops(b)->mlp_backward(b, &p);
    assert_memory_equal(t->dy, parts->dx, sizeof t->dy);
    rh_backend_free(b);
    rh_free(before);
    rh_free(t);
    rh_free(parts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_op_gives_the_bytes_of_its_parts),
        cmocka_unit_test(gradients_of_the_rows_go_where_they_are_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
