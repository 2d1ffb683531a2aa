/* Fetches one file of a Hub model as a job does, checked and synced, and prints the seconds:
 *
 *   bench_hub hf:owner/name FILE WORK_DIRECTORY
 *
 * hub.py sets it beside curl.
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "download/source.h"

int main(int argc, char **argv)
{
    struct rh_source *source = NULL;
    struct rh_source_file *file = NULL;
    struct rh_error err = {0};
    rh_log_init("bench_hub");
    if (argc != 4) {
        fprintf(stderr, "usage: %s hf:owner/name FILE WORK_DIRECTORY\n", argv[0]);
        return 2;
    }
    struct rh_source_use use = {.work_dir = argv[3]};
    enum rh_rc rc = rh_source_open(argv[1], &use, &source, &err);
    int64_t before = rh_clock_ns();
    if (rc == RH_OK)
        rc = rh_source_file_open(source, argv[2], &file, &err);
    if (rc == RH_OK)
        printf("%.3f\n", (double)(rh_clock_ns() - before) * 1e-9);
    else
        fprintf(stderr, "bench_hub: %s\n", err.message);
    rh_source_file_close(file);
    rh_source_close(source);
    return rc == RH_OK ? 0 : 1;
}
