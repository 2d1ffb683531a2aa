#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "wire/message.h"

static const ProtobufCMessageDescriptor *const types[RH_KIND_END] = {
    [RH_KIND_HELLO] = &rh__hello__descriptor,
    [RH_KIND_WELCOME] = &rh__welcome__descriptor,
    [RH_KIND_REFUSE] = &rh__refuse__descriptor,
    [RH_KIND_READY] = &rh__ready__descriptor,
    [RH_KIND_ASSIGN] = &rh__assign__descriptor,
    [RH_KIND_ACCEPT] = &rh__accept__descriptor,
    [RH_KIND_REJECT] = &rh__reject__descriptor,
    [RH_KIND_BEAT] = &rh__beat__descriptor,
    [RH_KIND_BEAT_ACK] = &rh__beat_ack__descriptor,
    [RH_KIND_CHECKPOINT] = &rh__checkpoint__descriptor,
    [RH_KIND_RESULT] = &rh__result__descriptor,
    [RH_KIND_ACK] = &rh__ack__descriptor,
    [RH_KIND_CANCEL] = &rh__cancel__descriptor,
    [RH_KIND_DRAIN] = &rh__drain__descriptor,
    [RH_KIND_BYE] = &rh__bye__descriptor,
    [RH_KIND_TICK] = &rh__tick__descriptor,
    [RH_KIND_EVENT] = &rh__event__descriptor,
};

static const uint8_t *header_of(enum rh_kind kind)
{
    static uint8_t header[RH_WIRE_HEADER_SIZE];
    memcpy(header, (const uint8_t[]){'R', 'H', RH_WIRE_MAJOR, (uint8_t)kind, 0, 0, 0, 0},
           sizeof header);
    return header;
}

static enum rh_rc decode(enum rh_kind kind, const void *body, size_t size, struct rh_message *out,
                         struct rh_error *err)
{
    return rh_message_decode(header_of(kind), RH_WIRE_HEADER_SIZE, body, size, out, err);
}

/* -- Round trips ------------------------------------------------------------------------------ */

/* A message of the type in which scalar field i has a value made from i. */
static ProtobufCMessage *filled(const ProtobufCMessageDescriptor *type, char *text)
{
    ProtobufCMessage *m = rh_alloc(type->sizeof_message);
    protobuf_c_message_init(type, m);
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &type->fields[i];
        char *at = (char *)m + f->offset;
        const double number = 1.5 + i;
        const uint64_t whole = 77 + i;
        if (f->type == PROTOBUF_C_TYPE_STRING && f->label != PROTOBUF_C_LABEL_REPEATED)
            memcpy(at, &text, sizeof text);
        else if (f->type == PROTOBUF_C_TYPE_DOUBLE)
            memcpy(at, &number, sizeof number);
        else if (f->type == PROTOBUF_C_TYPE_INT64 || f->type == PROTOBUF_C_TYPE_UINT64)
            memcpy(at, &whole, sizeof whole);
        else if (f->type == PROTOBUF_C_TYPE_UINT32 || f->type == PROTOBUF_C_TYPE_ENUM)
            memcpy(at, &(uint32_t){1}, sizeof(uint32_t));
        else if (f->type == PROTOBUF_C_TYPE_BOOL)
            memcpy(at, &(protobuf_c_boolean){1}, sizeof(protobuf_c_boolean));
    }
    return m;
}

