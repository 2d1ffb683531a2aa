#include "base/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "base/fs.h"
#include "base/hash_map.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "json_cjson.h"

#define DEPTH_MAX 64
/* Objects with fewer members are searched for duplicate keys pair by pair. */
#define FEW_MEMBERS   16
#define INT_MAX_EXACT 9007199254740992.0 /* 2^53 */

/* Line and column of an offset, for people. */
static enum rh_rc fail_at(const char *what, const char *text, size_t size, size_t at,
                          const char *problem, struct rh_error *err)
{
    size_t line = 1;
    size_t column = 1;
    for (size_t i = 0; i < at && i < size; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    return rh_fail(err, RH_ERR_FORMAT, "%s:%zu:%zu: %s", what, line, column, problem);
}

static size_t digits_end(const char *text, size_t size, size_t at)
{
    while (at < size && text[at] >= '0' && text[at] <= '9')
        at++;
    return at;
}

/* Where the number that begins at `at` ends (RFC 8259, 6); `at` itself when it is none. */
static size_t number_end(const char *text, size_t size, size_t at)
{
    size_t first = at + (text[at] == '-');
    size_t end = digits_end(text, size, first);
    if (end == first || (text[first] == '0' && end > first + 1))
        return at;
    if (end < size && text[end] == '.') {
        size_t fraction = digits_end(text, size, end + 1);
        if (fraction == end + 1)
            return at;
        end = fraction;
    }
    if (end < size && (text[end] == 'e' || text[end] == 'E')) {
        size_t from = end + 1;
        from += from < size && (text[from] == '+' || text[from] == '-');
        size_t exponent = digits_end(text, size, from);
        return exponent == from ? at : exponent;
    }
    return end;
}

/* What cJSON would let pass: deep nesting, numbers that JSON does not have, and escaped NULs, which
 * would cut a string short. */
static enum rh_rc scan(const char *text, size_t size, const char *what, struct rh_error *err)
{
    bool string = false;
    int depth = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (string) {
            if (c == '\\' && size - i > 5 && memcmp(text + i + 1, "u0000", 5) == 0)
                return fail_at(what, text, size, i, "\\u0000 is not allowed in a string", err);
            i += c == '\\';
            string = c != '"';
        } else if (c == '"') {
            string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > DEPTH_MAX)
                return fail_at(what, text, size, i, "nested deeper than 64 levels", err);
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == '\0') {
            return fail_at(what, text, size, i, "a NUL byte", err);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            size_t end = number_end(text, size, i);
            if (end == i)
                return fail_at(what, text, size, i, "not a JSON number", err);
            i = end - 1;
        }
    }
    return RH_OK;
}

static const char *duplicate_key(const cJSON *object)
{
    if (cJSON_GetArraySize(object) < FEW_MEMBERS) {
        for (const cJSON *a = object->child; a; a = a->next) {
            for (const cJSON *b = a->next; b; b = b->next) {
                if (strcmp(a->string, b->string) == 0)
                    return b->string;
            }
        }
        return NULL;
    }
    const char *found = NULL;
    struct rh_hash_map *seen = rh_hash_map_new();
    for (const cJSON *a = object->child; a && !found; a = a->next) {
        if (!rh_hash_map_add(seen, a->string, a->string))
            found = a->string;
    }
    rh_hash_map_free(seen);
    return found;
}

static enum rh_rc check_keys(const cJSON *node, const char *what, struct rh_error *err)
{
    if (cJSON_IsObject(node)) {
        const char *twice = duplicate_key(node);
        if (twice)
            return rh_fail(err, RH_ERR_FORMAT, "%s: key \"%.200s\" is there twice", what, twice);
    }
    if (cJSON_IsObject(node) || cJSON_IsArray(node)) {
        for (const cJSON *child = node->child; child; child = child->next) {
            enum rh_rc rc = check_keys(child, what, err);
            if (rc != RH_OK)
                return rc;
        }
    }
    return RH_OK;
}

enum rh_rc rh_json_parse(const char *text, size_t size, const char *what, struct rh_json **out,
                         struct rh_error *err)
{
    *out = NULL;
    size_t bad = 0;
    if (!rh_utf8_valid(text, size, &bad))
        return fail_at(what, text, size, bad, "not valid UTF-8", err);
    enum rh_rc rc = scan(text, size, what, err);
    if (rc != RH_OK)
        return rc;
    /* The copy ends in a NUL, which cJSON needs in order to refuse trailing bytes. */
    void *copy = NULL;
    rc = rh_try_alloc(size + 1, what, &copy, err);
    if (rc != RH_OK)
        return rc;
    if (size > 0)
        memcpy(copy, text, size);
    ((char *)copy)[size] = '\0';
    const char *end = copy;
    cJSON *root = cJSON_ParseWithLengthOpts(copy, size + 1, &end, 1);
    size_t at = (size_t)(end - (const char *)copy);
    rh_free(copy);
    if (!root)
        return fail_at(what, text, size, at, "not valid JSON from here on", err);
    rc = check_keys(root, what, err);
    if (rc != RH_OK) {
        cJSON_Delete(root);
        return rc;
    }
    *out = json_of(root);
    return RH_OK;
}

/* Where a comment that begins at `at` ends; `at` itself when none begins there. */
static size_t comment_end(const char *text, size_t size, size_t at)
{
    if (size - at < 2 || text[at] != '/')
        return at;
    size_t i = at + 2;
    if (text[at + 1] == '/') {
        while (i < size && text[i] != '\n')
            i++;
        return i;
    }
    if (text[at + 1] == '*') {
        while (i + 1 < size && !(text[i] == '*' && text[i + 1] == '/'))
            i++;
        return i + 1 < size ? i + 2 : at;
    }
    return at;
}

