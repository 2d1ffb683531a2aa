#include "wire/socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "base/mem.h"

struct rh_zmq {
    void *context;
};

struct rh_socket {
    void *zmq;
    bool router;
    bool closing;
    int open_handles;
    struct rh_socket_events events;
    struct rh_socket_counters counters;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
};

struct option {
    int name;
    int value;
};

static enum rh_rc zmq_failed(const char *what, const char *endpoint, struct rh_error *err)
{
    int code = zmq_errno();
    enum rh_rc rc = code == EADDRINUSE ? RH_ERR_EXISTS : RH_ERR_IO;
    return rh_fail(err, rc, "could not %s %s: %s", what, endpoint, zmq_strerror(code));
}

enum rh_rc rh_zmq_new(struct rh_zmq **out, struct rh_error *err)
{
    struct rh_zmq *z = rh_alloc(sizeof *z);
    *out = NULL;
    z->context = zmq_ctx_new();
    if (!z->context) {
        rh_free(z);
        return zmq_failed("make", "a ZeroMQ context", err);
    }
    *out = z;
    return RH_OK;
}

void rh_zmq_free(struct rh_zmq *z)
{
    if (!z)
        return;
    while (zmq_ctx_term(z->context) != 0 && zmq_errno() == EINTR)
        continue;
    rh_free(z);
}

/* -- Handling messages ------------------------------------------------------------------------ */

static int pending(const struct rh_socket *s)
{
    int events = 0;
    size_t size = sizeof events;
    if (s->closing || zmq_getsockopt(s->zmq, ZMQ_EVENTS, &events, &size) != 0)
        return 0;
    return events;
}

#define FRAMES_MAX 3

struct frames {
    zmq_msg_t frame[FRAMES_MAX];
    int kept, seen;
};

/* All frames of one message; those beyond FRAMES_MAX are counted and dropped. */
static bool receive(struct rh_socket *s, struct frames *f)
{
    f->kept = f->seen = 0;
    int more = 1;
    while (more) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        int got = zmq_msg_recv(&part, s->zmq, ZMQ_DONTWAIT);
        if (got < 0) {
            zmq_msg_close(&part);
            if (zmq_errno() == EINTR)
                continue;
            break;
        }
        more = zmq_msg_more(&part);
        f->seen++;
        if (f->kept < FRAMES_MAX) {
            zmq_msg_init(&f->frame[f->kept]);
            zmq_msg_move(&f->frame[f->kept++], &part);
        }
        zmq_msg_close(&part);
    }
    return f->seen > 0;
}

static void release(struct frames *f)
{
    for (int i = 0; i < f->kept; i++)
        zmq_msg_close(&f->frame[i]);
}

static void deliver(struct rh_socket *s, struct frames *f)
{
    struct rh_peer peer = {0};
    struct rh_message message = {0};
    struct rh_error err = {0};
    int at = 0;
    if (s->router && f->kept > 0) {
        size_t size = zmq_msg_size(&f->frame[0]);
        peer.size = (uint8_t)(size < RH_PEER_SIZE_MAX ? size : RH_PEER_SIZE_MAX);
        memcpy(peer.id, zmq_msg_data(&f->frame[0]), peer.size);
        at = 1;
    }
    enum rh_rc rc = RH_OK;
    if (f->seen != at + 2)
        rc = rh_fail(&err, RH_ERR_PROTOCOL, "%d frames instead of 2", f->seen - at);
    else
        rc = rh_message_decode(zmq_msg_data(&f->frame[at]), zmq_msg_size(&f->frame[at]),
                               zmq_msg_data(&f->frame[at + 1]), zmq_msg_size(&f->frame[at + 1]),
                               &message, &err);
    if (rc == RH_OK) {
        s->counters.received++;
        s->events.message(s->events.arg, &peer, &message);
        rh_message_done(&message);
        return;
    }
    s->counters.garbage++;
    if (s->events.garbage)
        s->events.garbage(s->events.arg, &peer, (int)message.kind, &err);
}

static void handle_batch(struct rh_socket *s)
{
    int handled = 0;
    while (handled < RH_SOCKET_BATCH && (pending(s) & ZMQ_POLLIN)) {
        struct frames f;
        if (!receive(s, &f))
            break;
        deliver(s, &f);
        release(&f);
        handled++;
    }
    if (handled > 0 && s->events.turn && !s->closing)
        s->events.turn(s->events.arg);
}

/* -- The marriage with libuv ------------------------------------------------------------------ */

static void on_poll(uv_poll_t *handle, int status, int events)
{
    (void)handle; /* it has woken the loop, which is all it is for */
    (void)status;
    (void)events;
}

static void on_idle(uv_idle_t *handle)
{
    (void)handle; /* its being active keeps the loop from sleeping */
}

static void on_prepare(uv_prepare_t *handle)
{
    struct rh_socket *s = handle->data;
    if (pending(s) & ZMQ_POLLIN)
        uv_idle_start(&s->idle, on_idle);
}

static void on_check(uv_check_t *handle)
{
    struct rh_socket *s = handle->data;
    uv_idle_stop(&s->idle);
    handle_batch(s);
}

