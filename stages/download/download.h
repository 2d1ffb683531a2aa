#ifndef RH_DOWNLOAD_DOWNLOAD_H
#define RH_DOWNLOAD_DOWNLOAD_H

#include "harness/stage.h"

/*
 * The download stage: plan[0], fetch[unit] and digest[source file] of docs/architecture.md, and
 * "rh-download plan MODEL --recipe R" for people. Sources: source.h.
 */
extern const struct rh_stage rh_download_stage;

#endif
