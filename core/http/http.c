#include "http/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/mem.h"
#include "base/strbuf.h"

#define HEADERS_MAX ((size_t)64 << 10)
#define TEXT_MAX    ((size_t)64 << 10)
#define BUFFER_SIZE (256L << 10)

struct rh_http {
    CURL *easy;
};

/* One transfer, for the callbacks. */
struct transfer {
    CURL *easy;
    const struct rh_http_request *request;
    struct rh_http_reply *reply;
    struct rh_strbuf headers, text;
    struct rh_error err; /* of a callback */
    enum rh_rc rc;       /* of a callback; RH_OK: none failed */
};

static void init_curl(void)
{
    RH_ASSERT(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

struct rh_http *rh_http_new(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    struct rh_http *http = rh_alloc(sizeof *http);
    http->easy = curl_easy_init();
    RH_ASSERT(http->easy);
    return http;
}

void rh_http_free(struct rh_http *http)
{
    if (!http)
        return;
    curl_easy_cleanup(http->easy);
    rh_free(http);
}

/* -- Callbacks -------------------------------------------------------------------------------- */

static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    size *= count;
    /* A status line begins the headers anew: those before were an interim reply's or a proxy's. */
    if (size > 5 && memcmp(data, "HTTP/", 5) == 0)
        rh_strbuf_done(&t->headers);
    if (t->headers.size + size <= HEADERS_MAX)
        rh_strbuf_append(&t->headers, data, size);
    t->reply->headers = t->headers.text;
    t->reply->headers_size = t->headers.size;
    return size;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    long status = 0;
    size *= count;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    t->reply->status = (int)status;
    if (status == 200 || status == 206) {
        t->rc = t->request->body(t->request->arg, t->reply, data, size, &t->err);
        return t->rc == RH_OK ? size : 0;
    }
    size_t room = TEXT_MAX - t->text.size;
    rh_strbuf_append(&t->text, data, size < room ? size : room);
    return size;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t to_send,
                       curl_off_t sent)
{
    struct transfer *t = arg;
    (void)total;
    (void)now;
    (void)to_send;
    (void)sent;
    if (t->rc == RH_OK && t->request->check)
        t->rc = t->request->check(t->request->arg, &t->err);
    return t->rc == RH_OK ? 0 : 1;
}

/* -- Requests --------------------------------------------------------------------------------- */

static enum rh_rc word_failure(CURLcode code, const char *text, const struct rh_http_request *r,
                               struct rh_error *err)
{
    enum rh_rc rc = RH_ERR_REMOTE;
    const char *remedy = "";
    const char *what = *text ? text : curl_easy_strerror(code);
    if (code == CURLE_OPERATION_TIMEDOUT)
        rc = RH_ERR_TIMEOUT;
    if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL)
        rc = RH_ERR_ARGUMENT;
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
        rc = RH_ERR_AUTH;
        remedy = "; name the right certificates with SSL_CERT_FILE";
    }
    char *host = rh_http_host(r->url);
    (void)rh_fail(err, rc, "%s: %s%s", host, what, remedy);
    rh_free(host);
    return rc;
}

static struct curl_slist *header_list(const char *const *headers)
{
    struct curl_slist *list = NULL;
    for (; headers && *headers; headers++) {
        list = curl_slist_append(list, *headers);
        RH_ASSERT(list);
    }
    return list;
}

static void set_options(CURL *easy, struct transfer *t, const struct curl_slist *headers,
                        char *words)
{
    const struct rh_http_request *r = t->request;
    const char *certificates = getenv("SSL_CERT_FILE");
    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_URL, r->url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, BUFFER_SIZE);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)r->connect_seconds);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)r->idle_seconds);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, t);
    if (certificates && *certificates)
        curl_easy_setopt(easy, CURLOPT_CAINFO, certificates);
}

