#ifndef RH_CTL_JOB_PATH_H
#define RH_CTL_JOB_PATH_H

#include "base/error.h"

/* May the text stand in a path of the API as a job's id? RH_ERR_NOT_FOUND: no job is called that.
 */
RH_MUST_USE enum rh_rc rh_job_path_check(const char *job, struct rh_error *err);

#endif
