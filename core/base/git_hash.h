#ifndef RH_BASE_GIT_HASH_H
#define RH_BASE_GIT_HASH_H

#include <stddef.h>
#include <stdint.h>

#define RH_GIT_HASH_HEX_SIZE 41 /* 40 digits and the NUL */

/* The name that git gives to a file: SHA-1 of "blob <size>", a NUL, and the content. */
struct rh_git_hash;

struct rh_git_hash *rh_git_hash_new(uint64_t size); /* of the whole content */
void rh_git_hash_update(struct rh_git_hash *h, const void *data, size_t size);
/* h may then only be freed. */
void rh_git_hash_finish(struct rh_git_hash *h, char out[RH_GIT_HASH_HEX_SIZE]);
void rh_git_hash_free(struct rh_git_hash *h);

#endif
