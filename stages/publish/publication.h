#ifndef RH_PUBLISH_PUBLICATION_H
#define RH_PUBLISH_PUBLICATION_H

#include "families/model_plan.h"
#include "harness/stage.h"

#define PUBLICATION_MANIFEST "MANIFEST.json"
#define PUBLICATION_CARD     "README.md"
#define PUBLICATION_JSON_MAX (UINT64_C(64) << 20)

/* A publication being made. All members but the task are owned. */
struct publication {
    struct rh_task *task;
    char *destination; /* absolute path */
    char *base;        /* its last part: the name of the new model */
    char *staging;     /* hidden, beside it */
    char *source_name; /* "hf:owner/name@revision", or the last part of a local path */
    struct rh_model_plan *plan;
    struct rh_json *files;  /* {name, size, sha256} of everything in staging but MANIFEST.json */
    struct rh_json *source; /* {reference, files: [{name, size, sha256}]} */
    struct rh_json *blocks; /* {block, init_loss, best_loss, best_iter} of tuned blocks */
    uint64_t bytes;         /* of the files */
};

/* Path, base and staging from rh_task_output(). */
RH_MUST_USE enum rh_rc publication_place(struct publication *p, struct rh_error *err);
/* Links or copies the files of shards and finalize into staging. */
RH_MUST_USE enum rh_rc publication_gather(struct publication *p, struct rh_error *err);
/* What is known of the source and of the tuning: fills source and blocks. */
RH_MUST_USE enum rh_rc publication_history(struct publication *p, struct rh_error *err);
/* Writes README.md and MANIFEST.json into staging. The same job and version give the same bytes. */
RH_MUST_USE enum rh_rc publication_card(struct publication *p, struct rh_error *err);
RH_MUST_USE enum rh_rc publication_manifest(struct publication *p, struct rh_error *err);

/* The recipe without what never changes the result, and without paths of this machine; owned by
 * caller. */
struct rh_json *publication_recipe(const struct rh_recipe *recipe);

/* Adds an entry; the size counts towards p->bytes. */
void publication_add_file(struct publication *p, const char *name, int64_t size,
                          const char *sha256);
/* What follows the last slash. */
const char *publication_last_part(const char *path);

#endif
