#ifndef RH_DOWNLOAD_HUB_CLIENT_H
#define RH_DOWNLOAD_HUB_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "hub_settings.h"
#include "hub_tree.h"
#include "recipe/model_reference.h"

/*
 * Requests to the Hub: redirects, retries, errors worded. A transfer that breaks goes on where it
 * stopped. What passes is tried again at once a second, then after twice as long each time, or when
 * the Hub says; five times without progress give the error, which is transient.
 */
struct rh_hub;

/* Who waits for it; functions may be NULL. */
struct rh_hub_watch {
    enum rh_rc (*check)(void *arg, struct rh_error *err); /* an error ends whatever goes on */
    /* Bytes of a file so far, or, with total 0, a pause before the next try. */
    void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
    void *arg;
};

/* Both borrowed. */
struct rh_hub *rh_hub_new(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                          const struct rh_hub_watch *watch);
void rh_hub_free(struct rh_hub *hub);

/* The commit that the name's revision is now, and what it holds. rh_hub_tree_done() also on
 * failure. RH_ERR_NOT_FOUND, RH_ERR_AUTH: no such model or revision, or not for us. */
RH_MUST_USE enum rh_rc rh_hub_look(struct rh_hub *hub, struct rh_hub_tree *out,
                                   struct rh_error *err);

/* Where the bytes [begin, end) of a file go, in order. */
struct rh_hub_sink {
    uint64_t begin, end;
    enum rh_rc (*take)(void *arg, const void *data, size_t size, struct rh_error *err);
    void *arg;
};

/*
 * Gets a part of a file of that commit. Replies that speak of another commit, digest or size are
 * refused; the content itself is not checked. *at: how far it came, also on failure.
 */
RH_MUST_USE enum rh_rc rh_hub_get(struct rh_hub *hub, const char *commit,
                                  const struct rh_hub_file *file, const struct rh_hub_sink *sink,
                                  uint64_t *at, struct rh_error *err);

/* The watch's check and progress. */
RH_MUST_USE enum rh_rc rh_hub_check(const struct rh_hub *hub, struct rh_error *err);
void rh_hub_progress(const struct rh_hub *hub, const char *phase, uint64_t done, uint64_t total);

#endif
