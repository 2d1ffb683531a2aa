#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http_internal.h"

/*
 * Server-sent events. A stream first reads the stored events after its cursor page by page, as fast
 * as the client takes them, then is fed live. Everything runs on the loop's thread, so nothing can
 * come between the last page and the first live event.
 */
#define QUEUE_TICKS_MAX ((size_t)256 << 10) /* fuller than this: ticks are dropped */
#define QUEUE_MAX       ((size_t)1 << 20)   /* fuller than this: the stream is closed */
#define PAGE_EVENTS     100
#define CHUNK_BYTES     ((size_t)8 << 10)

struct rh_http_stream {
    struct rh_http_api *api;
    struct MHD_Connection *connection;
    struct rh_http_stream *next, **link; /* link: what points here; NULL when out of the list */
    char job[RH_HTTP_ID_MAX];            /* "": all jobs */
    struct rh_strbuf queue;
    size_t taken; /* bytes of the queue that left already */
    int64_t cursor;
    bool replaying;
    bool suspended;
    bool ended;
};

static size_t waiting(const struct rh_http_stream *stream)
{
    return stream->queue.size - stream->taken;
}

/* "task.done" is announced as "task"; the data names it in full. */
static void append_event(struct rh_http_stream *stream, const struct rh_json *event, int64_t seq)
{
    const char *type = rh_json_string(rh_json_get(event, "type"));
    char *text = rh_json_text(event, false);
    if (!type)
        type = "event";
    if (seq > 0) {
        rh_strbuf_printf(&stream->queue, "id: %" PRIu64 "-%" PRId64 "\n",
                         rh_factory_epoch(stream->api->factory), seq);
        stream->cursor = seq;
    }
    rh_strbuf_printf(&stream->queue, "event: %.*s\ndata: ", (int)strcspn(type, ".\r\n"), type);
    rh_strbuf_puts(&stream->queue, text);
    rh_strbuf_puts(&stream->queue, "\n\n");
    rh_free(text);
}

/* Everything is in the client's hands: starts the queue anew, so that it does not grow for ever. */
static void compact(struct rh_http_stream *stream)
{
    if (stream->taken < stream->queue.size)
        return;
    stream->taken = 0;
    stream->queue.size = 0;
}

static void replay_page(struct rh_http_stream *stream)
{
    struct rh_json *page = NULL;
    const struct rh_json *events;
    struct rh_error err = {0};
    enum rh_rc rc = rh_factory_events(stream->api->factory, stream->job[0] ? stream->job : NULL,
                                      stream->cursor, PAGE_EVENTS, &page, &err);
    if (rc != RH_OK) {
        stream->ended = true; /* the client comes back with its last id */
        return;
    }
    events = rh_json_get(page, "events");
    for (const struct rh_json *e = rh_json_first(events); e; e = rh_json_next(e)) {
        int64_t seq = 0;
        if (rh_json_int(rh_json_get(e, "seq"), &seq) && seq > stream->cursor)
            append_event(stream, e, seq);
    }
    if (rh_json_count(events) < PAGE_EVENTS)
        stream->replaying = false;
    rh_json_free(page);
}

