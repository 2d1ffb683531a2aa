#include "vocab.h"

#include <string.h>

#include "base/mem.h"

/* Ids beyond it would only waste memory; no known vocabulary has a tenth of it. */
#define ID_MAX (1 << 22)

struct token {
    size_t at;
    uint32_t size;
    bool there;
};

struct pair {
    uint64_t key; /* left id, right id; EMPTY: unused */
    struct rh_merge merge;
};

#define EMPTY UINT64_MAX

struct rh_vocab {
    char *bytes; /* of all tokens */
    size_t size, capacity;
    struct token *tokens; /* by id */
    int32_t token_count;
    int32_t *slots; /* ids by hash of their bytes, -1: free */
    size_t slot_mask;
    struct pair *pairs;
    size_t pair_mask;
    int32_t byte_ids[256];
};

static uint64_t hash_bytes(const char *bytes, size_t size)
{
    uint64_t h = 1469598103934665603U;
    for (size_t i = 0; i < size; i++)
        h = (h ^ (uint8_t)bytes[i]) * 1099511628211U;
    return h ^ (h >> 29);
}

/* GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest follows from U+0100. */
static void byte_letters(uint16_t letters[256])
{
    uint16_t next = 0x100;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        letters[b] = itself ? (uint16_t)b : next++;
    }
}

/* Letters back to bytes; -1 when a letter stands for none. Returns how many bytes. */
static int64_t to_bytes(const char *text, const int16_t byte_of[0x200], char *out)
{
    int64_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p; n++) {
        unsigned letter = *p++;
        if (letter >= 0xC0) {
            if (letter > 0xDF || (*p & 0xC0) != 0x80)
                return -1;
            letter = (letter & 0x1FU) << 6 | (*p++ & 0x3FU);
        }
        if (letter >= 0x200 || byte_of[letter] < 0)
            return -1;
        out[n] = (char)(unsigned char)byte_of[letter];
    }
    return n;
}

static size_t power_above(size_t n)
{
    size_t p = 16;
    while (p < n)
        p *= 2;
    return p;
}

int32_t rh_vocab_find(const struct rh_vocab *v, const char *bytes, size_t size)
{
    for (size_t i = hash_bytes(bytes, size) & v->slot_mask;; i = (i + 1) & v->slot_mask) {
        int32_t id = v->slots[i];
        if (id < 0)
            return -1;
        const struct token *t = &v->tokens[id];
        if (t->size == size && memcmp(v->bytes + t->at, bytes, size) == 0)
            return id;
    }
}

static void put(struct rh_vocab *v, int32_t id)
{
    const struct token *t = &v->tokens[id];
    size_t i = hash_bytes(v->bytes + t->at, t->size) & v->slot_mask;
    while (v->slots[i] >= 0)
        i = (i + 1) & v->slot_mask;
    v->slots[i] = id;
}

static struct pair *pair_slot(const struct rh_vocab *v, uint64_t key)
{
    uint64_t h = key * 0x9E3779B97F4A7C15U;
    size_t i = (size_t)(h ^ (h >> 32)) & v->pair_mask;
    while (v->pairs[i].key != EMPTY && v->pairs[i].key != key)
        i = (i + 1) & v->pair_mask;
    return &v->pairs[i];
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

struct rh_merge rh_vocab_merge(const struct rh_vocab *v, int32_t left, int32_t right)
{
    const struct pair *p = pair_slot(v, pair_key(left, right));
    return p->key == EMPTY ? (struct rh_merge){0, -1} : p->merge;
}

static enum rh_rc measure(const struct rh_json *vocab, const char *what, struct rh_vocab *v,
                          struct rh_error *err)
{
    for (const struct rh_json *t = rh_json_first(vocab); t; t = rh_json_next(t)) {
        int64_t id = -1;
        if (!rh_json_int(t, &id) || id < 0 || id >= ID_MAX)
            return rh_fail(err, RH_ERR_FORMAT, "%s: token \"%.80s\" has no id in 0..%d", what,
                           rh_json_key(t), ID_MAX - 1);
        if (id >= v->token_count)
            v->token_count = (int32_t)id + 1;
        v->capacity += strlen(rh_json_key(t));
    }
    return RH_OK;
}

static enum rh_rc read_tokens(const struct rh_json *vocab, const int16_t *byte_of, const char *what,
                              struct rh_vocab *v, struct rh_error *err)
{
    for (const struct rh_json *t = rh_json_first(vocab); t; t = rh_json_next(t)) {
        int64_t id = 0;
        rh_json_int(t, &id);
        struct token *mine = &v->tokens[id];
        if (mine->there)
            return rh_fail(err, RH_ERR_FORMAT, "%s: id %d stands for two tokens", what, (int)id);
        int64_t n = to_bytes(rh_json_key(t), byte_of, v->bytes + v->size);
        if (n < 0)
            continue; /* not made of bytes: no merge can reach it */
        *mine = (struct token){v->size, (uint32_t)n, true};
        v->size += (size_t)n;
        put(v, (int32_t)id);
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)(unsigned char)b;
        v->byte_ids[b] = rh_vocab_find(v, &byte, 1);
        if (v->byte_ids[b] < 0)
            return rh_fail(err, RH_ERR_UNSUPPORTED,
                           "%s: no token for byte 0x%02X; only byte-level BPE is supported", what,
                           b);
    }
    return RH_OK;
}

