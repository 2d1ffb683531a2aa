#ifndef RH_DOWNLOAD_PLAN_REPORT_H
#define RH_DOWNLOAD_PLAN_REPORT_H

#include "base/json.h"
#include "estimate.h"

/* What "rh-download plan" says. */
struct rh_plan_report {
    const char *model; /* as given */
    const struct rh_recipe *recipe;
    const struct rh_model_plan *plan;
    struct rh_estimate estimate;
    double tflops; /* assumed rate, 10^12 operations per second */
};

char *rh_plan_report_text(const struct rh_plan_report *report);           /* owned by caller */
struct rh_json *rh_plan_report_json(const struct rh_plan_report *report); /* owned by caller */

#endif
