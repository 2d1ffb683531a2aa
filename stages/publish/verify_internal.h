#ifndef RH_PUBLISH_VERIFY_INTERNAL_H
#define RH_PUBLISH_VERIFY_INTERNAL_H

#include "base/hash_map.h"
#include "base/thread_pool.h"
#include "checkpoint/safetensors.h"
#include "families/model_plan.h"
#include "publish/verify.h"
#include "recipe/recipe.h"

#define VERIFY_INDEX_NAME    "model.safetensors.index.json"
#define VERIFY_MANIFEST_NAME "MANIFEST.json"
#define VERIFY_JSON_MAX      (UINT64_C(256) << 20)
#define VERIFY_CHUNK         (UINT64_C(4) << 20)

/* A tensor of the checkpoint, or of the source, and the file that holds it. */
struct verify_tensor {
    const struct rh_safetensors *file;
    const struct rh_tensor_info *info;
    const char *file_name;
};

struct verify_set {
    char **names; /* of the files */
    struct rh_safetensors **files;
    size_t file_count;
    struct rh_hash_map *by_name; /* -> struct verify_tensor, owned */
};

struct verify {
    const char *dir;
    const char *source_dir; /* NULL when there is none, also with options->source_job */
    struct rh_verify_options options;
    struct rh_verify_report *report;
    struct rh_json *manifest; /* NULL: none, or unreadable */
    struct rh_json *config;   /* config.json without quantization_config */
    struct rh_json *quantization;
    struct rh_recipe *recipe;
    struct rh_model_plan *plan;
    bool plan_is_of_source; /* else it was made from the checkpoint's own tensors */
    struct verify_set output, source;
    struct rh_thread_pool *pool; /* while values are read */
    uint64_t done, total;        /* progress of the phase, bytes */
    uint64_t compared;           /* linears in report->error_mean */
};

/* Notes a problem of a check. */
void verify_problem(struct verify *v, enum rh_verify_id check, const char *format, ...)
    RH_PRINTF(3, 4);
/* A check that ran: counts are added up, the state follows from its problems. */
void verify_ran(struct verify *v, enum rh_verify_id check, uint64_t count);
void verify_detail(struct verify *v, enum rh_verify_id check, const char *format, ...)
    RH_PRINTF(3, 4);
RH_MUST_USE enum rh_rc verify_step(struct verify *v, const char *phase, uint64_t bytes,
                                   struct rh_error *err);

/* Takes ownership of the file. `twice` (may be NULL) is called for each name that another file of
 * the set holds already; the first one stays. */
void verify_set_add(struct verify_set *set, const char *name, struct rh_safetensors *file,
                    void (*twice)(void *arg, const struct verify_tensor *first,
                                  const struct verify_tensor *second),
                    void *arg);
const struct verify_tensor *verify_set_find(const struct verify_set *set, const char *name);
size_t verify_set_count(const struct verify_set *set);
const struct verify_tensor *verify_set_at(const struct verify_set *set, size_t index);
void verify_set_done(struct verify_set *set);

bool verify_ends_with(const char *text, const char *suffix);

/* The parts, in the order in which they run. */
RH_MUST_USE enum rh_rc verify_manifest(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_files(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_index(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_config(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_open_source(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_side_files(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_inventory(struct verify *v, struct rh_error *err);
RH_MUST_USE enum rh_rc verify_values(struct verify *v, struct rh_error *err);

/* Whether the configuration says 16 bit for a linear below a listed block; false in *known when
 * that hangs on a pattern beyond what is understood here. */
bool verify_config_keeps(const struct rh_json *quantization, const char *name, bool *known);

#endif
