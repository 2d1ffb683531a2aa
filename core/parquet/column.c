#include "parquet/parquet.h"

#include <string.h>

#include "base/mem.h"
#include "codec.h"
#include "metadata.h"
#include "page.h"

/* Decoded pages that are kept: rows in shuffled order would decode a page for each of its rows. */
#define HELD_MAX ((uint64_t)256 << 20)

struct group {
    int64_t codec;
    bool has_dictionary, decoded;
    struct page dictionary;
    struct strings words; /* of the dictionary */
};

struct data_page {
    struct page page;
    uint32_t group;
    bool decoded;
    struct strings strings; /* may borrow from the group's words */
};

struct rh_parquet {
    struct source source;
    struct column column;
    int64_t rows;
    struct group *groups;
    size_t group_count;
    struct data_page *pages; /* in the order of the rows */
    size_t page_count, page_capacity;
    uint64_t held, held_max; /* bytes of what is decoded */
};

/* Names a row group in errors; owned by caller. */
static char *group_name(const struct rh_parquet *p, size_t group)
{
    return rh_format("%s: column %s of row group %zu", p->source.path, p->column.name, group);
}

static enum rh_rc add_page(struct rh_parquet *p, struct data_page page, struct rh_error *err)
{
    if (p->page_count == p->page_capacity) {
        size_t capacity = p->page_capacity ? 2 * p->page_capacity : 64;
        void *pages = NULL;
        enum rh_rc rc =
            rh_try_alloc(capacity * sizeof *p->pages, "the index of pages", &pages, err);
        if (rc != RH_OK)
            return rc;
        if (p->page_count > 0)
            memcpy(pages, p->pages, p->page_count * sizeof *p->pages);
        rh_free(p->pages);
        p->pages = pages;
        p->page_capacity = capacity;
    }
    p->pages[p->page_count++] = page;
    return RH_OK;
}

/* Only headers are read. A page without values is left out. */
static enum rh_rc index_group(struct rh_parquet *p, const struct chunk *chunk, uint32_t group,
                              const char *what, struct rh_error *err)
{
    struct group *g = &p->groups[group];
    int64_t left = chunk->rows;
    uint64_t at = chunk->begin;
    enum rh_rc rc = RH_OK;
    g->codec = chunk->codec;
    while (rc == RH_OK && left > 0 && at < chunk->end) {
        struct page page;
        rc = page_read_header(&p->source, at, chunk->end, what, &page, &at, err);
        if (rc != RH_OK || page.kind == PAGE_INDEX)
            continue;
        if (page.kind == PAGE_DICTIONARY) {
            if (g->has_dictionary)
                return rh_fail(err, RH_ERR_FORMAT, "%s: two dictionaries", what);
            g->has_dictionary = true;
            g->dictionary = page;
            continue;
        }
        if (page.values > left)
            return rh_fail(err, RH_ERR_FORMAT, "%s: its pages hold more values than its %lld rows",
                           what, (long long)chunk->rows);
        page.first_row = p->rows + chunk->rows - left;
        left -= page.values;
        if (page.values > 0)
            rc = add_page(p, (struct data_page){.page = page, .group = group}, err);
    }
    if (rc == RH_OK && left > 0)
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: its pages hold %lld values less than its %lld rows",
                     what, (long long)left, (long long)chunk->rows);
    p->rows += chunk->rows;
    return rc;
}

static enum rh_rc index_pages(struct rh_parquet *p, const struct footer *footer,
                              struct rh_error *err)
{
    struct chunk *chunks = NULL;
    size_t count = 0;
    void *groups = NULL;
    enum rh_rc rc = chunks_read(footer, p->source.path, &p->column, &chunks, &count, err);
    if (rc == RH_OK)
        rc = rh_try_alloc((count + 1) * sizeof *p->groups, "row groups", &groups, err);
    p->groups = groups;
    if (rc == RH_OK) {
        memset(p->groups, 0, count * sizeof *p->groups);
        p->group_count = count;
    }
    for (size_t g = 0; g < count && rc == RH_OK; g++) {
        char *what = group_name(p, g);
        rc = index_group(p, &chunks[g], (uint32_t)g, what, err);
        rh_free(what);
    }
    rh_free(chunks);
    return rc;
}

