#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "document.h"
#include "kinds.h"

#define FILE_MAX ((uint64_t)1 << 30)

struct list {
    struct rh_json *root;
    const struct rh_json **documents;
    char *column;
};

static enum rh_rc open_list(struct rh_dataset *d, const char *column, struct rh_error *err)
{
    struct list *l = rh_alloc(sizeof *l);
    d->self = l;
    l->column = rh_strdup(column);
    enum rh_rc rc = rh_sha256_file(d->path, d->sha256, NULL, err);
    if (rc == RH_OK)
        rc = rh_json_read(d->path, FILE_MAX, &l->root, err);
    if (rc != RH_OK)
        return rc;
    if (rh_json_type(l->root) != RH_JSON_ARRAY && rh_json_type(l->root) != RH_JSON_OBJECT)
        return rh_fail(err, RH_ERR_FORMAT,
                       "%s: a .json data set is a list of documents, or an object of them",
                       d->path);
    l->documents = rh_alloc_array(rh_json_count(l->root) + 1, sizeof *l->documents);
    for (const struct rh_json *c = rh_json_first(l->root); c; c = rh_json_next(c))
        l->documents[d->count++] = c;
    return RH_OK;
}

static void close_list(void *self)
{
    struct list *l = self;
    rh_json_free(l->root);
    rh_free(l->documents);
    rh_free(l->column);
    rh_free(l);
}

static char *where_in_list(const struct rh_dataset *d, int64_t index)
{
    return rh_format("%s document %lld", d->path, (long long)index + 1);
}

static enum rh_rc text_of_document(const struct rh_dataset *d, int64_t index, char **out,
                                   size_t *size, struct rh_error *err)
{
    const struct list *l = d->self;
    const char *text = NULL;
    char *where = where_in_list(d, index);
    enum rh_rc rc = rh_document_text(l->documents[index], l->column, where, &text, err);
    if (rc == RH_OK) {
        *out = rh_strdup(text);
        *size = rh_document_stripped(text, strlen(text));
    }
    rh_free(where);
    return rc;
}

const struct rh_dataset_kind rh_dataset_json = {
    .suffix = ".json",
    .open = open_list,
    .close = close_list,
    .text = text_of_document,
    .where = where_in_list,
};
