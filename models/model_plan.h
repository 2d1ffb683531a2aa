#ifndef RH_FAMILIES_MODEL_PLAN_H
#define RH_FAMILIES_MODEL_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "recipe/recipe.h"
#include "tensor/dtype.h"

/*
 * What a checkpoint holds and what becomes of it: everything that can be known from config.json,
 * the recipe and the shard headers, before a weight is read. No numerics here, so that download,
 * pack and publish can link it without a backend.
 */

enum rh_mixer { RH_MIXER_LINEAR_ATTENTION, RH_MIXER_FULL_ATTENTION };

#define RH_LAYERS_MAX 1024

/* Field names and meaning are those of the Hugging Face config (text_config). */
struct rh_model_config {
    char *architecture; /* architectures[0] */
    char *model_type;
    int64_t hidden_size;
    int64_t num_hidden_layers;
    int64_t vocab_size;
    int64_t num_attention_heads;
    int64_t num_key_value_heads;
    int64_t head_dim;
    double partial_rotary_factor;
    double rope_theta;
    int64_t mrope_section[3];
    double rms_norm_eps;
    int64_t linear_num_key_heads;
    int64_t linear_num_value_heads;
    int64_t linear_key_head_dim;
    int64_t linear_value_head_dim;
    int64_t linear_conv_kernel_dim;
    int64_t num_experts;
    int64_t num_experts_per_tok;
    int64_t moe_intermediate_size;
    int64_t shared_expert_intermediate_size;
    int64_t mtp_num_hidden_layers;
    int64_t max_position_embeddings;
    bool tie_word_embeddings;
    enum rh_mixer mixer[RH_LAYERS_MAX]; /* from layer_types, never from the index */
    struct rh_json *json;               /* the whole file; owned */
};

/* A unit is what the factory moves at a time: it is fetched, tuned or passed on, and packed. */
enum rh_unit_kind {
    RH_UNIT_HEAD,   /* embed_tokens: needed before block 0 */
    RH_UNIT_BLOCK,  /* one decoder layer */
    RH_UNIT_TAIL,   /* final norm, lm_head */
    RH_UNIT_MTP,    /* mtp.* */
    RH_UNIT_VISUAL, /* model.visual.* */
};

/* One linear layer as the loader will see it (experts are separate linears). */
struct rh_linear {
    char *name; /* "model.language_model.layers.0.mlp.experts.3.gate_proj" */
    int64_t out_features;
    int64_t in_features;
    char *source;        /* source tensor that holds the weight */
    int64_t source_row;  /* first row when the source is read as a matrix [*, in_features] */
    enum rh_dtype dtype; /* of the source */
    int bits;            /* 16: stays as it is */
    int64_t group_size;  /* as in the recipe; -1: whole row */
    bool sym;
    /* Static text when bits is 16: "shape" (rows or columns no multiple of 32), "ignored" (by the
     * recipe), "family" (routers and gates), "mtp.method" (the recipe keeps the MTP head). */
    const char *why_16;
};

struct rh_unit {
    size_t index; /* position in plan->units */
    enum rh_unit_kind kind;
    int64_t block;       /* layer number of a BLOCK, MTP layer number of an MTP unit, else -1 */
    /* Position among what is tuned: the blocks, then, when the recipe says so, the MTP head;
     * -1: not tuned. */
    int64_t step;
    char *name;          /* "head", "block 3", "mtp", "visual", "tail" */
    char *prefix;        /* "model.language_model.layers.3." for blocks */
    enum rh_mixer mixer; /* of a BLOCK or MTP unit */
    /* Source tensors of the unit in checkpoint order; `file` indexes plan->files. */
    struct rh_source_tensor {
        struct rh_tensor_info info; /* name owned by the plan */
        size_t file;
        bool pass_through; /* goes to the output under the same name, byte for byte */
        /* When not: each linear with this source goes out packed, or, when it stays 16 bit beside
         * quantized ones (an expert of a fused tensor), as "<linear>.weight", its rows as they are.
         */
    } * tensors;
    size_t tensor_count;
    uint64_t source_bytes;
    struct rh_linear *linears; /* in AutoRound's module order */
    size_t linear_count;
};

/* A tensor of the published checkpoint. */
struct rh_output_tensor {
    char *name;
    enum rh_dtype dtype;
    int rank;
    int64_t shape[RH_TENSOR_RANK_MAX];
    uint64_t bytes;
    size_t unit;  /* which unit produces it */
    size_t shard; /* which output file holds it */
};

