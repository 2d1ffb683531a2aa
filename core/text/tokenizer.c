#include "text/tokenizer.h"

#include <string.h>

#include "added.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "bpe.h"
#include "pattern.h"
#include "unicode.h"

#define FILE_MAX ((uint64_t)256 << 20)
/* Normalization can make three bytes of one, and a piece must stay below 2^31. */
#define TEXT_MAX ((size_t)512 << 20)

/* What ByteLevel splits by when it is asked to (GPT-2). */
#define GPT2_REGEX                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

struct rh_tokenizer {
    struct rh_vocab *vocab;
    struct rh_bpe *bpe;
    struct rh_added *added;
    struct rh_pattern *pattern; /* NULL: a text is one piece */
    bool nfc;
};

struct encoding {
    struct rh_tokenizer *t;
    struct rh_ids *out;
    size_t enough;
    struct rh_error *err;
};

static enum rh_rc unsupported(const char *what, const char *part, const char *value,
                              struct rh_error *err)
{
    return rh_fail(err, RH_ERR_UNSUPPORTED,
                   "%s: %s \"%s\" is not supported; byte-level BPE with NFC or no normalizer is",
                   what, part, value ? value : "?");
}

static enum rh_rc read_normalizer(const struct rh_json *json, const char *what,
                                  struct rh_tokenizer *t, struct rh_error *err)
{
    if (rh_json_is_null(json))
        return RH_OK;
    const char *type = rh_json_string(rh_json_get(json, "type"));
    if (!type || strcmp(type, "NFC") != 0)
        return unsupported(what, "normalizer", type, err);
    t->nfc = true;
    return RH_OK;
}

static enum rh_rc read_byte_level(const struct rh_json *json, const char *what, const char **regex,
                                  struct rh_error *err)
{
    if (rh_json_bool(rh_json_get(json, "add_prefix_space"), true))
        return unsupported(what, "pre_tokenizer ByteLevel with", "add_prefix_space", err);
    if (rh_json_bool(rh_json_get(json, "use_regex"), true)) {
        if (*regex)
            return unsupported(what, "pre_tokenizer ByteLevel with", "use_regex after Split", err);
        *regex = GPT2_REGEX;
    }
    return RH_OK;
}

static enum rh_rc read_split(const struct rh_json *json, const char *what, const char **regex,
                             struct rh_error *err)
{
    const char *behavior = rh_json_string(rh_json_get(json, "behavior"));
    const char *text = rh_json_string(rh_json_get(rh_json_get(json, "pattern"), "Regex"));
    if (!text)
        return unsupported(what, "pre_tokenizer Split with pattern", "String", err);
    if (!behavior || strcmp(behavior, "Isolated") != 0 ||
        rh_json_bool(rh_json_get(json, "invert"), false))
        return unsupported(what, "pre_tokenizer Split with behavior", behavior, err);
    if (*regex)
        return unsupported(what, "pre_tokenizer", "a second Split", err);
    *regex = text;
    return RH_OK;
}

