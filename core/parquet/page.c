#include "page.h"

#include <string.h>

#include "base/mem.h"
#include "codec.h"
#include "hybrid.h"
#include "thrift.h"

/* Writers aim at pages of 1 MiB; a single string can make one larger. */
#define PAGE_MAX   ((int64_t)256 << 20)
#define VALUES_MAX ((int64_t)1 << 24)
/* Statistics in a header hold two values at most, which writers cut to a few KiB. */
#define HEADER_FIRST 4096
#define HEADER_MAX   ((uint64_t)16 << 20)

/* PageHeader, DataPageHeader, DictionaryPageHeader, DataPageHeaderV2 of parquet.thrift. */
enum { PAGE_TYPE = 1, PAGE_FULL_SIZE = 2, PAGE_SIZE = 3, PAGE_CRC = 4 };
enum { PAGE_V1 = 5, PAGE_DICT = 7, PAGE_V2 = 8 };
enum { V1_VALUES = 1, V1_ENCODING = 2, V1_DEFINITIONS = 3 };
enum { V2_VALUES = 1, V2_ENCODING = 4, V2_DEFINITION_BYTES = 5, V2_REPETITION_BYTES = 6 };
enum { V2_IS_COMPRESSED = 7 };
enum { PLAIN = 0, PLAIN_DICTIONARY = 2, RLE = 3, RLE_DICTIONARY = 8 };

struct header {
    int64_t type, full_size, size, crc, values, encoding, level_encoding;
    int64_t definition_bytes, repetition_bytes;
    bool has_crc, is_compressed;
};

/* which: the field of PageHeader that holds this struct. */
static void read_data_header(struct thrift *t, int which, struct header *h)
{
    struct thrift_field f = {0};
    bool v2 = which == PAGE_V2;
    while (thrift_next(t, &f)) {
        if (f.id == V1_VALUES)
            h->values = thrift_int(t, &f);
        else if (f.id == (v2 ? V2_ENCODING : V1_ENCODING))
            h->encoding = thrift_int(t, &f);
        else if (which == PAGE_V1 && f.id == V1_DEFINITIONS)
            h->level_encoding = thrift_int(t, &f);
        else if (v2 && f.id == V2_DEFINITION_BYTES)
            h->definition_bytes = thrift_int(t, &f);
        else if (v2 && f.id == V2_REPETITION_BYTES)
            h->repetition_bytes = thrift_int(t, &f);
        else if (v2 && f.id == V2_IS_COMPRESSED)
            h->is_compressed = thrift_int(t, &f) != 0;
        else
            thrift_skip(t, f.type);
    }
}

static bool read_header(struct thrift *t, struct header *h)
{
    struct thrift_field f = {0};
    *h = (struct header){.type = -1,
                         .full_size = -1,
                         .size = -1,
                         .encoding = -1,
                         .values = -1,
                         .level_encoding = RLE,
                         .is_compressed = true};
    while (thrift_next(t, &f)) {
        if (f.id == PAGE_TYPE)
            h->type = thrift_int(t, &f);
        else if (f.id == PAGE_FULL_SIZE)
            h->full_size = thrift_int(t, &f);
        else if (f.id == PAGE_SIZE)
            h->size = thrift_int(t, &f);
        else if (f.id == PAGE_CRC) {
            h->crc = thrift_int(t, &f);
            h->has_crc = true;
        } else if ((f.id == PAGE_V1 || f.id == PAGE_DICT || f.id == PAGE_V2) &&
                   f.type == THRIFT_STRUCT)
            read_data_header(t, f.id, h);
        else
            thrift_skip(t, f.type);
    }
    return !t->failed;
}

static const char *encoding_name(int64_t encoding)
{
    static const char *const names[] = {"PLAIN",
                                        "?",
                                        "PLAIN_DICTIONARY",
                                        "RLE",
                                        "BIT_PACKED",
                                        "DELTA_BINARY_PACKED",
                                        "DELTA_LENGTH_BYTE_ARRAY",
                                        "DELTA_BYTE_ARRAY",
                                        "RLE_DICTIONARY",
                                        "BYTE_STREAM_SPLIT"};
    return encoding >= 0 && encoding < (int64_t)(sizeof names / sizeof names[0]) ? names[encoding]
                                                                                 : "?";
}

static enum rh_rc unsupported(const char *what, const char *part, int64_t encoding,
                              struct rh_error *err)
{
    return rh_fail(err, RH_ERR_UNSUPPORTED,
                   "%s: %s in encoding %lld (%s), which is not supported; write the file with "
                   "PLAIN or dictionary encoding",
                   what, part, (long long)encoding, encoding_name(encoding));
}

