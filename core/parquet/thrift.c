#include "thrift.h"

#define DEPTH_MAX 32

struct thrift thrift_from(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    return (struct thrift){.at = at, .end = at + size};
}

static void fail(struct thrift *t)
{
    t->failed = true;
    t->at = t->end;
}

static uint8_t byte(struct thrift *t)
{
    if (t->at == t->end) {
        fail(t);
        return 0;
    }
    return *t->at++;
}

static uint64_t varint(struct thrift *t)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t b = byte(t);
        value |= (uint64_t)(b & 0x7FU) << shift;
        if (b < 0x80)
            return t->failed ? 0 : value;
    }
    fail(t);
    return 0;
}

static int64_t zigzag(struct thrift *t)
{
    uint64_t n = varint(t);
    return (int64_t)(n >> 1) ^ -(int64_t)(n & 1);
}

bool thrift_next(struct thrift *t, struct thrift_field *field)
{
    uint8_t head = byte(t);
    if (t->failed || head == THRIFT_STOP)
        return false;
    int64_t id = head >> 4 ? field->id + (head >> 4) : zigzag(t);
    field->id = (int16_t)id;
    field->type = head & 0x0F;
    if (id < 0 || id > INT16_MAX || field->type < THRIFT_TRUE || field->type > THRIFT_STRUCT)
        fail(t);
    return !t->failed;
}

int64_t thrift_int(struct thrift *t, const struct thrift_field *field)
{
    switch (field->type) {
    case THRIFT_TRUE:
        return 1;
    case THRIFT_FALSE:
        return 0;
    case THRIFT_BYTE:
        return (int8_t)byte(t);
    case THRIFT_I16:
    case THRIFT_I32:
    case THRIFT_I64:
        return zigzag(t);
    default:
        fail(t);
        return 0;
    }
}

const char *thrift_binary(struct thrift *t, enum thrift_type type, size_t *size)
{
    uint64_t n = type == THRIFT_BINARY ? varint(t) : 0;
    *size = 0;
    if (type != THRIFT_BINARY || n > (uint64_t)(t->end - t->at)) {
        fail(t);
        return "";
    }
    const char *bytes = (const char *)t->at;
    t->at += n;
    *size = (size_t)n;
    return bytes;
}

static uint32_t list_head(struct thrift *t, enum thrift_type *element)
{
    uint8_t head = byte(t);
    uint64_t count = head >> 4 == 15 ? varint(t) : head >> 4;
    *element = head & 0x0F;
    /* Every element takes a byte at least. */
    if (count > (uint64_t)(t->end - t->at) || count > INT32_MAX)
        fail(t);
    return t->failed ? 0 : (uint32_t)count;
}

uint32_t thrift_list(struct thrift *t, const struct thrift_field *field, enum thrift_type element)
{
    enum thrift_type found = THRIFT_STOP;
    uint32_t count = field->type == THRIFT_LIST ? list_head(t, &found) : 0;
    if (field->type != THRIFT_LIST || (count > 0 && found != element)) {
        fail(t);
        return 0;
    }
    return count;
}

/* In lists and maps a boolean is a byte of its own; in structs it hides in the field's head. */
static void skip_element(struct thrift *t, enum thrift_type type)
{
    if (type == THRIFT_TRUE || type == THRIFT_FALSE)
        byte(t);
    else
        thrift_skip(t, type);
}

static void skip_list(struct thrift *t)
{
    enum thrift_type element = THRIFT_STOP;
    for (uint32_t n = list_head(t, &element); n > 0 && !t->failed; n--)
        skip_element(t, element);
}

static void skip_map(struct thrift *t)
{
    uint64_t count = varint(t);
    if (count == 0)
        return;
    uint8_t types = byte(t);
    for (; count > 0 && !t->failed; count--) {
        skip_element(t, types >> 4);
        skip_element(t, types & 0x0F);
    }
}

static void skip_struct(struct thrift *t)
{
    struct thrift_field field = {0};
    while (thrift_next(t, &field))
        thrift_skip(t, field.type);
}

void thrift_skip(struct thrift *t, enum thrift_type type)
{
    size_t size = 0;
    if (++t->depth > DEPTH_MAX)
        fail(t);
    switch (type) {
    case THRIFT_TRUE:
    case THRIFT_FALSE:
        break;
    case THRIFT_BYTE:
        byte(t);
        break;
    case THRIFT_I16:
    case THRIFT_I32:
    case THRIFT_I64:
        varint(t);
        break;
    case THRIFT_DOUBLE:
        for (int i = 0; i < 8; i++)
            byte(t);
        break;
    case THRIFT_BINARY:
        thrift_binary(t, type, &size);
        break;
    case THRIFT_LIST:
    case THRIFT_SET:
        skip_list(t);
        break;
    case THRIFT_MAP:
        skip_map(t);
        break;
    case THRIFT_STRUCT:
        skip_struct(t);
        break;
    default:
        fail(t);
    }
    t->depth--;
}
