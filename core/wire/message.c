#include "wire/message.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

/* Unpacking multiplies: 64 KiB of empty sub-messages are 4 MiB of structures. */
#define UNPACK_MAX ((size_t)8 << 20)

#define REFERENCE_MAX 512

static const struct kind {
    const char *name;
    const ProtobufCMessageDescriptor *descriptor;
} kinds[RH_KIND_END] = {
    [RH_KIND_HELLO] = {"Hello", &rh__hello__descriptor},
    [RH_KIND_WELCOME] = {"Welcome", &rh__welcome__descriptor},
    [RH_KIND_REFUSE] = {"Refuse", &rh__refuse__descriptor},
    [RH_KIND_READY] = {"Ready", &rh__ready__descriptor},
    [RH_KIND_ASSIGN] = {"Assign", &rh__assign__descriptor},
    [RH_KIND_ACCEPT] = {"Accept", &rh__accept__descriptor},
    [RH_KIND_REJECT] = {"Reject", &rh__reject__descriptor},
    [RH_KIND_BEAT] = {"Beat", &rh__beat__descriptor},
    [RH_KIND_BEAT_ACK] = {"BeatAck", &rh__beat_ack__descriptor},
    [RH_KIND_CHECKPOINT] = {"Checkpoint", &rh__checkpoint__descriptor},
    [RH_KIND_RESULT] = {"Result", &rh__result__descriptor},
    [RH_KIND_ACK] = {"Ack", &rh__ack__descriptor},
    [RH_KIND_CANCEL] = {"Cancel", &rh__cancel__descriptor},
    [RH_KIND_DRAIN] = {"Drain", &rh__drain__descriptor},
    [RH_KIND_BYE] = {"Bye", &rh__bye__descriptor},
    [RH_KIND_TICK] = {"Tick", &rh__tick__descriptor},
    [RH_KIND_EVENT] = {"Event", &rh__event__descriptor},
};

const char *rh_kind_name(enum rh_kind kind)
{
    return kind > 0 && kind < RH_KIND_END ? kinds[kind].name : "unknown";
}

/* -- Memory of one unpacking ------------------------------------------------------------------ */

struct budget {
    size_t left;
};

static void *take(void *arg, size_t size)
{
    struct budget *b = arg;
    if (size > b->left)
        return NULL;
    b->left -= size;
    return rh_alloc(size);
}

static void give_back(void *arg, void *memory)
{
    (void)arg;
    rh_free(memory);
}

/* -- What protobuf-c does not check ----------------------------------------------------------- */

static enum rh_rc check_strings(const ProtobufCMessage *m, struct rh_error *err);

static enum rh_rc check_text(const ProtobufCFieldDescriptor *f, const char *text,
                             struct rh_error *err)
{
    if (text && !rh_utf8_valid(text, strlen(text), NULL))
        return rh_fail(err, RH_ERR_PROTOCOL, "field %s is not UTF-8", f->name);
    return RH_OK;
}

static enum rh_rc check_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
                              struct rh_error *err)
{
    const char *at = (const char *)m + f->offset;
    if (f->type == PROTOBUF_C_TYPE_STRING && f->label != PROTOBUF_C_LABEL_REPEATED) {
        const char *text = NULL;
        memcpy(&text, at, sizeof text);
        return check_text(f, text, err);
    }
    if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label != PROTOBUF_C_LABEL_REPEATED)
        return RH_OK;
    size_t count = 0;
    ProtobufCMessage **items = NULL;
    memcpy(&count, (const char *)m + f->quantifier_offset, sizeof count);
    memcpy(&items, at, sizeof items);
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < count && rc == RH_OK; i++)
        rc = check_strings(items[i], err);
    return rc;
}

static enum rh_rc check_strings(const ProtobufCMessage *m, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    /* No message can have a field 0; protobuf-c takes one that is written in two bytes. */
    for (unsigned i = 0; i < m->n_unknown_fields; i++) {
        if (m->unknown_fields[i].tag == 0)
            return rh_fail(err, RH_ERR_PROTOCOL, "a field with the number 0");
    }
    for (unsigned i = 0; i < m->descriptor->n_fields && rc == RH_OK; i++)
        rc = check_field(m, &m->descriptor->fields[i], err);
    return rc;
}

/* Relative, of bounded length, without empty parts, "." and "..". */
static bool is_clean(const char *path)
{
    if (strlen(path) > REFERENCE_MAX)
        return false;
    for (const char *part = path;; part++) {
        size_t size = strcspn(part, "/");
        if (size == 0 || (size <= 2 && strncmp(part, "..", size) == 0))
            return false;
        part += size;
        if (*part == '\0')
            return true;
    }
}

/* A path below a folder of ours. */
static enum rh_rc check_reference(const char *name, const char *path, struct rh_error *err)
{
    if (!is_clean(path))
        return rh_fail(err, RH_ERR_PROTOCOL, "%s \"%.80s\" is no path below the state directory",
                       name, path);
    return RH_OK;
}

