#include "ctl/connection.h"

#include "base/fs.h"
#include "base/mem.h"
#include "ctl/place.h"

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

enum rh_rc rh_connection_open(struct rh_connection *c, const char *state, const char *run,
                              enum rh_connect how, struct rh_error *err)
{
    c->state = rh_place_state(state);
    bool make = how == RH_CONNECT_OR_WORK || (how == RH_CONNECT_OR_READ && is_state(c->state));
    enum rh_rc rc = RH_OK;
    if (run)
        c->run = rh_place_absolute(run);
    else
        rc = rh_place_run_dir(c->state, make, &c->run, err);
    if (rc != RH_OK)
        return rc;
    char *socket = rh_fs_join(c->run, "api.sock");
    c->client = rh_client_new(socket);
    rh_free(socket);
    if (answers(c->client, err))
        return RH_OK;
    if (!make)
        return err->rc;
    return rh_private_start(&c->factory, c->state, c->run, how == RH_CONNECT_OR_WORK, c->client,
                            err);
}

void rh_connection_close(struct rh_connection *c)
{
    rh_private_done(&c->factory);
    rh_client_free(c->client);
    rh_free(c->run);
    rh_free(c->state);
    *c = (struct rh_connection){0};
}
