#ifndef RH_TEXT_ADDED_H
#define RH_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "vocab.h"

/* Private to the library: tokens that are found in the text before anything is split. */
struct rh_added;

/* tokens: the "added_tokens" array, may be NULL. nfc: whether text is normalized. */
RH_MUST_USE enum rh_rc rh_added_new(const struct rh_json *tokens, bool nfc, const char *what,
                                    struct rh_added **out, struct rh_error *err);
void rh_added_free(struct rh_added *a);

/* RH_ERR_FORMAT when a token has another id in the vocabulary. */
RH_MUST_USE enum rh_rc rh_added_check(const struct rh_added *a, const struct rh_vocab *vocab,
                                      const char *what, struct rh_error *err);

struct rh_added_match {
    size_t from, to; /* with the white space that the token takes along */
    int32_t id;
};

/* The leftmost, and there the longest, of the tokens that are searched in raw (or in normalized)
 * text, with what its flags take along or rule out. False: none from `from` on. */
bool rh_added_find(const struct rh_added *a, bool normalized, const char *text, size_t size,
                   size_t from, struct rh_added_match *out);
const char *rh_added_token(const struct rh_added *a, int32_t id, size_t *size); /* NULL: absent */
int32_t rh_added_size(const struct rh_added *a);                                /* highest id + 1 */

#endif
