#ifndef RH_ORCHESTRATOR_HTTP_API_H
#define RH_ORCHESTRATOR_HTTP_API_H

#include <uv.h>

#include "base/error.h"
#include "factory.h"

/* HTTP API v1 (docs/protocol.md) of a factory, on a unix socket (mode 0660) and, when port is not
 * 0, on 127.0.0.1. libmicrohttpd runs inside the libuv loop through its epoll descriptor. */
struct rh_http_api;

/*
 * A socket file that nobody answers on is replaced; RH_ERR_EXISTS when somebody does. With a port,
 * changes over TCP need the token that is written to "http-token" (0600) beside the socket. Takes
 * the factory's subscription. SIGPIPE should be ignored by the process.
 */
RH_MUST_USE enum rh_rc rh_http_api_new(uv_loop_t *loop, struct rh_factory *factory,
                                       const char *unix_path, int port, struct rh_http_api **out,
                                       struct rh_error *err);
/* Ends the streams and removes the socket; the memory goes when the loop has run once more. */
void rh_http_api_close(struct rh_http_api *api);

#endif