enum rh_rc rh_json_parse_commented(const char *text, size_t size, const char *what,
                                   struct rh_json **out, struct rh_error *err)
{
    *out = NULL;
    char *plain = rh_strndup(text, size);
    bool string = false;
    for (size_t i = 0; i < size; i++) {
        size_t end = string ? i : comment_end(text, size, i);
        if (end > i) {
            /* Blanks instead, so that errors keep their place. */
            for (; i < end; i++)
                plain[i] = text[i] == '\n' ? '\n' : ' ';
            i--;
        } else if (text[i] == '"') {
            string = !string;
        } else if (string && text[i] == '\\') {
            i++;
        }
    }
    enum rh_rc rc = rh_json_parse(plain, size, what, out, err);
    rh_free(plain);
    return rc;
}

enum rh_rc rh_json_read(const char *path, uint64_t max_bytes, struct rh_json **out,
                        struct rh_error *err)
{
    *out = NULL;
    char *text = NULL;
    size_t size = 0;
    enum rh_rc rc = rh_fs_read(path, max_bytes, &text, &size, err);
    if (rc == RH_OK)
        rc = rh_json_parse(text, size, path, out, err);
    rh_free(text);
    return rc;
}

void rh_json_free(struct rh_json *root)
{
    cJSON_Delete(cjson_of(root));
}

struct rh_json *rh_json_copy(const struct rh_json *node)
{
    cJSON *copy = cJSON_Duplicate(cjson_of_const(node), 1);
    RH_ASSERT(copy);
    return json_of(copy);
}

enum rh_json_type rh_json_type(const struct rh_json *node)
{
    const cJSON *n = cjson_of_const(node);
    if (cJSON_IsBool(n))
        return RH_JSON_BOOL;
    if (cJSON_IsNumber(n))
        return RH_JSON_NUMBER;
    if (cJSON_IsString(n))
        return RH_JSON_STRING;
    if (cJSON_IsArray(n))
        return RH_JSON_ARRAY;
    return cJSON_IsObject(n) ? RH_JSON_OBJECT : RH_JSON_NULL;
}

const char *rh_json_key(const struct rh_json *node)
{
    return node ? cjson_of_const(node)->string : NULL;
}

const struct rh_json *rh_json_get(const struct rh_json *object, const char *key)
{
    if (rh_json_type(object) != RH_JSON_OBJECT)
        return NULL;
    return json_of(cJSON_GetObjectItemCaseSensitive(cjson_of_const(object), key));
}

size_t rh_json_count(const struct rh_json *node)
{
    size_t count = 0;
    for (const struct rh_json *c = rh_json_first(node); c; c = rh_json_next(c))
        count++;
    return count;
}

const struct rh_json *rh_json_first(const struct rh_json *node)
{
    enum rh_json_type type = rh_json_type(node);
    if (type != RH_JSON_ARRAY && type != RH_JSON_OBJECT)
        return NULL;
    return json_of(cjson_of_const(node)->child);
}

const struct rh_json *rh_json_next(const struct rh_json *child)
{
    return child ? json_of(cjson_of_const(child)->next) : NULL;
}

const char *rh_json_string(const struct rh_json *node)
{
    return cJSON_GetStringValue(cjson_of_const(node));
}

double rh_json_number(const struct rh_json *node, double otherwise)
{
    return rh_json_type(node) == RH_JSON_NUMBER ? cjson_of_const(node)->valuedouble : otherwise;
}

bool rh_json_bool(const struct rh_json *node, bool otherwise)
{
    return rh_json_type(node) == RH_JSON_BOOL ? cJSON_IsTrue(cjson_of_const(node)) : otherwise;
}

bool rh_json_int(const struct rh_json *node, int64_t *out)
{
    double value = rh_json_number(node, NAN);
    if (!(fabs(value) <= INT_MAX_EXACT) || value != floor(value))
        return false;
    *out = (int64_t)value;
    return true;
}

bool rh_json_is_null(const struct rh_json *node)
{
    return rh_json_type(node) == RH_JSON_NULL;
}

static enum rh_rc wrong(const struct rh_json *object, const char *key, const char *what,
                        const char *type, struct rh_error *err)
{
    const char *problem = rh_json_get(object, key) ? "must be" : "is missing; it must be";
    return rh_fail(err, RH_ERR_FORMAT, "%s: \"%s\" %s %s", what, key, problem, type);
}

enum rh_rc rh_json_want_int(const struct rh_json *object, const char *key, const char *what,
                            int64_t *out, struct rh_error *err)
{
    if (!rh_json_int(rh_json_get(object, key), out))
        return wrong(object, key, what, "an integer", err);
    return RH_OK;
}

enum rh_rc rh_json_want_string(const struct rh_json *object, const char *key, const char *what,
                               const char **out, struct rh_error *err)
{
    *out = rh_json_string(rh_json_get(object, key));
    return *out ? RH_OK : wrong(object, key, what, "a string", err);
}

enum rh_rc rh_json_want_object(const struct rh_json *object, const char *key, const char *what,
                               const struct rh_json **out, struct rh_error *err)
{
    *out = rh_json_get(object, key);
    return rh_json_type(*out) == RH_JSON_OBJECT ? RH_OK
                                                : wrong(object, key, what, "an object", err);
}

enum rh_rc rh_json_want_array(const struct rh_json *object, const char *key, const char *what,
                              const struct rh_json **out, struct rh_error *err)
{
    *out = rh_json_get(object, key);
    return rh_json_type(*out) == RH_JSON_ARRAY ? RH_OK : wrong(object, key, what, "an array", err);
}
