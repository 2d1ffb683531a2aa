#ifndef RH_TUNING_BLOCK_FILE_H
#define RH_TUNING_BLOCK_FILE_H

#include "models/block.h"
#include "quant_ops/quant_ops.h"

/* block.safetensors (docs/architecture.md): codes, scales and zeros of all tuned linears. `items`
 * are the block's linears in the block's order. */
RH_MUST_USE enum rh_rc rh_block_file_write(const char *path, struct rh_block *block,
                                           const struct rh_fake_quant *items, size_t count,
                                           struct rh_error *err);

#endif
