#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http_internal.h"

#define EVENTS_DEFAULT 200
#define EVENTS_MAX     1000

typedef enum MHD_Result answer_fn(struct rh_http_call *call);

static const char *query(const struct rh_http_call *call, const char *name)
{
    return MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, name);
}

static enum MHD_Result bad(struct rh_http_call *call, const char *detail)
{
    return rh_http_reply_problem(call, MHD_HTTP_BAD_REQUEST, detail, NULL, NULL, NULL);
}

static enum MHD_Result answer(struct rh_http_call *call, unsigned status, enum rh_rc rc,
                              struct rh_json *body, const struct rh_error *err)
{
    if (rc != RH_OK)
        return rh_http_reply_error(call, err);
    return rh_http_reply_json(call, status, body);
}

static bool parse_number(const char *text, int64_t *out)
{
    char *end;
    if (!text || !isdigit((unsigned char)*text))
        return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (*end || errno)
        return false;
    *out = value;
    return true;
}

static enum MHD_Result get_jobs(struct rh_http_call *call)
{
    const char *all = query(call, "all");
    bool every = all && strcmp(all, "0") != 0 && strcmp(all, "false") != 0;
    return rh_http_reply_json(call, MHD_HTTP_OK,
                              rh_factory_jobs(call->api->factory, every, query(call, "state")));
}

static enum rh_rc parse_body(struct rh_http_call *call, struct rh_json **out, struct rh_error *err)
{
    const char *text = call->body.text ? call->body.text : "";
    enum rh_rc rc = rh_json_parse(text, call->body.size, "request body", out, err);
    if (rc == RH_OK && rh_json_type(*out) != RH_JSON_OBJECT) {
        rh_json_free(*out);
        *out = NULL;
        rc = rh_fail(err, RH_ERR_FORMAT, "request body: must be a JSON object");
    }
    return rc;
}

static enum MHD_Result post_job(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *request = NULL;
    struct rh_json *job = NULL;
    enum rh_rc rc = parse_body(call, &request, &err);
    if (rc == RH_OK)
        rc = rh_factory_submit(call->api->factory, request, &job, &err);
    rh_json_free(request);
    const char *id = rh_json_string(rh_json_get(job, "id"));
    if (id && strlen(id) < sizeof call->id)
        memcpy(call->id, id, strlen(id) + 1);
    return answer(call, MHD_HTTP_CREATED, rc, job, &err);
}

static enum MHD_Result get_job(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *job = NULL;
    enum rh_rc rc = rh_factory_job(call->api->factory, call->id, &job, &err);
    return answer(call, MHD_HTTP_OK, rc, job, &err);
}

static enum rh_rc patch(struct rh_http_call *call, const struct rh_json *request,
                        struct rh_json **out, struct rh_error *err)
{
    const char *desired = NULL;
    int64_t priority = 0;
    if (rh_json_count(request) != 1)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "request body: one of \"desired\" and \"priority\" is needed, not %zu "
                       "members",
                       rh_json_count(request));
    if (rh_json_get(request, "desired")) {
        enum rh_rc rc = rh_json_want_string(request, "desired", "request body", &desired, err);
        return rc ? rc : rh_factory_set_desired(call->api->factory, call->id, desired, out, err);
    }
    if (!rh_json_get(request, "priority"))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "request body: unknown member \"%.80s\"; \"desired\" and \"priority\" can "
                       "be set",
                       rh_json_key(rh_json_first(request)));
    enum rh_rc rc = rh_json_want_int(request, "priority", "request body", &priority, err);
    if (rc)
        return rc;
    if (priority < -1000000 || priority > 1000000)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "request body: priority %lld is out of bounds; -1000000..1000000 will do",
                       (long long)priority);
    return rh_factory_set_priority(call->api->factory, call->id, (int)priority, out, err);
}

static enum MHD_Result patch_job(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *request = NULL;
    struct rh_json *job = NULL;
    enum rh_rc rc = parse_body(call, &request, &err);
    if (rc == RH_OK)
        rc = patch(call, request, &job, &err);
    rh_json_free(request);
    return answer(call, MHD_HTTP_OK, rc, job, &err);
}

