#ifndef RH_DOWNLOAD_HUB_FETCH_H
#define RH_DOWNLOAD_HUB_FETCH_H

#include "hub_client.h"

/*
 * Whole files of one commit. What is fetched lies in `dir` under the name of its digest, and got
 * that name after it was checked; until then it is "<digest>.part", which the next try continues,
 * also that of another process. Several threads and processes may share a folder.
 */
struct rh_hub_place {
    const char *dir;
    const struct rh_hub_settings *settings;
    const struct rh_hub_name *name;
    const char *commit;
};

/*
 * A path under which the whole file can be read, and has the digest of the listing; owned by
 * caller. It is one of the local cache when that has the file. RH_ERR_NO_SPACE: before anything is
 * transferred; RH_ERR_FORMAT: other bytes came, several times.
 */
RH_MUST_USE enum rh_rc rh_hub_fetch(struct rh_hub *hub, const struct rh_hub_place *place,
                                    const struct rh_hub_file *file, char **out_path,
                                    struct rh_error *err);
/* Where the file is on this machine, whole as far as its size tells; NULL: nowhere. Owned by
 * caller. */
char *rh_hub_fetched(const struct rh_hub_place *place, const struct rh_hub_file *file);
/* Nobody needs it any more. */
void rh_hub_drop(const struct rh_hub_place *place, const struct rh_hub_file *file);

#endif
