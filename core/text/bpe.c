#include "bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Most words of a text are short and come again. */
#define CACHE_SLOTS 65536
#define CACHE_BYTES 24
#define CACHE_IDS   8

struct cached {
    uint8_t size; /* 0: empty */
    uint8_t count;
    char bytes[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
};

struct symbol {
    int32_t id;   /* GONE: merged into the one before */
    int32_t next; /* -1: the last */
    int32_t previous;
};

#define GONE (-1)

/* A pair that may merge; the place is that of its left symbol. */
struct candidate {
    uint32_t rank;
    int32_t id;
    int32_t place;
};

struct rh_bpe {
    const struct rh_vocab *vocab;
    bool ignore_merges;
    struct cached *cache;
    struct symbol *symbols;
    struct candidate *heap;
    size_t capacity, heap_count;
};

struct rh_bpe *rh_bpe_new(const struct rh_vocab *vocab, bool ignore_merges)
{
    struct rh_bpe *b = rh_alloc(sizeof *b);
    b->vocab = vocab;
    b->ignore_merges = ignore_merges;
    b->cache = rh_alloc_array(CACHE_SLOTS, sizeof *b->cache);
    return b;
}

void rh_bpe_free(struct rh_bpe *b)
{
    if (!b)
        return;
    rh_free(b->cache);
    rh_free(b->symbols);
    rh_free(b->heap);
    rh_free(b);
}

void rh_ids_done(struct rh_ids *ids)
{
    rh_free(ids->ids);
    *ids = (struct rh_ids){0};
}

static enum rh_rc ids_reserve(struct rh_ids *out, size_t more, struct rh_error *err)
{
    if (out->count + more <= out->capacity)
        return RH_OK;
    size_t capacity = 2 * (out->count + more) + 64;
    void *ids = NULL;
    enum rh_rc rc = rh_try_alloc(capacity * sizeof *out->ids, "token ids", &ids, err);
    if (rc != RH_OK)
        return rc;
    if (out->count > 0)
        memcpy(ids, out->ids, out->count * sizeof *out->ids);
    rh_free(out->ids);
    out->ids = ids;
    out->capacity = capacity;
    return RH_OK;
}

enum rh_rc rh_ids_append(struct rh_ids *out, const int32_t *ids, size_t count, struct rh_error *err)
{
    enum rh_rc rc = ids_reserve(out, count, err);
    if (rc == RH_OK)
        memcpy(out->ids + out->count, ids, count * sizeof *ids);
    if (rc == RH_OK)
        out->count += count;
    return rc;
}

static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->place < b->place;
}

static void push(struct rh_bpe *b, struct candidate c)
{
    size_t i = b->heap_count++;
    while (i > 0 && before(&c, &b->heap[(i - 1) / 2])) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = c;
}

