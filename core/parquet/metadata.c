#include "metadata.h"

#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "codec.h"
#include "thrift.h"

/* Metadata of a file with 10,000 columns and as many groups is below it. */
#define FOOTER_MAX ((uint64_t)64 << 20)
#define DEPTH_MAX  32
#define NAME_MAX   1024

/* FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData of parquet.thrift. */
enum { FILE_SCHEMA = 2, FILE_GROUPS = 4 };
enum { ELEMENT_TYPE = 1, ELEMENT_REPETITION = 3, ELEMENT_NAME = 4, ELEMENT_CHILDREN = 5 };
enum { ELEMENT_CONVERTED = 6, ELEMENT_LOGICAL = 10 };
enum { GROUP_COLUMNS = 1, GROUP_ROWS = 3 };
enum { CHUNK_FILE = 1, CHUNK_META = 3, CHUNK_CRYPTO = 8 };
enum { META_TYPE = 1, META_CODEC = 4, META_VALUES = 5, META_COMPRESSED = 7 };
enum { META_DATA_PAGE = 9, META_DICTIONARY_PAGE = 11 };
enum { BYTE_ARRAY = 6 };
enum { REQUIRED = 0, OPTIONAL = 1, REPEATED = 2 };
enum { CONVERTED_UTF8 = 0, CONVERTED_ENUM = 4, CONVERTED_JSON = 19 };
enum { LOGICAL_STRING = 1, LOGICAL_ENUM = 4, LOGICAL_JSON = 12 };

enum rh_rc footer_read(const struct source *s, struct footer *out, struct rh_error *err)
{
    uint8_t tail[8] = {0};
    uint8_t head[4] = {0};
    *out = (struct footer){0};
    if (s->size < 12)
        return rh_fail(err, RH_ERR_FORMAT, "%s: %llu bytes are no Parquet file", s->path,
                       (unsigned long long)s->size);
    enum rh_rc rc = source_read(s, s->size - 8, 8, tail, err);
    if (rc == RH_OK)
        rc = source_read(s, 0, 4, head, err);
    if (rc != RH_OK)
        return rc;
    if (memcmp(tail + 4, "PARE", 4) == 0)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s is encrypted; write it without encryption",
                       s->path);
    if (memcmp(tail + 4, "PAR1", 4) != 0 || memcmp(head, "PAR1", 4) != 0)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s does not begin and end with PAR1: no Parquet file, "
                       "or cut short",
                       s->path);
    uint64_t size = (uint64_t)tail[0] | (uint64_t)tail[1] << 8 | (uint64_t)tail[2] << 16 |
                    (uint64_t)tail[3] << 24;
    if (size > s->size - 12 || size > FOOTER_MAX)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: a footer of %llu bytes in a file of %llu; at most %llu are taken",
                       s->path, (unsigned long long)size, (unsigned long long)s->size,
                       (unsigned long long)FOOTER_MAX);
    void *bytes = NULL;
    rc = rh_try_alloc(size + 1, "the footer of a Parquet file", &bytes, err);
    if (rc != RH_OK)
        return rc;
    *out = (struct footer){bytes, size, s->size - 8 - size};
    return source_read(s, out->at, size, bytes, err);
}

void footer_done(struct footer *f)
{
    rh_free(f->bytes);
    *f = (struct footer){0};
}

static enum rh_rc broken(const char *what, const char *part, struct rh_error *err)
{
    return rh_fail(err, RH_ERR_FORMAT, "%s: %s in the footer is damaged", what, part);
}

struct element {
    int64_t type, repetition, children, converted, logical; /* -1: absent */
    const char *name;
    size_t name_size;
};

/* LogicalType is a union: the id of its one member says which. */
static int64_t read_union(struct thrift *t, enum thrift_type type)
{
    struct thrift_field member = {0};
    int64_t id = -1;
    if (type != THRIFT_STRUCT)
        t->failed = true;
    while (!t->failed && thrift_next(t, &member)) {
        id = member.id;
        thrift_skip(t, member.type);
    }
    return id;
}

