#ifndef RH_PARQUET_THRIFT_H
#define RH_PARQUET_THRIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Private to the library: Thrift's compact protocol (thrift-compact-protocol.md of apache/thrift).
 * After the first mistake in the input `failed` is set, every number is 0 and every field is the
 * last, so that callers check once, at the end.
 */
struct thrift {
    const uint8_t *at, *end;
    int depth;
    bool failed;
};

enum thrift_type {
    THRIFT_STOP = 0,
    THRIFT_TRUE = 1,
    THRIFT_FALSE = 2,
    THRIFT_BYTE = 3,
    THRIFT_I16 = 4,
    THRIFT_I32 = 5,
    THRIFT_I64 = 6,
    THRIFT_DOUBLE = 7,
    THRIFT_BINARY = 8,
    THRIFT_LIST = 9,
    THRIFT_SET = 10,
    THRIFT_MAP = 11,
    THRIFT_STRUCT = 12,
};

struct thrift_field {
    int16_t id;
    enum thrift_type type;
};

struct thrift thrift_from(const void *bytes, size_t size);
/* Zero-initialise the field before the first call of a struct. False at the end of the struct. */
bool thrift_next(struct thrift *t, struct thrift_field *field);
/* An integer field of any width; a boolean counts as 0 or 1. Fails for other types. */
int64_t thrift_int(struct thrift *t, const struct thrift_field *field);
/* Bytes of a binary field, inside the input. */
const char *thrift_binary(struct thrift *t, enum thrift_type type, size_t *size);
/* Elements of a list, which must be of the type; each is read or skipped by the caller. */
uint32_t thrift_list(struct thrift *t, const struct thrift_field *field, enum thrift_type element);
void thrift_skip(struct thrift *t, enum thrift_type type);

#endif
