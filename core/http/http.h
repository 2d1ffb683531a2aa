#ifndef RH_HTTP_HTTP_H
#define RH_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/*
 * HTTP requests over libcurl, one at a time: operations of a stage have a thread each and nothing
 * to do while they wait, so a call simply takes as long as the transfer. Redirects are not
 * followed, so that whoever asks decides what the next host may see. Proxies come from the
 * environment (https_proxy, no_proxy), certificates from the system, or from the file that
 * SSL_CERT_FILE names.
 */
struct rh_http; /* keeps its connections open; for one thread at a time */

struct rh_http_reply {
    int status;
    char *headers; /* the lines as they came, '\n' between them */
    size_t headers_size;
    char *text; /* body of anything but 200 and 206, at most 64 KiB of it; NULL: none */
    size_t text_size;
};

struct rh_http_request {
    const char *url;
    const char *const *headers; /* "Name: value", NULL-terminated; NULL: none */
    int connect_seconds;        /* bounds the time until there is a connection */
    int idle_seconds;           /* bounds the time in which nothing comes */
    /* Body of 200 and 206, as it comes; an error ends the transfer and is what rh_http_get()
     * returns. */
    enum rh_rc (*body)(void *arg, const struct rh_http_reply *reply, const void *data, size_t size,
                       struct rh_error *err);
    /* Asked about once a second, also while nothing comes; an error ends the transfer. NULL: nobody
     * asks. */
    enum rh_rc (*check)(void *arg, struct rh_error *err);
    void *arg;
};

struct rh_http *rh_http_new(void);
void rh_http_free(struct rh_http *http);

/*
 * *out is filled as far as it came, also on failure; rh_http_reply_done(). Any whole reply is
 * RH_OK, whatever its status. RH_ERR_REMOTE: no connection, or it broke; RH_ERR_TIMEOUT;
 * RH_ERR_AUTH: the certificate does not hold. Errors name the host, never the path or query, which
 * may be a secret.
 */
RH_MUST_USE enum rh_rc rh_http_get(struct rh_http *http, const struct rh_http_request *request,
                                   struct rh_http_reply *out, struct rh_error *err);
void rh_http_reply_done(struct rh_http_reply *reply);

/* Value of the first header of that name, in any case; owned by caller, NULL when there is none. */
char *rh_http_header(const struct rh_http_reply *reply, const char *name);
/* Seconds until the moment that an HTTP date or a number of seconds names; -1: it is neither. */
long rh_http_seconds(const char *text);

/* The URL that `location` means when it comes from `base`; owned by caller, NULL: it is none. */
char *rh_http_resolve(const char *base, const char *location);
/* Same scheme, host and port. */
bool rh_http_same_origin(const char *a, const char *b);
/* "host" or "host:port" of a URL, for messages; owned by caller. */
char *rh_http_host(const char *url);
/* Percent-encoded for a URL; with `slashes` those stay. Owned by caller. */
char *rh_http_escape(const char *text, bool slashes);

#endif
