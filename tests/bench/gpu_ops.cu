/*
 * Every op at the shapes of Qwen3.6-35B-A3B with 8 sequences of 4096 tokens, one table: median milliseconds from
 * device events, against what this GPU gives cuBLAS and copies in the same run.
 *
 *   gpu_ops [--runs N] [--seconds S] [OP ...]
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "cuda/backend_cuda.h"
#include "cuda/c_api.h"

extern "C" {
#include "op_cases.h"
}

struct bench {
    struct rh_backend *backend;
    cudaEvent_t begin, end;
    int runs;
    double peak, bandwidth; /* FLOP/s, bytes/s */
};

static void must(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

static void synchronize(const bench *b)
{
    struct rh_error err;
    if (rh_backend_sync(b->backend, &err) == RH_OK)
        return;
    fprintf(stderr, "%s\n", err.message);
    exit(1);
}

/* The median over the runs, after one for warming up; seconds. */
template <class F> static double time_of(const bench *b, F queue)
{
    std::vector<float> ms;
    cudaStream_t stream = rh_cuda_stream(b->backend);
    queue();
    for (int i = 0; i < b->runs; i++) {
        float one = 0.0F;
        must(cudaEventRecord(b->begin, stream), "event");
        queue();
        must(cudaEventRecord(b->end, stream), "event");
        must(cudaEventSynchronize(b->end), "waiting for an op");
        must(cudaEventElapsedTime(&one, b->begin, b->end), "event");
        ms.push_back(one);
    }
    synchronize(b);
    std::sort(ms.begin(), ms.end());
    return 1e-3 * (double)ms[ms.size() / 2];
}

static void measure_peaks(bench *b)
{
    static const struct rh_op_shape square = {"matmul", {RH_NT, 8192, 8192, 8192, 0, 0, 0}};
    static const size_t bytes = (size_t)1 << 30;
    struct rh_case c;
    if (!rh_case_open(&c, b->backend, &square, 1))
        exit(1);
    b->peak = c.flops[0] / time_of(b, [&] { rh_case_run(&c, RH_CASE_FORWARD); });
    rh_case_close(&c);
    void *from = nullptr, *to = nullptr;
    must(cudaMalloc(&from, bytes), "memory");
    must(cudaMalloc(&to, bytes), "memory");
    b->bandwidth = 2.0 * (double)bytes / time_of(b, [&] { rh_backend_copy(b->backend, to, from, bytes); });
    must(cudaFree(from), "memory");
    must(cudaFree(to), "memory");
    printf("cuBLAS 8192 x 8192 x 8192 bf16: %.0f TFLOP/s; copy of 1 GiB: %.0f GB/s read and written\n\n",
           b->peak * 1e-12, b->bandwidth * 1e-9);
}

static void run_part(const bench *b, struct rh_case *c, int part, const char *name)
{
    const unsigned bit = part ? RH_CASE_BACKWARD : RH_CASE_FORWARD;
    if (!(c->has & bit))
        return;
    char label[128];
    rh_case_label(c->shape, label, sizeof label);
    const double seconds = time_of(b, [&] { rh_case_run(c, bit); });
    const double flops = c->flops[part] / seconds, bytes = c->bytes[part] / seconds;
    printf("%-42s %-8s %9.3f", label, name, seconds * 1e3);
    if (c->flops[part] > 0.0)
        printf(" %9.0f %5.0f %%", flops * 1e-12, 100.0 * flops / b->peak);
    else
        printf(" %9s %7s", "", "");
    printf(" %9.0f %5.0f %%\n", bytes * 1e-9, 100.0 * bytes / b->bandwidth);
    fflush(stdout);
}

static void run_shape(const bench *b, const struct rh_op_shape *shape)
{
    struct rh_case c;
    if (!rh_case_open(&c, b->backend, shape, 1))
        return;
    rh_case_run(&c, RH_CASE_FORWARD);
    run_part(b, &c, 0, "forward");
    run_part(b, &c, 1, "backward");
    rh_case_close(&c);
}

static bool wanted(int count, char **names, const char *op)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], op) == 0)
            return true;
    }
    return count == 0;
}

int main(int argc, char **argv)
{
    bench b = {};
    struct rh_error err;
    double limit = 600.0;
    int i = 1;
    b.runs = 9;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (strcmp(argv[i], "--runs") == 0)
            b.runs = std::max(1, atoi(argv[i + 1]));
        else if (strcmp(argv[i], "--seconds") == 0)
            limit = atof(argv[i + 1]);
        else
            break;
    }
    if (i < argc && argv[i][0] == '-') {
        fprintf(stderr, "usage: gpu_ops [--runs N] [--seconds S] [OP ...]\n");
        return 2;
    }
    if (rh_backend_new("cuda", 0, &b.backend, &err) != RH_OK) {
        printf("skipped: %s\n", err.message);
        return 77;
    }
    printf("%s\n", rh_backend_device(b.backend));
    must(cudaEventCreate(&b.begin), "event");
    must(cudaEventCreate(&b.end), "event");
    measure_peaks(&b);
    printf("%-42s %-8s %9s %9s %7s %9s %7s\n", "op and shape", "part", "ms", "TFLOP/s", "of peak", "GB/s",
           "of copy");
    const time_t start = time(nullptr);
    for (int k = 0; k < rh_op_shape_true_count; k++) {
        if (!wanted(argc - i, argv + i, rh_op_shapes_true[k].op))
            continue;
        if (difftime(time(nullptr), start) > limit) {
            printf("stopped after %.0f s; %d shapes are missing\n", limit, rh_op_shape_true_count - k);
            break;
        }
        run_shape(&b, &rh_op_shapes_true[k]);
    }
    rh_backend_free(b.backend);
    return 0;
}
