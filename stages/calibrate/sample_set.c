#include "sample_set.h"

#include <string.h>

#include "base/mem.h"
#include "random/mt19937.h"
#include "random/pcg64.h"

struct work {
    const struct rh_set_order *order;
    struct rh_dataset *dataset;
    struct rh_set_sampling *stats;
    struct rh_set_rows *rows;
    struct rh_ids ids; /* of one document, or what is not yet packed */
};

static int64_t *document_order(const struct rh_recipe *recipe, int64_t count)
{
    int64_t *order = rh_alloc_array((size_t)count + 1, sizeof *order);
    if (recipe->order == RH_ORDER_NUMPY) {
        rh_pcg64_permutation((uint64_t)recipe->calibration_seed, order, count);
        return order;
    }
    for (int64_t i = 0; i < count; i++)
        order[i] = i;
    if (recipe->order != RH_ORDER_NONE) {
        struct rh_mt19937 mt;
        rh_mt19937_seed(&mt, (uint64_t)recipe->calibration_seed);
        rh_mt19937_shuffle(&mt, order, count);
    }
    return order;
}

static bool repetitive(const int32_t *ids, int64_t seqlen)
{
    int64_t same = 0;
    for (int64_t i = 0; i < seqlen; i++)
        same += ids[i] == ids[seqlen - 1];
    return same > seqlen / 2;
}

/* Grows as rows are found: nsamples may be far more than there are. */
static enum rh_rc keep_row(struct work *w, const int32_t *ids, struct rh_error *err)
{
    struct rh_set_rows *r = w->rows;
    size_t row = (size_t)w->order->recipe->seqlen * sizeof *ids;
    if (r->kept == r->capacity) {
        int64_t capacity = r->capacity ? 2 * r->capacity : 16;
        void *grown = NULL;
        enum rh_rc rc = rh_try_alloc((size_t)capacity * row, "calibration rows", &grown, err);
        if (rc != RH_OK)
            return rc;
        if (r->kept > 0)
            memcpy(grown, r->ids, (size_t)r->kept * row);
        rh_free(r->ids);
        r->ids = grown;
        r->capacity = capacity;
    }
    memcpy((char *)r->ids + (size_t)r->kept * row, ids, row);
    r->kept++;
    return RH_OK;
}

static enum rh_rc offer_row(struct work *w, const int32_t *ids, struct rh_error *err)
{
    if (repetitive(ids, w->order->recipe->seqlen)) {
        w->stats->repetitive++;
        return RH_OK;
    }
    w->stats->rows++;
    return w->rows->kept < w->order->keep ? keep_row(w, ids, err) : RH_OK;
}

static enum rh_rc encode(struct work *w, int64_t index, size_t enough, struct rh_error *err)
{
    char *text = NULL;
    size_t size = 0;
    enum rh_rc rc = rh_dataset_text(w->dataset, index, &text, &size, err);
    if (rc != RH_OK)
        return rc;
    rc = rh_tokenizer_encode(w->order->tokenizer, text, size, enough, &w->ids, err);
    rh_free(text);
    if (rc == RH_OK)
        return RH_OK;
    char *where = rh_dataset_where(w->dataset, index);
    rh_error_prefix(err, "%s", where);
    rh_free(where);
    return rc;
}

static enum rh_rc try_document(struct work *w, int64_t index, struct rh_error *err)
{
    size_t seqlen = (size_t)w->order->recipe->seqlen;
    w->ids.count = 0;
    enum rh_rc rc = encode(w, index, seqlen, err);
    if (rc != RH_OK || w->ids.count >= seqlen)
        return rc == RH_OK ? offer_row(w, w->ids.ids, err) : rc;
    w->stats->too_short++;
    return RH_OK;
}

static enum rh_rc pack_document(struct work *w, int64_t index, struct rh_error *err)
{
    size_t seqlen = (size_t)w->order->recipe->seqlen;
    size_t before = w->ids.count;
    bool cut = !rh_dataset_is_running_text(w->dataset);
    enum rh_rc rc = encode(w, index, cut ? before + seqlen : 0, err);
    if (rc != RH_OK)
        return rc;
    if (cut && w->ids.count > before + seqlen)
        w->ids.count = before + seqlen;
    size_t used = 0;
    for (; rc == RH_OK && w->ids.count - used >= seqlen; used += seqlen)
        rc = offer_row(w, w->ids.ids + used, err);
    w->ids.count -= used;
    memmove(w->ids.ids, w->ids.ids + used, w->ids.count * sizeof *w->ids.ids);
    return rc;
}

static enum rh_rc sample(struct work *w, struct rh_error *err)
{
    const struct rh_set_order *o = w->order;
    int64_t count = rh_dataset_count(w->dataset);
    int64_t *order = document_order(o->recipe, count);
    enum rh_rc rc = RH_OK;
    for (int64_t i = 0; i < count && rc == RH_OK; i++) {
        if (w->rows->kept == o->keep && !o->count_all)
            break;
        w->stats->considered++;
        rc = (w->stats->concat ? pack_document : try_document)(w, order[i], err);
        if (rc == RH_OK && o->progress)
            rc = o->progress(o->arg, o->before + w->rows->kept, err);
    }
    rh_free(order);
    return rc;
}

static const char *leaf_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

enum rh_rc rh_sample_set(const struct rh_set_order *o, const struct rh_dataset_spec *spec,
                         struct rh_set_sampling *stats, struct rh_set_rows *out,
                         struct rh_error *err)
{
    struct work w = {.order = o, .stats = stats, .rows = out};
    enum rh_rc rc = rh_dataset_open(spec->name, spec->column, &w.dataset, err);
    if (rc != RH_OK)
        return rc;
    stats->name = rh_strdup(leaf_of(spec->name));
    stats->documents = rh_dataset_count(w.dataset);
    stats->concat = spec->concat_given ? spec->concat
                                       : o->recipe->concat || rh_dataset_is_running_text(w.dataset);
    memcpy(stats->sha256, rh_dataset_sha256(w.dataset), sizeof stats->sha256);
    rc = sample(&w, err);
    rh_ids_done(&w.ids);
    rh_dataset_close(w.dataset);
    return rc;
}
