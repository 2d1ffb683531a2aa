#include <string.h>

#include "base/mem.h"
#include "document.h"
#include "kinds.h"

struct scan {
    struct rh_piece line; /* being read; size without its end */
    bool blank;           /* nothing but white space so far */
};

static enum rh_rc end_line(struct rh_pieces *p, struct scan *s, struct rh_error *err)
{
    enum rh_rc rc = s->blank ? RH_OK : rh_pieces_add(p, s->line, err);
    s->line = (struct rh_piece){s->line.at + s->line.size + 1, 0, s->line.line + 1};
    s->blank = true;
    return rc;
}

static enum rh_rc cut_lines(struct rh_pieces *p, void *arg, const char *bytes, size_t size,
                            struct rh_error *err)
{
    struct scan *s = arg;
    enum rh_rc rc = size == 0 ? end_line(p, s, err) : RH_OK;
    for (size_t i = 0; i < size && rc == RH_OK; i++) {
        if (bytes[i] == '\n') {
            rc = end_line(p, s, err);
            continue;
        }
        s->line.size++;
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r')
            s->blank = false;
    }
    return rc;
}

static enum rh_rc open_lines(struct rh_dataset *d, const char *column, struct rh_error *err)
{
    struct scan s = {.line = {.line = 1}, .blank = true};
    return rh_pieces_open(d, column, cut_lines, &s, err);
}

static enum rh_rc text_of_line(const struct rh_dataset *d, int64_t index, char **out, size_t *size,
                               struct rh_error *err)
{
    const struct rh_pieces *p = d->self;
    char *line = NULL;
    char *where = rh_pieces_where(d, index);
    enum rh_rc rc = rh_pieces_read(d, index, &line, err);
    if (rc == RH_OK)
        rc = rh_document_from_json(line, p->pieces[index].size, p->column, where, out, err);
    if (rc == RH_OK)
        *size = rh_document_stripped(*out, strlen(*out));
    rh_free(where);
    rh_free(line);
    return rc;
}

const struct rh_dataset_kind rh_dataset_jsonl = {
    .open = open_lines,
    .close = rh_pieces_close,
    .text = text_of_line,
    .where = rh_pieces_where,
};
