#include "added.h"

#include <string.h>

#include "base/mem.h"
#include "unicode.h"

#define ID_MAX (1 << 22)

struct token {
    char *text;    /* as the file has it */
    char *pattern; /* what is searched: normalized for tokens of normalized text */
    size_t size;   /* of the pattern */
    int32_t id;
    bool normalized, single_word, lstrip, rstrip;
};

struct rh_added {
    struct token *tokens;
    size_t count;
    bool begins[2][256]; /* [normalized][first byte] */
};

static enum rh_rc read_token(const struct rh_json *json, bool nfc, const char *what,
                             struct token *t, struct rh_error *err)
{
    const char *text = NULL;
    int64_t id = 0;
    enum rh_rc rc = rh_json_want_string(json, "content", what, &text, err);
    if (rc == RH_OK)
        rc = rh_json_want_int(json, "id", what, &id, err);
    if (rc != RH_OK)
        return rc;
    if (id < 0 || id >= ID_MAX || !text[0])
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: added token \"%.80s\" with id %lld; the text cannot be empty, ids are "
                       "0..%d",
                       what, text, (long long)id, ID_MAX - 1);
    t->normalized = rh_json_bool(rh_json_get(json, "normalized"), false);
    t->size = strlen(text);
    char *normal = NULL;
    if (nfc && t->normalized)
        rc = rh_unicode_nfc(text, t->size, &normal, &t->size, err);
    if (rc != RH_OK)
        return rc;
    t->text = rh_strdup(text);
    t->pattern = rh_strndup(normal ? normal : text, t->size);
    t->id = (int32_t)id;
    t->single_word = rh_json_bool(rh_json_get(json, "single_word"), false);
    t->lstrip = rh_json_bool(rh_json_get(json, "lstrip"), false);
    t->rstrip = rh_json_bool(rh_json_get(json, "rstrip"), false);
    rh_unicode_free(normal);
    return RH_OK;
}

enum rh_rc rh_added_new(const struct rh_json *tokens, bool nfc, const char *what,
                        struct rh_added **out, struct rh_error *err)
{
    struct rh_added *a = rh_alloc(sizeof *a);
    a->tokens = rh_alloc_array(rh_json_count(tokens) + 1, sizeof *a->tokens);
    enum rh_rc rc = RH_OK;
    for (const struct rh_json *t = rh_json_first(tokens); t && rc == RH_OK; t = rh_json_next(t)) {
        struct token *mine = &a->tokens[a->count];
        rc = read_token(t, nfc, what, mine, err);
        if (rc != RH_OK)
            break;
        a->count++;
        a->begins[mine->normalized][(uint8_t)mine->pattern[0]] = true;
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
    for (size_t i = 0; i < a->count; i++) {
        rh_free(a->tokens[i].text);
        rh_free(a->tokens[i].pattern);
    }
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
            memcmp(text, t->pattern, t->size) == 0)
            best = t;
    }
    return best;
}

static bool is_word_of_its_own(const char *text, size_t size, size_t from, size_t to)
{
    return !rh_unicode_word_at_end(text, from) && !rh_unicode_word_at_start(text + to, size - to);
}

bool rh_added_find(const struct rh_added *a, bool normalized, const char *text, size_t size,
                   size_t from, struct rh_added_match *out)
{
    size_t i = from;
    while (i < size) {
        const struct token *t = NULL;
        if (a->begins[normalized][(uint8_t)text[i]])
            t = longest_at(a, normalized, text + i, size - i);
        if (!t || (t->single_word && !is_word_of_its_own(text, size, i, i + t->size))) {
            i += t ? t->size : 1;
            continue;
        }
        *out = (struct rh_added_match){i, i + t->size, t->id};
        for (size_t n = 1; t->lstrip && n > 0; out->from -= n)
            n = rh_unicode_white_at_end(text + from, out->from - from);
        for (size_t n = 1; t->rstrip && n > 0; out->to += n)
            n = rh_unicode_white_at_start(text + out->to, size - out->to);
        return true;
    }
    return false;
}

/* In the letters of a byte-level vocabulary these stand for themselves. */
static bool is_plain(const char *text)
{
    for (; *text; text++) {
        if (*text < 33 || *text > 126)
            return false;
    }
    return true;
}

enum rh_rc rh_added_check(const struct rh_added *a, const struct rh_vocab *vocab, const char *what,
                          struct rh_error *err)
{
    for (size_t i = 0; i < a->count; i++) {
        const struct token *t = &a->tokens[i];
        int32_t id = is_plain(t->text) ? rh_vocab_find(vocab, t->text, strlen(t->text)) : -1;
        if (id >= 0 && id != t->id)
            return rh_fail(err, RH_ERR_FORMAT,
                           "%s: added token \"%.80s\" has id %d, in the vocabulary it is %d", what,
                           t->text, (int)t->id, (int)id);
    }
    return RH_OK;
}

const char *rh_added_token(const struct rh_added *a, int32_t id, size_t *size)
{
    for (size_t i = 0; i < a->count; i++) {
        if (a->tokens[i].id == id) {
            *size = strlen(a->tokens[i].text);
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
