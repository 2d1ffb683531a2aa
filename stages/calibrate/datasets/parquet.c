#include "parquet/parquet.h"

#include <string.h>

#include "base/mem.h"
#include "kinds.h"

static enum rh_rc open_column(struct rh_dataset *d, const char *column, struct rh_error *err)
{
    struct rh_parquet *p = NULL;
    enum rh_rc rc = rh_parquet_open(d->path, column, &p, err);
    if (rc == RH_OK)
        rc = rh_sha256_file(d->path, d->sha256, NULL, err);
    d->self = p;
    d->count = p ? rh_parquet_rows(p) : 0;
    return rc;
}

static void close_column(void *self)
{
    rh_parquet_close(self);
}

static char *where_in_column(const struct rh_dataset *d, int64_t index)
{
    return rh_format("%s row %lld", d->path, (long long)index + 1);
}

static enum rh_rc text_of_row(const struct rh_dataset *d, int64_t index, char **out, size_t *size,
                              struct rh_error *err)
{
    const char *text = NULL;
    void *copy = NULL;
    enum rh_rc rc = rh_parquet_get(d->self, index, &text, size, err);
    if (rc == RH_OK)
        rc = rh_try_alloc(*size + 1, "a document of calibration text", &copy, err);
    if (rc != RH_OK)
        return rc;
    if (*size > 0)
        memcpy(copy, text, *size);
    ((char *)copy)[*size] = '\0';
    *out = copy;
    return RH_OK;
}

const struct rh_dataset_kind rh_dataset_parquet = {
    .suffix = ".parquet",
    .open = open_column,
    .close = close_column,
    .text = text_of_row,
    .where = where_in_column,
};