enum rh_rc rh_http_get(struct rh_http *http, const struct rh_http_request *request,
                       struct rh_http_reply *out, struct rh_error *err)
{
    char words[CURL_ERROR_SIZE] = "";
    long status = 0;
    struct transfer t = {.easy = http->easy, .request = request, .reply = out, .rc = RH_OK};
    struct curl_slist *headers = header_list(request->headers);
    *out = (struct rh_http_reply){0};
    set_options(http->easy, &t, headers, words);
    CURLcode code = curl_easy_perform(http->easy);
    curl_slist_free_all(headers);
    curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
    /* The handle outlives what these point to. */
    curl_easy_reset(http->easy);
    out->status = (int)status;
    out->headers = t.headers.text;
    out->headers_size = t.headers.size;
    out->text = t.text.text;
    out->text_size = t.text.size;
    if (t.rc != RH_OK) {
        if (err)
            *err = t.err;
        return t.rc;
    }
    return code == CURLE_OK ? RH_OK : word_failure(code, words, request, err);
}

void rh_http_reply_done(struct rh_http_reply *reply)
{
    rh_free(reply->headers);
    rh_free(reply->text);
    *reply = (struct rh_http_reply){0};
}

/* -- Replies ---------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

char *rh_http_header(const struct rh_http_reply *reply, const char *name)
{
    size_t size = strlen(name);
    const char *line = reply->headers, *end = line ? line + reply->headers_size : NULL;
    while (line && line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        if ((size_t)(stop - line) > size && line[size] == ':' &&
            strncasecmp(line, name, size) == 0) {
            const char *from = line + size + 1, *to = stop;
            while (from < to && is_blank(*from))
                from++;
            while (to > from && is_blank(to[-1]))
                to--;
            return rh_strndup(from, (size_t)(to - from));
        }
        line = stop + 1;
    }
    return NULL;
}

long rh_http_seconds(const char *text)
{
    char *end = NULL;
    long seconds = strtol(text, &end, 10);
    if (isdigit((unsigned char)*text) && *end == '\0')
        return seconds;
    time_t when = curl_getdate(text, NULL), now = time(NULL);
    if (when == (time_t)-1)
        return -1;
    return when > now ? (long)(when - now) : 0;
}

/* -- URLs ------------------------------------------------------------------------------------- */

static char *part_of(CURLU *url, CURLUPart part)
{
    char *text = NULL;
    if (curl_url_get(url, part, &text, part == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0) !=
        CURLUE_OK)
        return rh_strdup("");
    char *copy = rh_strdup(text);
    curl_free(text);
    return copy;
}

static CURLU *parse(const char *url)
{
    CURLU *parsed = curl_url();
    RH_ASSERT(parsed);
    if (curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK)
        return parsed;
    curl_url_cleanup(parsed);
    return NULL;
}

char *rh_http_resolve(const char *base, const char *location)
{
    CURLU *url = parse(base);
    char *whole = NULL;
    if (url && curl_url_set(url, CURLUPART_URL, location, 0) == CURLUE_OK)
        whole = part_of(url, CURLUPART_URL);
    curl_url_cleanup(url);
    return whole;
}

bool rh_http_same_origin(const char *a, const char *b)
{
    static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
    CURLU *left = parse(a), *right = parse(b);
    bool same = left && right;
    for (size_t i = 0; same && i < sizeof parts / sizeof *parts; i++) {
        char *of_left = part_of(left, parts[i]), *of_right = part_of(right, parts[i]);
        same = strcasecmp(of_left, of_right) == 0;
        rh_free(of_left);
        rh_free(of_right);
    }
    curl_url_cleanup(left);
    curl_url_cleanup(right);
    return same;
}

char *rh_http_host(const char *url)
{
    CURLU *parsed = parse(url);
    char *port = NULL;
    if (!parsed)
        return rh_strdup("(no URL)");
    char *host = part_of(parsed, CURLUPART_HOST);
    if (curl_url_get(parsed, CURLUPART_PORT, &port, 0) == CURLUE_OK) {
        char *whole = rh_format("%s:%s", host, port);
        rh_free(host);
        host = whole;
        curl_free(port);
    }
    curl_url_cleanup(parsed);
    return host;
}

char *rh_http_escape(const char *text, bool slashes)
{
    struct rh_strbuf out = {0};
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (isalnum(c) || strchr("-._~", c) || (slashes && c == '/'))
            rh_strbuf_append(&out, text, 1);
        else
            rh_strbuf_printf(&out, "%%%02X", c);
    }
    return rh_strbuf_take(&out);
}
