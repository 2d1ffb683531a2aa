#ifndef RH_TESTS_BENCH_GPU_MODEL_H
#define RH_TESTS_BENCH_GPU_MODEL_H

#include "models/block.h"

/*
 * Blocks that exist only in memory: shapes of a model, weights and activations from a generator with
 * a fixed seed. What is read has no meaning, but sizes, types, spread and routing are those of a
 * trained model, so that times are.
 */
struct gpu_model {
    struct rh_model_config config;
    uint16_t *pool;    /* random numbers of variance 1, bf16 */
    uint16_t *weights; /* 1/32 of them: rows of 2048 weights double the variance of what they see */
};

/* tiny: the shapes of a toy, else those of Qwen3.6-35B-A3B. */
void gpu_model_init(struct gpu_model *model, bool tiny);
void gpu_model_done(struct gpu_model *model);

/* A block of one kind: its linears in AutoRound's order, and where their weights come from. */
struct gpu_block {
    struct rh_unit unit;
    struct rh_tensor_info *tensors;
    size_t tensor_count;
    struct rh_tensor_source source;
    const struct gpu_model *model;
};

void gpu_block_init(struct gpu_block *block, const struct gpu_model *model, enum rh_mixer mixer);
void gpu_block_done(struct gpu_block *block);

/* `count` elements of calibration sample `sample`, bf16. */
void gpu_model_sample(const struct gpu_model *model, int64_t sample, int64_t count, uint16_t *out);

/* Multiply-adds counted as two, only what is needed: no gradient of the block's input. */
struct gpu_flops {
    double forward, backward;
};
struct gpu_flops gpu_model_flops(const struct rh_model_config *config, enum rh_mixer mixer,
                                 int64_t batch, int64_t seq);

#endif
