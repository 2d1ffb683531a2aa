#ifndef RH_CTL_REQUEST_H
#define RH_CTL_REQUEST_H

#include <stdbool.h>

#include "base/error.h"
#include "base/json.h"

#define RH_REQUEST_SETS_MAX 64

/* What the command line says of a job; borrowed. */
struct rh_request_words {
    const char
        *model; /* path, "scheme:...", or "owner/name" on the Hub when no such path is there */
    const char *recipe; /* path or name */
    const char *output; /* path, or "scheme:..." */
    const char *sets[RH_REQUEST_SETS_MAX];
    int set_count;
};

struct rh_request {
    struct rh_json *body;       /* of POST /v1/jobs */
    const char *model, *output; /* of the body */
    char *recipe_digest;
    char *output_path;    /* NULL when the output is no directory of this machine */
    bool hides_hub_model; /* the model is a path that is written like a name on the Hub */
};

/*
 * Checks and completes them. Everything that is wrong with the recipe, in whatever way, is
 * RH_ERR_ARGUMENT; a model that is not there RH_ERR_NOT_FOUND.
 */
RH_MUST_USE enum rh_rc rh_request_make(const struct rh_request_words *words, struct rh_request *out,
                                       struct rh_error *err);
void rh_request_done(struct rh_request *request);

#endif
