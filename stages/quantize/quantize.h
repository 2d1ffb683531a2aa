#ifndef RH_QUANTIZE_QUANTIZE_H
#define RH_QUANTIZE_QUANTIZE_H

#include "harness/stage.h"

/* Operation "tune": one session over the blocks first_index..last_index of a job; hands in
 * "tune-<block>" with block.safetensors, chain.safetensors and report.json (docs/architecture.md)
 * as each is done. Operation "probe", before it
 * where calibration.top_up_rows asks for it, chooses the rows (probe.h). */
extern const struct rh_stage rh_quantize_stage;

#endif