static struct element read_element(struct thrift *t)
{
    struct element e = {-1, REQUIRED, 0, -1, -1, "", 0};
    struct thrift_field f = {0};
    while (thrift_next(t, &f)) {
        if (f.id == ELEMENT_TYPE)
            e.type = thrift_int(t, &f);
        else if (f.id == ELEMENT_REPETITION)
            e.repetition = thrift_int(t, &f);
        else if (f.id == ELEMENT_NAME)
            e.name = thrift_binary(t, f.type, &e.name_size);
        else if (f.id == ELEMENT_CHILDREN)
            e.children = thrift_int(t, &f);
        else if (f.id == ELEMENT_CONVERTED)
            e.converted = thrift_int(t, &f);
        else if (f.id == ELEMENT_LOGICAL)
            e.logical = read_union(t, f.type);
        else
            thrift_skip(t, f.type);
    }
    return e;
}

static bool is_text(const struct element *e)
{
    bool converted = e->converted == -1 || e->converted == CONVERTED_UTF8 ||
                     e->converted == CONVERTED_ENUM || e->converted == CONVERTED_JSON;
    bool logical = e->logical == -1 || e->logical == LOGICAL_STRING || e->logical == LOGICAL_ENUM ||
                   e->logical == LOGICAL_JSON;
    return e->type == BYTE_ARRAY && converted && logical;
}

/* A walk over the schema, which lists its tree depth first. */
struct walk {
    struct thrift *t;
    uint32_t elements; /* not yet read */
    const char *wanted;
    struct column *found;
    bool named, listed; /* the wanted column is there; it is inside a list */
    int64_t leaves, texts;
    struct column text; /* the last string column, for files with one only */
    struct rh_strbuf names, all;
};

/* The other names are told when the one asked for is not there. */
static void take_leaf(struct walk *w, const struct element *e, const char *name,
                      uint32_t definitions, bool repeated)
{
    bool usable = is_text(e) && !repeated;
    struct column column = {NULL, w->leaves++, definitions};
    if (w->all.size < NAME_MAX)
        rh_strbuf_printf(&w->all, "%s%s", w->all.size ? ", " : "", name);
    if (usable) {
        w->texts++;
        rh_free(w->text.name);
        w->text = column;
        w->text.name = rh_strdup(name);
        if (w->names.size < NAME_MAX)
            rh_strbuf_printf(&w->names, "%s%s", w->names.size ? ", " : "", name);
    }
    if (strcmp(name, w->wanted ? w->wanted : "text") != 0)
        return;
    w->named = true;
    w->listed = repeated;
    if (usable && !w->found->name) {
        *w->found = column;
        w->found->name = rh_strdup(name);
    }
}

static bool walk_element(struct walk *w, const char *prefix, uint32_t definitions, bool repeated,
                         int depth)
{
    if (w->elements == 0 || depth > DEPTH_MAX || w->t->failed)
        return false;
    w->elements--;
    struct element e = read_element(w->t);
    if (w->t->failed || e.name_size > NAME_MAX || memchr(e.name, '\0', e.name_size) ||
        e.children < 0 || e.repetition < REQUIRED || e.repetition > REPEATED)
        return false;
    char *name = rh_format("%s%s%.*s", prefix, *prefix ? "." : "", (int)e.name_size, e.name);
    bool good = true;
    if (depth == 0) { /* the root has no name and no repetition */
        rh_free(name);
        name = rh_strdup("");
    } else {
        definitions += e.repetition != REQUIRED;
        repeated = repeated || e.repetition == REPEATED;
    }
    /* A list's name stands for what is inside it when that is asked for. */
    if (depth > 0 && e.children > 0 && strcmp(name, w->wanted ? w->wanted : "text") == 0)
        w->named = w->listed = true;
    if (e.children == 0 && depth > 0)
        take_leaf(w, &e, name, definitions, repeated);
    for (int64_t i = 0; i < e.children && good; i++)
        good = walk_element(w, name, definitions, repeated, depth + 1);
    rh_free(name);
    return good;
}