static void every_kind_comes_back_as_it_was(void **state)
{
    char text[] = "jobs-\xc3\xa9";
    (void)state;
    for (int kind = RH_KIND_HELLO; kind < RH_KIND_END; kind++) {
        struct rh_frames frames;
        struct rh_message back;
        ProtobufCMessage *m = filled(types[kind], text);
        assert_int_equal(rh_message_encode((enum rh_kind)kind, m, &frames, NULL), RH_OK);
        assert_true(frames.body_size > 0);
        assert_int_equal(rh_message_decode(frames.header, sizeof frames.header, frames.body,
                                           frames.body_size, &back, NULL),
                         RH_OK);
        assert_int_equal(back.kind, kind);
        assert_ptr_equal(back.body->descriptor, types[kind]);
        uint8_t *again = rh_alloc(frames.body_size + 1);
        assert_int_equal(protobuf_c_message_get_packed_size(back.body), frames.body_size);
        protobuf_c_message_pack(back.body, again);
        assert_memory_equal(again, frames.body, frames.body_size);
        assert_string_equal(rh_kind_name((enum rh_kind)kind), types[kind]->short_name);
        rh_message_done(&back);
        rh_free(again);
        rh_free(frames.body);
        rh_free(m);
    }
    assert_string_equal(rh_kind_name((enum rh_kind)0), "unknown");
    assert_string_equal(rh_kind_name(RH_KIND_END), "unknown");
}

static void leases_travel_inside_a_beat(void **state)
{
    struct rh_frames frames;
    struct rh_message back;
    Rh__Lease leases[2] = {RH__LEASE__INIT, RH__LEASE__INIT};
    Rh__Lease *held[] = {&leases[0], &leases[1]};
    Rh__Beat beat = RH__BEAT__INIT;
    char phase[] = "block 3";
    (void)state;
    leases[1].task = -5;
    leases[1].phase = phase;
    leases[1].done = 0.25;
    beat.held = held;
    beat.n_held = 2;
    assert_int_equal(rh_message_encode(RH_KIND_BEAT, &beat.base, &frames, NULL), RH_OK);
    assert_int_equal(decode(RH_KIND_BEAT, frames.body, frames.body_size, &back, NULL), RH_OK);
    const Rh__Beat *b = (const Rh__Beat *)(const void *)back.body;
    assert_int_equal(b->n_held, 2);
    assert_int_equal(b->held[1]->task, -5);
    assert_string_equal(b->held[1]->phase, "block 3");
    assert_true(b->held[1]->done == 0.25);
    rh_message_done(&back);
    rh_free(frames.body);
}

static void fields_of_a_later_version_are_passed_over(void **state)
{
    /* Field 15, varint 1; then task = 9. */
    const uint8_t body[] = {0x78, 0x01, 0x08, 0x09};
    struct rh_message back;
    (void)state;
    assert_int_equal(decode(RH_KIND_ACCEPT, body, sizeof body, &back, NULL), RH_OK);
    assert_int_equal(((const Rh__Accept *)(const void *)back.body)->task, 9);
    rh_message_done(&back);
}

/* -- Hostile input ---------------------------------------------------------------------------- */

static void a_foreign_header_is_refused(void **state)
{
    struct rh_message back;
    struct rh_error err;
    (void)state;
    for (size_t i = 0; i < RH_WIRE_HEADER_SIZE; i++) {
        uint8_t header[RH_WIRE_HEADER_SIZE];
        memcpy(header, header_of(RH_KIND_READY), sizeof header);
        if (i == 3)
            continue;
        header[i] ^= 0x10;
        assert_int_equal(rh_message_decode(header, sizeof header, "", 0, &back, &err),
                         RH_ERR_PROTOCOL);
        assert_null(back.body);
    }
    for (size_t size = 0; size < RH_WIRE_HEADER_SIZE; size++)
        assert_int_equal(rh_message_decode(header_of(RH_KIND_READY), size, "", 0, &back, &err),
                         RH_ERR_PROTOCOL);
    const uint8_t longer[] = {'R', 'H', RH_WIRE_MAJOR, RH_KIND_READY, 0, 0, 0, 0, 0};
    assert_int_equal(rh_message_decode(longer, sizeof longer, "", 0, &back, &err), RH_ERR_PROTOCOL);
}

