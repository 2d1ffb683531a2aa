#ifndef RH_TUNING_BLOCK_FILE_H
#define RH_TUNING_BLOCK_FILE_H

#include "tuning/tuner.h"

/* block.safetensors (docs/architecture.md): codes, scales and zeros of all tuned linears. */
RH_MUST_USE enum rh_rc rh_block_file_write(const char *path, const struct rh_tuned *tuned,
                                           struct rh_error *err);

#endif