static enum rh_rc read_pre_tokenizer(const struct rh_json *json, const char *what,
                                     const char **regex, bool *byte_level, struct rh_error *err)
{
    const char *type = rh_json_string(rh_json_get(json, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        enum rh_rc rc = RH_OK;
        for (const struct rh_json *p = rh_json_first(rh_json_get(json, "pretokenizers"));
             p && rc == RH_OK; p = rh_json_next(p)) {
            const char *inner = rh_json_string(rh_json_get(p, "type"));
            if (inner && strcmp(inner, "Sequence") == 0)
                return unsupported(what, "pre_tokenizer", "Sequence in a Sequence", err);
            rc = read_pre_tokenizer(p, what, regex, byte_level, err);
        }
        return rc;
    }
    if (type && strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return read_byte_level(json, what, regex, err);
    }
    if (type && strcmp(type, "Split") == 0)
        return read_split(json, what, regex, err);
    return unsupported(what, "pre_tokenizer", type, err);
}

static enum rh_rc check_post_processor(const struct rh_json *json, const char *what,
                                       struct rh_error *err)
{
    const char *type = rh_json_string(rh_json_get(json, "type"));
    if (!rh_json_is_null(json) && (!type || strcmp(type, "ByteLevel") != 0))
        return unsupported(what, "post_processor", type, err);
    return RH_OK;
}

static enum rh_rc check_model(const struct rh_json *model, const char *what, struct rh_error *err)
{
    static const char *const must_be_empty[] = {"dropout", "continuing_subword_prefix",
                                                "end_of_word_suffix"};
    static const char *const must_be_false[] = {"byte_fallback", "fuse_unk"};
    const char *type = rh_json_string(rh_json_get(model, "type"));
    if (!type || strcmp(type, "BPE") != 0)
        return unsupported(what, "model", type, err);
    for (size_t i = 0; i < sizeof must_be_empty / sizeof must_be_empty[0]; i++) {
        const struct rh_json *value = rh_json_get(model, must_be_empty[i]);
        const char *text = rh_json_string(value);
        if ((text && text[0]) || rh_json_number(value, 0.0) != 0.0)
            return unsupported(what, "model with", must_be_empty[i], err);
    }
    for (size_t i = 0; i < sizeof must_be_false / sizeof must_be_false[0]; i++) {
        if (rh_json_bool(rh_json_get(model, must_be_false[i]), false))
            return unsupported(what, "model with", must_be_false[i], err);
    }
    return RH_OK;
}

static enum rh_rc build(const struct rh_json *root, const char *what, const char *pattern,
                        struct rh_tokenizer *t, struct rh_error *err)
{
    const struct rh_json *model = NULL;
    const char *regex = NULL;
    bool byte_level = false;
    enum rh_rc rc = rh_json_want_object(root, "model", what, &model, err);
    if (rc == RH_OK)
        rc = check_model(model, what, err);
    if (rc == RH_OK)
        rc = read_normalizer(rh_json_get(root, "normalizer"), what, t, err);
    if (rc == RH_OK)
        rc = read_pre_tokenizer(rh_json_get(root, "pre_tokenizer"), what, &regex, &byte_level, err);
    if (rc == RH_OK && !byte_level)
        rc = unsupported(what, "pre_tokenizer without", "ByteLevel", err);
    if (rc == RH_OK)
        rc = check_post_processor(rh_json_get(root, "post_processor"), what, err);
    if (rc == RH_OK)
        rc = rh_added_new(rh_json_get(root, "added_tokens"), t->nfc, what, &t->added, err);
    if (rc == RH_OK)
        rc = rh_vocab_new(model, what, &t->vocab, err);
    if (rc == RH_OK)
        rc = rh_added_check(t->added, t->vocab, what, err);
    regex = pattern ? pattern : regex;
    if (rc == RH_OK && regex)
        rc = rh_pattern_new(regex, what, &t->pattern, err);
    if (rc == RH_OK)
        t->bpe = rh_bpe_new(t->vocab, rh_json_bool(rh_json_get(model, "ignore_merges"), false));
    return rc;
}

enum rh_rc rh_tokenizer_parse(const char *json, size_t size, const char *what, const char *pattern,
                              struct rh_tokenizer **out, struct rh_error *err)
{
    *out = NULL;
    struct rh_json *root = NULL;
    enum rh_rc rc = rh_json_parse(json, size, what, &root, err);
    if (rc != RH_OK)
        return rc;
    struct rh_tokenizer *t = rh_alloc(sizeof *t);
    rc = build(root, what, pattern, t, err);
    rh_json_free(root);
    if (rc != RH_OK) {
        rh_tokenizer_free(t);
        return rc;
    }
    *out = t;
    return RH_OK;
}

enum rh_rc rh_tokenizer_load(const char *path, const char *pattern, struct rh_tokenizer **out,
                             struct rh_error *err)
{
    *out = NULL;
    char *text = NULL;
    size_t size = 0;
    enum rh_rc rc = rh_fs_read(path, FILE_MAX, &text, &size, err);
    if (rc == RH_OK)
        rc = rh_tokenizer_parse(text, size, path, pattern, out, err);
    rh_free(text);
    return rc;
}

void rh_tokenizer_free(struct rh_tokenizer *t)
{
    if (!t)
        return;
    rh_bpe_free(t->bpe);
    rh_pattern_free(t->pattern);
    rh_added_free(t->added);
    rh_vocab_free(t->vocab);
    rh_free(t);
}

static enum rh_rc encode_piece(void *arg, const char *piece, size_t size, bool *stop,
                               struct rh_error *err)
{
    struct encoding *e = arg;
    enum rh_rc rc = rh_bpe_encode(e->t->bpe, piece, size, e->out, err);
    *stop = e->enough > 0 && e->out->count >= e->enough;
    return rc;
}

static enum rh_rc encode_words(struct encoding *e, const char *text, size_t size)
{
    bool stop = false;
    if (size == 0)
        return RH_OK;
    if (e->t->pattern)
        return rh_pattern_split(e->t->pattern, text, size, encode_piece, e, e->err);
    return encode_piece(e, text, size, &stop, e->err);
}

typedef enum rh_rc (*rest_fn)(struct encoding *e, const char *text, size_t size);

/* Added tokens of one kind, and `rest` on what lies between them. */
static enum rh_rc encode_around_added(struct encoding *e, bool normalized, const char *text,
                                      size_t size, rest_fn rest)
{
    size_t at = 0;
    struct rh_added_match m;
    enum rh_rc rc = RH_OK;
    while (rc == RH_OK && (e->enough == 0 || e->out->count < e->enough)) {
        bool found = rh_added_find(e->t->added, normalized, text, size, at, &m);
        rc = rest(e, text + at, (found ? m.from : size) - at);
        if (!found)
            break;
        if (rc == RH_OK)
            rc = rh_ids_append(e->out, &m.id, 1, e->err);
        at = m.to;
    }
    return rc;
}

static enum rh_rc encode_normalized(struct encoding *e, const char *text, size_t size)
{
    return encode_around_added(e, true, text, size, encode_words);
}

static enum rh_rc encode_raw(struct encoding *e, const char *text, size_t size)
{
    char *nfc = NULL;
    enum rh_rc rc = RH_OK;
    if (e->t->nfc)
        rc = rh_unicode_nfc(text, size, &nfc, &size, e->err);
    if (rc == RH_OK)
        rc = encode_normalized(e, nfc ? nfc : text, size);
    rh_unicode_free(nfc);
    return rc;
}

enum rh_rc rh_tokenizer_encode(struct rh_tokenizer *t, const char *text, size_t size, size_t enough,
                               struct rh_ids *out, struct rh_error *err)
{
    size_t bad = 0;
    if (size > TEXT_MAX)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "a text of %zu bytes; cut it, at most %zu are taken", size, TEXT_MAX);
    if (!rh_utf8_valid(text, size, &bad))
        return rh_fail(err, RH_ERR_FORMAT, "the text is not UTF-8 at byte %zu (0x%02X)", bad,
                       (unsigned)(unsigned char)text[bad]);
    struct encoding e = {t, out, enough, err};
    return encode_around_added(&e, false, text, size, encode_raw);
}

const char *rh_tokenizer_token(const struct rh_tokenizer *t, int32_t id, size_t *size)
{
    const char *added = rh_added_token(t->added, id, size);
    return added ? added : rh_vocab_token(t->vocab, id, size);
}

int32_t rh_tokenizer_size(const struct rh_tokenizer *t)
{
    int32_t a = rh_added_size(t->added);
    int32_t v = rh_vocab_size(t->vocab);
    return a > v ? a : v;
}