static enum rh_rc check_assign(const Rh__Assign *a, struct rh_error *err)
{
    enum rh_rc rc = check_reference("job_dir", a->job_dir, err);
    if (rc == RH_OK)
        rc = check_reference("staging", a->staging, err);
    if (rc == RH_OK && (a->index < 0 || a->last < a->index || a->epoch <= 0))
        rc = rh_fail(err, RH_ERR_PROTOCOL, "Assign of indices %lld..%lld under epoch %lld",
                     (long long)a->index, (long long)a->last, (long long)a->epoch);
    return rc;
}

/* -- Encoding --------------------------------------------------------------------------------- */

enum rh_rc rh_message_encode(enum rh_kind kind, const ProtobufCMessage *body, struct rh_frames *out,
                             struct rh_error *err)
{
    RH_ASSERT(kind > 0 && kind < RH_KIND_END && body->descriptor == kinds[kind].descriptor);
    *out = (struct rh_frames){.header = {'R', 'H', RH_WIRE_MAJOR, (uint8_t)kind}};
    /* The peer would refuse it, and go on refusing it for as long as it is repeated. */
    enum rh_rc rc = check_strings(body, err);
    if (rc != RH_OK)
        return rh_error_prefix(err, "%s", rh_kind_name(kind));
    size_t size = protobuf_c_message_get_packed_size(body);
    if (size > RH_WIRE_BODY_MAX)
        return rh_fail(err, RH_ERR_PROTOCOL, "a %s of %zu bytes; at most %d can be sent",
                       rh_kind_name(kind), size, RH_WIRE_BODY_MAX);
    out->body = rh_alloc(size + 1);
    out->body_size = protobuf_c_message_pack(body, out->body);
    return RH_OK;
}

static enum rh_rc read_header(const uint8_t *h, size_t size, enum rh_kind *kind,
                              struct rh_error *err)
{
    if (size != RH_WIRE_HEADER_SIZE || h[0] != 'R' || h[1] != 'H')
        return rh_fail(err, RH_ERR_PROTOCOL, "a frame of %zu bytes that is no header of ours",
                       size);
    if (h[2] != RH_WIRE_MAJOR)
        return rh_fail(err, RH_ERR_PROTOCOL, "wire version %d; this program speaks %d", h[2],
                       RH_WIRE_MAJOR);
    if (h[4] || h[5] || h[6] || h[7])
        return rh_fail(err, RH_ERR_PROTOCOL, "header flags %02x%02x%02x%02x are not known", h[4],
                       h[5], h[6], h[7]);
    *kind = (enum rh_kind)h[3];
    if (h[3] == 0 || h[3] >= RH_KIND_END)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "message kind %d is not known here", h[3]);
    return RH_OK;
}

enum rh_rc rh_message_decode(const void *header, size_t header_size, const void *body,
                             size_t body_size, struct rh_message *out, struct rh_error *err)
{
    *out = (struct rh_message){0};
    enum rh_rc rc = read_header(header, header_size, &out->kind, err);
    if (rc != RH_OK)
        return rc;
    if (body_size > RH_WIRE_BODY_MAX)
        return rh_fail(err, RH_ERR_PROTOCOL, "a %s of %zu bytes", rh_kind_name(out->kind),
                       body_size);
    struct budget budget = {UNPACK_MAX};
    ProtobufCAllocator allocator = {take, give_back, &budget};
    out->body = protobuf_c_message_unpack(kinds[out->kind].descriptor, &allocator, body_size, body);
    if (!out->body)
        return rh_fail(err, RH_ERR_PROTOCOL, "a %s that cannot be read", rh_kind_name(out->kind));
    rc = check_strings(out->body, err);
    if (rc == RH_OK && out->kind == RH_KIND_ASSIGN)
        rc = check_assign((const Rh__Assign *)out->body, err);
    if (rc != RH_OK) {
        rh_message_done(out);
        return rh_error_prefix(err, "%s", rh_kind_name(out->kind));
    }
    return RH_OK;
}

void rh_message_done(struct rh_message *message)
{
    struct budget none = {0};
    ProtobufCAllocator allocator = {take, give_back, &none};
    if (message->body)
        protobuf_c_message_free_unpacked(message->body, &allocator);
    message->body = NULL;
}

enum rh_rc rh_proto_negotiate(uint32_t peer_min, uint32_t peer_max, uint32_t *out,
                              struct rh_error *err)
{
    uint32_t low = peer_min > RH_PROTO_MIN ? peer_min : RH_PROTO_MIN;
    uint32_t high = peer_max < RH_PROTO_MAX ? peer_max : RH_PROTO_MAX;
    if (low > high)
        return rh_fail(err, RH_ERR_PROTOCOL,
                       "no common protocol: this side speaks %d to %d, the peer %u to %u; update "
                       "the older one",
                       RH_PROTO_MIN, RH_PROTO_MAX, peer_min, peer_max);
    *out = high;
    return RH_OK;
}