static void an_unknown_kind_is_named(void **state)
{
    static const uint8_t unknown[] = {0, RH_KIND_END, 200, 255};
    struct rh_message back;
    struct rh_error err;
    (void)state;
    for (size_t i = 0; i < sizeof unknown; i++) {
        assert_int_equal(decode((enum rh_kind)unknown[i], "", 0, &back, &err), RH_ERR_UNSUPPORTED);
        assert_int_equal(back.kind, unknown[i]);
        assert_null(back.body);
    }
}

static void a_body_is_64_kib_at_most_on_both_sides(void **state)
{
    struct rh_frames frames;
    struct rh_message back;
    struct rh_error err;
    Rh__Result result = RH__RESULT__INIT;
    (void)state;
    /* One byte of tag and three of length come on top. */
    char *meta = rh_alloc(RH_WIRE_BODY_MAX + 1);
    memset(meta, 'x', RH_WIRE_BODY_MAX - 4);
    result.meta = meta;
    assert_int_equal(rh_message_encode(RH_KIND_RESULT, &result.base, &frames, &err), RH_OK);
    assert_int_equal(frames.body_size, RH_WIRE_BODY_MAX);
    assert_int_equal(decode(RH_KIND_RESULT, frames.body, frames.body_size, &back, &err), RH_OK);
    rh_message_done(&back);
    rh_free(frames.body);
    meta[RH_WIRE_BODY_MAX - 4] = 'x';
    assert_int_equal(rh_message_encode(RH_KIND_RESULT, &result.base, &frames, &err),
                     RH_ERR_PROTOCOL);
    assert_non_null(strstr(err.message, "65537"));
    uint8_t *body = rh_alloc(RH_WIRE_BODY_MAX + 1);
    protobuf_c_message_pack(&result.base, body);
    assert_int_equal(decode(RH_KIND_RESULT, body, RH_WIRE_BODY_MAX + 1, &back, &err),
                     RH_ERR_PROTOCOL);
    rh_free(body);
    rh_free(meta);
}

static void unpacking_takes_bounded_memory(void **state)
{
    struct rh_message back;
    struct rh_error err;
    uint8_t *body = rh_alloc(RH_WIRE_BODY_MAX);
    (void)state;
    /* Beat.held, of no bytes: the densest amplification that the schema has. */
    for (size_t i = 0; i < RH_WIRE_BODY_MAX; i += 2)
        body[i] = 0x12;
    size_t before = mallinfo2().uordblks;
    enum rh_rc rc = decode(RH_KIND_BEAT, body, RH_WIRE_BODY_MAX, &back, &err);
    size_t taken = mallinfo2().uordblks - before;
    assert_true(rc == RH_OK || rc == RH_ERR_PROTOCOL);
    assert_true(taken < (size_t)12 << 20);
    rh_message_done(&back);
    rh_free(body);
}

static void malformed_bodies_are_refused(void **state)
{
    static const struct {
        uint8_t size, bytes[6];
    } bodies[] = {
        {1, {0x08}},       /* a field without its value */
        {2, {0x0a, 0x7f}}, /* a length beyond the end */
        {6, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f}},
        {2, {0x07, 0x00}},                   /* a wire type that does not exist */
        {5, {0x78, 0x01, 0x12, 0x7f, 0x00}}, /* after an unknown field */
    };
    struct rh_message back;
    struct rh_error err;
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        assert_int_equal(decode(RH_KIND_REJECT, bodies[i].bytes, bodies[i].size, &back, &err),
                         RH_ERR_PROTOCOL);
        assert_null(back.body);
    }
}

static void text_must_be_utf8_at_any_depth(void **state)
{
    const uint8_t why[] = {0x1a, 0x02, 0xc3, 0x28};               /* Reject.why */
    const uint8_t phase[] = {0x12, 0x04, 0x2a, 0x02, 0xc3, 0x28}; /* Beat.held.phase */
    struct rh_message back;
    struct rh_frames frames;
    struct rh_error err;
    (void)state;
    assert_int_equal(decode(RH_KIND_REJECT, why, sizeof why, &back, &err), RH_ERR_PROTOCOL);
    assert_non_null(strstr(err.message, "why"));
    assert_int_equal(decode(RH_KIND_BEAT, phase, sizeof phase, &back, &err), RH_ERR_PROTOCOL);
    assert_non_null(strstr(err.message, "phase"));
    char bad[] = "caf\xc3";
    Rh__Reject reject = RH__REJECT__INIT;
    reject.why = bad;
    assert_int_equal(rh_message_encode(RH_KIND_REJECT, &reject.base, &frames, &err),
                     RH_ERR_PROTOCOL);
}

