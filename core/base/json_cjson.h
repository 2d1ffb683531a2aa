#ifndef RH_BASE_JSON_CJSON_H
#define RH_BASE_JSON_CJSON_H

#include <cjson/cJSON.h>

#include "base/json.h"

/* Private to the json_*.c files: a node of ours is a node of cJSON under another name. */
static inline struct rh_json *json_of(cJSON *node)
{
    return (struct rh_json *)(void *)node;
}

static inline cJSON *cjson_of(struct rh_json *node)
{
    return (cJSON *)(void *)node;
}

static inline const cJSON *cjson_of_const(const struct rh_json *node)
{
    return (const cJSON *)(const void *)node;
}

#endif