static struct candidate pop(struct rh_bpe *b)
{
    struct candidate top = b->heap[0];
    struct candidate last = b->heap[--b->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= b->heap_count)
            break;
        if (child + 1 < b->heap_count && before(&b->heap[child + 1], &b->heap[child]))
            child++;
        if (!before(&b->heap[child], &last))
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

static void consider(struct rh_bpe *b, int32_t place)
{
    const struct symbol *s = &b->symbols[place];
    if (s->next < 0)
        return;
    struct rh_merge m = rh_vocab_merge(b->vocab, s->id, b->symbols[s->next].id);
    if (m.id >= 0)
        push(b, (struct candidate){m.rank, m.id, place});
}

/* A merge makes at most two new candidates, and there are fewer merges than bytes. */
static enum rh_rc make_room(struct rh_bpe *b, size_t size, struct rh_error *err)
{
    if (size <= b->capacity)
        return RH_OK;
    size_t capacity = size < 4096 ? 8192 : size + size / 2;
    void *symbols = NULL;
    void *heap = NULL;
    enum rh_rc rc = rh_try_alloc(capacity * sizeof *b->symbols, "symbols of a word", &symbols, err);
    if (rc == RH_OK)
        rc = rh_try_alloc(3 * capacity * sizeof *b->heap, "merges of a word", &heap, err);
    if (rc != RH_OK) {
        rh_free(symbols);
        return rc;
    }
    rh_free(b->symbols);
    rh_free(b->heap);
    b->symbols = symbols;
    b->heap = heap;
    b->capacity = capacity;
    return RH_OK;
}

/* The candidate is stale when its left symbol is gone or its pair now makes another token. */
static bool still_valid(const struct rh_bpe *b, const struct candidate *c)
{
    const struct symbol *s = &b->symbols[c->place];
    return s->id != GONE && s->next >= 0 &&
           rh_vocab_merge(b->vocab, s->id, b->symbols[s->next].id).id == c->id;
}

static void merge_all(struct rh_bpe *b, const char *piece, int32_t size)
{
    b->heap_count = 0;
    for (int32_t i = 0; i < size; i++)
        b->symbols[i] = (struct symbol){rh_vocab_byte(b->vocab, (uint8_t)piece[i]),
                                        i + 1 < size ? i + 1 : -1, i - 1};
    for (int32_t i = 0; i + 1 < size; i++)
        consider(b, i);
    while (b->heap_count > 0) {
        struct candidate c = pop(b);
        if (!still_valid(b, &c))
            continue;
        struct symbol *left = &b->symbols[c.place];
        struct symbol *right = &b->symbols[left->next];
        left->id = c.id;
        right->id = GONE;
        left->next = right->next;
        if (left->next >= 0)
            b->symbols[left->next].previous = c.place;
        if (left->previous >= 0)
            consider(b, left->previous);
        consider(b, c.place);
    }
}

static struct cached *cache_slot(const struct rh_bpe *b, const char *piece, size_t size)
{
    uint64_t h = size * 0x9E3779B97F4A7C15U;
    for (size_t i = 0; i < size; i++)
        h = (h ^ (uint8_t)piece[i]) * 1099511628211U;
    return &b->cache[(h ^ (h >> 32)) % CACHE_SLOTS];
}

static void remember(struct cached *slot, const char *piece, size_t size, const int32_t *ids,
                     size_t count)
{
    if (!slot || count > CACHE_IDS)
        return;
    slot->size = (uint8_t)size;
    slot->count = (uint8_t)count;
    memcpy(slot->bytes, piece, size);
    memcpy(slot->ids, ids, count * sizeof *ids);
}

/* The symbols that are left, in order. */
static enum rh_rc append_symbols(const struct rh_bpe *b, struct rh_ids *out, struct rh_error *err)
{
    size_t count = 0;
    for (int32_t i = 0; i >= 0; i = b->symbols[i].next)
        count++;
    enum rh_rc rc = ids_reserve(out, count, err);
    for (int32_t i = 0; i >= 0 && rc == RH_OK; i = b->symbols[i].next)
        out->ids[out->count++] = b->symbols[i].id;
    return rc;
}

enum rh_rc rh_bpe_encode(struct rh_bpe *b, const char *piece, size_t size, struct rh_ids *out,
                         struct rh_error *err)
{
    if (size == 0)
        return RH_OK;
    RH_ASSERT(size <= INT32_MAX);
    struct cached *slot = size <= CACHE_BYTES ? cache_slot(b, piece, size) : NULL;
    if (slot && slot->size == size && memcmp(slot->bytes, piece, size) == 0)
        return rh_ids_append(out, slot->ids, slot->count, err);
    int32_t whole = b->ignore_merges ? rh_vocab_find(b->vocab, piece, size) : -1;
    size_t first = out->count;
    enum rh_rc rc = whole >= 0 ? rh_ids_append(out, &whole, 1, err) : make_room(b, size, err);
    if (rc == RH_OK && whole < 0) {
        merge_all(b, piece, (int32_t)size);
        rc = append_symbols(b, out, err);
    }
    if (rc == RH_OK)
        remember(slot, piece, size, out->ids + first, out->count - first);
    return rc;
}