static enum rh_rc check_header(const struct header *h, uint64_t room, const char *what,
                               struct rh_error *err)
{
    if (h->type < PAGE_DATA || h->type > PAGE_DATA_V2)
        return rh_fail(err, RH_ERR_FORMAT, "%s: a page of unknown type %lld", what,
                       (long long)h->type);
    if (h->size < 0 || (uint64_t)h->size > room || h->size > PAGE_MAX || h->full_size < 0 ||
        h->full_size > PAGE_MAX)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: a page of %lld bytes, %lld expanded, where %llu bytes are left; at "
                       "most %lld are taken",
                       what, (long long)h->size, (long long)h->full_size, (unsigned long long)room,
                       (long long)PAGE_MAX);
    if (h->type == PAGE_INDEX)
        return RH_OK;
    if (h->values < 0 || h->values > VALUES_MAX)
        return rh_fail(err, RH_ERR_FORMAT, "%s: a page of %lld values, at most %lld are taken",
                       what, (long long)h->values, (long long)VALUES_MAX);
    if (h->level_encoding != RLE)
        return unsupported(what, "definition levels", h->level_encoding, err);
    if (h->repetition_bytes != 0 || h->definition_bytes < 0 || h->definition_bytes > h->size ||
        h->definition_bytes > h->full_size)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: levels of %lld and %lld bytes in a page of %lld without lists", what,
                       (long long)h->repetition_bytes, (long long)h->definition_bytes,
                       (long long)h->size);
    bool plain = h->encoding == PLAIN;
    bool indexed = h->encoding == PLAIN_DICTIONARY || h->encoding == RLE_DICTIONARY;
    /* In the first version of the format PLAIN_DICTIONARY names the dictionary's own page too. */
    if (plain || (indexed && h->type != PAGE_DICTIONARY) ||
        (h->encoding == PLAIN_DICTIONARY && h->type == PAGE_DICTIONARY))
        return RH_OK;
    return unsupported(what, h->type == PAGE_DICTIONARY ? "a dictionary" : "values", h->encoding,
                       err);
}

enum rh_rc page_read_header(const struct source *s, uint64_t at, uint64_t end, const char *what,
                            struct page *out, uint64_t *next, struct rh_error *err)
{
    struct header h = {0};
    uint64_t used = 0;
    for (uint64_t room = HEADER_FIRST; used == 0; room *= 16) {
        uint64_t size = room < end - at ? room : end - at;
        void *bytes = NULL;
        enum rh_rc rc = rh_try_alloc(size + 1, "a page header", &bytes, err);
        if (rc == RH_OK)
            rc = source_read(s, at, size, bytes, err);
        struct thrift t = thrift_from(bytes, rc == RH_OK ? size : 0);
        if (rc == RH_OK && read_header(&t, &h))
            used = (uint64_t)(t.at - (const uint8_t *)bytes);
        rh_free(bytes);
        if (rc != RH_OK)
            return rc;
        if (used == 0 && (size < room || room > HEADER_MAX))
            return rh_fail(err, RH_ERR_FORMAT, "%s: no page header at byte %llu", what,
                           (unsigned long long)at);
    }
    enum rh_rc rc = check_header(&h, end - at - used, what, err);
    if (rc != RH_OK)
        return rc;
    *out = (struct page){.at = at + used,
                         .size = (uint32_t)h.size,
                         .full_size = (uint32_t)h.full_size,
                         .values = h.type == PAGE_INDEX ? 0 : (uint32_t)h.values,
                         .kind = (enum page_kind)h.type,
                         .encoding = (int32_t)h.encoding,
                         .level_bytes = h.type == PAGE_DATA_V2 ? (uint32_t)h.definition_bytes : 0,
                         .plain = !h.is_compressed,
                         .has_crc = h.has_crc,
                         .crc = (uint32_t)h.crc};
    *next = out->at + out->size;
    return RH_OK;
}

void strings_done(struct strings *s)
{
    if (!s->borrowed)
        rh_free(s->bytes);
    rh_free(s->slices);
    *s = (struct strings){0};
}

/* Where decoding stands in an expanded page. */
struct body {
    const uint8_t *levels, *values, *end;
    size_t levels_size;
    const char *what;
};

static enum rh_rc broken(const struct body *b, const char *part, uint32_t at, struct rh_error *err)
{
    return rh_fail(err, RH_ERR_FORMAT, "%s: value %u of the page: %s", b->what, at, part);
}

/* Version 1 keeps the levels inside the compressed bytes, after their length. */
static enum rh_rc find_levels(const struct page *p, uint32_t definitions, struct body *b,
                              struct rh_error *err)
{
    if (p->kind == PAGE_DATA_V2) {
        b->levels_size = p->level_bytes;
        b->values = b->levels + p->level_bytes;
        return RH_OK;
    }
    b->values = b->levels;
    if (p->kind == PAGE_DICTIONARY || definitions == 0)
        return RH_OK;
    size_t left = (size_t)(b->end - b->levels);
    uint32_t size = 0;
    for (int i = 0; i < 4 && left >= 4; i++)
        size |= (uint32_t)b->levels[i] << (8 * i);
    if (left < 4 || size > left - 4)
        return rh_fail(err, RH_ERR_FORMAT, "%s: definition levels of %u bytes in a page of %zu",
                       b->what, size, left);
    b->levels += 4;
    b->levels_size = size;
    b->values = b->levels + size;
    return RH_OK;
}

