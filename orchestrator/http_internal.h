#ifndef RH_HTTP_INTERNAL_H
#define RH_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/json.h"
#include "base/strbuf.h"
#include "http_api/http_api.h"

/* Shared by the files of the HTTP API only. */
#define RH_HTTP_BODY_MAX   ((size_t)1 << 20)
#define RH_HTTP_ID_MAX     64
#define RH_HTTP_TOKEN_SIZE 65

struct rh_http_stream;

/* One listening socket with the libmicrohttpd daemon behind it. */
struct rh_http_server {
    struct rh_http_api *api;
    struct MHD_Daemon *daemon;
    bool tcp; /* reachable by every local user and by browsers: checks apply */
    uv_poll_t poll;
    uv_timer_t timer;
};

struct rh_http_api {
    uv_loop_t *loop;
    struct rh_factory *factory;
    struct rh_http_server servers[2];
    int server_count;
    uv_timer_t heartbeat;
    int handles; /* open libuv handles; the last one frees the API */
    struct rh_http_stream *streams;
    bool subscribed;
    char *unix_path;
    dev_t socket_dev; /* of our socket file, so that a successor's is never removed */
    ino_t socket_ino;
    char *token_path;               /* NULL without TCP */
    char token[RH_HTTP_TOKEN_SIZE]; /* what a change over TCP must show */
};

/* One request being read and answered. */
struct rh_http_call {
    struct rh_http_api *api;
    struct rh_http_server *server;
    struct MHD_Connection *connection;
    enum MHD_Result (*answer)(struct rh_http_call *call);
    char id[RH_HTTP_ID_MAX]; /* the {id} of the path */
    struct rh_strbuf body;
    /* An answer that comes later: the connection is suspended while it waits for it. */
    bool asked, waits;
    struct rh_json *later; /* owned */
    struct rh_error later_error;
};

/* libmicrohttpd's callbacks. cls: struct rh_http_server. */
enum MHD_Result rh_http_on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                   const char *method, const char *version, const char *data,
                                   size_t *data_size, void **state);
void rh_http_on_completed(void *cls, struct MHD_Connection *connection, void **state,
                          enum MHD_RequestTerminationCode how);

/* Lets libmicrohttpd work at the next turn of the loop: on connections that were resumed. */
void rh_http_pump(struct rh_http_server *server);

/* Answers. body: adopted. */
enum MHD_Result rh_http_reply_json(struct rh_http_call *call, unsigned status,
                                   struct rh_json *body);
/* header, header_value, hint: NULL for none. */
enum MHD_Result rh_http_reply_problem(struct rh_http_call *call, unsigned status,
                                      const char *detail, const char *hint, const char *header,
                                      const char *header_value);
enum MHD_Result rh_http_reply_error(struct rh_http_call *call, const struct rh_error *err);
void rh_http_common_headers(struct MHD_Response *response);
/* What a request must satisfy before it is read; 0, or the status of the problem in detail and
 * hint (static texts). changes: it is not a GET. */
unsigned rh_http_refusal(const struct rh_http_call *call, const char *method, bool changes,
                         const char **detail, const char **hint);

/* GET /v1/stream. */
enum MHD_Result rh_http_stream_open(struct rh_http_call *call);
void rh_http_stream_on_event(void *arg, const struct rh_json *event); /* arg: the API */
void rh_http_stream_heartbeat(struct rh_http_api *api);
void rh_http_stream_end_all(struct rh_http_api *api);

/* The sockets. */
RH_MUST_USE enum rh_rc rh_http_listen_unix(struct rh_http_api *api, const char *path, int *out_fd,
                                           struct rh_error *err);
RH_MUST_USE enum rh_rc rh_http_listen_tcp(int port, int *out_fd, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_http_make_token(struct rh_http_api *api, struct rh_error *err);
void rh_http_remove_files(struct rh_http_api *api);

#endif
