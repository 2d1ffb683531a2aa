#ifndef RH_TEXT_VOCAB_H
#define RH_TEXT_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* Private to the library: the tokens of a byte-level BPE model as byte strings, and its merges. */
struct rh_vocab;

/* model: the "model" object of a tokenizer.json. */
RH_MUST_USE enum rh_rc rh_vocab_new(const struct rh_json *model, const char *what,
                                    struct rh_vocab **out, struct rh_error *err);
void rh_vocab_free(struct rh_vocab *v);
int32_t rh_vocab_find(const struct rh_vocab *v, const char *bytes, size_t size); /* -1: absent */
const char *rh_vocab_token(const struct rh_vocab *v, int32_t id, size_t *size);
int32_t rh_vocab_size(const struct rh_vocab *v); /* highest id + 1 */
int32_t rh_vocab_byte(const struct rh_vocab *v, uint8_t byte);

struct rh_merge {
    uint32_t rank;
    int32_t id; /* of the merged token; -1: the pair does not merge */
};
struct rh_merge rh_vocab_merge(const struct rh_vocab *v, int32_t left, int32_t right);

#endif
