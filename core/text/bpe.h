#ifndef RH_TEXT_BPE_H
#define RH_TEXT_BPE_H

#include "text/tokenizer.h"
#include "vocab.h"

/* Private to the library: merges the bytes of one piece; caches short pieces. */
struct rh_bpe;

struct rh_bpe *rh_bpe_new(const struct rh_vocab *vocab, bool ignore_merges);
void rh_bpe_free(struct rh_bpe *bpe);
/* size: at most INT32_MAX. Nothing is appended on failure. */
RH_MUST_USE enum rh_rc rh_bpe_encode(struct rh_bpe *bpe, const char *piece, size_t size,
                                     struct rh_ids *out, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_ids_append(struct rh_ids *out, const int32_t *ids, size_t count,
                                     struct rh_error *err);

#endif
