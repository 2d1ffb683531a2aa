#include "added.h"

#include <string.h>

#include "base/mem.h"

#define ID_MAX (1 << 22)

struct token {
    char *text;
    size_t size;
    int32_t id;
    bool normalized, lstrip, rstrip;
};

struct rh_added {
    struct token *tokens;
    size_t count;
    bool begins[2][256]; /* [normalized][first byte] */
};

static enum rh_rc read_token(const struct rh_json *json, const char *what, struct token *t,
                             struct rh_error *err)
{
    const char *text = NULL;
    int64_t id = 0;
    enum rh_rc rc = rh_json_want_string(json, "content", what, &text, err);
    if (rc == RH_OK)
        rc = rh_json_want_int(json, "id", what, &id, err);
    if (rc != RH_OK)
        return rc;
    if (id < 0 || id >= ID_MAX || !text[0])
        return rh_fail(err, RH_ERR_FORMAT, "%s: added token \"%.80s\" with id %lld", what, text,
                       (long long)id);
    if (rh_json_bool(rh_json_get(json, "single_word"), false))
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s: added token \"%.80s\" wants single_word, which is not supported", what,
                       text);
    *t = (struct token){rh_strdup(text), strlen(text), (int32_t)id,
                        rh_json_bool(rh_json_get(json, "normalized"), false),
                        rh_json_bool(rh_json_get(json, "lstrip"), false),
                        rh_json_bool(rh_json_get(json, "rstrip"), false)};
    return RH_OK;
}

enum rh_rc rh_added_new(const struct rh_json *tokens, const char *what, struct rh_added **out,
                        struct rh_error *err)
{
    struct rh_added *a = rh_alloc(sizeof *a);
    a->tokens = rh_alloc_array(rh_json_count(tokens) + 1, sizeof *a->tokens);
    enum rh_rc rc = RH_OK;
    for (const struct rh_json *t = rh_json_first(tokens); t && rc == RH_OK; t = rh_json_next(t)) {
        struct token *mine = &a->tokens[a->count];
        rc = read_token(t, what, mine, err);
        if (rc != RH_OK)
            break;
        a->count++;
        a->begins[mine->normalized][(uint8_t)mine->text[0]] = true;
    }
    *out = rc == RH_OK ? a : NULL;
    if (rc != RH_OK)
        rh_added_free(a);
    return rc;
}

void rh_added_free(struct rh_added *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->count; i++)
        rh_free(a->tokens[i].text);
    rh_free(a->tokens);
    rh_free(a);
}

static const struct token *longest_at(const struct rh_added *a, bool normalized, const char *text,
                                      size_t left)
{
    const struct token *best = NULL;
    for (size_t i = 0; i < a->count; i++) {
        const struct token *t = &a->tokens[i];
        if (t->normalized == normalized && t->size <= left && (!best || t->size > best->size) &&
            memcmp(text, t->text, t->size) == 0)
            best = t;
    }
    return best;
}

/* White space in UTF-8 at the start of a text; 0: none. */
static size_t white_at(const char *p, size_t left)
{
    static const char *const white[] = {
        " ",            "\t",           "\n",           "\v",           "\f",
        "\r",           "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80",
        "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85",
        "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A",
        "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};
    for (size_t i = 0; i < sizeof white / sizeof white[0]; i++) {
        size_t n = strlen(white[i]);
        if (n <= left && memcmp(p, white[i], n) == 0)
            return n;
    }
    return 0;
}

/* Length of the white space that ends at `end`, not before `begin`. */
static size_t white_before(const char *text, size_t begin, size_t end)
{
    for (size_t n = 1; n <= 3 && n <= end - begin; n++) {
        if (white_at(text + end - n, n) == n)
            return n;
    }
    return 0;
}

bool rh_added_find(const struct rh_added *a, bool normalized, const char *text, size_t size,
                   size_t from, struct rh_added_match *out)
{
    for (size_t i = from; i < size; i++) {
        if (!a->begins[normalized][(uint8_t)text[i]])
            continue;
        const struct token *t = longest_at(a, normalized, text + i, size - i);
        if (!t)
            continue;
        *out = (struct rh_added_match){i, i + t->size, t->id};
        for (size_t n = 1; t->lstrip && n > 0; out->from -= n)
            n = white_before(text, from, out->from);
        for (size_t n = 1; t->rstrip && n > 0; out->to += n)
            n = white_at(text + out->to, size - out->to);
        return true;
    }
    return false;
}

const char *rh_added_token(const struct rh_added *a, int32_t id, size_t *size)
{
    for (size_t i = 0; i < a->count; i++) {
        if (a->tokens[i].id == id) {
            *size = a->tokens[i].size;
            return a->tokens[i].text;
        }
    }
    return NULL;
}

int32_t rh_added_size(const struct rh_added *a)
{
    int32_t size = 0;
    for (size_t i = 0; i < a->count; i++)
        size = a->tokens[i].id >= size ? a->tokens[i].id + 1 : size;
    return size;
}