static void on_close(uv_handle_t *handle)
{
    struct rh_socket *s = handle->data;
    if (--s->open_handles == 0)
        rh_free(s);
}

static enum rh_rc attach(struct rh_socket *s, uv_loop_t *loop, struct rh_error *err)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(s->zmq, ZMQ_FD, &fd, &size) != 0)
        return zmq_failed("get the descriptor of", "a socket", err);
    int rc = uv_poll_init(loop, &s->poll, fd);
    if (rc != 0)
        return rh_fail(err, RH_ERR_IO, "could not watch a socket: %s", uv_strerror(rc));
    uv_prepare_init(loop, &s->prepare);
    uv_check_init(loop, &s->check);
    uv_idle_init(loop, &s->idle);
    s->poll.data = s->prepare.data = s->check.data = s->idle.data = s;
    s->open_handles = 4;
    uv_poll_start(&s->poll, UV_READABLE, on_poll);
    uv_prepare_start(&s->prepare, on_prepare);
    uv_check_start(&s->check, on_check);
    return RH_OK;
}

/* -- Opening ---------------------------------------------------------------------------------- */

/* The file of an ipc endpoint. Other transports reach beyond this machine's file permissions and
 * would need authentication. */
static enum rh_rc check_path(const char *endpoint, const char **out, struct rh_error *err)
{
    struct sockaddr_un address;
    if (strncmp(endpoint, "ipc://", 6) != 0)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "the endpoint %.200s: only ipc:///path/to/work.sock is possible", endpoint);
    const char *path = endpoint + 6;
    if (*path == '\0' || *path == '@' || *path == '*')
        return rh_fail(err, RH_ERR_ARGUMENT, "the endpoint %.200s must name a file", endpoint);
    if (strlen(path) >= sizeof address.sun_path)
        return rh_fail(
            err, RH_ERR_ARGUMENT,
            "the socket path %s is longer than the %zu bytes that a unix socket may have; "
            "choose a shorter --run directory",
            path, sizeof address.sun_path - 1);
    *out = path;
    return RH_OK;
}

/* libzmq unlinks whatever is at the path and takes over without a word: a stale socket may go, a
 * live one and somebody's file may not. */
static enum rh_rc check_free(const char *path, struct rh_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? RH_OK : rh_fail_errno(err, errno, "could not look at %s", path);
    if (!S_ISSOCK(st.st_mode))
        return rh_fail(err, RH_ERR_EXISTS, "%s is there and is no socket; remove it", path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    /* Non-blocking: a listener whose queue is full answers EAGAIN instead of making us wait. */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not open a socket");
    int failed =
        connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address) ? errno : 0;
    close(fd);
    if (failed == ECONNREFUSED || failed == ENOENT)
        return RH_OK;
    return rh_fail(err, RH_ERR_EXISTS,
                   "another process listens on %s; stop it, or choose another --run directory",
                   path);
}

static enum rh_rc set_options(void *zmq, const struct option *options, size_t count,
                              struct rh_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (zmq_setsockopt(zmq, options[i].name, &options[i].value, sizeof options[i].value) != 0)
            return zmq_failed("set an option of", "a socket", err);
    }
    int64_t largest = RH_WIRE_BODY_MAX;
    if (zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &largest, sizeof largest) != 0)
        return zmq_failed("set an option of", "a socket", err);
    return RH_OK;
}

static const struct option common[] = {
    {ZMQ_LINGER, 0},
    {ZMQ_HANDSHAKE_IVL, 5000},
    {ZMQ_HEARTBEAT_IVL, 5000},
    {ZMQ_HEARTBEAT_TTL, 15000},
    {ZMQ_HEARTBEAT_TIMEOUT, 15000},
};
/* Without MANDATORY a message to nobody vanishes; with HANDOVER a second peer of the same name
 * would take the first one's place. */
static const struct option of_router[] = {{ZMQ_ROUTER_MANDATORY, 1},
                                          {ZMQ_ROUTER_HANDOVER, 0},
                                          {ZMQ_SNDHWM, 64},
                                          {ZMQ_RCVHWM, 1000},
                                          {ZMQ_BACKLOG, 1024}};
/* IMMEDIATE: nothing is queued for an orchestrator that is not there. */
static const struct option of_dealer[] = {{ZMQ_IMMEDIATE, 1},
                                          {ZMQ_SNDHWM, 64},
                                          {ZMQ_RCVHWM, 64},
                                          {ZMQ_RECONNECT_IVL, 200},
                                          {ZMQ_RECONNECT_IVL_MAX, 5000}};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static enum rh_rc make(struct rh_zmq *zmq, bool router, const struct rh_socket_events *events,
                       struct rh_socket **out, struct rh_error *err)
{
    struct rh_socket *s = rh_alloc(sizeof *s);
    s->router = router;
    s->events = *events;
    s->zmq = zmq_socket(zmq->context, router ? ZMQ_ROUTER : ZMQ_DEALER);
    enum rh_rc rc = s->zmq ? set_options(s->zmq, common, COUNT(common), err)
                           : zmq_failed("make", "a socket", err);
    if (rc == RH_OK)
        rc = router ? set_options(s->zmq, of_router, COUNT(of_router), err)
                    : set_options(s->zmq, of_dealer, COUNT(of_dealer), err);
    *out = s;
    return rc;
}

