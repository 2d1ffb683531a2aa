#ifndef RH_DOWNLOAD_HUB_SETTINGS_H
#define RH_DOWNLOAD_HUB_SETTINGS_H

#include <stdbool.h>

#include "base/error.h"

/*
 * What the environment says of the Hub, by the names and rules of huggingface_hub: HF_ENDPOINT,
 * HF_TOKEN (HUGGING_FACE_HUB_TOKEN, the file HF_TOKEN_PATH or $HF_HOME/token),
 * HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT,
 * HF_HUB_DOWNLOAD_TIMEOUT.
 */
struct rh_hub_settings {
    char *endpoint; /* without a slash at its end */
    char *token;    /* NULL: none */
    char *token_of; /* where it comes from: a variable's name or a path; never its value */
    char *cache;    /* directory of models--owner--name */
    bool offline;
    int connect_seconds, idle_seconds;
};

/* RH_ERR_ARGUMENT names the variable that makes no sense. rh_hub_settings_done() also on failure.
 */
RH_MUST_USE enum rh_rc rh_hub_settings_read(struct rh_hub_settings *out, struct rh_error *err);
void rh_hub_settings_done(struct rh_hub_settings *settings);

#endif
