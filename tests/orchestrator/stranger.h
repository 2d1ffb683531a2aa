#ifndef RH_TESTS_ORCHESTRATOR_STRANGER_H
#define RH_TESTS_ORCHESTRATOR_STRANGER_H

#include "house.h"
#include "wire/socket.h"

/* A worker by hand on the work socket of a house. */
struct stranger {
    struct rh_zmq *zmq;
    struct rh_socket *socket;
    enum rh_kind answer;
    int code; /* of a Refuse, verdict of an Ack */
    uint64_t session;
    char text[256];
    uint32_t proto;      /* of a Welcome */
    int64_t task, epoch; /* of an Assign */
    char staging[512];   /* of an Assign: below the state directory */
};

void stranger_open(struct house *h, struct stranger *s, const char *identity);
void stranger_close(struct house *h, struct stranger *s);
/* Sends, and waits for whatever comes next. */
void stranger_say(struct house *h, struct stranger *s, enum rh_kind kind,
                  const ProtobufCMessage *body);
/* Waits for an answer of that kind. */
void stranger_await(struct house *h, struct stranger *s, enum rh_kind kind);
/* A good one, of a pack stage. */
Rh__Hello stranger_hello(uint64_t incarnation);

#endif
