#ifndef RH_PACK_STAGE_PACK_OPS_H
#define RH_PACK_STAGE_PACK_OPS_H

#include "families/model_plan.h"
#include "harness/stage.h"

/* Private to the library. */
#define PACK_CHUNK ((size_t)8 << 20) /* bytes in memory of whatever is copied */

#define PACK_TENSORS "tensors.safetensors"

/* tensors.safetensors: the unit's output tensors. */
enum rh_rc rh_pack_unit(struct rh_task *task, struct rh_error *err);
/* The output file under its final name. */
enum rh_rc rh_pack_shard(struct rh_task *task, struct rh_error *err);
/* Index, configs, side files. */
enum rh_rc rh_pack_finalize(struct rh_task *task, struct rh_error *err);

/* The job's committed plan; *out: rh_model_plan_free(). RH_ERR_FORMAT when it was made for another
 * recipe than the task's. */
RH_MUST_USE enum rh_rc rh_pack_load_plan(const struct rh_task *task, struct rh_model_plan **out,
                                         struct rh_error *err);

/* Opens a file of a committed artifact. */
RH_MUST_USE enum rh_rc rh_pack_open(const struct rh_task *task, const char *op, int64_t index,
                                    const char *name, struct rh_safetensors **out,
                                    struct rh_error *err);

/* Finds a tensor that must have this type and shape. */
RH_MUST_USE enum rh_rc rh_pack_find(const struct rh_safetensors *file, const char *name,
                                    enum rh_dtype dtype, int rank, const int64_t *shape,
                                    const struct rh_tensor_info **out, struct rh_error *err);

/* Copies bytes [begin, begin + size) of a tensor to the start of the writer's tensor `to`, through
 * buffer [PACK_CHUNK]. */
RH_MUST_USE enum rh_rc rh_pack_copy(struct rh_task *task, const struct rh_safetensors *file,
                                    const struct rh_tensor_info *tensor, uint64_t begin,
                                    uint64_t size, struct rh_safetensors_writer *writer, size_t to,
                                    void *buffer, struct rh_error *err);

#endif
