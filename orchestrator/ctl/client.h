#ifndef RH_CTL_CLIENT_H
#define RH_CTL_CLIENT_H

#include <stdbool.h>

#include "base/error.h"
#include "base/json.h"
#include "ctl/sse.h"

/* An HTTP client of one orchestrator over its unix socket. The only file that knows libcurl is
 * client.c. One thread. */
struct rh_client;

struct rh_client *rh_client_new(const char *socket_path);
void rh_client_free(struct rh_client *client);

/*
 * One request; body may be NULL. Errors: RH_ERR_REMOTE when nobody answers on the socket; what a
 * problem document says, with the code that fits its status (404 NOT_FOUND, 409 EXISTS, 400
 * ARGUMENT, 401 and 403 AUTH, 503 TIMEOUT, 507 NO_SPACE).
 */
RH_MUST_USE enum rh_rc rh_client_call(struct rh_client *client, const char *method,
                                      const char *path, const struct rh_json *body,
                                      struct rh_json **out, struct rh_error *err);

/* All pages of a job's event log in one document, owned by the caller. */
RH_MUST_USE enum rh_rc rh_client_events(struct rh_client *client, const char *job,
                                        struct rh_json **out, struct rh_error *err);

/* Begins to read a stream of events into sse, after sse->id when it has one. */
void rh_client_stream(struct rh_client *client, const char *path, struct rh_sse *sse);
/* Waits at most wait_ms and hands over what came. False: the stream has ended or never began. */
bool rh_client_stream_turn(struct rh_client *client, int wait_ms);
void rh_client_stream_close(struct rh_client *client);

#endif
