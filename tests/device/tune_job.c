/*
 * The tune operation on a prepared job directory, without daemons:
 *   tune_job JOB_DIR MODEL LAST_BLOCK KEY=VALUE...
 * JOB_DIR holds the artifacts of plan, fetch and calibrate for the same recipe; those of tune are
 * committed into it. For comparing backends on one machine: resources.backend=cuda.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "harness/stage.h"
#include "quantize/quantize.h"

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: tune_job JOB_DIR MODEL LAST_BLOCK KEY=VALUE...\n");
        return 2;
    }
    struct rh_error err;
    struct rh_recipe *recipe = NULL;
    struct rh_json *empty = rh_json_new_object();
    enum rh_rc rc = rh_recipe_from_json(empty, "empty recipe", &recipe, &err);
    for (int i = 4; i < argc && rc == RH_OK; i++)
        rc = rh_recipe_set(recipe, argv[i], &err);
    int64_t begun = rh_clock_ns();
    if (rc == RH_OK)
        rc = rh_stage_run_local(&rh_quantize_stage, "tune", argv[1], recipe, argv[2], "dir:/dev/null",
                                0, atoll(argv[3]), &err);
    if (rc == RH_OK)
        printf("tuned in %.2f s\n", (double)(rh_clock_ns() - begun) * 1e-9);
    else
        fprintf(stderr, "tune_job: %s\n", err.message);
    rh_json_free(empty);
    rh_recipe_free(recipe);
    return rc == RH_OK ? 0 : 1;
}