static enum MHD_Result delete_job(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *job = NULL;
    enum rh_rc rc = rh_factory_set_desired(call->api->factory, call->id, "cancel", &job, &err);
    return answer(call, MHD_HTTP_OK, rc, job, &err);
}

static enum rh_rc optional_int(const struct rh_json *request, const char *key, int64_t *out,
                               struct rh_error *err)
{
    if (!rh_json_get(request, key))
        return RH_OK;
    enum rh_rc rc = rh_json_want_int(request, key, "request body", out, err);
    if (rc == RH_OK && *out < 0)
        rc = rh_fail(err, RH_ERR_ARGUMENT, "request body: %s must not be negative", key);
    return rc;
}

static enum rh_rc retry(struct rh_http_call *call, const struct rh_json *request,
                        struct rh_json **out, struct rh_error *err)
{
    int64_t block = -1;
    int64_t task = 0;
    enum rh_rc rc = optional_int(request, "from_block", &block, err);
    if (rc == RH_OK)
        rc = optional_int(request, "task", &task, err);
    size_t known = (size_t)(block >= 0) + (size_t)(rh_json_get(request, "task") != NULL);
    if (rc == RH_OK && (known > 1 || rh_json_count(request) != known))
        rc = rh_fail(err, RH_ERR_ARGUMENT,
                     "request body: \"from_block\", \"task\" or nothing is possible");
    if (rc != RH_OK)
        return rc;
    return rh_factory_retry(call->api->factory, call->id, block, task, out, err);
}

static enum MHD_Result post_retry(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *request = NULL;
    struct rh_json *job = NULL;
    enum rh_rc rc = parse_body(call, &request, &err);
    if (rc == RH_OK)
        rc = retry(call, request, &job, &err);
    rh_json_free(request);
    return answer(call, MHD_HTTP_OK, rc, job, &err);
}

static enum MHD_Result post_drain(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *request = NULL;
    struct rh_json *workers = NULL;
    enum rh_rc rc = parse_body(call, &request, &err);
    const struct rh_json *drain = rh_json_get(request, "drain");
    const struct rh_json *why = rh_json_get(request, "why");
    if (rc == RH_OK && (rh_json_type(drain) != RH_JSON_BOOL || (why && !rh_json_string(why))))
        rc = rh_fail(&err, RH_ERR_ARGUMENT,
                     "request body: {\"drain\": true or false, \"why\": text} is needed");
    if (rc == RH_OK)
        rc = rh_factory_drain(call->api->factory, call->id, rh_json_bool(drain, true),
                              rh_json_string(why), &workers, &err);
    rh_json_free(request);
    return answer(call, MHD_HTTP_OK, rc, workers, &err);
}

static enum MHD_Result get_tasks(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *body = NULL;
    enum rh_rc rc = rh_factory_tasks(call->api->factory, call->id, &body, &err);
    return answer(call, MHD_HTTP_OK, rc, body, &err);
}

static enum MHD_Result get_recipe(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *body = NULL;
    enum rh_rc rc = rh_factory_recipe(call->api->factory, call->id, &body, &err);
    return answer(call, MHD_HTTP_OK, rc, body, &err);
}

static enum MHD_Result get_events(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *body = NULL;
    int64_t after = 0;
    int64_t limit = EVENTS_DEFAULT;
    if (query(call, "after") && !parse_number(query(call, "after"), &after))
        return bad(call, "after must be the number of an event, 0 or more");
    if (query(call, "limit") &&
        (!parse_number(query(call, "limit"), &limit) || limit < 1 || limit > EVENTS_MAX))
        return bad(call, "limit must be a number from 1 to 1000");
    enum rh_rc rc = rh_factory_events(call->api->factory, call->id, after, (int)limit, &body, &err);
    return answer(call, MHD_HTTP_OK, rc, body, &err);
}

static enum MHD_Result get_timeline(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_json *body = NULL;
    enum rh_rc rc = rh_factory_timeline(call->api->factory, query(call, "jobs"), &body, &err);
    return answer(call, MHD_HTTP_OK, rc, body, &err);
}

