#ifndef RH_CTL_SSE_H
#define RH_CTL_SSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/strbuf.h"

/* Server-sent events (WHATWG HTML, 9.2.6), in whatever pieces they come. Zero-initialise; set
 * on_event. An event or line beyond RH_SSE_MAX bytes fails the stream. */
#define RH_SSE_MAX ((size_t)4 << 20)

struct rh_sse {
    /* name: "message" when the sender gave none; data: lines joined by line feeds. */
    void (*on_event)(void *arg, const char *name, const char *data);
    void *arg;
    struct rh_strbuf line, data, name;
    struct rh_strbuf id; /* of the last event that had one; what Last-Event-ID takes */
    bool carriage;       /* the last byte was a carriage return */
};

/* False: the sender is not to be trusted any further. */
bool rh_sse_feed(struct rh_sse *sse, const char *bytes, size_t size);
/* Forgets a half-received event, for a new connection; the id stays. */
void rh_sse_restart(struct rh_sse *sse);
void rh_sse_done(struct rh_sse *sse);

#endif
