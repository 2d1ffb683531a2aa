#ifndef RH_FAMILIES_FAMILY_H
#define RH_FAMILIES_FAMILY_H

#include "families/model_plan.h"

/*
 * Private to the library: what a model family has to say about itself. A family is a set of tables;
 * everything that is done with them (checking shapes, enumerating linears, packing, sharding) is
 * common.
 */
enum rh_role {
    RH_ROLE_PASS,    /* goes to the output as it is */
    RH_ROLE_LINEAR,  /* weight of a linear that may be quantized */
    RH_ROLE_KEEP,    /* weight of a linear that the family never quantizes */
    RH_ROLE_EXPERTS, /* gate_proj, up_proj, down_proj of every expert, fused or one by one */
};

enum rh_when { RH_ALWAYS, RH_IF_LINEAR_ATTENTION, RH_IF_FULL_ATTENTION, RH_IF_UNTIED };

#define RH_RULE_RANK_MAX 5

/* A tensor, or for RH_ROLE_EXPERTS the tensors below "<name>". Rules stand in AutoRound's module
 * order, which is the order of the output. */
struct rh_tensor_rule {
    const char *name;
    enum rh_role role;
    enum rh_when when;
    int dims[RH_RULE_RANK_MAX]; /* dimension numbers of the family; 0 ends the shape */
};

/* Tensors below one prefix; with `repeat`, below "<prefix>0.", "<prefix>1.", ... */
struct rh_tensor_group {
    const char *prefix;
    const struct rh_tensor_rule *rules;
    size_t rule_count;
    int repeat; /* dimension number of the count; 0: the prefix itself, once */
};

#define RH_UNIT_GROUPS_MAX 3

struct rh_unit_rules {
    enum rh_unit_kind kind;
    const char *marker; /* the unit is left out when no tensor begins with it; NULL: required */
    int present;        /* dimension that is 0 when the config has no such part; 0: always there */
    struct rh_tensor_group groups[RH_UNIT_GROUPS_MAX];
    size_t group_count;
};

struct rh_family {
    const char *name;
    const char *const *architectures; /* NULL-terminated */
    enum rh_rc (*read_config)(const struct rh_json *json, const char *what,
                              struct rh_model_config *out, struct rh_error *err);
    int64_t (*dimension)(const struct rh_model_config *config, int number);
    /* In unit order; the BLOCK entry stands for all layers, its group has the layers' prefix. */
    const struct rh_unit_rules *units;
    size_t unit_count;
    const char *blocks_name;     /* for block_name_to_quantize */
    const char *mtp_blocks_name; /* the same of the MTP layers */
    const char *const
        *keep_patterns; /* regexes of the linears with RH_ROLE_KEEP; NULL-terminated */
};

extern const struct rh_family rh_family_qwen3_5_moe;

/* NULL: unsupported. */
const struct rh_family *rh_family_find(const char *architecture);

/* Source tensors by name, and what has been said for them. */
struct rh_sources {
    struct rh_source_tensor *items;
    size_t count;
};

/* Fills plan->units and plan->outputs (unit and order set, shards not) from plan->config. `what`
 * names the checkpoint. */
RH_MUST_USE enum rh_rc rh_layout_apply(const struct rh_family *family,
                                       const struct rh_recipe *recipe,
                                       const struct rh_sources *sources, const char *what,
                                       struct rh_model_plan *plan, struct rh_error *err);

/* Everything that follows from config, files and sources. */
RH_MUST_USE enum rh_rc rh_plan_derive(const struct rh_recipe *recipe,
                                      const struct rh_sources *sources, const char *what,
                                      struct rh_model_plan *plan, struct rh_error *err);
/* Sha256 in hex of all linears and outputs. */
void rh_plan_digest(const struct rh_model_plan *plan, char out[65]);
/* Config from a parsed file; `json` is adopted, also on error. */
RH_MUST_USE enum rh_rc rh_config_from_json(struct rh_json *json, const char *what,
                                           struct rh_model_config *out, struct rh_error *err);

#endif
