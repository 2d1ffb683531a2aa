#ifndef RH_BASE_JSON_H
#define RH_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

/*
 * JSON values. The json*.c files are the only ones that see cJSON. The parser is strict: one
 * document, no trailing bytes, no duplicate keys, depth at most 64, valid UTF-8. A node belongs to
 * the tree it hangs in; rh_json_free() is for roots.
 */
struct rh_json;

enum rh_json_type {
    RH_JSON_NULL,
    RH_JSON_BOOL,
    RH_JSON_NUMBER,
    RH_JSON_STRING,
    RH_JSON_ARRAY,
    RH_JSON_OBJECT,
};

/* `what` names the document in errors (a path). */
RH_MUST_USE enum rh_rc rh_json_parse(const char *text, size_t size, const char *what,
                                     struct rh_json **out, struct rh_error *err);
/* The same with C and C++ comments allowed (recipes). */
RH_MUST_USE enum rh_rc rh_json_parse_commented(const char *text, size_t size, const char *what,
                                               struct rh_json **out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_json_read(const char *path, uint64_t max_bytes, struct rh_json **out,
                                    struct rh_error *err);
RH_MUST_USE enum rh_rc rh_json_write(const char *path, const struct rh_json *node,
                                     struct rh_error *err); /* indented, durable */
void rh_json_free(struct rh_json *root);
struct rh_json *rh_json_copy(const struct rh_json *node);
char *rh_json_text(const struct rh_json *node, bool indented); /* owned by caller */
/* Sorted keys, shortest numbers, no white space: the form that is hashed. */
char *rh_json_canonical(const struct rh_json *node);

/* Reading. NULL nodes are allowed everywhere and behave as absent. */
enum rh_json_type rh_json_type(const struct rh_json *node);
const char *rh_json_key(const struct rh_json *node); /* of a member of an object */
const struct rh_json *rh_json_get(const struct rh_json *object, const char *key); /* NULL: absent */
size_t rh_json_count(const struct rh_json *node);
const struct rh_json *rh_json_first(const struct rh_json *node); /* children of object or array */
const struct rh_json *rh_json_next(const struct rh_json *child);
const char *rh_json_string(const struct rh_json *node); /* NULL: not a string */
double rh_json_number(const struct rh_json *node, double otherwise);
bool rh_json_bool(const struct rh_json *node, bool otherwise);
/* False unless the node is an integral number with |n| <= 2^53. */
bool rh_json_int(const struct rh_json *node, int64_t *out);
bool rh_json_is_null(const struct rh_json *node); /* true for absent and for null */

/* Required members; the error names `what`, the key and the expected type. */
RH_MUST_USE enum rh_rc rh_json_want_int(const struct rh_json *object, const char *key,
                                        const char *what, int64_t *out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_json_want_string(const struct rh_json *object, const char *key,
                                           const char *what, const char **out,
                                           struct rh_error *err);
RH_MUST_USE enum rh_rc rh_json_want_object(const struct rh_json *object, const char *key,
                                           const char *what, const struct rh_json **out,
                                           struct rh_error *err);
RH_MUST_USE enum rh_rc rh_json_want_array(const struct rh_json *object, const char *key,
                                          const char *what, const struct rh_json **out,
                                          struct rh_error *err);

/* Building. Setting an existing key replaces it; children are adopted. */
struct rh_json *rh_json_new_object(void);
struct rh_json *rh_json_new_array(void);
struct rh_json *rh_json_new_string(const char *text);
struct rh_json *rh_json_new_int(int64_t value);
struct rh_json *rh_json_new_number(double value);
struct rh_json *rh_json_new_bool(bool value);
struct rh_json *rh_json_new_null(void);
void rh_json_set(struct rh_json *object, const char *key, struct rh_json *child);
/* As set, for a key that is known to be new: does not search, for objects with many members. */
void rh_json_add(struct rh_json *object, const char *key, struct rh_json *child);
void rh_json_set_string(struct rh_json *object, const char *key, const char *text);
void rh_json_set_int(struct rh_json *object, const char *key, int64_t value);
void rh_json_set_number(struct rh_json *object, const char *key, double value);
void rh_json_set_bool(struct rh_json *object, const char *key, bool value);
void rh_json_append(struct rh_json *array, struct rh_json *child);
struct rh_json *rh_json_get_mutable(struct rh_json *object, const char *key);
void rh_json_remove(struct rh_json *object, const char *key);

#endif
