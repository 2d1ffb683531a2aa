#include "dataset.h"

#include <string.h>

#include "base/mem.h"
#include "datasets/kinds.h"

static const struct rh_dataset_kind *const kinds[] = {&rh_dataset_parquet, &rh_dataset_json,
                                                      &rh_dataset_plain, &rh_dataset_jsonl};

static const struct rh_dataset_kind *kind_of(const char *path)
{
    size_t size = strlen(path);
    for (size_t i = 0;; i++) {
        const char *suffix = kinds[i]->suffix;
        size_t n = suffix ? strlen(suffix) : 0;
        if (!suffix || (size >= n && strcmp(path + size - n, suffix) == 0))
            return kinds[i];
    }
}

enum rh_rc rh_dataset_open(const char *path, const char *column, struct rh_dataset **out,
                           struct rh_error *err)
{
    struct rh_dataset *d = rh_alloc(sizeof *d);
    d->kind = kind_of(path);
    d->path = rh_strdup(path);
    enum rh_rc rc = d->kind->open(d, column, err);
    *out = rc == RH_OK ? d : NULL;
    if (rc == RH_OK)
        return rc;
    rh_dataset_close(d);
    return rh_error_prefix(err, "calibration.dataset");
}

void rh_dataset_close(struct rh_dataset *d)
{
    if (!d)
        return;
    if (d->self)
        d->kind->close(d->self);
    rh_free(d->path);
    rh_free(d);
}

int64_t rh_dataset_count(const struct rh_dataset *d)
{
    return d->count;
}

const char *rh_dataset_sha256(const struct rh_dataset *d)
{
    return d->sha256;
}

bool rh_dataset_is_running_text(const struct rh_dataset *d)
{
    return d->kind->running_text;
}

enum rh_rc rh_dataset_text(struct rh_dataset *d, int64_t index, char **out, size_t *out_size,
                           struct rh_error *err)
{
    *out = NULL;
    *out_size = 0;
    RH_ASSERT(index >= 0 && index < d->count);
    return d->kind->text(d, index, out, out_size, err);
}

char *rh_dataset_where(const struct rh_dataset *d, int64_t index)
{
    return d->kind->where(d, index);
}
