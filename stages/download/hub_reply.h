#ifndef RH_DOWNLOAD_HUB_REPLY_H
#define RH_DOWNLOAD_HUB_REPLY_H

#include <stdbool.h>

#include "http/http.h"
#include "hub_settings.h"
#include "recipe/model_reference.h"

/* Private to the client: what a reply that is no success means. `what`: what was asked for, for
 * people. from_hub: the Hub itself answered, not a host that it sent us to. */
enum rh_rc hub_reply_error(const struct rh_http_reply *reply,
                           const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                           const char *what, bool from_hub, struct rh_error *err);
/* Seconds that the server wants us to wait; -1: it does not say. */
long hub_reply_wait(const struct rh_http_reply *reply);
/* An ETag without quotes and weakness, of X-Linked-Etag or, without a redirect, ETag; owned by
 * caller, NULL: none. */
char *hub_reply_etag(const struct rh_http_reply *reply);

#endif
