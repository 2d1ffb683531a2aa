#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "http_internal.h"

#define CONNECTIONS_MAX 256u
/* Request line and headers, and the buffer that answers leave from. */
#define CONNECTION_BYTES ((size_t)32 << 10)
#define IDLE_SECONDS     60u
#define HEARTBEAT_MS     15000
#define WAIT_MS_MAX      60000
/* Enough to write the last chunk of every stream whose reader keeps up. */
#define CLOSE_TURNS 8

/* Lets libmicrohttpd work, then asks it when it wants to be called again without input. */
static void pump(struct rh_http_server *server, uv_timer_cb again)
{
    MHD_UNSIGNED_LONG_LONG wait_ms;
    MHD_run(server->daemon);
    if (MHD_get_timeout(server->daemon, &wait_ms) != MHD_YES)
        wait_ms = WAIT_MS_MAX;
    if (wait_ms > WAIT_MS_MAX)
        wait_ms = WAIT_MS_MAX;
    uv_timer_start(&server->timer, again, wait_ms, 0);
}

static void on_timer(uv_timer_t *timer)
{
    pump(timer->data, on_timer);
}

void rh_http_pump(struct rh_http_server *server)
{
    uv_timer_start(&server->timer, on_timer, 0, 0);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    pump(poll->data, on_timer);
}

static void on_heartbeat(uv_timer_t *timer)
{
    rh_http_stream_heartbeat(timer->data);
}

/* Puts a listening socket (adopted) under libmicrohttpd and that under the loop. */
static enum rh_rc serve(struct rh_http_api *api, int fd, bool tcp, struct rh_error *err)
{
    struct rh_http_server *server = &api->servers[api->server_count];
    server->api = api;
    server->tcp = tcp;
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, rh_http_on_request, server,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, rh_http_on_completed, NULL,
        MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, MHD_OPTION_STRICT_FOR_CLIENT,
        1, MHD_OPTION_END);
    if (!server->daemon) {
        close(fd);
        return rh_fail(err, RH_ERR_IO, "could not start the HTTP server; are descriptors short?");
    }
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || uv_poll_init(api->loop, &server->poll, info->epoll_fd) != 0) {
        MHD_stop_daemon(server->daemon);
        return rh_fail(err, RH_ERR_INTERNAL, "the HTTP server has no descriptor to wait on");
    }
    uv_timer_init(api->loop, &server->timer);
    api->handles += 2;
    server->poll.data = server;
    server->timer.data = server;
    api->server_count++;
    uv_poll_start(&server->poll, UV_READABLE, on_poll);
    pump(server, on_timer);
    return RH_OK;
}

enum rh_rc rh_http_api_new(uv_loop_t *loop, struct rh_factory *factory, const char *unix_path,
                           int port, struct rh_http_api **out, struct rh_error *err)
{
    struct rh_http_api *api = rh_alloc(sizeof *api);
    int fd = -1;
    api->loop = loop;
    api->factory = factory;
    uv_timer_init(loop, &api->heartbeat);
    api->heartbeat.data = api;
    api->handles = 1;
    enum rh_rc rc = rh_http_listen_unix(api, unix_path, &fd, err);
    if (rc == RH_OK)
        rc = serve(api, fd, false, err);
    if (rc == RH_OK && port != 0) {
        rc = rh_http_make_token(api, err);
        if (rc == RH_OK)
            rc = rh_http_listen_tcp(port, &fd, err);
        if (rc == RH_OK)
            rc = serve(api, fd, true, err);
    }
    if (rc != RH_OK) {
        rh_http_api_close(api);
        return rc;
    }
    uv_timer_start(&api->heartbeat, on_heartbeat, HEARTBEAT_MS, HEARTBEAT_MS);
    rh_factory_subscribe(factory, rh_http_stream_on_event, api);
    api->subscribed = true;
    *out = api;
    return RH_OK;
}

static void release(struct rh_http_api *api)
{
    if (--api->handles > 0)
        return;
    rh_free(api->unix_path);
    rh_free(api->token_path);
    rh_free(api);
}

static void on_server_closed(uv_handle_t *handle)
{
    struct rh_http_server *server = handle->data;
    release(server->api);
}

static void on_heartbeat_closed(uv_handle_t *handle)
{
    release(handle->data);
}

void rh_http_api_close(struct rh_http_api *api)
{
    if (!api)
        return;
    if (api->subscribed)
        rh_factory_subscribe(api->factory, NULL, NULL);
    /* libmicrohttpd must not be stopped while a connection is suspended. */
    rh_http_stream_end_all(api);
    for (int i = 0; i < api->server_count; i++) {
        struct rh_http_server *server = &api->servers[i];
        for (int turn = 0; turn < CLOSE_TURNS; turn++)
            MHD_run(server->daemon);
        rh_http_stream_end_all(api);
        uv_poll_stop(&server->poll);
        uv_close((uv_handle_t *)&server->poll, on_server_closed);
        uv_close((uv_handle_t *)&server->timer, on_server_closed);
        MHD_stop_daemon(server->daemon);
    }
    uv_close((uv_handle_t *)&api->heartbeat, on_heartbeat_closed);
    rh_http_remove_files(api);
}
