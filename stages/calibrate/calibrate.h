#ifndef RH_CALIBRATE_CALIBRATE_H
#define RH_CALIBRATE_CALIBRATE_H

#include "harness/stage.h"

/* Operation "calibrate": text to token rows, in AutoRound's sampling. */
extern const struct rh_stage rh_calibrate_stage;

#endif
