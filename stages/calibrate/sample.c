#include "sample.h"

#include <string.h>

#include "base/mem.h"
#include "random/mt19937.h"
#include "random/pcg64.h"

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

static enum rh_rc try_document(struct rh_corpus *corpus, int64_t index,
                               struct rh_tokenizer *tokenizer, int64_t seqlen, struct rh_ids *ids,
                               struct rh_sampling *s, struct rh_error *err)
{
    char *text = NULL;
    size_t size = 0;
    enum rh_rc rc = rh_corpus_text(corpus, index, &text, &size, err);
    ids->count = 0;
    if (rc != RH_OK)
        return rc;
    rc = rh_tokenizer_encode(tokenizer, text, size, (size_t)seqlen, ids, err);
    rh_free(text);
    if (rc != RH_OK)
        return rh_error_prefix(err, "line %lld of calibration.dataset",
                               (long long)rh_corpus_line(corpus, index));
    s->considered++;
    if (ids->count < (size_t)seqlen) {
        s->too_short++;
    } else if (repetitive(ids->ids, seqlen)) {
        s->repetitive++;
    } else {
        memcpy(s->ids + s->rows * seqlen, ids->ids, (size_t)seqlen * sizeof *s->ids);
        s->rows++;
    }
    return RH_OK;
}

static enum rh_rc check_count(const struct rh_recipe *recipe, const struct rh_sampling *s,
                              struct rh_error *err)
{
    if (s->rows == recipe->nsamples || (recipe->accept_fewer && s->rows > 0))
        return RH_OK;
    return rh_fail(err, RH_ERR_FORMAT,
                   "%s gives %lld rows of %lld tokens, calibration.nsamples asks for %lld: of %lld "
                   "documents %lld are shorter and %lld repeat themselves; add text, lower "
                   "calibration.seqlen or nsamples, or set calibration.accept_fewer",
                   recipe->dataset, (long long)s->rows, (long long)recipe->seqlen,
                   (long long)recipe->nsamples, (long long)s->considered, (long long)s->too_short,
                   (long long)s->repetitive);
}

enum rh_rc rh_sample_rows(struct rh_corpus *corpus, struct rh_tokenizer *tokenizer,
                          const struct rh_recipe *recipe,
                          enum rh_rc (*progress)(void *arg, int64_t rows, struct rh_error *err),
                          void *arg, struct rh_sampling *out, struct rh_error *err)
{
    *out = (struct rh_sampling){0};
    int64_t count = rh_corpus_count(corpus);
    int64_t most = recipe->nsamples < count ? recipe->nsamples : count;
    void *memory = NULL;
    enum rh_rc rc = rh_try_alloc((size_t)(most * recipe->seqlen) * sizeof *out->ids + 1,
                                 "calibration rows", &memory, err);
    if (rc != RH_OK)
        return rc;
    out->ids = memory;
    int64_t *order = document_order(recipe, count);
    struct rh_ids ids = {0};
    for (int64_t i = 0; i < count && out->rows < recipe->nsamples && rc == RH_OK; i++) {
        rc = try_document(corpus, order[i], tokenizer, recipe->seqlen, &ids, out, err);
        if (rc == RH_OK && progress)
            rc = progress(arg, out->rows, err);
    }
    rh_ids_done(&ids);
    rh_free(order);
    if (rc == RH_OK)
        rc = check_count(recipe, out, err);
    if (rc != RH_OK) {
        rh_free(out->ids);
        out->ids = NULL;
    }
    return rc;
}