struct rh_output_shard {
    char *name;     /* "model-00001-of-00010.safetensors", "model_extra_tensors.safetensors" */
    uint64_t bytes; /* tensor data */
    size_t tensor_count;
};

struct rh_totals {
    uint64_t tensors, bytes;
};

struct rh_model_plan {
    struct rh_model_config config;
    struct rh_unit *units; /* head, blocks, tail, mtp, visual (the last two where present) */
    size_t unit_count;
    char **files; /* source shard names */
    uint64_t *file_bytes;
    size_t file_count;
    struct rh_output_tensor *outputs;
    size_t output_count;
    struct rh_output_shard *shards;
    size_t shard_count;
    struct rh_totals main, mtp, visual, all;       /* of the output */
    size_t quantized_linears, unquantized_linears; /* of the decoder blocks; mtp counts apart */
    struct rh_json *recipe; /* canonical form of the recipe that the plan was made for; owned */
    char **names;           /* storage of the source tensors' names */
    size_t name_count;
};

RH_MUST_USE enum rh_rc rh_model_config_read(const char *config_json_path,
                                            struct rh_model_config *out, struct rh_error *err);
void rh_model_config_done(struct rh_model_config *config);

/*
 * Builds the plan from a checkpoint directory (headers suffice). Errors: RH_ERR_UNSUPPORTED names
 * the architecture and the supported ones; missing, unexpected and misshapen tensors are listed by
 * name.
 */
RH_MUST_USE enum rh_rc rh_model_plan_new(const char *model_dir, const struct rh_recipe *recipe,
                                         struct rh_model_plan **out, struct rh_error *err);
/*
 * The same for tensors that stand in no files: `tensors` (borrowed, names included) count as the
 * contents of one file named "tensors". For the verifier, which imagines the source of a quantized
 * checkpoint. config: a parsed config.json without quantization_config; adopted, also on error.
 */
RH_MUST_USE enum rh_rc rh_model_plan_from_tensors(struct rh_json *config,
                                                  const struct rh_recipe *recipe,
                                                  const struct rh_tensor_info *tensors,
                                                  size_t count, const char *what,
                                                  struct rh_model_plan **out, struct rh_error *err);
/*
 * The stored form (plan.json of the store), and back. It holds the inputs (config, recipe, source
 * tensors), the shape of the job for the scheduler ("units", "files", "shards", and "outputs": how
 * many tensors and bytes of a unit go into a shard) and the digest of all derived names and shapes.
 * Reading derives everything again and refuses a plan whose digest differs: it was made by another
 * version.
 */
struct rh_json *rh_model_plan_to_json(const struct rh_model_plan *plan);
RH_MUST_USE enum rh_rc rh_model_plan_from_json(const struct rh_json *json, const char *what,
                                               struct rh_model_plan **out, struct rh_error *err);
void rh_model_plan_free(struct rh_model_plan *plan);

const char *rh_unit_kind_name(enum rh_unit_kind kind); /* "head", "block", ... */

/* The unit of a block, NULL when there is none. */
const struct rh_unit *rh_model_plan_block(const struct rh_model_plan *plan, int64_t block);
/* How many units are tuned, and the one of a step; NULL when there is none. */
int64_t rh_model_plan_steps(const struct rh_model_plan *plan);
const struct rh_unit *rh_model_plan_step(const struct rh_model_plan *plan, int64_t step);
/* The first unit of a kind; NULL when there is none. */
const struct rh_unit *rh_model_plan_kind(const struct rh_model_plan *plan, enum rh_unit_kind kind);
/* Is the linear, or tensor, one of the unit's layer? mtp.fc and the norms beside it are not. */
bool rh_unit_has_in_layer(const struct rh_unit *unit, const char *name);

/* Output shapes of a quantized linear (format.md §1.1): qweight, qzeros, scales in that order. */
void rh_linear_packed(const struct rh_linear *linear, struct rh_output_tensor out[3]);
int64_t rh_linear_groups(const struct rh_linear *linear); /* per row */

/* quantization_config as one object, for config.json and quantization_config.json alike. */
struct rh_json *rh_quantization_config(const struct rh_model_plan *plan,
                                       const struct rh_recipe *recipe);

#endif
