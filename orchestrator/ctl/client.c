#include <curl/curl.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "ctl/client.h"

#define EVENTS_PAGE    1000 /* as many as the API gives at once */
#define ANSWER_MAX     ((size_t)64 << 20)
#define CONNECT_MS     5000L
#define ANSWER_MS      60000L
#define STREAM_QUIET_S 45L /* the other side speaks at least every 15 s */
#define HTTP_BAD       400L
#define HTTP_AUTH      401L
#define HTTP_FORBIDDEN 403L
#define HTTP_NOT_FOUND 404L
#define HTTP_CONFLICT  409L
#define HTTP_TOO_LARGE 413L
#define HTTP_NOT_READY 503L
#define HTTP_NO_ROOM   507L

struct rh_client {
    char *socket_path;
    CURL *easy;
    CURLM *multi;
    CURL *stream; /* NULL: none */
    struct curl_slist *stream_headers;
    bool stream_over;
};

struct rh_client *rh_client_new(const char *socket_path)
{
    struct rh_client *client = rh_alloc(sizeof *client);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    client->socket_path = rh_strdup(socket_path);
    client->easy = curl_easy_init();
    client->multi = curl_multi_init();
    RH_ASSERT(client->easy && client->multi);
    return client;
}

void rh_client_free(struct rh_client *client)
{
    if (!client)
        return;
    rh_client_stream_close(client);
    curl_multi_cleanup(client->multi);
    curl_easy_cleanup(client->easy);
    curl_global_cleanup();
    rh_free(client->socket_path);
    rh_free(client);
}

static size_t on_answer(char *bytes, size_t one, size_t size, void *arg)
{
    struct rh_strbuf *answer = arg;
    (void)one; /* always 1 */
    if (answer->size + size > ANSWER_MAX)
        return 0;
    rh_strbuf_append(answer, bytes, size);
    return size;
}

static size_t on_stream(char *bytes, size_t one, size_t size, void *arg)
{
    (void)one;
    return rh_sse_feed(arg, bytes, size) ? size : 0;
}

/* What requests and streams share. No proxy setting may lead a unix socket astray. */
static void prepare(const struct rh_client *client, CURL *easy, const char *path)
{
    char *url = rh_format("http://localhost%s", path);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, client->socket_path);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    rh_free(url);
}

static enum rh_rc fail_transport(const struct rh_client *client, CURLcode code,
                                 struct rh_error *err)
{
    if (code == CURLE_COULDNT_CONNECT)
        return rh_fail(err, RH_ERR_REMOTE,
                       "%s: no orchestrator answers here; start one with \"roundhoused --spawn "
                       "--state DIR\", or name its state directory with --state",
                       client->socket_path);
    return rh_fail(err, RH_ERR_REMOTE, "%s: the orchestrator did not answer: %s",
                   client->socket_path, curl_easy_strerror(code));
}

static enum rh_rc fail_problem(long status, const struct rh_json *problem, struct rh_error *err)
{
    const char *detail = rh_json_string(rh_json_get(problem, "detail"));
    const char *hint = rh_json_string(rh_json_get(problem, "hint"));
    enum rh_rc rc = RH_ERR_INTERNAL;
    if (status == HTTP_BAD || status == HTTP_TOO_LARGE)
        rc = RH_ERR_ARGUMENT;
    else if (status == HTTP_NOT_FOUND)
        rc = RH_ERR_NOT_FOUND;
    else if (status == HTTP_CONFLICT)
        rc = RH_ERR_EXISTS;
    else if (status == HTTP_AUTH || status == HTTP_FORBIDDEN)
        rc = RH_ERR_AUTH;
    else if (status == HTTP_NOT_READY)
        rc = RH_ERR_TIMEOUT;
    else if (status == HTTP_NO_ROOM)
        rc = RH_ERR_NO_SPACE;
    if (!detail)
        return rh_fail(err, rc, "the orchestrator answered with status %ld and no reason", status);
    return rh_fail(err, rc, "%s%s%s", detail, hint ? "; " : "", hint ? hint : "");
}

static enum rh_rc read_answer(CURL *easy, const struct rh_strbuf *answer, struct rh_json **out,
                              struct rh_error *err)
{
    long status = 0;
    struct rh_json *body = NULL;
    struct rh_error broken = {0};
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    enum rh_rc rc = rh_json_parse(answer->text ? answer->text : "", answer->size,
                                  "the orchestrator's answer", &body, &broken);
    if (status < 200 || status > 299) {
        rc = fail_problem(status, body, err);
        rh_json_free(body);
        return rc;
    }
    if (rc != RH_OK)
        return rh_fail(err, RH_ERR_PROTOCOL, "%s", broken.message);
    *out = body;
    return RH_OK;
}