/* Marks what is null; the others stay to be filled in. */
static enum rh_rc decode_levels(const struct body *b, uint32_t definitions, struct strings *out,
                                struct rh_error *err)
{
    if (definitions == 0)
        return RH_OK;
    unsigned width = 0;
    while (definitions >> width)
        width++;
    struct hybrid levels = hybrid_from(b->levels, b->levels_size, width);
    for (uint32_t i = 0; i < out->count; i++) {
        uint32_t level = 0;
        if (!hybrid_next(&levels, &level) || level > definitions)
            return broken(b, "its definition level is missing or too high", i, err);
        out->slices[i].size = level < definitions ? NULL_SIZE : 0;
    }
    return RH_OK;
}

static enum rh_rc decode_plain(const struct body *b, struct strings *out, struct rh_error *err)
{
    const uint8_t *at = b->values;
    for (uint32_t i = 0; i < out->count; i++) {
        if (out->slices[i].size == NULL_SIZE)
            continue;
        size_t left = (size_t)(b->end - at);
        if (left < 4)
            return broken(b, "its length is missing", i, err);
        uint32_t size =
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        if (size > left - 4)
            return broken(b, "it is longer than the page", i, err);
        out->slices[i] = (struct slice){(uint32_t)(at + 4 - out->bytes), size};
        at += 4 + size;
    }
    return RH_OK;
}

static enum rh_rc decode_indexed(const struct body *b, const struct strings *dictionary,
                                 struct strings *out, struct rh_error *err)
{
    struct hybrid indexes = {0};
    if (!dictionary)
        return rh_fail(err, RH_ERR_FORMAT, "%s: dictionary indexes, but no dictionary", b->what);
    if (b->values<b->end && * b->values> 32)
        return rh_fail(err, RH_ERR_FORMAT, "%s: dictionary indexes of %u bits", b->what,
                       (unsigned)*b->values);
    if (b->values < b->end)
        indexes = hybrid_from(b->values + 1, (size_t)(b->end - b->values - 1), *b->values);
    for (uint32_t i = 0; i < out->count; i++) {
        uint32_t index = 0;
        if (out->slices[i].size == NULL_SIZE)
            continue;
        if (!hybrid_next(&indexes, &index))
            return broken(b, "its dictionary index is missing", i, err);
        if (index >= dictionary->count)
            return broken(b, "its dictionary index is beyond the dictionary", i, err);
        out->slices[i] = dictionary->slices[index];
    }
    rh_free(out->bytes);
    out->bytes = dictionary->bytes;
    out->borrowed = true;
    return RH_OK;
}

/* Reads the page, checks its checksum, and expands what is compressed. *out: rh_free. */
static enum rh_rc expand(const struct source *s, const struct page *p, int64_t codec,
                         const char *what, uint8_t **out, struct rh_error *err)
{
    void *stored = NULL;
    void *full = NULL;
    uint32_t levels = p->level_bytes;
    enum rh_rc rc = rh_try_alloc((size_t)p->size + 1, "a page", &stored, err);
    if (rc == RH_OK)
        rc = source_read(s, p->at, p->size, stored, err);
    if (rc == RH_OK && p->has_crc && codec_crc32(stored, p->size) != p->crc)
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: the page at byte %llu does not match its checksum",
                     what, (unsigned long long)p->at);
    if (rc == RH_OK)
        rc = rh_try_alloc((size_t)p->full_size + 1, "an expanded page", &full, err);
    if (rc == RH_OK) {
        memcpy(full, stored, levels);
        rc = codec_expand(p->plain ? 0 : codec, (const uint8_t *)stored + levels, p->size - levels,
                          (uint8_t *)full + levels, p->full_size - levels, what, err);
    }
    rh_free(stored);
    if (rc != RH_OK) {
        rh_free(full);
        full = NULL;
    }
    *out = full;
    return rc;
}

enum rh_rc page_decode(const struct source *s, const struct page *p, int64_t codec,
                       uint32_t definitions, const struct strings *dictionary, const char *what,
                       struct strings *out, struct rh_error *err)
{
    void *slices = NULL;
    *out = (struct strings){.count = p->values};
    enum rh_rc rc = expand(s, p, codec, what, &out->bytes, err);
    if (rc == RH_OK)
        rc = rh_try_alloc(((size_t)p->values + 1) * sizeof *out->slices, "the strings of a page",
                          &slices, err);
    if (rc == RH_OK) {
        out->slices = slices;
        memset(slices, 0, (size_t)p->values * sizeof *out->slices);
        struct body b = {.levels = out->bytes, .end = out->bytes + p->full_size, .what = what};
        rc = find_levels(p, definitions, &b, err);
        if (rc == RH_OK && p->kind != PAGE_DICTIONARY)
            rc = decode_levels(&b, definitions, out, err);
        bool plain = p->encoding == PLAIN || p->kind == PAGE_DICTIONARY;
        if (rc == RH_OK)
            rc = plain ? decode_plain(&b, out, err) : decode_indexed(&b, dictionary, out, err);
    }
    if (rc != RH_OK)
        strings_done(out);
    return rc;
}
