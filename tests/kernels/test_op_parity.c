/*
 * Every op on the GPU, or on the emulated one, against the CPU, on fresh random inputs. An output must be within
 * its bound, be written exactly where the CPU writes, and be the same bytes on every run: emulated runs go in
 * different orders of blocks, warps and lanes.
 *
 *   test_op_parity [--against cpu|reference] [--orders N] [--seed N] [--no-wgmma] [--small] [--list] [OP ...]
 *
 * --no-wgmma: what runs before sm_90, also on sm_90. --small: what runs with 99 KiB of shared memory a block.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_cases.h"
#include "op_small.h"

/* There in emulated programs only. */
void rh_emu_set_order(uint64_t seed) __attribute__((weak));

extern bool rh_cuda_forbid_wgmma;

struct options {
    const char *against;
    int orders;
    uint64_t seed;
    int op_count;
    char **ops;
};

static int failures;

static void fail(const char *label, const char *tensor, const char *format, double a, double b)
{
    printf("FAIL %s: %s: ", label, tensor);
    printf(format, a, b);
    printf("\n");
    failures++;
}

/* NaN stands for what was not written. Returns the relative difference, or -1 after a failure. */
static double compare_floats(const char *label, const struct rh_case_tensor *t, const float *got,
                             const float *want)
{
    double difference = 0.0;
    double size = 0.0;
    for (int64_t i = 0; i < t->count; i++) {
        if (isnan(got[i]) || isnan(want[i])) {
            if (isnan(got[i]) == isnan(want[i]))
                continue;
            fail(label, t->name,
                 isnan(got[i]) ? "element %.0f is not written, or NaN (cpu: %g)"
                               : "element %.0f is written, on the cpu it is not (%g)",
                 (double)i, (double)(isnan(got[i]) ? want[i] : got[i]));
            return -1.0;
        }
        double d = (double)got[i] - (double)want[i];
        difference += d * d;
        size += (double)want[i] * (double)want[i];
    }
    difference = size > 0.0 ? sqrt(difference / size) : sqrt(difference);
    if (difference <= t->bound)
        return difference;
    fail(label, t->name, "differs by %.3g, allowed %.3g", difference, t->bound);
    return -1.0;
}

static double compare(const char *label, const struct rh_case_tensor *t, const void *got,
                      const void *want)
{
    if (t->type == RH_CASE_ACT || t->type == RH_CASE_F32)
        return compare_floats(label, t, got, want);
    if (t->type == RH_CASE_F64) {
        const double *a = got, *b = want;
        if (fabs(a[0] - b[0]) <= t->bound * fabs(b[0]))
            return 0.0;
        fail(label, t->name, "is %.17g, on the cpu %.17g", a[0], b[0]);
        return -1.0;
    }
    if (memcmp(got, want, (size_t)t->count * rh_case_width(t->type)) == 0)
        return 0.0;
    fail(label, t->name, "is not the same (%.0f elements)", (double)t->count, 0.0);
    return -1.0;
}

static bool is_output(const struct rh_case_tensor *t)
{
    return t->role == RH_CASE_OUT || t->role == RH_CASE_INOUT;
}

/* Keeps the outputs of the first run of a case in `expected`, and holds later ones to the same bytes. */
static void same_bytes(const char *label, struct rh_case *c, int order)
{
    for (int i = 0; i < c->count; i++) {
        struct rh_case_tensor *t = &c->tensors[i];
        if (!is_output(t))
            continue;
        void *got = rh_case_read(c, t);
        if (order == 0) {
            t->expected = got;
            continue;
        }
        if (memcmp(got, t->expected, (size_t)t->count * rh_case_width(t->type)) != 0)
            fail(label, t->name, "run %.0f gives other bytes than the first", (double)order, 0.0);
        free(got);
    }
}

