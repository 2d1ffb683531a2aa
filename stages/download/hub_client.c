#include "hub_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "hub_reply.h"

#define HOPS_MAX     10
#define TRIES_MAX    5
#define TRIES_UNSEEN 2 /* as long as nothing has answered at all: there may be no network */
#define WAIT_MAX_S   60
#define ASKED_MAX_S  600                  /* longer than the Hub's windows, which are of 300 s */
#define PROGRESS_MIN ((uint64_t)64 << 10) /* less is no reason to start counting anew */
#define PAGE_MAX     ((size_t)64 << 20)
#define PAGES_MAX    1000
#define TICK_NS      100000000L

struct rh_hub {
    const struct rh_hub_settings *settings;
    const struct rh_hub_name *name;
    struct rh_hub_watch watch;
    struct rh_http *http;
    bool seen; /* somebody has answered */
};

/* One thing that is wanted, over all of its tries. */
struct want {
    struct rh_hub *hub;
    const char *url;
    char *what; /* for people */
    /* Of a file; else NULL, and the whole body goes to `page`. */
    const struct rh_hub_file *file;
    const char *commit;
    const struct rh_hub_sink *sink;
    uint64_t at;
    struct rh_strbuf page;
    char *next; /* of a page: where the next one is */
    /* Of the try at hand. */
    bool from_hub, begun, complete;
    uint64_t skip; /* bytes to come that are here already */
    long wait;     /* seconds that the server asks for; -1: it does not */
};

struct rh_hub *rh_hub_new(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                          const struct rh_hub_watch *watch)
{
    struct rh_hub *hub = rh_alloc(sizeof *hub);
    hub->settings = settings;
    hub->name = name;
    if (watch)
        hub->watch = *watch;
    hub->http = rh_http_new();
    return hub;
}

void rh_hub_free(struct rh_hub *hub)
{
    if (!hub)
        return;
    rh_http_free(hub->http);
    rh_free(hub);
}

enum rh_rc rh_hub_check(const struct rh_hub *hub, struct rh_error *err)
{
    return hub->watch.check ? hub->watch.check(hub->watch.arg, err) : RH_OK;
}

void rh_hub_progress(const struct rh_hub *hub, const char *phase, uint64_t done, uint64_t total)
{
    if (hub->watch.progress)
        hub->watch.progress(hub->watch.arg, phase, done, total);
}

/* -- One reply -------------------------------------------------------------------------------- */

static enum rh_rc expect(const struct want *w, const char *header, char *value, const char *wanted,
                         struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    if (value && strcasecmp(value, wanted) != 0)
        rc = rh_fail(err, RH_ERR_FORMAT,
                     "%s: %s says %s %.80s instead of %.80s; the copy of the Hub there is damaged, "
                     "check HF_ENDPOINT",
                     w->what, w->hub->settings->endpoint, header, value, wanted);
    rh_free(value);
    return rc;
}

/* The Hub's own words about a file. A mirror may leave them out; other hosts know nothing of them.
 */
static enum rh_rc check_words(const struct want *w, const struct rh_http_reply *reply,
                              struct rh_error *err)
{
    if (!w->from_hub || !w->file)
        return RH_OK;
    char *etag = hub_reply_etag(reply);
    size_t digits = strlen(w->file->digest);
    if (etag && strlen(etag) != digits) {
        rh_free(etag); /* of some server in between */
        etag = NULL;
    }
    enum rh_rc rc = expect(w, "etag", etag, w->file->digest, err);
    if (rc == RH_OK)
        rc = expect(w, "commit", rh_http_header(reply, "X-Repo-Commit"), w->commit, err);
    return rc;
}

/* "bytes 5-9/10": is it what was asked for? */
static bool is_our_range(const struct want *w, const char *text)
{
    unsigned long long from = 0, to = 0, size = 0;
    return text && sscanf(text, "bytes %llu-%llu/%llu", &from, &to, &size) == 3 && from == w->at &&
           to < size && size == w->file->size;
}

