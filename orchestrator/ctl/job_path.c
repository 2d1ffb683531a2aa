#include "ctl/job_path.h"

#include <ctype.h>
#include <string.h>

#define ID_MAX 63

enum rh_rc rh_job_path_check(const char *job, struct rh_error *err)
{
    size_t size = strlen(job);
    bool fits = size > 0 && size <= ID_MAX;
    for (size_t i = 0; i < size && fits; i++)
        fits = isalnum((unsigned char)job[i]) != 0;
    if (!fits)
        return rh_fail(err, RH_ERR_NOT_FOUND, "there is no job \"%.64s\"; list --all shows all",
                       job);
    return RH_OK;
}
