#define _GNU_SOURCE /* sync_file_range */
#include "hub_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/git_hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "hub_cache.h"

#define CHUNK     ((size_t)1 << 20)
#define SYNC_STEP (UINT64_C(16) << 20)
#define TRIES_MAX 3 /* of a download that gave wrong bytes */
#define LOOK_NS   100000000L

/* -- Digests ---------------------------------------------------------------------------------- */

struct hash {
    struct rh_sha256 *sha256; /* or */
    struct rh_git_hash *git;
};

static struct hash hash_new(const struct rh_hub_file *file)
{
    struct hash h = {0};
    if (strlen(file->digest) == 64)
        h.sha256 = rh_sha256_new();
    else
        h.git = rh_git_hash_new(file->size);
    return h;
}

static void hash_update(struct hash *h, const void *data, size_t size)
{
    if (h->sha256)
        rh_sha256_update(h->sha256, data, size);
    else
        rh_git_hash_update(h->git, data, size);
}

static void hash_finish(struct hash *h, char out[RH_HUB_DIGEST_SIZE])
{
    uint8_t digest[32];
    if (h->sha256) {
        rh_sha256_finish(h->sha256, digest);
        rh_sha256_hex(digest, out);
    } else {
        rh_git_hash_finish(h->git, out);
    }
}

static void hash_free(struct hash *h)
{
    rh_sha256_free(h->sha256);
    rh_git_hash_free(h->git);
    *h = (struct hash){0};
}

/* The first `size` bytes of an open file into the hash. */
static enum rh_rc hash_file(struct rh_hub *hub, struct hash *h, int fd, const char *path,
                            uint64_t size, struct rh_error *err)
{
    void *buffer = NULL;
    enum rh_rc rc = rh_try_alloc(CHUNK, path, &buffer, err);
    for (uint64_t at = 0; at < size && rc == RH_OK;) {
        size_t step = size - at < CHUNK ? (size_t)(size - at) : CHUNK;
        ssize_t n = pread(fd, buffer, step, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = rh_fail_errno(err, errno, "could not read %s", path);
        else if (n == 0)
            rc = rh_fail(err, RH_ERR_IO, "%s became shorter while it was read", path);
        else
            hash_update(h, buffer, (size_t)n);
        at += n > 0 ? (uint64_t)n : 0;
        if (rc == RH_OK)
            rc = rh_hub_check(hub, err);
        rh_hub_progress(hub, "checking what is here", at, size);
    }
    rh_free(buffer);
    return rc;
}

/* -- What is here ----------------------------------------------------------------------------- */

static bool is_whole(const char *path, uint64_t size)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == size;
}