static enum rh_rc gc_options(const struct rh_json *request, struct rh_gc_options *o,
                             struct rh_error *err)
{
    const struct rh_json *dry = rh_json_get(request, "dry_run");
    *o = (struct rh_gc_options){.retain_bytes = -1, .failed_after_s = -1};
    if (dry && rh_json_type(dry) != RH_JSON_BOOL)
        return rh_fail(err, RH_ERR_ARGUMENT, "request body: dry_run must be true or false");
    o->dry_run = rh_json_bool(dry, false);
    enum rh_rc rc = optional_int(request, "retain_bytes", &o->retain_bytes, err);
    return rc == RH_OK ? optional_int(request, "failed_after_s", &o->failed_after_s, err) : rc;
}

/* The request is asked for its answer again once it is there. */
static void collected(void *arg, const struct rh_json *report, const struct rh_error *err)
{
    struct rh_http_call *call = arg;
    call->later = report ? rh_json_copy(report) : NULL;
    if (err)
        call->later_error = *err;
    call->waits = false;
    MHD_resume_connection(call->connection);
    rh_http_pump(call->server);
}

static enum MHD_Result post_gc(struct rh_http_call *call)
{
    struct rh_error err = {0};
    struct rh_gc_options options;
    struct rh_json *request = NULL;
    if (call->asked) {
        struct rh_json *body = call->later;
        call->later = NULL;
        return answer(call, MHD_HTTP_OK, call->later_error.rc, body, &call->later_error);
    }
    enum rh_rc rc = parse_body(call, &request, &err);
    if (rc == RH_OK)
        rc = gc_options(request, &options, &err);
    rh_json_free(request);
    if (rc != RH_OK)
        return answer(call, MHD_HTTP_OK, rc, NULL, &err);
    call->asked = call->waits = true;
    MHD_suspend_connection(call->connection);
    rh_factory_gc(call->api->factory, &options, collected, call);
    return MHD_YES;
}

static enum MHD_Result get_workers(struct rh_http_call *call)
{
    return rh_http_reply_json(call, MHD_HTTP_OK, rh_factory_workers(call->api->factory));
}

static enum MHD_Result get_snapshot(struct rh_http_call *call)
{
    return rh_http_reply_json(call, MHD_HTTP_OK, rh_factory_snapshot(call->api->factory));
}

static enum MHD_Result state_reply(struct rh_http_call *call, const char *state)
{
    struct rh_json *body = rh_json_new_object();
    rh_json_set_string(body, "status", state);
    return rh_http_reply_json(call, MHD_HTTP_OK, body);
}

static enum MHD_Result get_healthz(struct rh_http_call *call)
{
    return state_reply(call, "alive");
}

static enum MHD_Result get_readyz(struct rh_http_call *call)
{
    const char *why_not = NULL;
    if (rh_factory_ready(call->api->factory, &why_not))
        return state_reply(call, "ready");
    return rh_http_reply_problem(call, MHD_HTTP_SERVICE_UNAVAILABLE,
                                 why_not ? why_not : "not ready", NULL, "Retry-After", "1");
}

static const struct route {
    const char *method; /* HEAD goes where GET goes */
    const char *pattern;
    answer_fn *answer;
} routes[] = {
    {"GET", "/v1/jobs", get_jobs},
    {"POST", "/v1/jobs", post_job},
    {"GET", "/v1/jobs/{id}", get_job},
    {"PATCH", "/v1/jobs/{id}", patch_job},
    {"DELETE", "/v1/jobs/{id}", delete_job},
    {"POST", "/v1/jobs/{id}/retry", post_retry},
    {"GET", "/v1/jobs/{id}/tasks", get_tasks},
    {"GET", "/v1/jobs/{id}/events", get_events},
    {"GET", "/v1/jobs/{id}/recipe", get_recipe},
    {"POST", "/v1/gc", post_gc},
    {"GET", "/v1/timeline", get_timeline},
    {"GET", "/v1/workers", get_workers},
    {"POST", "/v1/workers/{id}/drain", post_drain},
    {"GET", "/v1/snapshot", get_snapshot},
    {"GET", "/v1/stream", rh_http_stream_open},
    {"GET", "/healthz", get_healthz},
    {"GET", "/readyz", get_readyz},
};

