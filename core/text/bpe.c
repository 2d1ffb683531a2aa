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
    int32_t id;
    int64_t next; /* -1: the last */
    int64_t previous;
    bool alive;
};

/* A pair that may merge; the place is that of its left symbol. */
struct candidate {
    uint32_t rank;
    int32_t id;
    int64_t place;
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

void rh_ids_append(struct rh_ids *out, const int32_t *ids, size_t count)
{
    if (out->count + count > out->capacity) {
        out->capacity = 2 * (out->count + count) + 64;
        out->ids = rh_realloc_array(out->ids, out->capacity, sizeof *out->ids);
    }
    memcpy(out->ids + out->count, ids, count * sizeof *ids);
    out->count += count;
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

static void consider(struct rh_bpe *b, int64_t place)
{
    const struct symbol *s = &b->symbols[place];
    if (s->next < 0)
        return;
    struct rh_merge m = rh_vocab_merge(b->vocab, s->id, b->symbols[s->next].id);
    if (m.id >= 0)
        push(b, (struct candidate){m.rank, m.id, place});
}

/* A merge makes at most two new candidates, and there are fewer merges than bytes. */
static void make_room(struct rh_bpe *b, size_t size)
{
    if (size <= b->capacity)
        return;
    b->capacity = 2 * size;
    b->symbols = rh_realloc_array(b->symbols, b->capacity, sizeof *b->symbols);
    b->heap = rh_realloc_array(b->heap, 3 * b->capacity, sizeof *b->heap);
}

/* The candidate is stale when its left symbol is gone or its pair now makes another token. */
static bool still_valid(const struct rh_bpe *b, const struct candidate *c)
{
    const struct symbol *s = &b->symbols[c->place];
    return s->alive && s->next >= 0 &&
           rh_vocab_merge(b->vocab, s->id, b->symbols[s->next].id).id == c->id;
}

static void merge_all(struct rh_bpe *b, const char *piece, size_t size)
{
    make_room(b, size);
    b->heap_count = 0;
    for (size_t i = 0; i < size; i++)
        b->symbols[i] = (struct symbol){rh_vocab_byte(b->vocab, (uint8_t)piece[i]),
                                        i + 1 < size ? (int64_t)i + 1 : -1, (int64_t)i - 1, true};
    for (size_t i = 0; i + 1 < size; i++)
        consider(b, (int64_t)i);
    while (b->heap_count > 0) {
        struct candidate c = pop(b);
        if (!still_valid(b, &c))
            continue;
        struct symbol *left = &b->symbols[c.place];
        struct symbol *right = &b->symbols[left->next];
        left->id = c.id;
        right->alive = false;
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

void rh_bpe_encode(struct rh_bpe *b, const char *piece, size_t size, struct rh_ids *out)
{
    if (size == 0)
        return;
    struct cached *slot = size <= CACHE_BYTES ? cache_slot(b, piece, size) : NULL;
    if (slot && slot->size == size && memcmp(slot->bytes, piece, size) == 0) {
        rh_ids_append(out, slot->ids, slot->count);
        return;
    }
    int32_t whole = b->ignore_merges ? rh_vocab_find(b->vocab, piece, size) : -1;
    size_t first = out->count;
    if (whole >= 0) {
        rh_ids_append(out, &whole, 1);
    } else {
        merge_all(b, piece, size);
        for (int64_t i = 0; i >= 0; i = b->symbols[i].next)
            rh_ids_append(out, &b->symbols[i].id, 1);
    }
    remember(slot, piece, size, out->ids + first, out->count - first);
}
