#ifndef RH_PARQUET_SOURCE_H
#define RH_PARQUET_SOURCE_H

#include <stdint.h>

#include "base/error.h"

/* Private to the library: a file, or bytes in memory. */
struct source {
    char *path;
    int fd;               /* -1: bytes */
    const uint8_t *bytes; /* borrowed */
    uint64_t size;
};

RH_MUST_USE enum rh_rc source_open(struct source *s, const char *path, struct rh_error *err);
void source_bytes(struct source *s, const void *bytes, uint64_t size, const char *what);
void source_close(struct source *s);
/* The range must lie inside. */
RH_MUST_USE enum rh_rc source_read(const struct source *s, uint64_t at, uint64_t size, void *out,
                                   struct rh_error *err);

#endif
