#ifndef RH_BASE_HASH_MAP_H
#define RH_BASE_HASH_MAP_H

#include <stdbool.h>
#include <stddef.h>

/* String → pointer. Keys are copied. Iteration is in insertion order, hence deterministic. */
struct rh_hash_map;

struct rh_hash_map *rh_hash_map_new(void);
void rh_hash_map_free(struct rh_hash_map *map); /* values are not freed */
/* False when the key is there already (the value is not replaced). */
bool rh_hash_map_add(struct rh_hash_map *map, const char *key, void *value);
void *rh_hash_map_find(const struct rh_hash_map *map, const char *key); /* NULL: absent */
size_t rh_hash_map_count(const struct rh_hash_map *map);
const char *rh_hash_map_key_at(const struct rh_hash_map *map, size_t index);
void *rh_hash_map_value_at(const struct rh_hash_map *map, size_t index);

#endif
