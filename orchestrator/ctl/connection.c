#include "ctl/connection.h"

#include <time.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "ctl/place.h"

/* So long others may hold the state directory without working on it. */
#define SETTLE_NS INT64_C(15000000000)
#define STEP_NS   50000000L

static bool answers(struct rh_client *client, struct rh_error *err)
{
    struct rh_json *body = NULL;
    enum rh_rc rc = rh_client_call(client, "GET", "/healthz", NULL, &body, err);
    rh_json_free(body);
    return rc == RH_OK;
}

/* Has an orchestrator ever worked here? */
static bool is_state(const char *state)
{
    char *path = rh_fs_join(state, "roundhouse.db");
    bool there = rh_fs_exists(path);
    rh_free(path);
    return there;
}

/* Whoever only looks, as list does, starts an orchestrator without stages for a moment. */
static bool has_workers(struct rh_client *client)
{
    struct rh_json *body = NULL;
    struct rh_error err;
    enum rh_rc rc = rh_client_call(client, "GET", "/v1/workers", NULL, &body, &err);
    bool some = rc == RH_OK && rh_json_count(rh_json_get(body, "workers")) > 0;
    rh_json_free(body);
    return some;
}

enum rh_rc rh_connection_renew(struct rh_connection *c, enum rh_connect how, struct rh_error *err)
{
    int64_t deadline = rh_clock_ns() + SETTLE_NS;
    enum rh_rc rc = RH_OK;
    do {
        bool there = answers(c->client, err);
        /* One that stays is as good as our own; one that does not is waited out. */
        if (there &&
            (how != RH_CONNECT_OR_WORK || has_workers(c->client) || rh_clock_ns() > deadline))
            return RH_OK;
        if (how == RH_CONNECT_LIVE)
            return err->rc;
        if (!there) {
            rc = rh_private_start(&c->factory, c->state, c->run, how == RH_CONNECT_OR_WORK,
                                  c->client, err);
            if (rc == RH_OK || !c->factory.refused)
                return rc;
        }
        nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
    } while (rc == RH_OK || rh_clock_ns() < deadline);
    return rc;
}

enum rh_rc rh_connection_open(struct rh_connection *c, const char *state, const char *run,
                              enum rh_connect how, struct rh_error *err)
{
    c->state = rh_place_state(state);
    if (how == RH_CONNECT_OR_READ && !is_state(c->state))
        how = RH_CONNECT_LIVE;
    enum rh_rc rc = RH_OK;
    if (run)
        c->run = rh_place_absolute(run);
    else
        rc = rh_place_run_dir(c->state, how != RH_CONNECT_LIVE, &c->run, err);
    if (rc != RH_OK)
        return rc;
    char *socket = rh_fs_join(c->run, "api.sock");
    c->client = rh_client_new(socket);
    rh_free(socket);
    return rh_connection_renew(c, how, err);
}

void rh_connection_close(struct rh_connection *c)
{
    rh_private_done(&c->factory);
    rh_client_free(c->client);
    rh_free(c->run);
    rh_free(c->state);
    *c = (struct rh_connection){0};
}
