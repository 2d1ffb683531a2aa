#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "kinds.h"

#define CHUNK     ((size_t)1 << 20)
#define PIECE_MAX ((uint64_t)256 << 20)

enum rh_rc rh_pieces_add(struct rh_pieces *p, struct rh_piece piece, struct rh_error *err)
{
    if ((size_t)p->count == p->capacity) {
        size_t capacity = p->capacity ? 2 * p->capacity : 1024;
        void *pieces = NULL;
        enum rh_rc rc = rh_try_alloc(capacity * sizeof *p->pieces,
                                     "the index of calibration documents", &pieces, err);
        if (rc != RH_OK)
            return rc;
        if (p->count > 0)
            memcpy(pieces, p->pieces, (size_t)p->count * sizeof *p->pieces);
        rh_free(p->pieces);
        p->pieces = pieces;
        p->capacity = capacity;
    }
    p->pieces[p->count++] = piece;
    return RH_OK;
}

/* A pipe is refused, and does not hold up the opening: pieces are read a second time. */
static enum rh_rc open_file(struct rh_pieces *p, const char *path, struct rh_error *err)
{
    struct stat st;
    p->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (p->fd < 0 || fstat(p->fd, &st) != 0)
        return rh_fail_errno(err, errno, "could not open %s", path);
    if (!S_ISREG(st.st_mode))
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s is not a regular file; name a .jsonl, .json, "
                       ".txt or .parquet file",
                       path);
    return RH_OK;
}

/* One pass over the file: where the pieces are, and its digest. */
static enum rh_rc scan(struct rh_dataset *d, rh_cut_fn cut, void *arg, struct rh_error *err)
{
    struct rh_pieces *p = d->self;
    struct rh_sha256 *hash = rh_sha256_new();
    char *chunk = rh_alloc(CHUNK);
    enum rh_rc rc = RH_OK;
    ssize_t n = 1;
    while (rc == RH_OK && n != 0) {
        n = read(p->fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = rh_fail_errno(err, errno, "could not read %s", d->path);
            break;
        }
        rh_sha256_update(hash, chunk, (size_t)n);
        rc = cut(p, arg, chunk, (size_t)n, err);
    }
    uint8_t digest[32];
    rh_sha256_finish(hash, digest);
    rh_sha256_hex(digest, d->sha256);
    rh_sha256_free(hash);
    rh_free(chunk);
    return rc;
}

enum rh_rc rh_pieces_open(struct rh_dataset *d, const char *column, rh_cut_fn cut, void *arg,
                          struct rh_error *err)
{
    struct rh_pieces *p = rh_alloc(sizeof *p);
    d->self = p;
    p->column = rh_strdup(column);
    enum rh_rc rc = open_file(p, d->path, err);
    if (rc == RH_OK)
        rc = scan(d, cut, arg, err);
    d->count = p->count;
    return rc;
}

static enum rh_rc read_bytes(const struct rh_dataset *d, const struct rh_piece *piece, char *out,
                             struct rh_error *err)
{
    const struct rh_pieces *p = d->self;
    for (uint64_t done = 0; done < piece->size;) {
        ssize_t n = pread(p->fd, out + done, piece->size - done, (off_t)(piece->at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not read %s", d->path);
        if (n == 0)
            return rh_fail(err, RH_ERR_IO, "%s became shorter while it was read", d->path);
        done += (uint64_t)n;
    }
    out[piece->size] = '\0';
    return RH_OK;
}

enum rh_rc rh_pieces_read(const struct rh_dataset *d, int64_t index, char **out,
                          struct rh_error *err)
{
    const struct rh_pieces *p = d->self;
    const struct rh_piece *piece = &p->pieces[index];
    void *bytes = NULL;
    *out = NULL;
    if (piece->size > PIECE_MAX)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s line %lld: a document of %llu bytes, at most %llu are taken; is this "
                       "JSON Lines?",
                       d->path, (long long)piece->line, (unsigned long long)piece->size,
                       (unsigned long long)PIECE_MAX);
    enum rh_rc rc = rh_try_alloc(piece->size + 1, "a document of calibration text", &bytes, err);
    if (rc == RH_OK)
        rc = read_bytes(d, piece, bytes, err);
    if (rc == RH_OK)
        *out = bytes;
    else
        rh_free(bytes);
    return rc;
}

char *rh_pieces_where(const struct rh_dataset *d, int64_t index)
{
    const struct rh_pieces *p = d->self;
    return rh_format("%s line %lld", d->path, (long long)p->pieces[index].line);
}

void rh_pieces_close(void *self)
{
    struct rh_pieces *p = self;
    if (p->fd >= 0)
        close(p->fd);
    rh_free(p->column);
    rh_free(p->pieces);
    rh_free(p);
}