/* id receives what stands in the place of {id}. */
static bool matches(const char *pattern, const char *path, char id[RH_HTTP_ID_MAX])
{
    const char *hole = strstr(pattern, "{id}");
    if (!hole)
        return strcmp(pattern, path) == 0;
    size_t before = (size_t)(hole - pattern);
    if (strncmp(pattern, path, before) != 0)
        return false;
    const char *given = path + before;
    size_t size = strcspn(given, "/");
    if (size == 0 || size >= RH_HTTP_ID_MAX || strcmp(given + size, hole + 4) != 0)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (!isalnum((unsigned char)given[i]) && given[i] != '-' && given[i] != '_' &&
            given[i] != '.')
            return false;
    }
    memcpy(id, given, size);
    id[size] = '\0';
    return true;
}

/* Finds who answers; NULL: the refusal has been queued and its result is in *refused. */
static answer_fn *find_route(struct rh_http_call *call, const char *path, const char *method,
                             enum MHD_Result *refused)
{
    struct rh_strbuf allowed = {0};
    answer_fn *found = NULL;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (size_t i = 0; i < sizeof routes / sizeof *routes && !found; i++) {
        if (!matches(routes[i].pattern, path, call->id))
            continue;
        if (strcmp(routes[i].method, wanted) == 0)
            found = routes[i].answer;
        rh_strbuf_printf(&allowed, "%s%s", allowed.size ? ", " : "", routes[i].method);
    }
    if (!found && allowed.size)
        *refused = rh_http_reply_problem(call, MHD_HTTP_METHOD_NOT_ALLOWED,
                                         "this path does not know the method", NULL, "Allow",
                                         allowed.text);
    else if (!found)
        *refused = rh_http_reply_problem(call, MHD_HTTP_NOT_FOUND, "there is no such path",
                                         "the paths are listed in docs/protocol.md", NULL, NULL);
    rh_strbuf_done(&allowed);
    return found;
}

/* The headers are here: decides whether the rest of the request is worth reading. */
static enum MHD_Result begin(struct rh_http_call *call, const char *path, const char *method,
                             bool *refused)
{
    const char *detail = NULL;
    const char *hint = NULL;
    enum MHD_Result result = MHD_YES;
    bool changes = strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
    *refused = true;
    call->answer = find_route(call, path, method, &result);
    if (!call->answer)
        return result;
    unsigned status = rh_http_refusal(call, method, changes, &detail, &hint);
    if (status)
        return rh_http_reply_problem(call, status, detail, hint,
                                     status == MHD_HTTP_UNAUTHORIZED ? "WWW-Authenticate" : NULL,
                                     "Bearer");
    *refused = false;
    return MHD_YES;
}

static void call_free(struct rh_http_call *call)
{
    RH_ASSERT(!call->waits);
    rh_json_free(call->later);
    rh_strbuf_done(&call->body);
    rh_free(call);
}

enum MHD_Result rh_http_on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                   const char *method, const char *version, const char *data,
                                   size_t *data_size, void **state)
{
    struct rh_http_server *server = cls;
    struct rh_http_call *call = *state;
    (void)version;
    if (!call) {
        bool refused;
        call = rh_alloc(sizeof *call);
        call->api = server->api;
        call->server = server;
        call->connection = connection;
        enum MHD_Result result = begin(call, url, method, &refused);
        *state = call;
        return result;
    }
    if (*data_size > 0) {
        if (call->body.size + *data_size > RH_HTTP_BODY_MAX)
            return MHD_NO;
        rh_strbuf_append(&call->body, data, *data_size);
        *data_size = 0;
        return MHD_YES;
    }
    return call->answer(call);
}

void rh_http_on_completed(void *cls, struct MHD_Connection *connection, void **state,
                          enum MHD_RequestTerminationCode how)
{
    (void)cls;
    (void)connection;
    (void)how;
    if (*state)
        call_free(*state);
    *state = NULL;
}
