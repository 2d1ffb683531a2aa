#ifndef RH_HARNESS_LINK_INTERNAL_H
#define RH_HARNESS_LINK_INTERNAL_H

#include <uv.h>

#include "link.h"
#include "task.h"
#include "wire/socket.h"

/* An attempt whose result the orchestrator has acknowledged. */
struct rh_settled {
    int64_t task, epoch;
};

#define RH_SETTLED_MAX 64

struct rh_link {
    const struct rh_stage *stage;
    struct rh_link_options options;
    uint64_t incarnation;
    uv_loop_t loop;
    uv_timer_t timer;
    uv_async_t wake;
    uv_signal_t terminate, interrupt;
    struct rh_zmq *zmq;
    struct rh_socket *socket;
    struct rh_task *tasks;
    struct rh_settled settled[RH_SETTLED_MAX]; /* a ring of the last ones of this session */
    size_t settled_count;
    bool welcomed, draining, stopping;
    bool refused; /* failure says why; nothing more is said */
    uint64_t session, orch_epoch;
    char *factory;
    int64_t beat_ms, beat_at, hello_at, draining_since;
    int64_t grace_ms; /* of the drain */
    int64_t heard_by; /* draining: acknowledgements are waited for until then */
    int beats_unanswered;
    struct rh_error failure;
};

int64_t rh_link_now(void); /* milliseconds, monotonic */
size_t rh_link_running(const struct rh_link *link);
void rh_link_send(struct rh_link *link, enum rh_kind kind, const ProtobufCMessage *body);
void rh_link_hello(struct rh_link *link);
void rh_link_ready(struct rh_link *link);
void rh_link_drain(struct rh_link *link);
void rh_link_fail(struct rh_link *link, const struct rh_error *why);
void rh_link_wake(void *link);
/* link_tasks.c: what was said to us, and what is to be delivered. */
void rh_link_message(void *link, const struct rh_peer *peer, const struct rh_message *message);
void rh_link_garbage(void *link, const struct rh_peer *peer, int kind, const struct rh_error *why);
void rh_link_deliver(struct rh_link *link, int64_t now);

#endif
