#ifndef RH_BASE_SHA256_H
#define RH_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define RH_SHA256_HEX_SIZE 65 /* 64 digits and the NUL */

struct rh_sha256;

struct rh_sha256 *rh_sha256_new(void);
void rh_sha256_update(struct rh_sha256 *h, const void *data, size_t size);
void rh_sha256_finish(struct rh_sha256 *h, uint8_t out[32]); /* h may then only be freed */
void rh_sha256_free(struct rh_sha256 *h);

void rh_sha256_hex(const uint8_t digest[32], char out[RH_SHA256_HEX_SIZE]);
void rh_sha256_of(const void *data, size_t size, char out[RH_SHA256_HEX_SIZE]);
RH_MUST_USE enum rh_rc rh_sha256_file(const char *path, char out[RH_SHA256_HEX_SIZE],
                                      uint64_t *out_size, struct rh_error *err);

#endif