static enum rh_rc pass_assign(const char *job_dir, const char *staging)
{
    struct rh_frames frames;
    struct rh_message back;
    struct rh_error err;
    Rh__Assign a = RH__ASSIGN__INIT;
    a.epoch = 1;
    a.job_dir = (char *)(uintptr_t)job_dir;
    a.staging = (char *)(uintptr_t)staging;
    assert_int_equal(rh_message_encode(RH_KIND_ASSIGN, &a.base, &frames, &err), RH_OK);
    enum rh_rc rc = decode(RH_KIND_ASSIGN, frames.body, frames.body_size, &back, &err);
    rh_message_done(&back);
    rh_free(frames.body);
    return rc;
}

static void references_stay_below_their_folder(void **state)
{
    static const char *const bad[] = {"",     "/etc", "..",  "../x", "a/..", "a/../b",
                                      "a//b", "a/",   "./a", "a/.",  "."};
    (void)state;
    assert_int_equal(pass_assign("jobs/j1", "staging/tune-00000.3"), RH_OK);
    assert_int_equal(pass_assign("..j/x..", "..."), RH_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(pass_assign(bad[i], "s"), RH_ERR_PROTOCOL);
        assert_int_equal(pass_assign("j", bad[i]), RH_ERR_PROTOCOL);
    }
    char longest[600];
    memset(longest, 'a', sizeof longest - 1);
    longest[512] = '\0';
    assert_int_equal(pass_assign(longest, "s"), RH_OK);
    longest[512] = 'a';
    longest[513] = '\0';
    assert_int_equal(pass_assign(longest, "s"), RH_ERR_PROTOCOL);
}

static void the_highest_common_protocol_is_chosen(void **state)
{
    uint32_t chosen = 0;
    struct rh_error err;
    (void)state;
    assert_int_equal(rh_proto_negotiate(1, 9, &chosen, &err), RH_OK);
    assert_int_equal(chosen, RH_PROTO_MAX);
    assert_int_equal(rh_proto_negotiate(0, RH_PROTO_MAX, &chosen, &err), RH_OK);
    assert_int_equal(rh_proto_negotiate(RH_PROTO_MAX + 1, RH_PROTO_MAX + 3, &chosen, &err),
                     RH_ERR_PROTOCOL);
    char range[32];
    snprintf(range, sizeof range, "%d to %d", RH_PROTO_MAX + 1, RH_PROTO_MAX + 3);
    assert_non_null(strstr(err.message, range));
    assert_int_equal(rh_proto_negotiate(0, 0, &chosen, &err), RH_ERR_PROTOCOL);
    assert_int_equal(rh_proto_negotiate(2, 1, &chosen, &err), RH_ERR_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_comes_back_as_it_was),
        cmocka_unit_test(leases_travel_inside_a_beat),
        cmocka_unit_test(fields_of_a_later_version_are_passed_over),
        cmocka_unit_test(a_foreign_header_is_refused),
        cmocka_unit_test(an_unknown_kind_is_named),
        cmocka_unit_test(a_body_is_64_kib_at_most_on_both_sides),
        cmocka_unit_test(unpacking_takes_bounded_memory),
        cmocka_unit_test(malformed_bodies_are_refused),
        cmocka_unit_test(text_must_be_utf8_at_any_depth),
        cmocka_unit_test(references_stay_below_their_folder),
        cmocka_unit_test(the_highest_common_protocol_is_chosen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