static enum rh_rc choose(struct walk *w, const char *what, struct rh_error *err)
{
    const char *wanted = w->wanted ? w->wanted : "text";
    const char *names = w->names.text ? w->names.text : "none";
    bool talk = w->all.text && strstr(w->all.text, "messages.");
    if (w->found->name)
        return RH_OK;
    if (!w->wanted && !w->named && w->texts == 1) {
        *w->found = w->text;
        w->text.name = NULL;
        return RH_OK;
    }
    if (w->listed || (talk && w->texts == 0))
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: column %s is a list%s; string columns: %s",
                       what, w->listed ? wanted : "messages",
                       talk ? ", a conversation that only the model's chat template turns into "
                              "text; render it first (tokenizer.apply_chat_template(messages, "
                              "tokenize=False)) and store the result as text"
                            : "",
                       names);
    if (w->named)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s: column %s holds no strings; string columns: %s", what, wanted, names);
    return rh_fail(err, RH_ERR_NOT_FOUND,
                   "%s: no column %s; name one with :column=NAME; string columns: %s, all: %s",
                   what, wanted, names, w->all.text ? w->all.text : "none");
}

enum rh_rc column_find(const struct footer *f, const char *what, const char *wanted,
                       struct column *out, struct rh_error *err)
{
    struct thrift t = thrift_from(f->bytes, f->size);
    struct thrift_field field = {0};
    struct walk w = {.t = &t, .wanted = wanted, .found = out};
    enum rh_rc rc = RH_OK;
    bool seen = false;
    *out = (struct column){0};
    while (rc == RH_OK && !seen && thrift_next(&t, &field)) {
        if (field.id != FILE_SCHEMA) {
            thrift_skip(&t, field.type);
            continue;
        }
        seen = true;
        w.elements = thrift_list(&t, &field, THRIFT_STRUCT);
        if (!walk_element(&w, "", 0, false, 0) || w.elements > 0)
            rc = broken(what, "the schema", err);
    }
    if (rc == RH_OK && (t.failed || !seen))
        rc = broken(what, "the schema", err);
    if (rc == RH_OK)
        rc = choose(&w, what, err);
    rh_free(w.text.name);
    rh_strbuf_done(&w.names);
    rh_strbuf_done(&w.all);
    return rc;
}

struct chunk_meta {
    bool there, external, encrypted;
    int64_t type, codec, values, compressed, data_page, dictionary_page;
};

static void read_chunk_meta(struct thrift *t, struct chunk_meta *m)
{
    struct thrift_field f = {0};
    m->there = true;
    while (thrift_next(t, &f)) {
        if (f.id == META_TYPE)
            m->type = thrift_int(t, &f);
        else if (f.id == META_CODEC)
            m->codec = thrift_int(t, &f);
        else if (f.id == META_VALUES)
            m->values = thrift_int(t, &f);
        else if (f.id == META_COMPRESSED)
            m->compressed = thrift_int(t, &f);
        else if (f.id == META_DATA_PAGE)
            m->data_page = thrift_int(t, &f);
        else if (f.id == META_DICTIONARY_PAGE)
            m->dictionary_page = thrift_int(t, &f);
        else
            thrift_skip(t, f.type);
    }
}

static void read_chunk(struct thrift *t, struct chunk_meta *m)
{
    struct thrift_field f = {0};
    while (thrift_next(t, &f)) {
        m->external = m->external || f.id == CHUNK_FILE;
        m->encrypted = m->encrypted || f.id == CHUNK_CRYPTO;
        if (f.id == CHUNK_META && f.type == THRIFT_STRUCT)
            read_chunk_meta(t, m);
        else
            thrift_skip(t, f.type);
    }
}

