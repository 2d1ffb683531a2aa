#ifndef RH_TUNING_BACKGROUND_H
#define RH_TUNING_BACKGROUND_H

#include <pthread.h>
#include <stdbool.h>

#include "base/error.h"

/* One piece of work at a time beside the caller's; zeroed: nothing is running. */
struct rh_background {
    pthread_t thread;
    bool running;
    enum rh_rc (*work)(void *arg, struct rh_error *err);
    void *arg;
    enum rh_rc rc;
    struct rh_error err;
};

/* Begins work(arg); nothing may be running. Where no thread can be had it is done at once. */
void rh_background_start(struct rh_background *b, enum rh_rc (*work)(void *arg, struct rh_error *err),
                         void *arg);
/* Waits; the result of the work, once. RH_OK when nothing was begun. */
RH_MUST_USE enum rh_rc rh_background_join(struct rh_background *b, struct rh_error *err);

#endif
