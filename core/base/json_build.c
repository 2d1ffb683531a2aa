#include <string.h>

#include "base/mem.h"
#include "json_cjson.h"

static struct rh_json *made(cJSON *node)
{
    RH_ASSERT(node);
    return json_of(node);
}

struct rh_json *rh_json_new_object(void)
{
    return made(cJSON_CreateObject());
}

struct rh_json *rh_json_new_array(void)
{
    return made(cJSON_CreateArray());
}

struct rh_json *rh_json_new_string(const char *text)
{
    return made(cJSON_CreateString(text));
}

struct rh_json *rh_json_new_int(int64_t value)
{
    return made(cJSON_CreateNumber((double)value));
}

struct rh_json *rh_json_new_number(double value)
{
    return made(cJSON_CreateNumber(value));
}

struct rh_json *rh_json_new_bool(bool value)
{
    return made(cJSON_CreateBool(value));
}

struct rh_json *rh_json_new_null(void)
{
    return made(cJSON_CreateNull());
}

void rh_json_add(struct rh_json *object, const char *key, struct rh_json *child)
{
    RH_ASSERT(rh_json_type(object) == RH_JSON_OBJECT);
    RH_ASSERT(cJSON_AddItemToObject(cjson_of(object), key, cjson_of(child)));
}

void rh_json_set(struct rh_json *object, const char *key, struct rh_json *child)
{
    if (!rh_json_get(object, key))
        rh_json_add(object, key, child);
    else
        RH_ASSERT(cJSON_ReplaceItemInObjectCaseSensitive(cjson_of(object), key, cjson_of(child)));
}

void rh_json_set_string(struct rh_json *object, const char *key, const char *text)
{
    rh_json_set(object, key, text ? rh_json_new_string(text) : rh_json_new_null());
}

void rh_json_set_int(struct rh_json *object, const char *key, int64_t value)
{
    rh_json_set(object, key, rh_json_new_int(value));
}

void rh_json_set_number(struct rh_json *object, const char *key, double value)
{
    rh_json_set(object, key, rh_json_new_number(value));
}

void rh_json_set_bool(struct rh_json *object, const char *key, bool value)
{
    rh_json_set(object, key, rh_json_new_bool(value));
}

void rh_json_append(struct rh_json *array, struct rh_json *child)
{
    RH_ASSERT(rh_json_type(array) == RH_JSON_ARRAY);
    RH_ASSERT(cJSON_AddItemToArray(cjson_of(array), cjson_of(child)));
}

struct rh_json *rh_json_get_mutable(struct rh_json *object, const char *key)
{
    if (rh_json_type(object) != RH_JSON_OBJECT)
        return NULL;
    return json_of(cJSON_GetObjectItemCaseSensitive(cjson_of(object), key));
}

void rh_json_remove(struct rh_json *object, const char *key)
{
    cJSON_DeleteItemFromObjectCaseSensitive(cjson_of(object), key);
}
