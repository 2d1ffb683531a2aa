#include "hub_reply.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"

#define MESSAGE_MAX 200

/* What the Hub says for people; owned by caller, "" when it says nothing. */
static char *message_of(const struct rh_http_reply *reply)
{
    char *message = rh_http_header(reply, "X-Error-Message");
    struct rh_json *json = NULL;
    if (!message && reply->text &&
        rh_json_parse(reply->text, reply->text_size, "reply", &json, NULL) == RH_OK) {
        const struct rh_json *text = rh_json_get(json, "error");
        if (rh_json_type(text) == RH_JSON_ARRAY)
            text = rh_json_first(text);
        message = rh_strdup(rh_json_string(text));
    }
    rh_json_free(json);
    if (!message)
        return rh_strdup("");
    for (char *c = message; *c; c++)
        *c = (unsigned char)*c < ' ' ? ' ' : *c;
    size_t size = strlen(message), bad = 0;
    if (size > MESSAGE_MAX)
        message[MESSAGE_MAX] = '\0';
    while (!rh_utf8_valid(message, strlen(message), &bad))
        message[bad] = '?';
    return message;
}

long hub_reply_wait(const struct rh_http_reply *reply)
{
    char *limit = rh_http_header(reply, "RateLimit"), *after = rh_http_header(reply, "Retry-After");
    const char *left = limit ? strstr(limit, "r=0;t=") : NULL;
    long seconds = after ? rh_http_seconds(after) : -1;
    if (left) /* the quota is used up, and starts anew in so many seconds */
        seconds = atol(left + strlen("r=0;t=")) + 1;
    rh_free(limit);
    rh_free(after);
    return seconds;
}

char *hub_reply_etag(const struct rh_http_reply *reply)
{
    bool redirect = reply->status >= 300 && reply->status < 400;
    char *etag = rh_http_header(reply, "X-Linked-Etag");
    if (!etag && !redirect)
        etag = rh_http_header(reply, "ETag");
    if (!etag)
        return NULL;
    const char *from = strncmp(etag, "W/", 2) == 0 ? etag + 2 : etag;
    from += *from == '"';
    char *plain = rh_strndup(from, strcspn(from, "\""));
    rh_free(etag);
    return plain;
}

/* 401 and 403 of the Hub itself. It hides private models behind 401. */
static enum rh_rc refused(const struct rh_http_reply *reply, const struct rh_hub_settings *s,
                          const struct rh_hub_name *name, const char *code, const char *message,
                          struct rh_error *err)
{
    bool gated = strcmp(code, "GatedRepo") == 0;
    if (gated && s->token)
        return rh_fail(err, RH_ERR_AUTH,
                       "%s is gated, and the token of %s has no access to it; ask for access at "
                       "%s/%s",
                       name->repo, s->token_of, s->endpoint, name->repo);
    if (gated)
        return rh_fail(err, RH_ERR_AUTH,
                       "%s is gated; accept its terms at %s/%s, then set HF_TOKEN to a token of "
                       "that account",
                       name->repo, s->endpoint, name->repo);
    if (strncmp(message, "Invalid credentials", 19) == 0)
        return rh_fail(err, RH_ERR_AUTH,
                       "%s does not know the Hub token of %s; make a new one at %s/settings/tokens",
                       s->endpoint, s->token ? s->token_of : "this request", s->endpoint);
    if (reply->status == 401)
        return rh_fail(err, RH_ERR_NOT_FOUND,
                       "%s has no model %s, or it is private; check the name%s", s->endpoint,
                       name->repo,
                       s->token ? ", and whose token it is"
                                : " (a directory of that name is not there), or set HF_TOKEN");
    return rh_fail(err, RH_ERR_AUTH, "%s refuses %s%s%s", s->endpoint, name->repo,
                   *message ? ": " : "", message);
}

static enum rh_rc not_found(const struct rh_hub_settings *s, const struct rh_hub_name *name,
                            const char *code, const char *what, struct rh_error *err)
{
    if (strcmp(code, "RevisionNotFound") == 0)
        return rh_fail(err, RH_ERR_NOT_FOUND,
                       "%s has no revision %s at %s; name a branch, a tag or a commit", name->repo,
                       name->revision, s->endpoint);
    if (strcmp(code, "EntryNotFound") == 0)
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s: there is no such file at %s", what, s->endpoint);
    return rh_fail(err, RH_ERR_NOT_FOUND,
                   "%s has no model %s; check the name (a directory of that name is not there "
                   "either)",
                   s->endpoint, name->repo);
}

static bool passes(int status, bool from_hub)
{
    /* A signed address that has expired is refused; the next try gets a new one. */
    bool expired = !from_hub && (status == 401 || status == 403 || status == 404 || status == 410);
    return expired || status == 408 || status == 416 || status == 429 || status >= 500;
}

enum rh_rc hub_reply_error(const struct rh_http_reply *reply,
                           const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                           const char *what, bool from_hub, struct rh_error *err)
{
    char *code = rh_http_header(reply, "X-Error-Code"), *message = message_of(reply);
    const char *kind = code ? code : "";
    enum rh_rc rc;
    if (passes(reply->status, from_hub))
        rc = rh_fail(err, RH_ERR_REMOTE, "%s: %s answered with status %d%s%s", what,
                     from_hub ? settings->endpoint : "a host that the Hub names", reply->status,
                     *message ? ": " : "", message);
    else if (reply->status == 401 || reply->status == 403)
        rc = refused(reply, settings, name, kind, message, err);
    else if (reply->status == 404)
        rc = not_found(settings, name, kind, what, err);
    else
        rc = rh_fail(err, RH_ERR_PROTOCOL,
                     "%s: %s answered with status %d%s%s, which is no answer of a Hub; check "
                     "HF_ENDPOINT and the proxy",
                     what, settings->endpoint, reply->status, *message ? ": " : "", message);
    rh_free(code);
    rh_free(message);
    return rc;
}