static enum rh_rc finish(struct rh_socket *s, uv_loop_t *loop, enum rh_rc rc,
                         struct rh_socket **out, struct rh_error *err)
{
    if (rc == RH_OK)
        rc = attach(s, loop, err);
    if (rc == RH_OK) {
        *out = s;
        return RH_OK;
    }
    if (s->zmq)
        zmq_close(s->zmq);
    rh_free(s);
    return rc;
}

enum rh_rc rh_router_open(struct rh_zmq *zmq, uv_loop_t *loop, const char *endpoint,
                          const struct rh_socket_events *events, struct rh_socket **out,
                          struct rh_error *err)
{
    const char *path = NULL;
    *out = NULL;
    enum rh_rc rc = check_path(endpoint, &path, err);
    if (rc == RH_OK)
        rc = check_free(path, err);
    if (rc != RH_OK)
        return rc;
    struct rh_socket *s = NULL;
    rc = make(zmq, true, events, &s, err);
    if (rc == RH_OK && zmq_bind(s->zmq, endpoint) != 0)
        rc = zmq_failed("listen on", endpoint, err);
    /* Who may connect may hand in results. */
    if (rc == RH_OK && chmod(path, S_IRUSR | S_IWUSR) != 0)
        rc = rh_fail_errno(err, errno, "could not protect %s", path);
    return finish(s, loop, rc, out, err);
}

enum rh_rc rh_dealer_open(struct rh_zmq *zmq, uv_loop_t *loop, const char *endpoint,
                          const char *identity, const struct rh_socket_events *events,
                          struct rh_socket **out, struct rh_error *err)
{
    const char *path = NULL;
    *out = NULL;
    enum rh_rc rc = check_path(endpoint, &path, err);
    if (rc != RH_OK)
        return rc;
    if (strlen(identity) == 0 || strlen(identity) > RH_PEER_SIZE_MAX)
        return rh_fail(err, RH_ERR_ARGUMENT, "a worker name of %zu bytes; 1 to %d are possible",
                       strlen(identity), RH_PEER_SIZE_MAX);
    struct rh_socket *s = NULL;
    rc = make(zmq, false, events, &s, err);
    if (rc == RH_OK && zmq_setsockopt(s->zmq, ZMQ_ROUTING_ID, identity, strlen(identity)) != 0)
        rc = zmq_failed("name", "a socket", err);
    if (rc == RH_OK && zmq_connect(s->zmq, endpoint) != 0)
        rc = zmq_failed("connect to", endpoint, err);
    return finish(s, loop, rc, out, err);
}

/* -- Sending ---------------------------------------------------------------------------------- */

static enum rh_rc unsendable(struct rh_socket *s, struct rh_error *err)
{
    s->counters.unsendable++;
    return rh_fail(err, RH_ERR_REMOTE, "the peer cannot be reached: %s", zmq_strerror(zmq_errno()));
}

static bool send_frame(void *zmq, const void *data, size_t size, int flags)
{
    int sent;
    do {
        sent = zmq_send(zmq, data, size, ZMQ_DONTWAIT | flags);
    } while (sent < 0 && zmq_errno() == EINTR);
    return sent >= 0;
}

enum rh_rc rh_socket_send(struct rh_socket *s, const struct rh_peer *peer, enum rh_kind kind,
                          const ProtobufCMessage *body, struct rh_error *err)
{
    RH_ASSERT(s->router == (peer != NULL));
    struct rh_frames f;
    enum rh_rc rc = rh_message_encode(kind, body, &f, err);
    if (rc != RH_OK) {
        s->counters.unsendable++;
        return rc;
    }
    /* Once the first frame of a message is taken, the rest is taken or dropped with it. */
    bool sent = !peer || send_frame(s->zmq, peer->id, peer->size, ZMQ_SNDMORE);
    sent = sent && send_frame(s->zmq, f.header, sizeof f.header, ZMQ_SNDMORE) &&
           send_frame(s->zmq, f.body, f.body_size, 0);
    if (sent)
        s->counters.sent++;
    else
        rc = unsendable(s, err);
    rh_free(f.body);
    return rc;
}

void rh_socket_close(struct rh_socket *s, int linger_ms)
{
    if (!s || s->closing)
        return;
    s->closing = true;
    uv_handle_t *const handles[] = {(uv_handle_t *)&s->poll, (uv_handle_t *)&s->prepare,
                                    (uv_handle_t *)&s->check, (uv_handle_t *)&s->idle};
    uv_poll_stop(&s->poll);
    zmq_setsockopt(s->zmq, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_close(s->zmq);
    for (size_t i = 0; i < COUNT(handles); i++)
        uv_close(handles[i], on_close);
}

void rh_socket_counters(const struct rh_socket *s, struct rh_socket_counters *out)
{
    *out = s->counters;
}