/* Before the first byte: what will come? A server may ignore the range and send the whole. */
static enum rh_rc begin_body(struct want *w, const struct rh_http_reply *reply,
                             struct rh_error *err)
{
    enum rh_rc rc = check_words(w, reply, err);
    if (rc != RH_OK || !w->file)
        return rc;
    char *range = rh_http_header(reply, "Content-Range");
    char *length = rh_http_header(reply, "Content-Length");
    char *encoding = rh_http_header(reply, "Content-Encoding");
    if (encoding && strcasecmp(encoding, "identity") != 0)
        rc = rh_fail(err, RH_ERR_REMOTE, "it came as %.40s, which nobody asked for", encoding);
    else if (reply->status == 206 && !is_our_range(w, range))
        rc = rh_fail(err, RH_ERR_REMOTE, "asked for bytes from here on of %llu, got \"%.80s\"",
                     (unsigned long long)w->file->size, range ? range : "no range");
    else if (reply->status == 200 && length &&
             strtoull(length, NULL, 10) != (unsigned long long)w->file->size)
        rc = rh_fail(err, RH_ERR_REMOTE, "%llu bytes by the listing, but %.40s come",
                     (unsigned long long)w->file->size, length);
    w->skip = reply->status == 200 ? w->at : 0;
    rh_free(range);
    rh_free(length);
    rh_free(encoding);
    return rc;
}

static enum rh_rc take_page(struct want *w, const void *data, size_t size, struct rh_error *err)
{
    if (w->page.size + size > PAGE_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: an answer of more than %zu bytes", w->what,
                       PAGE_MAX);
    rh_strbuf_append(&w->page, data, size);
    return RH_OK;
}

static enum rh_rc on_body(void *arg, const struct rh_http_reply *reply, const void *data,
                          size_t size, struct rh_error *err)
{
    struct want *w = arg;
    enum rh_rc rc = w->begun ? RH_OK : begin_body(w, reply, err);
    w->begun = true;
    if (rc != RH_OK)
        return rc;
    if (!w->file)
        return take_page(w, data, size, err);
    size_t passed = w->skip < size ? (size_t)w->skip : size;
    w->skip -= passed;
    size -= passed;
    uint64_t left = w->sink->end - w->at;
    size_t used = size < left ? size : (size_t)left;
    if (used > 0)
        rc = w->sink->take(w->sink->arg, (const char *)data + passed, used, err);
    if (rc != RH_OK)
        return rc;
    w->at += used;
    w->complete = w->at == w->sink->end;
    /* More may come than was asked for; that is not waited for. */
    return w->complete && used < size ? rh_fail(err, RH_ERR_CANCELLED, "%s is complete", w->what)
                                      : RH_OK;
}

static enum rh_rc on_check(void *arg, struct rh_error *err)
{
    return rh_hub_check(((struct want *)arg)->hub, err);
}

/* -- One try ---------------------------------------------------------------------------------- */

