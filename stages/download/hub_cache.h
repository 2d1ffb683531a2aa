#ifndef RH_DOWNLOAD_HUB_CACHE_H
#define RH_DOWNLOAD_HUB_CACHE_H

#include "hub_settings.h"
#include "hub_tree.h"
#include "recipe/model_reference.h"

/* The cache that huggingface_hub and its kin keep on this machine. It is read, never written. */

/* Where the cache has, or would have, a file of that commit; owned by caller. */
char *rh_hub_cache_path(const struct rh_hub_settings *settings, const struct rh_hub_name *name,
                        const char *commit, const char *file);
/*
 * What the cache holds of the name's revision: the tree as it is known without the Hub. Digests are
 * the names of the files that the cache's links lead to. RH_ERR_NOT_FOUND: nothing.
 */
RH_MUST_USE enum rh_rc rh_hub_cache_look(const struct rh_hub_settings *settings,
                                         const struct rh_hub_name *name, struct rh_hub_tree *out,
                                         struct rh_error *err);

#endif
