#include "parquet/parquet.h"

#include <string.h>

#include "base/mem.h"
#include "codec.h"
#include "metadata.h"
#include "page.h"

struct group {
    int64_t codec;
    bool has_dictionary;
    struct page dictionary;
};

struct data_page {
    struct page page;
    uint32_t group;
};

#define NONE SIZE_MAX

struct rh_parquet {
    struct source source;
    struct column column;
    int64_t rows;
    struct group *groups;
    struct data_page *pages; /* in the order of the rows */
    size_t page_count, page_capacity;
    /* What is decoded at the moment. */
    struct strings dictionary, strings;
    size_t dictionary_group, strings_page; /* NONE: nothing */
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
            rc = add_page(p, (struct data_page){page, group}, err);
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
    if (rc == RH_OK)
        memset(p->groups, 0, count * sizeof *p->groups);
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
    p->dictionary_group = NONE;
    p->strings_page = NONE;
    enum rh_rc rc = footer_read(&p->source, &footer, err);
    if (rc == RH_OK)
        rc = column_find(&footer, p->source.path, column, &p->column, err);
    if (rc == RH_OK)
        rc = index_pages(p, &footer, err);
    footer_done(&footer);
    return rc;
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
    strings_done(&p->strings);
    strings_done(&p->dictionary);
    source_close(&p->source);
    rh_free(p->column.name);
    rh_free(p->groups);
    rh_free(p->pages);
    rh_free(p);
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

/* What was decoded before goes first: strings may borrow from the dictionary. */
static enum rh_rc decode(struct rh_parquet *p, size_t index, struct rh_error *err)
{
    const struct data_page *d = &p->pages[index];
    const struct group *g = &p->groups[d->group];
    char *what = group_name(p, d->group);
    enum rh_rc rc = RH_OK;
    strings_done(&p->strings);
    p->strings_page = NONE;
    if (g->has_dictionary && p->dictionary_group != d->group) {
        strings_done(&p->dictionary);
        p->dictionary_group = NONE;
        rc = page_decode(&p->source, &g->dictionary, g->codec, 0, NULL, what, &p->dictionary, err);
        if (rc == RH_OK)
            p->dictionary_group = d->group;
    }
    if (rc == RH_OK)
        rc = page_decode(&p->source, &d->page, g->codec, p->column.definitions,
                         g->has_dictionary ? &p->dictionary : NULL, what, &p->strings, err);
    if (rc == RH_OK)
        p->strings_page = index;
    rh_free(what);
    return rc;
}

enum rh_rc rh_parquet_get(struct rh_parquet *p, int64_t row, const char **text, size_t *size,
                          struct rh_error *err)
{
    RH_ASSERT(row >= 0 && row < p->rows);
    size_t index = page_of(p, row);
    enum rh_rc rc = p->strings_page == index ? RH_OK : decode(p, index, err);
    *text = NULL;
    *size = 0;
    if (rc != RH_OK)
        return rc;
    const struct slice *slice = &p->strings.slices[row - p->pages[index].page.first_row];
    if (slice->size == NULL_SIZE)
        return RH_OK;
    *text = (const char *)p->strings.bytes + slice->at;
    *size = slice->size;
    return RH_OK;
}
