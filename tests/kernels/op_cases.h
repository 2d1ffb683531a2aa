#ifndef RH_TESTS_KERNELS_OP_CASES_H
#define RH_TESTS_KERNELS_OP_CASES_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

/*
 * Every op of kernels/ops.h with random inputs, on any backend: for the parity test and for the benchmark.
 * No cmocka: these run on machines that have only CUDA.
 */

enum rh_case_type {
    RH_CASE_ACT, /* the backend's activation type; float on the host, rounded to bf16 beforehand */
    RH_CASE_F32,
    RH_CASE_F64,
    RH_CASE_I32,
    RH_CASE_I64,
    RH_CASE_BYTES, /* exact, or scratch of the backend when it has no bound */
};

enum rh_case_role { RH_CASE_IN, RH_CASE_OUT, RH_CASE_INOUT, RH_CASE_SCRATCH };

/* Fills host memory; dims are those of the shape. */
typedef void rh_case_fill(void *host, int64_t count, const int64_t *dims, uint64_t seed);

struct rh_case_tensor {
    const char *name;
    enum rh_case_type type;
    enum rh_case_role role;
    int64_t count;
    float scale; /* of normal random numbers, when fill is NULL */
    rh_case_fill *fill;
    double bound;   /* of the relative L2 difference of an output; 0: the same values */
    void *memory;   /* of the backend */
    void *expected; /* for the caller */
};

enum { RH_CASE_FORWARD = 1, RH_CASE_BACKWARD = 2 };

#define RH_CASE_TENSORS 24

struct rh_case {
    struct rh_backend *backend;
    const struct rh_ops *ops;
    const struct rh_op_shape *shape;
    uint64_t seed;
    bool live;      /* run the op; false: only declare tensors */
    unsigned parts; /* which parts to run */
    struct rh_case_tensor tensors[RH_CASE_TENSORS];
    int count;
    /* Filled by the declaration: parts that exist, and the work of each, [0] forward, [1] backward. */
    unsigned has;
    double flops[2], bytes[2];
};

#define RH_CASE_DIMS 8
struct rh_op_shape {
    const char *op;
    int64_t dims[RH_CASE_DIMS];
};

/* Small shapes with every branch of the kernels, and the sizes of Qwen3.6-35B-A3B with 8 sequences of 4096. */
extern const struct rh_op_shape rh_op_shapes[], rh_op_shapes_true[];
extern const int rh_op_shape_count, rh_op_shape_true_count;

/* Declares, allocates and fills; outputs are poisoned with 0xff bytes. false with a message on stderr when the
 * backend has not enough memory or not the op. */
bool rh_case_open(struct rh_case *c, struct rh_backend *backend, const struct rh_op_shape *shape,
                  uint64_t seed);
void rh_case_close(struct rh_case *c);
/* Queues the parts. */
void rh_case_run(struct rh_case *c, unsigned parts);
/* Fills and poisons again. */
void rh_case_reset(struct rh_case *c);
/* The values of a tensor: float for RH_CASE_ACT, else as stored. Free with free(). */
void *rh_case_read(struct rh_case *c, const struct rh_case_tensor *t);
size_t rh_case_width(enum rh_case_type type); /* bytes an element on the host */
/* "rms_norm 32768 2048 0" */
void rh_case_label(const struct rh_op_shape *shape, char *out, size_t size);

/* For op_declare.h. */
struct rh_case_tensor *rh_case_tensor(struct rh_case *c, const char *name, enum rh_case_type type,
                                      enum rh_case_role role, int64_t count);

/* op_quantizer.c */
void rh_case_fake_quant(struct rh_case *c, const int64_t *dims);

#endif
