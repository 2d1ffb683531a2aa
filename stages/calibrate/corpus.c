#include "corpus.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sha256.h"
#include "document.h"

#define CHUNK          ((size_t)1 << 20)
#define LINE_MAX_BYTES ((uint64_t)256 << 20)

struct line {
    uint64_t at;
    uint64_t size;
    int64_t number;
};

struct rh_corpus {
    char *path;
    int fd;
    struct line *lines;
    int64_t count;
    size_t capacity;
    char sha256[RH_SHA256_HEX_SIZE];
};

static enum rh_rc add_line(struct rh_corpus *c, struct line line, struct rh_error *err)
{
    if ((size_t)c->count == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 1024;
        void *lines = NULL;
        enum rh_rc rc = rh_try_alloc(capacity * sizeof *c->lines, "the index of calibration lines",
                                     &lines, err);
        if (rc != RH_OK)
            return rc;
        if (c->count > 0)
            memcpy(lines, c->lines, (size_t)c->count * sizeof *c->lines);
        rh_free(c->lines);
        c->lines = lines;
        c->capacity = capacity;
    }
    c->lines[c->count++] = line;
    return RH_OK;
}

struct scan {
    struct line line; /* being read; size without its end */
    bool blank;       /* nothing but white space so far */
    int64_t number;
};

static enum rh_rc end_line(struct rh_corpus *c, struct scan *s, struct rh_error *err)
{
    s->line.number = s->number++;
    enum rh_rc rc = s->blank ? RH_OK : add_line(c, s->line, err);
    s->line = (struct line){s->line.at + s->line.size + 1, 0, 0};
    s->blank = true;
    return rc;
}

static enum rh_rc scan_bytes(struct rh_corpus *c, struct scan *s, const char *bytes, size_t size,
                             struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < size && rc == RH_OK; i++) {
        if (bytes[i] == '\n') {
            rc = end_line(c, s, err);
            continue;
        }
        s->line.size++;
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r')
            s->blank = false;
    }
    return rc;
}

/* One pass over the file: where the lines are, and its digest. */
static enum rh_rc index_lines(struct rh_corpus *c, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    struct rh_sha256 *hash = rh_sha256_new();
    char *chunk = rh_alloc(CHUNK);
    struct scan s = {.blank = true, .number = 1};
    while (rc == RH_OK) {
        ssize_t n = read(c->fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = rh_fail_errno(err, errno, "could not read %s", c->path);
        if (n <= 0)
            break;
        rh_sha256_update(hash, chunk, (size_t)n);
        rc = scan_bytes(c, &s, chunk, (size_t)n, err);
    }
    if (rc == RH_OK)
        rc = end_line(c, &s, err);
    uint8_t digest[32];
    rh_sha256_finish(hash, digest);
    rh_sha256_hex(digest, c->sha256);
    rh_sha256_free(hash);
    rh_free(chunk);
    return rc;
}

/* A pipe is refused, and does not hold up the opening: lines are read twice. */
static enum rh_rc open_file(struct rh_corpus *c, struct rh_error *err)
{
    struct stat st;
    c->fd = open(c->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (c->fd < 0 || fstat(c->fd, &st) != 0)
        return rh_fail_errno(err, errno, "could not open calibration.dataset %s", c->path);
    if (!S_ISREG(st.st_mode))
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "calibration.dataset %s is not a regular file; name a .jsonl file", c->path);
    return RH_OK;
}

enum rh_rc rh_corpus_open(const char *path, struct rh_corpus **out, struct rh_error *err)
{
    *out = NULL;
    struct rh_corpus *c = rh_alloc(sizeof *c);
    c->path = rh_strdup(path);
    enum rh_rc rc = open_file(c, err);
    if (rc == RH_OK)
        rc = index_lines(c, err);
    if (rc != RH_OK) {
        rh_corpus_close(c);
        return rc;
    }
    *out = c;
    return RH_OK;
}

void rh_corpus_close(struct rh_corpus *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    rh_free(c->lines);
    rh_free(c->path);
    rh_free(c);
}

int64_t rh_corpus_count(const struct rh_corpus *c)
{
    return c->count;
}

const char *rh_corpus_sha256(const struct rh_corpus *c)
{
    return c->sha256;
}

int64_t rh_corpus_line(const struct rh_corpus *c, int64_t index)
{
    return c->lines[index].number;
}

static enum rh_rc read_line(const struct rh_corpus *c, const struct line *line, char *out,
                            struct rh_error *err)
{
    uint64_t done = 0;
    while (done < line->size) {
        ssize_t n = pread(c->fd, out + done, line->size - done, (off_t)(line->at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not read %s", c->path);
        if (n == 0)
            return rh_fail(err, RH_ERR_IO, "%s became shorter while it was read", c->path);
        done += (uint64_t)n;
    }
    return RH_OK;
}

enum rh_rc rh_corpus_text(struct rh_corpus *c, int64_t index, char **out, size_t *out_size,
                          struct rh_error *err)
{
    const struct line *line = &c->lines[index];
    *out = NULL;
    if (line->size > LINE_MAX_BYTES)
        return rh_fail(
            err, RH_ERR_FORMAT,
            "%s line %lld: %llu bytes, at most %llu are taken; calibration.dataset must be "
            "JSON Lines",
            c->path, (long long)line->number, (unsigned long long)line->size,
            (unsigned long long)LINE_MAX_BYTES);
    void *bytes = NULL;
    char *what = rh_format("%s line %lld", c->path, (long long)line->number);
    enum rh_rc rc = rh_try_alloc(line->size + 1, "a line of calibration text", &bytes, err);
    if (rc == RH_OK)
        rc = read_line(c, line, bytes, err);
    if (rc == RH_OK)
        rc = rh_document_from_json(bytes, line->size, what, out, err);
    if (rc == RH_OK) {
        *out_size = rh_document_stripped(*out, strlen(*out));
        (*out)[*out_size] = '\0';
    }
    rh_free(bytes);
    rh_free(what);
    return rc;
}
