#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "http_internal.h"

static const char *title_of(unsigned status)
{
    switch (status) {
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 409:
        return "Conflict";
    case 413:
        return "Content Too Large";
    case 415:
        return "Unsupported Media Type";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 507:
        return "Insufficient Storage";
    default:
        return "Internal Server Error";
    }
}

void rh_http_common_headers(struct MHD_Response *response)
{
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy", "default-src 'none'");
}

/* text: adopted. */
static struct MHD_Response *new_response(char *text, const char *content_type)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(strlen(text), text, rh_free);
    if (!response) {
        rh_free(text);
        return NULL;
    }
    MHD_add_response_header(response, "Content-Type", content_type);
    rh_http_common_headers(response);
    return response;
}

static enum MHD_Result send_off(struct rh_http_call *call, unsigned status,
                                struct MHD_Response *response)
{
    if (!response)
        return MHD_NO;
    enum MHD_Result result = MHD_queue_response(call->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static char *line_of(struct rh_json *body)
{
    char *text = rh_json_text(body, false);
    char *line = rh_format("%s\n", text);
    rh_free(text);
    rh_json_free(body);
    return line;
}

enum MHD_Result rh_http_reply_json(struct rh_http_call *call, unsigned status, struct rh_json *body)
{
    struct MHD_Response *response = new_response(line_of(body), "application/json");
    if (response && status == MHD_HTTP_CREATED && call->id[0]) {
        char *where = rh_format("/v1/jobs/%s", call->id);
        MHD_add_response_header(response, "Location", where);
        rh_free(where);
    }
    return send_off(call, status, response);
}

enum MHD_Result rh_http_reply_problem(struct rh_http_call *call, unsigned status,
                                      const char *detail, const char *hint, const char *header,
                                      const char *header_value)
{
    struct rh_json *body = rh_json_new_object();
    rh_json_set_string(body, "title", title_of(status));
    rh_json_set_int(body, "status", (int64_t)status);
    rh_json_set_string(body, "detail", detail);
    if (hint)
        rh_json_set_string(body, "hint", hint);
    struct MHD_Response *response = new_response(line_of(body), "application/problem+json");
    if (response && header)
        MHD_add_response_header(response, header, header_value);
    return send_off(call, status, response);
}

enum MHD_Result rh_http_reply_error(struct rh_http_call *call, const struct rh_error *err)
{
    unsigned status = MHD_HTTP_INTERNAL_SERVER_ERROR;
    switch (err->rc) {
    case RH_ERR_ARGUMENT:
    case RH_ERR_FORMAT:
    case RH_ERR_UNSUPPORTED:
        status = MHD_HTTP_BAD_REQUEST;
        break;
    case RH_ERR_NOT_FOUND:
        status = MHD_HTTP_NOT_FOUND;
        break;
    case RH_ERR_EXISTS:
        status = MHD_HTTP_CONFLICT;
        break;
    case RH_ERR_AUTH:
        status = MHD_HTTP_FORBIDDEN;
        break;
    case RH_ERR_NO_SPACE:
        status = MHD_HTTP_INSUFFICIENT_STORAGE;
        break;
    default:
        break;
    }
    return rh_http_reply_problem(call, status, err->message, NULL, NULL, NULL);
}

static const char *header(const struct rh_http_call *call, const char *name)
{
    return MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, name);
}

/* A name of this host, with any port: a page of another site that got its own name to resolve to
 * 127.0.0.1 sends that name here. */
static bool host_is_local(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; host && i < sizeof names / sizeof *names; i++) {
        size_t size = strlen(names[i]);
        if (strncasecmp(host, names[i], size) != 0)
            continue;
        const char *rest = host + size;
        if (*rest == '\0')
            return true;
        if (*rest == ':' && rest[1] && strspn(rest + 1, "0123456789") == strlen(rest + 1))
            return true;
    }
    return false;
}

/* Does not tell by its duration how much of it was right. */
static bool token_is_right(const char *token, const char *authorization)
{
    unsigned char difference = 0;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0 ||
        strlen(authorization + 7) != strlen(token))
        return false;
    for (size_t i = 0; token[i]; i++)
        difference |= (unsigned char)(token[i] ^ authorization[7 + i]);
    return difference == 0;
}

static bool is_json(const char *type)
{
    static const char json[] = "application/json";
    if (!type || strncasecmp(type, json, sizeof json - 1) != 0)
        return false;
    return strchr("; \t", type[sizeof json - 1]) != NULL; /* the end of the text included */
}

static unsigned tcp_refusal(const struct rh_http_call *call, bool changes, const char **detail,
                            const char **hint)
{
    const char *origin = header(call, "Origin");
    if (!host_is_local(header(call, "Host"))) {
        *detail = "the Host header names another host";
        *hint = "ask for localhost or 127.0.0.1";
        return MHD_HTTP_FORBIDDEN;
    }
    if (!changes)
        return 0;
    if (origin && (strncasecmp(origin, "http://", 7) != 0 ||
                   strcasecmp(origin + 7, header(call, "Host")) != 0)) {
        *detail = "the request comes from a page of another origin";
        *hint = "changes are made from this origin, or by the roundhouse program";
        return MHD_HTTP_FORBIDDEN;
    }
    if (!token_is_right(call->api->token, header(call, "Authorization"))) {
        *detail = "changes over TCP need the token of this run";
        *hint = "send Authorization: Bearer <content of http-token in the run directory>, or use "
                "the unix socket";
        return MHD_HTTP_UNAUTHORIZED;
    }
    return 0;
}

unsigned rh_http_refusal(const struct rh_http_call *call, const char *method, bool changes,
                         const char **detail, const char **hint)
{
    const char *length = header(call, "Content-Length");
    bool body = strcmp(method, "POST") == 0 || strcmp(method, "PATCH") == 0;
    unsigned refused = call->server->tcp ? tcp_refusal(call, changes, detail, hint) : 0;
    if (refused)
        return refused;
    if (header(call, "Transfer-Encoding")) {
        *detail = "bodies in chunks are not taken";
        *hint = "send the body with a Content-Length";
        return length ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_NOT_IMPLEMENTED;
    }
    /* libmicrohttpd has refused what is not a number. */
    if (length && (strlen(length) > 10 || strtoull(length, NULL, 10) > RH_HTTP_BODY_MAX)) {
        *detail = "the body is larger than 1 MiB";
        *hint = "a job is a small JSON object; large data stays in files";
        return MHD_HTTP_CONTENT_TOO_LARGE;
    }
    if (body && !is_json(header(call, "Content-Type"))) {
        *detail = "the body must be JSON";
        *hint = "send Content-Type: application/json";
        return MHD_HTTP_UNSUPPORTED_MEDIA_TYPE;
    }
    return 0;
}