/* Columns of a group stand in the order of the schema's leaves. */
static int64_t read_group(struct thrift *t, int64_t leaf, struct chunk_meta *m)
{
    struct thrift_field f = {0};
    int64_t rows = -1;
    while (thrift_next(t, &f)) {
        if (f.id == GROUP_ROWS) {
            rows = thrift_int(t, &f);
        } else if (f.id == GROUP_COLUMNS) {
            uint32_t columns = thrift_list(t, &f, THRIFT_STRUCT);
            for (int64_t i = 0; i < columns && !t->failed; i++) {
                if (i == leaf)
                    read_chunk(t, m);
                else
                    thrift_skip(t, THRIFT_STRUCT);
            }
        } else {
            thrift_skip(t, f.type);
        }
    }
    return rows;
}

static enum rh_rc check_chunk(const struct footer *f, const char *what, int64_t rows,
                              const struct chunk_meta *m, struct chunk *out, struct rh_error *err)
{
    if (m->external || m->encrypted)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: the pages are %s", what,
                       m->external ? "in another file; merge the files into one"
                                   : "encrypted; write the file without encryption");
    /* A dictionary offset of 0 means that there is none. */
    int64_t begin = m->dictionary_page > 0 && m->dictionary_page < m->data_page ? m->dictionary_page
                                                                                : m->data_page;
    if (!m->there || m->type != BYTE_ARRAY || rows < 0 || m->values != rows)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: the footer has %lld rows and %lld values of type %lld, not as many "
                       "values as rows, of type %d",
                       what, (long long)rows, (long long)m->values, (long long)m->type, BYTE_ARRAY);
    *out = (struct chunk){.codec = m->codec, .begin = 4, .end = 4};
    if (rows == 0) /* writers leave the offsets of what has no pages open */
        return RH_OK;
    if (begin < 4 || m->compressed < 0 || (uint64_t)begin > f->at ||
        (uint64_t)m->compressed > f->at - (uint64_t)begin)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: its pages would be %lld bytes at %lld, outside of the file's data, "
                       "which ends at %llu",
                       what, (long long)m->compressed, (long long)begin, (unsigned long long)f->at);
    *out = (struct chunk){rows, m->codec, (uint64_t)begin, (uint64_t)(begin + m->compressed)};
    return codec_check(m->codec, what, err);
}

static enum rh_rc read_groups(struct thrift *t, const struct thrift_field *field,
                              const struct footer *f, const char *what, const struct column *column,
                              struct chunk **out, size_t *count, struct rh_error *err)
{
    uint32_t groups = thrift_list(t, field, THRIFT_STRUCT);
    void *chunks = NULL;
    int64_t total = 0;
    enum rh_rc rc = rh_try_alloc((groups + 1) * sizeof **out, "row groups", &chunks, err);
    *out = chunks;
    for (uint32_t g = 0; rc == RH_OK && g < groups; g++) {
        struct chunk_meta meta = {.codec = -1, .type = -1, .data_page = -1};
        int64_t rows = read_group(t, column->leaf, &meta);
        if (t->failed)
            return broken(what, "a row group", err);
        char *where = rh_format("%s: column %s of row group %u", what, column->name, g);
        rc = check_chunk(f, where, rows, &meta, &(*out)[g], err);
        rh_free(where);
        if (rc == RH_OK && __builtin_add_overflow(total, rows, &total))
            rc = broken(what, "the number of rows", err);
    }
    *count = groups;
    return rc;
}

enum rh_rc chunks_read(const struct footer *f, const char *what, const struct column *column,
                       struct chunk **out, size_t *count, struct rh_error *err)
{
    struct thrift t = thrift_from(f->bytes, f->size);
    struct thrift_field field = {0};
    enum rh_rc rc = RH_OK;
    bool seen = false;
    *out = NULL;
    *count = 0;
    while (rc == RH_OK && thrift_next(&t, &field)) {
        if (field.id == FILE_GROUPS && !seen) {
            seen = true;
            rc = read_groups(&t, &field, f, what, column, out, count, err);
        } else {
            thrift_skip(&t, field.type);
        }
    }
    if (rc == RH_OK && (t.failed || !seen))
        rc = broken(what, "the list of row groups", err);
    return rc;
}