/* The content of a file that nobody writes to stays what it is, and writing changes this. */
static char *identity(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return NULL;
    return rh_format("%llu %llu %lld %lld.%09ld %lld.%09ld\n", (unsigned long long)st.st_dev,
                     (unsigned long long)st.st_ino, (long long)st.st_size,
                     (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (long long)st.st_ctim.tv_sec,
                     st.st_ctim.tv_nsec);
}

/* Was this very file of the cache found to be right before? */
static bool is_known(const char *note, const char *path)
{
    char *then = NULL, *now = identity(path);
    bool same = now && rh_fs_exists(note) && rh_fs_read(note, 4096, &then, NULL, NULL) == RH_OK &&
                strcmp(then, now) == 0;
    rh_free(then);
    rh_free(now);
    return same;
}

/* *right: the cache's file has the digest; found out once. */
static enum rh_rc check_cached(struct rh_hub *hub, const char *note, const char *path,
                               const struct rh_hub_file *file, bool *right, struct rh_error *err)
{
    char digest[RH_HUB_DIGEST_SIZE], *before = identity(path);
    struct hash h = hash_new(file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *right = false;
    enum rh_rc rc = fd < 0 ? rh_fail_errno(err, errno, "could not open %s", path)
                           : hash_file(hub, &h, fd, path, file->size, err);
    if (rc == RH_OK) {
        hash_finish(&h, digest);
        *right = strcmp(digest, file->digest) == 0;
    }
    if (rc == RH_OK && !*right)
        rh_log(RH_LOG_WARN, "hub.cache_damaged", "path=\"%s\" digest=%s instead=%s", path, digest,
               file->digest);
    if (rc == RH_OK && *right && before)
        rc = rh_fs_write(note, before, strlen(before), err);
    if (fd >= 0)
        close(fd);
    hash_free(&h);
    rh_free(before);
    return rc;
}

/* *out: NULL when the cache has it not, or has it wrong. */
static enum rh_rc find_cached(struct rh_hub *hub, const struct rh_hub_place *place,
                              const struct rh_hub_file *file, char **out, struct rh_error *err)
{
    char *path = rh_hub_cache_path(place->settings, place->name, place->commit, file->name);
    char *note = rh_format("%s/%s.cached", place->dir, file->digest);
    bool right = is_whole(path, file->size);
    enum rh_rc rc = RH_OK;
    if (right && !is_known(note, path))
        rc = check_cached(hub, note, path, file, &right, err);
    *out = NULL;
    if (rc == RH_OK && right) {
        *out = path;
        path = NULL;
    }
    rh_free(note);
    rh_free(path);
    return rc;
}

char *rh_hub_fetched(const struct rh_hub_place *place, const struct rh_hub_file *file)
{
    char *path = rh_fs_join(place->dir, file->digest);
    if (is_whole(path, file->size))
        return path;
    rh_free(path);
    path = rh_hub_cache_path(place->settings, place->name, place->commit, file->name);
    if (is_whole(path, file->size))
        return path;
    rh_free(path);
    return NULL;
}

void rh_hub_drop(const struct rh_hub_place *place, const struct rh_hub_file *file)
{
    static const char *const endings[] = {"", ".cached"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char *path = rh_format("%s/%s%s", place->dir, file->digest, endings[i]);
        unlink(path);
        rh_free(path);
    }
}

/* -- Downloads -------------------------------------------------------------------------------- */

struct download {
    struct rh_hub *hub;
    const struct rh_hub_file *file;
    const char *part, *whole; /* paths */
    int fd;                   /* of part, locked */
    uint64_t at;              /* bytes in the file, and in the hash */
    uint64_t synced;          /* bytes that are on their way to the disk */
    struct hash hash;
    unsigned char *pending; /* [CHUNK]: network pieces are small, and each write costs */
    size_t pending_size;
};

static bool is_same_file(int fd, const char *path)
{
    struct stat open_one, named;
    return fstat(fd, &open_one) == 0 && stat(path, &named) == 0 &&
           open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

static enum rh_rc wait_for_lock(const struct download *d, int fd, struct rh_error *err)
{
    const struct timespec pause = {0, LOOK_NS};
    enum rh_rc rc = RH_OK;
    while (rc == RH_OK && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return rh_fail_errno(err, errno, "could not lock %s", d->part);
        rh_hub_progress(d->hub, "waiting for another task's download", 0, 0);
        nanosleep(&pause, NULL);
        rc = rh_hub_check(d->hub, err);
    }
    return rc;
}

/* The lock is that of the partial file itself, so it goes with the process. d->fd stays -1 when
 * somebody else has completed the file meanwhile. */
static enum rh_rc open_part(struct download *d, struct rh_error *err)
{
    while (!is_whole(d->whole, d->file->size)) {
        int fd = open(d->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
            return rh_fail_errno(err, errno, "could not create %s", d->part);
        enum rh_rc rc = wait_for_lock(d, fd, err);
        if (rc == RH_OK && is_same_file(fd, d->part)) {
            d->fd = fd;
            if (!is_whole(d->whole, d->file->size))
                return RH_OK;
            unlink(d->part); /* made anew just when the file was complete */
        }
        close(fd); /* it was completed, and has another name now */
        d->fd = -1;
        if (rc != RH_OK)
            return rc;
    }
    return RH_OK;
}

static enum rh_rc write_pending(struct download *d, struct rh_error *err)
{
    const unsigned char *from = d->pending;
    size_t size = d->pending_size;
    if (size == 0)
        return RH_OK;
    d->pending_size = 0;
    hash_update(&d->hash, from, size);
    while (size > 0) {
        ssize_t n = pwrite(d->fd, from, size, (off_t)d->at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rh_fail_errno(err, errno, "could not write %s", d->part);
        from += n;
        size -= (size_t)n;
        d->at += (uint64_t)n;
    }
    /* The disk works while the network does, and the sync at the end finds little to do. */
    if (d->at - d->synced >= SYNC_STEP) {
        (void)sync_file_range(d->fd, (off_t)d->synced, (off_t)(d->at - d->synced),
                              SYNC_FILE_RANGE_WRITE);
        d->synced = d->at;
    }
    return rh_hub_check(d->hub, err);
}

static enum rh_rc take_piece(void *arg, const void *data, size_t size, struct rh_error *err)
{
    struct download *d = arg;
    const unsigned char *from = data;
    enum rh_rc rc = RH_OK;
    while (size > 0 && rc == RH_OK) {
        size_t room = CHUNK - d->pending_size, step = size < room ? size : room;
        memcpy(d->pending + d->pending_size, from, step);
        d->pending_size += step;
        from += step;
        size -= step;
        if (d->pending_size == CHUNK)
            rc = write_pending(d, err);
    }
    rh_hub_progress(d->hub, d->file->name, d->at + d->pending_size, d->file->size);
    return rc;
}

static enum rh_rc truncate_part(struct download *d, struct rh_error *err)
{
    d->at = d->synced = 0;
    return ftruncate(d->fd, 0) == 0 ? RH_OK
                                    : rh_fail_errno(err, errno, "could not shorten %s", d->part);
}

/* Takes up what an earlier try left. */
static enum rh_rc take_up(struct download *d, struct rh_error *err)
{
    struct stat st;
    if (fstat(d->fd, &st) != 0)
        return rh_fail_errno(err, errno, "could not look at %s", d->part);
    d->at = d->synced = (uint64_t)st.st_size;
    enum rh_rc rc = d->at > d->file->size ? truncate_part(d, err) : RH_OK;
    hash_free(&d->hash);
    d->hash = hash_new(d->file);
    if (rc == RH_OK && d->at > 0)
        rc = hash_file(d->hub, &d->hash, d->fd, d->part, d->at, err);
    if (rc == RH_OK && d->at > 0)
        rh_log(RH_LOG_INFO, "hub.resume", "file=\"%s\" at=%llu of=%llu", d->file->name,
               (unsigned long long)d->at, (unsigned long long)d->file->size);
    return rc;
}

static enum rh_rc check_room(const struct download *d, struct rh_error *err)
{
    uint64_t room = 0, need = d->file->size - d->at;
    enum rh_rc rc = rh_fs_free_bytes(d->part, &room, err);
    if (rc == RH_OK && room < need)
        rc = rh_fail(err, RH_ERR_NO_SPACE,
                     "%s: %llu bytes are still to come, %llu are free; make room, what is here "
                     "is kept",
                     d->part, (unsigned long long)need, (unsigned long long)room);
    return rc;
}

/* *digest: of what is here now, all of it. */
static enum rh_rc complete(struct download *d, const char *commit, char *digest,
                           struct rh_error *err)
{
    struct rh_hub_sink sink = {.end = d->file->size, .take = take_piece, .arg = d};
    uint64_t reached = 0;
    enum rh_rc rc = take_up(d, err);
    sink.begin = d->at;
    if (rc == RH_OK && d->at < d->file->size)
        rc = check_room(d, err);
    if (rc == RH_OK && d->at < d->file->size)
        rc = rh_hub_get(d->hub, commit, d->file, &sink, &reached, err);
    /* Also of a transfer that failed: the next try begins behind it. */
    enum rh_rc written = write_pending(d, rc == RH_OK ? err : NULL);
    rc = rc == RH_OK ? written : rc;
    if (rc == RH_OK)
        hash_finish(&d->hash, digest);
    return rc;
}

static enum rh_rc appear(const struct download *d, const char *dir, struct rh_error *err)
{
    if (fsync(d->fd) != 0)
        return rh_fail_errno(err, errno, "could not sync %s", d->part);
    if (rename(d->part, d->whole) != 0)
        return rh_fail_errno(err, errno, "could not rename %s to %s", d->part, d->whole);
    return rh_fs_sync_dir(dir, err);
}

/* A partial file that a power cut damaged, or a connection that changes bytes, get another try. */
static enum rh_rc download(struct download *d, const struct rh_hub_place *place,
                           struct rh_error *err)
{
    char digest[RH_HUB_DIGEST_SIZE] = "";
    enum rh_rc rc = RH_OK;
    for (int tries = 0; rc == RH_OK; tries++) {
        rc = complete(d, place->commit, digest, err);
        if (rc != RH_OK || strcmp(digest, d->file->digest) == 0)
            break;
        rh_log(RH_LOG_WARN, "hub.wrong_bytes", "file=\"%s\" digest=%s instead=%s", d->file->name,
               digest, d->file->digest);
        rc = truncate_part(d, err);
        if (rc == RH_OK && tries + 1 == TRIES_MAX)
            rc = rh_fail(err, RH_ERR_FORMAT,
                         "%s/%s: downloaded %d times, its digest is %.16s... and the Hub lists "
                         "%.16s...; something changes it on its way, try without the proxy or "
                         "mirror",
                         place->name->repo, d->file->name, TRIES_MAX, digest, d->file->digest);
    }
    return rc == RH_OK ? appear(d, place->dir, err) : rc;
}

static enum rh_rc fetch_into(struct rh_hub *hub, const struct rh_hub_place *place,
                             const struct rh_hub_file *file, const char *whole,
                             struct rh_error *err)
{
    char *part = rh_format("%s.part", whole);
    struct download d = {.hub = hub, .file = file, .part = part, .whole = whole, .fd = -1};
    void *pending = NULL;
    enum rh_rc rc = rh_try_alloc(CHUNK, "a write buffer", &pending, err);
    d.pending = pending;
    if (rc == RH_OK)
        rc = open_part(&d, err);
    if (rc == RH_OK && d.fd >= 0)
        rc = download(&d, place, err);
    if (d.fd >= 0)
        close(d.fd);
    hash_free(&d.hash);
    rh_free(pending);
    rh_free(part);
    return rc;
}

enum rh_rc rh_hub_fetch(struct rh_hub *hub, const struct rh_hub_place *place,
                        const struct rh_hub_file *file, char **out_path, struct rh_error *err)
{
    char *whole = rh_fs_join(place->dir, file->digest);
    enum rh_rc rc = RH_OK;
    *out_path = NULL;
    if (!is_whole(whole, file->size)) {
        rc = find_cached(hub, place, file, out_path, err);
        if (rc == RH_OK && !*out_path && place->settings->offline)
            rc = rh_fail(err, RH_ERR_NOT_FOUND,
                         "HF_HUB_OFFLINE is set, and the cache %s does not have %s of %s whole; "
                         "unset HF_HUB_OFFLINE",
                         place->settings->cache, file->name, place->name->repo);
        if (rc == RH_OK && !*out_path)
            rc = fetch_into(hub, place, file, whole, err);
    }
    if (rc == RH_OK && !*out_path) {
        *out_path = whole;
        whole = NULL;
    }
    rh_free(whole);
    return rc;
}
