#include "tuning/background.h"

static void *run(void *arg)
{
    struct rh_background *b = arg;
    b->rc = b->work(b->arg, &b->err);
    return NULL;
}

void rh_background_start(struct rh_background *b, enum rh_rc (*work)(void *arg, struct rh_error *err),
                         void *arg)
{
    RH_ASSERT(!b->running && b->rc == RH_OK);
    b->work = work;
    b->arg = arg;
    b->running = pthread_create(&b->thread, NULL, run, b) == 0;
    if (!b->running)
        run(b);
}

enum rh_rc rh_background_join(struct rh_background *b, struct rh_error *err)
{
    if (b->running)
        pthread_join(b->thread, NULL);
    b->running = false;
    enum rh_rc rc = b->rc;
    b->rc = RH_OK;
    if (rc != RH_OK && err)
        *err = b->err;
    return rc;
}