enum rh_rc rh_client_call(struct rh_client *client, const char *method, const char *path,
                          const struct rh_json *body, struct rh_json **out, struct rh_error *err)
{
    struct rh_strbuf answer = {0};
    struct curl_slist *headers = NULL;
    char *text = body ? rh_json_text(body, false) : NULL;
    curl_easy_reset(client->easy); /* the connection is kept */
    prepare(client, client->easy, path);
    curl_easy_setopt(client->easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(client->easy, CURLOPT_TIMEOUT_MS, ANSWER_MS);
    curl_easy_setopt(client->easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(client->easy, CURLOPT_WRITEDATA, &answer);
    if (text) {
        headers = curl_slist_append(headers, "Content-Type: application/json");
        headers = curl_slist_append(headers, "Expect:");
        curl_easy_setopt(client->easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(client->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(text));
        curl_easy_setopt(client->easy, CURLOPT_POSTFIELDS, text);
    }
    CURLcode code = curl_easy_perform(client->easy);
    enum rh_rc rc = code == CURLE_OK ? read_answer(client->easy, &answer, out, err)
                                     : fail_transport(client, code, err);
    curl_slist_free_all(headers);
    rh_strbuf_done(&answer);
    rh_free(text);
    return rc;
}

void rh_client_stream(struct rh_client *client, const char *path, struct rh_sse *sse)
{
    rh_client_stream_close(client);
    rh_sse_restart(sse);
    client->stream = curl_easy_init();
    RH_ASSERT(client->stream);
    prepare(client, client->stream, path);
    curl_easy_setopt(client->stream, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(client->stream, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(client->stream, CURLOPT_LOW_SPEED_TIME, STREAM_QUIET_S);
    curl_easy_setopt(client->stream, CURLOPT_WRITEFUNCTION, on_stream);
    curl_easy_setopt(client->stream, CURLOPT_WRITEDATA, sse);
    if (sse->id.size > 0) {
        char *last = rh_format("Last-Event-ID: %s", sse->id.text);
        client->stream_headers = curl_slist_append(NULL, last);
        curl_easy_setopt(client->stream, CURLOPT_HTTPHEADER, client->stream_headers);
        rh_free(last);
    }
    client->stream_over = curl_multi_add_handle(client->multi, client->stream) != CURLM_OK;
}

bool rh_client_stream_turn(struct rh_client *client, int wait_ms)
{
    int running = 0;
    int left = 0;
    if (!client->stream || client->stream_over) {
        /* Keeps the caller's rhythm. */
        curl_multi_poll(client->multi, NULL, 0, wait_ms, NULL);
        return false;
    }
    curl_multi_perform(client->multi, &running);
    if (running)
        curl_multi_poll(client->multi, NULL, 0, wait_ms, NULL);
    curl_multi_perform(client->multi, &running);
    while (curl_multi_info_read(client->multi, &left))
        client->stream_over = true;
    return !client->stream_over;
}

void rh_client_stream_close(struct rh_client *client)
{
    if (!client->stream)
        return;
    curl_multi_remove_handle(client->multi, client->stream);
    curl_easy_cleanup(client->stream);
    curl_slist_free_all(client->stream_headers);
    client->stream = NULL;
    client->stream_headers = NULL;
}

enum rh_rc rh_client_events(struct rh_client *client, const char *job, struct rh_json **out,
                            struct rh_error *err)
{
    struct rh_json *whole = NULL;
    int64_t last = 0;
    size_t count = EVENTS_PAGE;
    while (count == EVENTS_PAGE) {
        struct rh_json *page = NULL;
        char *path =
            rh_format("/v1/jobs/%s/events?after=%lld&limit=%d", job, (long long)last, EVENTS_PAGE);
        enum rh_rc rc = rh_client_call(client, "GET", path, NULL, &page, err);
        rh_free(path);
        if (rc != RH_OK) {
            rh_json_free(whole);
            return rc;
        }
        (void)rh_json_int(rh_json_get(page, "last"), &last);
        count = rh_json_count(rh_json_get(page, "events"));
        if (!whole) {
            whole = page;
            continue;
        }
        struct rh_json *events = rh_json_get_mutable(whole, "events");
        for (const struct rh_json *e = rh_json_first(rh_json_get(page, "events")); e;
             e = rh_json_next(e))
            rh_json_append(events, rh_json_copy(e));
        rh_json_set_int(whole, "last", last);
        rh_json_free(page);
    }
    *out = whole;
    return RH_OK;
}
