#ifndef RH_PACK_STAGE_LINEAR_H
#define RH_PACK_STAGE_LINEAR_H

#include "families/model_plan.h"
#include "recipe/recipe.h"

/*
 * Private to the library: one quantized linear from codes, or from its weight, to the three tensors
 * that loaders read. The buffers are those of the largest linear and are used again.
 */
struct pack_linear {
    uint8_t *raw;     /* bytes as they stand in a file */
    float *weight;    /* [out, in] */
    uint8_t *codes;   /* [out, in] */
    uint16_t *scales; /* [out, groups] fp16 bits */
    uint8_t *zeros;   /* [out, groups] */
    int32_t *words;   /* qweight, then qzeros */
    uint16_t *packed_scales;
};

/* Buffers for the quantized linears of a unit; free with pack_linear_done(), also after an error.
 */
RH_MUST_USE enum rh_rc pack_linear_init(struct pack_linear *p, const struct rh_unit *unit,
                                        struct rh_error *err);
void pack_linear_done(struct pack_linear *p);

/* Codes, scales and zero points as the tune operation left them (block.safetensors). */
RH_MUST_USE enum rh_rc pack_linear_load(struct pack_linear *p, const struct rh_linear *linear,
                                        const struct rh_safetensors *block, struct rh_error *err);
/* The same by rounding the source weight to nearest. */
RH_MUST_USE enum rh_rc pack_linear_round(struct pack_linear *p, const struct rh_linear *linear,
                                         const struct rh_safetensors *source,
                                         enum rh_observer observer, struct rh_error *err);
/* Packs and hands the three tensors to the writer; to[k] is the writer's index of qweight,
 * qzeros and scales. */
RH_MUST_USE enum rh_rc pack_linear_put(struct pack_linear *p, const struct rh_linear *linear,
                                       struct rh_safetensors_writer *writer, const size_t to[3],
                                       struct rh_error *err);

#endif