static enum rh_rc open_source(struct rh_parquet *p, const char *column, struct rh_error *err)
{
    struct footer footer = {0};
    p->held_max = HELD_MAX;
    enum rh_rc rc = footer_read(&p->source, &footer, err);
    if (rc == RH_OK)
        rc = column_find(&footer, p->source.path, column, &p->column, err);
    if (rc == RH_OK)
        rc = index_pages(p, &footer, err);
    footer_done(&footer);
    return rc;
}

/* Pages go before the dictionaries that they borrow from. */
static void forget(struct rh_parquet *p)
{
    for (size_t i = 0; i < p->page_count; i++) {
        if (p->pages[i].decoded)
            strings_done(&p->pages[i].strings);
        p->pages[i].decoded = false;
    }
    for (size_t g = 0; g < p->group_count; g++) {
        if (p->groups[g].decoded)
            strings_done(&p->groups[g].words);
        p->groups[g].decoded = false;
    }
    p->held = 0;
}

static enum rh_rc hand_over(enum rh_rc rc, struct rh_parquet *p, struct rh_parquet **out)
{
    *out = rc == RH_OK ? p : NULL;
    if (rc != RH_OK)
        rh_parquet_close(p);
    return rc;
}

enum rh_rc rh_parquet_open(const char *path, const char *column, struct rh_parquet **out,
                           struct rh_error *err)
{
    struct rh_parquet *p = rh_alloc(sizeof *p);
    enum rh_rc rc = source_open(&p->source, path, err);
    if (rc == RH_OK)
        rc = open_source(p, column, err);
    return hand_over(rc, p, out);
}

enum rh_rc rh_parquet_open_bytes(const void *bytes, size_t size, const char *what,
                                 const char *column, struct rh_parquet **out, struct rh_error *err)
{
    struct rh_parquet *p = rh_alloc(sizeof *p);
    source_bytes(&p->source, bytes, size, what);
    return hand_over(open_source(p, column, err), p, out);
}

void rh_parquet_close(struct rh_parquet *p)
{
    if (!p)
        return;
    forget(p);
    source_close(&p->source);
    rh_free(p->column.name);
    rh_free(p->groups);
    rh_free(p->pages);
    rh_free(p);
}

void rh_parquet_hold(struct rh_parquet *p, uint64_t bytes)
{
    p->held_max = bytes;
}

int64_t rh_parquet_rows(const struct rh_parquet *p)
{
    return p->rows;
}

const char *rh_parquet_column(const struct rh_parquet *p)
{
    return p->column.name;
}

static size_t page_of(const struct rh_parquet *p, int64_t row)
{
    size_t low = 0;
    size_t high = p->page_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (p->pages[middle].page.first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static enum rh_rc decode_page(struct rh_parquet *p, const struct page *page, int64_t codec,
                              uint32_t definitions, const struct strings *words, const char *what,
                              struct strings *out, struct rh_error *err)
{
    p->held += page->full_size + (uint64_t)page->values * sizeof(struct slice);
    return page_decode(&p->source, page, codec, definitions, words, what, out, err);
}

static enum rh_rc decode(struct rh_parquet *p, struct data_page *d, struct rh_error *err)
{
    struct group *g = &p->groups[d->group];
    char *what = group_name(p, d->group);
    enum rh_rc rc = RH_OK;
    if (p->held > p->held_max)
        forget(p);
    if (g->has_dictionary && !g->decoded) {
        rc = decode_page(p, &g->dictionary, g->codec, 0, NULL, what, &g->words, err);
        g->decoded = rc == RH_OK;
    }
    if (rc == RH_OK) {
        rc = decode_page(p, &d->page, g->codec, p->column.definitions,
                         g->has_dictionary ? &g->words : NULL, what, &d->strings, err);
        d->decoded = rc == RH_OK;
    }
    rh_free(what);
    return rc;
}

enum rh_rc rh_parquet_get(struct rh_parquet *p, int64_t row, const char **text, size_t *size,
                          struct rh_error *err)
{
    RH_ASSERT(row >= 0 && row < p->rows);
    struct data_page *d = &p->pages[page_of(p, row)];
    enum rh_rc rc = d->decoded ? RH_OK : decode(p, d, err);
    *text = NULL;
    *size = 0;
    if (rc != RH_OK)
        return rc;
    const struct slice *slice = &d->strings.slices[row - d->page.first_row];
    if (slice->size == NULL_SIZE)
        return RH_OK;
    *text = (const char *)d->strings.bytes + slice->at;
    *size = slice->size;
    return RH_OK;
}
