#include "base/hash_map.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

struct entry {
    char *key;
    void *value;
    uint64_t hash;
};

struct rh_hash_map {
    struct entry *entries; /* in insertion order */
    size_t count, capacity;
    uint32_t *slots;   /* entry index + 1; 0: empty */
    size_t slot_count; /* a power of two, at least twice count */
};

/* FNV-1a with a final mix; flooding is bounded by the callers' caps on the number of keys. */
static uint64_t hash_of(const char *key)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (const unsigned char *p = (const unsigned char *)key; *p; p++)
        h = (h ^ *p) * UINT64_C(0x100000001b3);
    h ^= h >> 32;
    return h * UINT64_C(0x9e3779b97f4a7c15);
}

struct rh_hash_map *rh_hash_map_new(void)
{
    struct rh_hash_map *map = rh_alloc(sizeof(*map));
    map->slot_count = 16;
    map->slots = rh_alloc_array(map->slot_count, sizeof(*map->slots));
    return map;
}

void rh_hash_map_free(struct rh_hash_map *map)
{
    if (!map)
        return;
    for (size_t i = 0; i < map->count; i++)
        rh_free(map->entries[i].key);
    rh_free(map->entries);
    rh_free(map->slots);
    rh_free(map);
}

static size_t slot_of(const struct rh_hash_map *map, const char *key, uint64_t hash)
{
    size_t mask = map->slot_count - 1;
    size_t i = (size_t)(hash >> 20) & mask;
    while (map->slots[i]) {
        const struct entry *e = &map->entries[map->slots[i] - 1];
        if (e->hash == hash && strcmp(e->key, key) == 0)
            break;
        i = (i + 1) & mask;
    }
    return i;
}

static void grow(struct rh_hash_map *map)
{
    rh_free(map->slots);
    map->slot_count *= 2;
    map->slots = rh_alloc_array(map->slot_count, sizeof(*map->slots));
    for (size_t i = 0; i < map->count; i++)
        map->slots[slot_of(map, map->entries[i].key, map->entries[i].hash)] = (uint32_t)(i + 1);
}

bool rh_hash_map_add(struct rh_hash_map *map, const char *key, void *value)
{
    uint64_t hash = hash_of(key);
    size_t slot = slot_of(map, key, hash);
    if (map->slots[slot])
        return false;
    RH_ASSERT(map->count < UINT32_MAX - 1);
    if (map->count == map->capacity) {
        map->capacity = map->capacity ? map->capacity * 2 : 16;
        map->entries = rh_realloc_array(map->entries, map->capacity, sizeof(*map->entries));
    }
    map->entries[map->count] = (struct entry){rh_strdup(key), value, hash};
    map->count++;
    map->slots[slot] = (uint32_t)map->count;
    if (map->count * 2 > map->slot_count)
        grow(map);
    return true;
}

void *rh_hash_map_find(const struct rh_hash_map *map, const char *key)
{
    uint32_t index = map->slots[slot_of(map, key, hash_of(key))];
    return index ? map->entries[index - 1].value : NULL;
}

size_t rh_hash_map_count(const struct rh_hash_map *map)
{
    return map->count;
}

const char *rh_hash_map_key_at(const struct rh_hash_map *map, size_t index)
{
    RH_ASSERT(index < map->count);
    return map->entries[index].key;
}

void *rh_hash_map_value_at(const struct rh_hash_map *map, size_t index)
{
    RH_ASSERT(index < map->count);
    return map->entries[index].value;
}