static enum rh_rc send(struct want *w, const char *url, struct rh_http_reply *reply,
                       struct rh_error *err)
{
    const struct rh_hub_settings *s = w->hub->settings;
    const char *headers[5] = {"User-Agent: roundhouse/" RH_VERSION, "Accept-Encoding: identity"};
    char *range = NULL, *token = NULL;
    int count = 2;
    /* Also from 0: very large files are not given out whole. */
    if (w->file)
        headers[count++] = range = rh_format("Range: bytes=%llu-%llu", (unsigned long long)w->at,
                                             (unsigned long long)w->sink->end - 1);
    /* The token is for the Hub alone. */
    if (w->from_hub && s->token)
        headers[count++] = token = rh_format("Authorization: Bearer %s", s->token);
    struct rh_http_request request = {.url = url,
                                      .headers = headers,
                                      .connect_seconds = s->connect_seconds,
                                      .idle_seconds = s->idle_seconds,
                                      .body = on_body,
                                      .check = on_check,
                                      .arg = w};
    enum rh_rc rc = rh_http_get(w->hub->http, &request, reply, err);
    w->hub->seen |= reply->status > 0;
    rh_free(range);
    rh_free(token);
    return rc;
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Where the reply sends us. */
static enum rh_rc follow(const struct want *w, const struct rh_http_reply *reply, char **url,
                         struct rh_error *err)
{
    char *location = rh_http_header(reply, "Location");
    char *next = location ? rh_http_resolve(*url, location) : NULL;
    enum rh_rc rc = check_words(w, reply, err);
    if (rc == RH_OK &&
        (!next || (strncasecmp(next, "http://", 7) != 0 && strncasecmp(next, "https://", 8) != 0)))
        rc = rh_fail(err, RH_ERR_PROTOCOL, "%s: a redirect (status %d) that leads nowhere", w->what,
                     reply->status);
    if (rc == RH_OK && strncasecmp(*url, "https:", 6) == 0 && strncasecmp(next, "https:", 6) != 0)
        rc = rh_fail(err, RH_ERR_PROTOCOL,
                     "%s: a redirect from https to http, which anybody could listen to or change; "
                     "it is not followed",
                     w->what);
    rh_free(location);
    if (rc != RH_OK) {
        rh_free(next);
        return rc;
    }
    rh_free(*url);
    *url = next;
    return RH_OK;
}

static enum rh_rc judge(struct want *w, const struct rh_http_reply *reply, enum rh_rc rc,
                        struct rh_error *err)
{
    if (w->complete)
        return RH_OK; /* however the connection ended */
    if ((rc == RH_ERR_REMOTE || rc == RH_ERR_TIMEOUT) && w->begun && w->file)
        return rh_error_prefix(err, "%s, byte %llu", w->what, (unsigned long long)w->at);
    if (rc == RH_ERR_REMOTE || rc == RH_ERR_TIMEOUT) {
        (void)rh_error_prefix(err, "%s", w->what);
        return w->hub->seen ? rc
                            : rh_error_prefix(err, "the Hub cannot be reached (check the network, "
                                                   "the proxy and HF_ENDPOINT; HF_HUB_OFFLINE=1 "
                                                   "takes what the local cache has)");
    }
    if (rc != RH_OK)
        return rc;
    if (reply->status != 200 && reply->status != 206) {
        w->wait = hub_reply_wait(reply);
        return hub_reply_error(reply, w->hub->settings, w->hub->name, w->what, w->from_hub, err);
    }
    if (w->file)
        return rh_fail(err, RH_ERR_REMOTE, "%s ended at byte %llu of %llu", w->what,
                       (unsigned long long)w->at, (unsigned long long)w->sink->end);
    w->complete = true;
    return RH_OK;
}

static enum rh_rc try_once(struct want *w, struct rh_error *err)
{
    char *url = rh_strdup(w->url);
    enum rh_rc rc = RH_OK;
    bool more = true;
    w->wait = -1;
    for (int hop = 0; more && rc == RH_OK; hop++) {
        struct rh_http_reply reply = {0};
        w->from_hub = rh_http_same_origin(url, w->hub->settings->endpoint);
        w->begun = w->complete = false;
        rc = send(w, url, &reply, err);
        more = rc == RH_OK && is_redirect(reply.status);
        if (more && hop == HOPS_MAX)
            rc = rh_fail(err, RH_ERR_PROTOCOL,
                         "%s: more than %d redirects; check HF_ENDPOINT and the proxy", w->what,
                         HOPS_MAX);
        else if (more)
            rc = follow(w, &reply, &url, err);
        else
            rc = judge(w, &reply, rc, err);
        if (!more && rc == RH_OK && !w->file) {
            char *link = rh_http_header(&reply, "Link");
            w->next = rh_hub_next_page(link);
            rh_free(link);
        }
        rh_http_reply_done(&reply);
    }
    rh_free(url);
    return rc;
}

/* -- Tries ------------------------------------------------------------------------------------ */

static enum rh_rc pause_for(const struct want *w, double seconds, struct rh_error *err)
{
    const struct timespec tick = {0, TICK_NS};
    int64_t until = rh_clock_ns() + (int64_t)(seconds * 1e9);
    enum rh_rc rc = rh_hub_check(w->hub, err);
    while (rc == RH_OK && rh_clock_ns() < until) {
        rh_hub_progress(w->hub, "waiting for the Hub", 0, 0);
        nanosleep(&tick, NULL);
        rc = rh_hub_check(w->hub, err);
    }
    return rc;
}

/* A second, two, four, ..., a little more or less, so that many workers do not come back at once.
 */
static double wait_of(const struct want *w, int tries)
{
    double seconds = 1 << (tries < 7 ? tries - 1 : 6);
    if (w->wait >= 0)
        return (double)w->wait;
    if (seconds > WAIT_MAX_S)
        seconds = WAIT_MAX_S;
    return seconds * (0.75 + 0.5 * (double)(rh_clock_ns() % 1000) / 1000);
}

static enum rh_rc get(struct want *w, struct rh_error *err)
{
    struct rh_error local = {0};
    err = err ? err : &local;
    for (int tries = 0;;) {
        uint64_t before = w->at;
        w->page.size = 0;
        enum rh_rc rc = try_once(w, err);
        if (rc == RH_OK || err->failure != RH_FAILURE_TRANSIENT)
            return rc;
        tries = w->at >= before + PROGRESS_MIN ? 1 : tries + 1;
        if (tries > (w->hub->seen ? TRIES_MAX : TRIES_UNSEEN))
            return rc;
        double seconds = wait_of(w, tries);
        if (seconds > ASKED_MAX_S)
            return rh_error_prefix(err, "the Hub wants us back in %.0f s", seconds);
        rh_log(RH_LOG_WARN, "hub.retry", "try=%d wait=%.1fs why=\"%s\"", tries, seconds,
               err->message);
        rc = pause_for(w, seconds, err);
        if (rc != RH_OK)
            return rc;
    }
}

/* -- What is asked for ------------------------------------------------------------------------ */

/* One answer of the API; w->page and w->next are the caller's. */
static enum rh_rc get_page(struct rh_hub *hub, const char *url, const char *what, struct want *w,
                           struct rh_error *err)
{
    *w = (struct want){.hub = hub, .url = url};
    w->what = rh_format("%s (%s)", hub->name->repo, what);
    return get(w, err);
}

static void page_done(struct want *w)
{
    rh_strbuf_done(&w->page);
    rh_free(w->next);
    rh_free(w->what);
}

static enum rh_rc look_up_commit(struct rh_hub *hub, char out[RH_HUB_COMMIT_SIZE],
                                 struct rh_error *err)
{
    struct want w;
    char *revision = rh_http_escape(hub->name->revision, false);
    char *url = rh_format("%s/api/models/%s/revision/%s", hub->settings->endpoint, hub->name->repo,
                          revision);
    enum rh_rc rc = get_page(hub, url, "which commit it is", &w, err);
    if (rc == RH_OK)
        rc = rh_hub_commit_parse(w.page.text, w.page.size, w.what, out, err);
    page_done(&w);
    rh_free(url);
    rh_free(revision);
    return rc;
}

/* The next page's address is the Hub's own, or, behind a mirror, that of the Hub that it mirrors.
 */
static char *next_page(const struct rh_hub *hub, const char *next)
{
    const char *path = strstr(next, "://");
    path = path ? strchr(path + 3, '/') : NULL;
    if (rh_http_same_origin(next, hub->settings->endpoint) || !path)
        return rh_http_resolve(hub->settings->endpoint, next);
    return rh_format("%s%s", hub->settings->endpoint, path);
}

enum rh_rc rh_hub_look(struct rh_hub *hub, struct rh_hub_tree *out, struct rh_error *err)
{
    *out = (struct rh_hub_tree){0};
    enum rh_rc rc = look_up_commit(hub, out->commit, err);
    if (rc != RH_OK)
        return rc;
    char *what = rh_format("%s (its files)", hub->name->repo);
    char *url = rh_format("%s/api/models/%s/tree/%s?recursive=false&expand=false",
                          hub->settings->endpoint, hub->name->repo, out->commit);
    for (int page = 0; url && rc == RH_OK; page++) {
        struct want w;
        rc = page < PAGES_MAX
                 ? get_page(hub, url, "its files", &w, err)
                 : rh_fail(err, RH_ERR_FORMAT, "%s: more than %d pages", what, PAGES_MAX);
        rh_free(url);
        url = NULL;
        if (page == PAGES_MAX)
            break;
        if (rc == RH_OK)
            rc = rh_hub_tree_add(out, w.page.text ? w.page.text : "", w.page.size, w.what, err);
        if (rc == RH_OK && w.next)
            url = next_page(hub, w.next);
        page_done(&w);
    }
    if (rc == RH_OK)
        rc = rh_hub_tree_finish(out, what, err);
    rh_free(url);
    rh_free(what);
    return rc;
}

enum rh_rc rh_hub_get(struct rh_hub *hub, const char *commit, const struct rh_hub_file *file,
                      const struct rh_hub_sink *sink, uint64_t *at, struct rh_error *err)
{
    struct want w = {.hub = hub, .file = file, .commit = commit, .sink = sink, .at = sink->begin};
    RH_ASSERT(sink->begin < sink->end && sink->end <= file->size);
    char *name = rh_http_escape(file->name, true);
    char *url =
        rh_format("%s/%s/resolve/%s/%s", hub->settings->endpoint, hub->name->repo, commit, name);
    w.url = url;
    w.what = rh_format("%s/%s", hub->name->repo, file->name);
    enum rh_rc rc = get(&w, err);
    *at = w.at;
    rh_free(w.what);
    rh_free(url);
    rh_free(name);
    return rc;
}
