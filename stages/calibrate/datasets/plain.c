#include "base/mem.h"
#include "kinds.h"

/* A document ends with the first blank line after SOON, with the first line after LATE, and with
 * the first character after LAST. */
#define SOON ((uint64_t)16 << 10)
#define LATE ((uint64_t)32 << 10)
#define LAST ((uint64_t)1 << 20)

struct scan {
    struct rh_piece document;
    int64_t line;
    char last;
};

static enum rh_rc end_document(struct rh_pieces *p, struct scan *s, struct rh_error *err)
{
    enum rh_rc rc = s->document.size > 0 ? rh_pieces_add(p, s->document, err) : RH_OK;
    s->document = (struct rh_piece){s->document.at + s->document.size, 0, s->line};
    return rc;
}

static enum rh_rc cut_text(struct rh_pieces *p, void *arg, const char *bytes, size_t size,
                           struct rh_error *err)
{
    struct scan *s = arg;
    enum rh_rc rc = size == 0 ? end_document(p, s, err) : RH_OK;
    for (size_t i = 0; i < size && rc == RH_OK; i++) {
        bool character = ((unsigned char)bytes[i] & 0xC0) != 0x80;
        if (s->document.size >= LAST && character)
            rc = end_document(p, s, err);
        s->document.size++;
        if (bytes[i] == '\n') {
            uint64_t enough = s->last == '\n' ? SOON : LATE;
            s->line++;
            if (s->document.size >= enough && rc == RH_OK)
                rc = end_document(p, s, err);
        }
        s->last = bytes[i] == '\r' ? s->last : bytes[i];
    }
    return rc;
}

static enum rh_rc open_text(struct rh_dataset *d, const char *column, struct rh_error *err)
{
    struct scan s = {.document = {.line = 1}, .line = 1};
    if (column)
        return rh_fail(err, RH_ERR_ARGUMENT, "%s: plain text has no column %s; leave :column away",
                       d->path, column);
    return rh_pieces_open(d, NULL, cut_text, &s, err);
}

static enum rh_rc text_of_piece(const struct rh_dataset *d, int64_t index, char **out, size_t *size,
                                struct rh_error *err)
{
    const struct rh_pieces *p = d->self;
    *size = p->pieces[index].size;
    return rh_pieces_read(d, index, out, err);
}

const struct rh_dataset_kind rh_dataset_plain = {
    .suffix = ".txt",
    .running_text = true,
    .open = open_text,
    .close = rh_pieces_close,
    .text = text_of_piece,
    .where = rh_pieces_where,
};
