#include "base/git_hash.h"

#include <openssl/evp.h>
#include <stdio.h>

#include "base/mem.h"

#define DIGEST_SIZE 20

struct rh_git_hash {
    EVP_MD_CTX *ctx;
};

struct rh_git_hash *rh_git_hash_new(uint64_t size)
{
    char head[40];
    struct rh_git_hash *h = rh_alloc(sizeof *h);
    h->ctx = EVP_MD_CTX_new();
    RH_ASSERT(h->ctx && EVP_DigestInit_ex(h->ctx, EVP_sha1(), NULL) == 1);
    int length = snprintf(head, sizeof head, "blob %llu", (unsigned long long)size);
    rh_git_hash_update(h, head, (size_t)length + 1); /* the NUL is part of it */
    return h;
}

void rh_git_hash_update(struct rh_git_hash *h, const void *data, size_t size)
{
    RH_ASSERT(EVP_DigestUpdate(h->ctx, data, size) == 1);
}

void rh_git_hash_finish(struct rh_git_hash *h, char out[RH_GIT_HASH_HEX_SIZE])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    RH_ASSERT(EVP_DigestFinal_ex(h->ctx, digest, NULL) == 1);
    for (int i = 0; i < DIGEST_SIZE; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void rh_git_hash_free(struct rh_git_hash *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    rh_free(h);
}
