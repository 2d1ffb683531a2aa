#ifndef RH_WIRE_MESSAGE_H
#define RH_WIRE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "proto/roundhouse.pb-c.h"

/*
 * A message on a socket is two frames: a header of 8 bytes (magic "RH", wire major, kind, flags and
 * a reserved word, both 0) and one protobuf message of the kind. The header is checked before a byte
 * of protobuf is parsed. Strings are checked for UTF-8, references for being relative and clean.
 */
#define RH_WIRE_MAJOR       1
#define RH_PROTO_MIN        1
#define RH_PROTO_MAX        2
#define RH_WIRE_HEADER_SIZE 8
/* Larger bodies are refused on both sides: a sender learns it here, libzmq would only disconnect. */
#define RH_WIRE_BODY_MAX (64 * 1024)

enum rh_kind {
    RH_KIND_HELLO = 1,
    RH_KIND_WELCOME,
    RH_KIND_REFUSE,
    RH_KIND_READY,
    RH_KIND_ASSIGN,
    RH_KIND_ACCEPT,
    RH_KIND_REJECT,
    RH_KIND_BEAT,
    RH_KIND_BEAT_ACK,
    RH_KIND_CHECKPOINT,
    RH_KIND_RESULT,
    RH_KIND_ACK,
    RH_KIND_CANCEL,
    RH_KIND_DRAIN,
    RH_KIND_BYE,
    RH_KIND_TICK,
    RH_KIND_EVENT,
    RH_KIND_END,
};

const char *rh_kind_name(enum rh_kind kind); /* "Hello" */

struct rh_message {
    enum rh_kind kind;
    ProtobufCMessage *body; /* cast to the kind's type, e.g. (const Rh__Hello *) */
};

/* An encoded message; rh_free(body). */
struct rh_frames {
    uint8_t header[RH_WIRE_HEADER_SIZE];
    uint8_t *body;
    size_t body_size;
};

/* The body's type must be that of the kind (asserted). RH_ERR_PROTOCOL when it is too large. */
RH_MUST_USE enum rh_rc rh_message_encode(enum rh_kind kind, const ProtobufCMessage *body,
                                         struct rh_frames *out, struct rh_error *err);
/* Hostile input. RH_ERR_PROTOCOL: bad magic, wire major, flags or body; RH_ERR_UNSUPPORTED: a kind
 * that this version does not know (out->kind is set, the body is NULL). Memory per message is capped. */
RH_MUST_USE enum rh_rc rh_message_decode(const void *header, size_t header_size, const void *body,
                                         size_t body_size, struct rh_message *out,
                                         struct rh_error *err);
void rh_message_done(struct rh_message *message);

/* The highest protocol both sides speak; RH_ERR_PROTOCOL naming both ranges when there is none. */
RH_MUST_USE enum rh_rc rh_proto_negotiate(uint32_t peer_min, uint32_t peer_max, uint32_t *out,
                                          struct rh_error *err);

#endif
