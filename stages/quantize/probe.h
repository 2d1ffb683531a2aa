#ifndef RH_QUANTIZE_PROBE_H
#define RH_QUANTIZE_PROBE_H

#include "harness/stage.h"

/*
 * Operation "probe": the sample and the candidates of calibrate go once through the source model, a
 * block at a time as blocks arrive, and rows are exchanged as rh_top_up_choose() says. Leaves
 * ids.safetensors, the rows that are tuned on (input_ids I32 [nsamples, seqlen]; the order of the
 * rows that stay is unchanged), and report.json: {schema, backend, device, floor, rows, candidates,
 * exchanged: [{row, candidate}], before, after, blocks: [{block, before, after}]} where before and
 * after are {below_floor, without_tokens, tokens_min, missing}: experts, experts, tokens, tokens.
 * The MTP head takes no part.
 */
RH_MUST_USE enum rh_rc rh_run_probe(struct rh_task *task, struct rh_error *err);

#endif