static ssize_t on_read(void *cls, uint64_t position, char *buffer, size_t room)
{
    struct rh_http_stream *stream = cls;
    (void)position;
    compact(stream);
    if (waiting(stream) == 0 && stream->replaying && !stream->ended)
        replay_page(stream);
    size_t size = waiting(stream);
    if (size == 0 && stream->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (size == 0) {
        stream->suspended = true;
        MHD_suspend_connection(stream->connection);
        return 0;
    }
    if (size > room)
        size = room;
    memcpy(buffer, stream->queue.text + stream->taken, size);
    stream->taken += size;
    return (ssize_t)size;
}

static void discard(struct rh_http_stream *stream)
{
    rh_strbuf_done(&stream->queue);
    rh_free(stream);
}

static void on_free(void *cls)
{
    struct rh_http_stream *stream = cls;
    *stream->link = stream->next;
    if (stream->next)
        stream->next->link = stream->link;
    discard(stream);
}

static void wake(struct rh_http_stream *stream)
{
    if (!stream->suspended)
        return;
    stream->suspended = false;
    MHD_resume_connection(stream->connection);
}

static void end(struct rh_http_stream *stream)
{
    stream->ended = true;
    stream->taken = 0;
    stream->queue.size = 0;
    wake(stream);
}

static void feed(struct rh_http_stream *stream, const struct rh_json *event, int64_t seq,
                 const char *job)
{
    bool mine = !stream->job[0] || (job && strcmp(job, stream->job) == 0);
    /* While a replay goes on, stored events come to the stream by way of the table. */
    if (stream->ended || !mine || (seq > 0 && (stream->replaying || seq <= stream->cursor)))
        return;
    if (seq == 0 && (stream->replaying || waiting(stream) > QUEUE_TICKS_MAX))
        return;
    append_event(stream, event, seq);
    if (waiting(stream) > QUEUE_MAX)
        end(stream);
    else
        wake(stream);
}

void rh_http_stream_on_event(void *arg, const struct rh_json *event)
{
    struct rh_http_api *api = arg;
    const char *job = rh_json_string(rh_json_get(event, "job"));
    int64_t seq = 0;
    (void)rh_json_int(rh_json_get(event, "seq"), &seq);
    for (struct rh_http_stream *s = api->streams; s; s = s->next)
        feed(s, event, seq, job);
}

void rh_http_stream_heartbeat(struct rh_http_api *api)
{
    for (struct rh_http_stream *s = api->streams; s; s = s->next) {
        if (s->ended || waiting(s) > QUEUE_TICKS_MAX)
            continue;
        rh_strbuf_puts(&s->queue, ": alive\n\n");
        wake(s);
    }
}

void rh_http_stream_end_all(struct rh_http_api *api)
{
    for (struct rh_http_stream *s = api->streams; s; s = s->next)
        end(s);
}

/* "<epoch>-<seq>", or the number alone. */
static bool parse_cursor(const char *text, int64_t *out)
{
    const char *dash = strchr(text, '-');
    const char *digits = dash ? dash + 1 : text;
    char *end_of = NULL;
    if (!*digits || strspn(digits, "0123456789") != strlen(digits))
        return false;
    errno = 0;
    *out = strtoll(digits, &end_of, 10);
    return errno == 0;
}

/* An id from another life of the state directory says nothing about this one: the client is told to
 * fetch everything anew, and goes on with what happens next. */
static void check_cursor(struct rh_http_stream *stream)
{
    struct rh_json *snapshot = rh_factory_snapshot(stream->api->factory);
    int64_t last = 0;
    if (rh_json_int(rh_json_get(snapshot, "seq"), &last) && stream->cursor > last) {
        stream->cursor = last;
        stream->replaying = false;
        rh_strbuf_puts(&stream->queue, "event: reset\ndata: {}\n\n");
    }
    rh_json_free(snapshot);
}

/* Where to begin: after the id that the client saw last; without one, with what happens next. */
static bool set_cursor(struct rh_http_call *call, struct rh_http_stream *stream)
{
    const char *last =
        MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, "Last-Event-ID");
    if (!last)
        last = MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, "after");
    if (!last)
        return true;
    stream->replaying = true;
    if (!parse_cursor(last, &stream->cursor))
        return false;
    check_cursor(stream);
    return true;
}

static enum rh_rc set_job(struct rh_http_call *call, struct rh_http_stream *stream,
                          struct rh_error *err)
{
    struct rh_json *job = NULL;
    const char *given = MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, "job");
    if (!given)
        return RH_OK;
    enum rh_rc rc = rh_factory_job(call->api->factory, given, &job, err);
    if (rc != RH_OK)
        return rc;
    const char *id = rh_json_string(rh_json_get(job, "id"));
    if (!id || strlen(id) >= sizeof stream->job)
        rc = rh_fail(err, RH_ERR_INTERNAL, "job \"%.80s\" has no id", given);
    else
        memcpy(stream->job, id, strlen(id) + 1);
    rh_json_free(job);
    return rc;
}

enum MHD_Result rh_http_stream_open(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_http_stream *stream = rh_alloc(sizeof *stream);
    stream->api = call->api;
    stream->connection = call->connection;
    rh_strbuf_puts(&stream->queue, "retry: 2000\n\n");
    if (!set_cursor(call, stream)) {
        discard(stream);
        return rh_http_reply_problem(call, MHD_HTTP_BAD_REQUEST,
                                     "Last-Event-ID is not of the form <epoch>-<number>",
                                     "leave it out to see what happens from now on", NULL, NULL);
    }
    if (set_job(call, stream, &err) != RH_OK) {
        discard(stream);
        return rh_http_reply_error(call, &err);
    }
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, CHUNK_BYTES, on_read, stream, on_free);
    if (!response) {
        discard(stream);
        return MHD_NO;
    }
    stream->next = call->api->streams;
    stream->link = &call->api->streams;
    if (stream->next)
        stream->next->link = &stream->next;
    call->api->streams = stream;
    MHD_add_response_header(response, "Content-Type", "text/event-stream");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    rh_http_common_headers(response);
    enum MHD_Result result = MHD_queue_response(call->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return result;
}
