#include "stranger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static void on_answer(void *arg, const struct rh_peer *peer, const struct rh_message *message)
{
    struct stranger *s = arg;
    (void)peer;
    s->answer = message->kind;
    const void *body = message->body;
    if (message->kind == RH_KIND_REFUSE) {
        s->code = (int)((const Rh__Refuse *)body)->code;
        snprintf(s->text, sizeof s->text, "%s", ((const Rh__Refuse *)body)->text);
    } else if (message->kind == RH_KIND_ACK) {
        s->code = (int)((const Rh__Ack *)body)->verdict;
    } else if (message->kind == RH_KIND_WELCOME) {
        s->session = ((const Rh__Welcome *)body)->session;
        s->proto = ((const Rh__Welcome *)body)->proto;
    } else if (message->kind == RH_KIND_ASSIGN) {
        const Rh__Assign *a = body;
        s->task = a->task;
        s->epoch = a->epoch;
        snprintf(s->staging, sizeof s->staging, "%s/%s", a->job_dir, a->staging);
    }
}

void stranger_open(struct house *h, struct stranger *s, const char *identity)
{
    struct rh_error err;
    const struct rh_socket_events events = {.message = on_answer, .arg = s};
    char *endpoint = rh_format("ipc://%s/run/work.sock", h->state);
    *s = (struct stranger){0};
    assert_int_equal(rh_zmq_new(&s->zmq, &err), RH_OK);
    assert_int_equal(
        rh_dealer_open(s->zmq, &h->loop, endpoint, identity, &events, &s->socket, &err), RH_OK);
    rh_free(endpoint);
}

void stranger_close(struct house *h, struct stranger *s)
{
    rh_socket_close(s->socket, 0);
    uv_run(&h->loop, UV_RUN_NOWAIT);
    rh_zmq_free(s->zmq);
}

static bool has_answer(struct house *h, void *arg)
{
    (void)h;
    return ((struct stranger *)arg)->answer != 0;
}

struct saying {
    struct stranger *stranger;
    enum rh_kind kind;
    const ProtobufCMessage *body;
};

/* A dealer that is not connected yet takes nothing. */
static bool is_sent(struct house *h, void *arg)
{
    const struct saying *s = arg;
    (void)h;
    return rh_socket_send(s->stranger->socket, NULL, s->kind, s->body, NULL) == RH_OK;
}

void stranger_say(struct house *h, struct stranger *s, enum rh_kind kind,
                  const ProtobufCMessage *body)
{
    struct saying saying = {s, kind, body};
    s->answer = (enum rh_kind)0;
    house_wait(h, is_sent, &saying, 10);
    house_wait(h, has_answer, s, 10);
}

Rh__Hello stranger_hello(uint64_t incarnation)
{
    static char name[] = "visitor", stage[] = "pack", host[] = "here";
    Rh__Hello m = RH__HELLO__INIT;
    m.proto_min = RH_PROTO_MIN;
    m.proto_max = RH_PROTO_MAX;
    m.worker = name;
    m.stage = stage;
    m.host = host;
    m.slots = 1;
    m.pid = 77;
    m.incarnation = incarnation;
    return m;
}

struct awaited {
    const struct stranger *stranger;
    enum rh_kind kind;
};

static bool has_come(struct house *h, void *arg)
{
    const struct awaited *a = arg;
    (void)h;
    return a->stranger->answer == a->kind;
}

void stranger_await(struct house *h, struct stranger *s, enum rh_kind kind)
{
    struct awaited awaited = {s, kind};
    house_wait(h, has_come, &awaited, 20);
}
