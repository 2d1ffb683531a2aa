#ifndef RH_PACK_STAGE_PACK_H
#define RH_PACK_STAGE_PACK_H

#include "harness/stage.h"

/*
 * The pack stage: pack[unit], shard[output file] and finalize[0] of docs/architecture.md. Needs no
 * backend; memory is bounded by the largest linear of the model.
 */
extern const struct rh_stage rh_pack_stage;

#endif
