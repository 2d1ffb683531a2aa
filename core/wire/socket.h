#ifndef RH_WIRE_SOCKET_H
#define RH_WIRE_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "wire/message.h"

/*
 * ZeroMQ sockets on a libuv loop. ZMQ_FD is edge-triggered and any call on the socket may swallow
 * its edge, so the descriptor only wakes the loop; the socket's own event state decides: a prepare
 * handle looks at it before the loop sleeps, a check handle handles at most RH_SOCKET_BATCH messages a
 * turn. Everything runs on the loop's thread.
 */
#define RH_SOCKET_BATCH 256

struct rh_zmq; /* a context */

RH_MUST_USE enum rh_rc rh_zmq_new(struct rh_zmq **out, struct rh_error *err);
void rh_zmq_free(struct rh_zmq *zmq); /* after all its sockets */

#define RH_PEER_SIZE_MAX 255

/* Who sent it; empty on a dealer. */
struct rh_peer {
    uint8_t size;
    uint8_t id[RH_PEER_SIZE_MAX];
};

struct rh_socket_events {
    /* message belongs to the socket and is gone after the call. */
    void (*message)(void *arg, const struct rh_peer *peer, const struct rh_message *message);
    /* Something that is no message of ours; counted too. May be NULL. kind: 0 when unknown. */
    void (*garbage)(void *arg, const struct rh_peer *peer, int kind, const struct rh_error *why);
    /* After each turn in which something was handled (commit, flush). May be NULL. */
    void (*turn)(void *arg);
    void *arg;
};

struct rh_socket;

/* ROUTER, bound to an ipc:// endpoint (others are RH_ERR_UNSUPPORTED), for its owner only. A path that
 * a live process listens on, or that is no socket, is RH_ERR_EXISTS: libzmq would take it over
 * without a word. A stale socket is replaced. */
RH_MUST_USE enum rh_rc rh_router_open(struct rh_zmq *zmq, uv_loop_t *loop, const char *endpoint,
                                      const struct rh_socket_events *events,
                                      struct rh_socket **out, struct rh_error *err);
/* DEALER, connected; `identity` is its routing id (unique per incarnation). ZMQ_IMMEDIATE. */
RH_MUST_USE enum rh_rc rh_dealer_open(struct rh_zmq *zmq, uv_loop_t *loop, const char *endpoint,
                                      const char *identity, const struct rh_socket_events *events,
                                      struct rh_socket **out, struct rh_error *err);
/* Never blocks. RH_ERR_REMOTE: no such peer or its queue is full; RH_ERR_PROTOCOL: too large. peer:
 * NULL on a dealer. */
RH_MUST_USE enum rh_rc rh_socket_send(struct rh_socket *socket, const struct rh_peer *peer,
                                      enum rh_kind kind, const ProtobufCMessage *body,
                                      struct rh_error *err);
/* Closes handles through the loop; run the loop once more before uv_loop_close(). linger_ms: how
 * long libzmq may still try to deliver what was sent. */
void rh_socket_close(struct rh_socket *socket, int linger_ms);

struct rh_socket_counters {
    uint64_t received, sent, garbage, unsendable;
};
void rh_socket_counters(const struct rh_socket *socket, struct rh_socket_counters *out);

#endif
