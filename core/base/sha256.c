#include "base/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "base/mem.h"

enum { READ_BYTES = 1 << 20 };

struct rh_sha256 {
    EVP_MD_CTX *ctx;
};

struct rh_sha256 *rh_sha256_new(void)
{
    struct rh_sha256 *h = rh_alloc(sizeof(*h));
    h->ctx = EVP_MD_CTX_new();
    RH_ASSERT(h->ctx && EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) == 1);
    return h;
}

void rh_sha256_update(struct rh_sha256 *h, const void *data, size_t size)
{
    RH_ASSERT(EVP_DigestUpdate(h->ctx, data, size) == 1);
}

void rh_sha256_finish(struct rh_sha256 *h, uint8_t out[32])
{
    RH_ASSERT(EVP_DigestFinal_ex(h->ctx, out, NULL) == 1);
}

void rh_sha256_free(struct rh_sha256 *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    rh_free(h);
}

void rh_sha256_hex(const uint8_t digest[32], char out[RH_SHA256_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[64] = '\0';
}

void rh_sha256_of(const void *data, size_t size, char out[RH_SHA256_HEX_SIZE])
{
    uint8_t digest[32];
    struct rh_sha256 *h = rh_sha256_new();
    rh_sha256_update(h, data, size);
    rh_sha256_finish(h, digest);
    rh_sha256_free(h);
    rh_sha256_hex(digest, out);
}

enum rh_rc rh_sha256_file(const char *path, char out[RH_SHA256_HEX_SIZE], uint64_t *out_size,
                          struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    struct rh_sha256 *h = NULL;
    void *buffer = NULL;
    uint64_t total = 0;
    uint8_t digest[32];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not open %s", path);
    rc = rh_try_alloc(READ_BYTES, path, &buffer, err);
    if (rc)
        goto out;
    h = rh_sha256_new();
    for (;;) {
        ssize_t n = read(fd, buffer, READ_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = rh_fail_errno(err, errno, "could not read %s", path);
            goto out;
        }
        if (n == 0)
            break;
        rh_sha256_update(h, buffer, (size_t)n);
        total += (uint64_t)n;
    }
    rh_sha256_finish(h, digest);
    rh_sha256_hex(digest, out);
    if (out_size)
        *out_size = total;
out:
    rh_sha256_free(h);
    rh_free(buffer);
    close(fd);
    return rc;
}