static void run_orders(const struct options *o, const char *label, struct rh_case *c)
{
    struct rh_error err;
    for (int order = 0; order < o->orders; order++) {
        if (order > 0)
            rh_case_reset(c);
        if (rh_emu_set_order)
            rh_emu_set_order((uint64_t)order * 7919);
        rh_case_run(c, RH_CASE_FORWARD | RH_CASE_BACKWARD);
        if (rh_backend_sync(c->backend, &err) != RH_OK) {
            printf("FAIL %s: %s\n", label, err.message);
            exit(1);
        }
        same_bytes(label, c, order);
    }
}

static void run_shape(const struct options *o, struct rh_backend *gpu, struct rh_backend *cpu,
                      const struct rh_op_shape *shape)
{
    char label[128];
    struct rh_case got, want;
    int before = failures;
    double worst = 0.0;
    const char *worst_name = "";
    rh_case_label(shape, label, sizeof label);
    if (!rh_case_open(&got, gpu, shape, o->seed)) {
        printf("FAIL %s: not run\n", label);
        failures++;
        return;
    }
    if (!rh_case_open(&want, cpu, shape, o->seed))
        exit(2);
    run_orders(o, label, &got);
    rh_case_run(&want, RH_CASE_FORWARD | RH_CASE_BACKWARD);
    for (int i = 0; i < got.count; i++) {
        struct rh_case_tensor *t = &got.tensors[i];
        if (!is_output(t))
            continue;
        void *expected = rh_case_read(&want, &want.tensors[i]);
        double share = compare(label, t, t->expected, expected) / (t->bound > 0.0 ? t->bound : 1.0);
        if (share > worst) {
            worst = share;
            worst_name = t->name;
        }
        free(expected);
        free(t->expected);
    }
    rh_case_close(&got);
    rh_case_close(&want);
    if (failures == before)
        printf("ok   %-40s %3.0f %% of the bound%s%s\n", label, worst * 100.0,
               *worst_name ? " in " : "", worst_name);
    fflush(stdout);
}

static bool wanted(const struct options *o, const char *op)
{
    for (int i = 0; i < o->op_count; i++) {
        if (strcmp(o->ops[i], op) == 0)
            return true;
    }
    return o->op_count == 0;
}

static void parse(int argc, char **argv, struct options *o)
{
    *o = (struct options){.against = "cpu", .orders = rh_emu_set_order ? 4 : 2, .seed = 1};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--list") == 0) {
            for (int k = 0; k < rh_op_shape_count; k++) {
                char label[128];
                rh_case_label(&rh_op_shapes[k], label, sizeof label);
                printf("%s\n", label);
            }
            exit(0);
        } else if (strcmp(argv[i], "--no-wgmma") == 0) {
            rh_cuda_forbid_wgmma = true;
            continue;
        } else if (strcmp(argv[i], "--small") == 0) {
            rh_small_gpu();
            continue;
        } else if (strcmp(argv[i], "--against") == 0) {
            o->against = value;
        } else if (strcmp(argv[i], "--orders") == 0) {
            o->orders = atoi(value);
        } else if (strcmp(argv[i], "--seed") == 0) {
            o->seed = strtoull(value, NULL, 10);
        } else {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            exit(2);
        }
        i++;
    }
    o->op_count = argc - i;
    o->ops = argv + i;
}

int main(int argc, char **argv)
{
    struct options o;
    struct rh_backend *gpu = NULL, *cpu = NULL;
    struct rh_error err;
    parse(argc, argv, &o);
    if (rh_backend_new("cuda", 0, &gpu, &err) != RH_OK) {
        printf("skipped: %s\n", err.message);
        return 77;
    }
    if (rh_backend_new(o.against, 0, &cpu, &err) != RH_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    printf("%s against %s, %d runs each\n", rh_backend_device(gpu), o.against, o.orders);
    for (int i = 0; i < rh_op_shape_count; i++) {
        if (wanted(&o, rh_op_shapes[i].op))
            run_shape(&o, gpu, cpu, &rh_op_shapes[i]);
    }
    rh_backend_free(gpu);
    rh_backend_free(cpu);
    printf(failures ? "%d failures\n" : "all within their bounds\n", failures);
    return failures != 0;
}