/* "a b" or ["a", "b"]; the letters' bytes of both, one after the other. */
static int64_t merge_bytes(const struct rh_json *merge, const int16_t *byte_of, char *out,
                           size_t room, int64_t *left_size)
{
    const char *text = rh_json_string(merge);
    const char *left = text;
    const char *right = NULL;
    char *copy = NULL;
    if (text) {
        copy = rh_strdup(text);
        char *blank = strchr(copy, ' ');
        if (blank) {
            *blank = '\0';
            left = copy;
            right = blank + 1;
        }
    } else if (rh_json_count(merge) == 2) {
        left = rh_json_string(rh_json_first(merge));
        right = rh_json_string(rh_json_next(rh_json_first(merge)));
    }
    int64_t total = -1;
    if (left && right && strlen(left) + strlen(right) < room) {
        *left_size = to_bytes(left, byte_of, out);
        int64_t more = *left_size < 0 ? -1 : to_bytes(right, byte_of, out + *left_size);
        total = more < 0 ? -1 : *left_size + more;
    }
    rh_free(copy);
    return total;
}

static enum rh_rc read_merges(const struct rh_json *merges, const int16_t *byte_of,
                              const char *what, struct rh_vocab *v, struct rh_error *err)
{
    char bytes[4096];
    uint32_t rank = 0;
    for (const struct rh_json *m = rh_json_first(merges); m; m = rh_json_next(m), rank++) {
        int64_t left_size = 0;
        int64_t size = merge_bytes(m, byte_of, bytes, sizeof bytes, &left_size);
        int32_t left = size < 0 ? -1 : rh_vocab_find(v, bytes, (size_t)left_size);
        int32_t right =
            size < 0 ? -1 : rh_vocab_find(v, bytes + left_size, (size_t)(size - left_size));
        int32_t whole = size < 0 ? -1 : rh_vocab_find(v, bytes, (size_t)size);
        if (left < 0 || right < 0 || whole < 0)
            return rh_fail(err, RH_ERR_FORMAT, "%s: merge %u is not made of tokens", what, rank);
        struct pair *p = pair_slot(v, pair_key(left, right));
        *p = (struct pair){pair_key(left, right), {rank, whole}};
    }
    return RH_OK;
}

static enum rh_rc fill(const struct rh_json *model, const char *what, struct rh_vocab *v,
                       struct rh_error *err)
{
    const struct rh_json *vocab = NULL;
    const struct rh_json *merges = NULL;
    enum rh_rc rc = rh_json_want_object(model, "vocab", what, &vocab, err);
    if (rc == RH_OK)
        rc = rh_json_want_array(model, "merges", what, &merges, err);
    if (rc == RH_OK)
        rc = measure(vocab, what, v, err);
    if (rc != RH_OK)
        return rc;
    size_t slots = power_above(2 * rh_json_count(vocab));
    size_t pairs = power_above(2 * rh_json_count(merges));
    v->bytes = rh_alloc_array(v->capacity + 1, 1);
    v->tokens = rh_alloc_array((size_t)v->token_count, sizeof *v->tokens);
    v->slots = rh_alloc_array(slots, sizeof *v->slots);
    v->pairs = rh_alloc_array(pairs, sizeof *v->pairs);
    memset(v->slots, 0xFF, slots * sizeof *v->slots);
    for (size_t i = 0; i < pairs; i++)
        v->pairs[i].key = EMPTY;
    v->slot_mask = slots - 1;
    v->pair_mask = pairs - 1;
    uint16_t letters[256];
    int16_t byte_of[0x200];
    memset(byte_of, 0xFF, sizeof byte_of);
    byte_letters(letters);
    for (int b = 0; b < 256; b++)
        byte_of[letters[b]] = (int16_t)b;
    rc = read_tokens(vocab, byte_of, what, v, err);
    return rc == RH_OK ? read_merges(merges, byte_of, what, v, err) : rc;
}

enum rh_rc rh_vocab_new(const struct rh_json *model, const char *what, struct rh_vocab **out,
                        struct rh_error *err)
{
    struct rh_vocab *v = rh_alloc(sizeof *v);
    enum rh_rc rc = fill(model, what, v, err);
    *out = rc == RH_OK ? v : NULL;
    if (rc != RH_OK)
        rh_vocab_free(v);
    return rc;
}

void rh_vocab_free(struct rh_vocab *v)
{
    if (!v)
        return;
    rh_free(v->bytes);
    rh_free(v->tokens);
    rh_free(v->slots);
    rh_free(v->pairs);
    rh_free(v);
}

const char *rh_vocab_token(const struct rh_vocab *v, int32_t id, size_t *size)
{
    if (id < 0 || id >= v->token_count || !v->tokens[id].there)
        return NULL;
    *size = v->tokens[id].size;
    return v->bytes + v->tokens[id].at;
}

int32_t rh_vocab_size(const struct rh_vocab *v)
{
    return v->token_count;
}

int32_t rh_vocab_byte(const struct rh_vocab *v, uint8_t byte)
{
    return v->byte_ids[byte];
}
