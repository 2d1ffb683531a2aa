#ifndef RH_TEXT_ADDED_H
#define RH_TEXT_ADDED_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* Private to the library: tokens that are found in the text before anything is split. */
struct rh_added;

/* tokens: the "added_tokens" array, may be NULL. */
RH_MUST_USE enum rh_rc rh_added_new(const struct rh_json *tokens, const char *what,
                                    struct rh_added **out, struct rh_error *err);
void rh_added_free(struct rh_added *a);

struct rh_added_match {
    size_t from, to; /* with the white space that the token takes along */
    int32_t id;
};

/* The leftmost, and there the longest, of the tokens that are searched in raw (or in normalized)
 * text. False: none from `from` on. */
bool rh_added_find(const struct rh_added *a, bool normalized, const char *text, size_t size,
                   size_t from, struct rh_added_match *out);
const char *rh_added_token(const struct rh_added *a, int32_t id, size_t *size); /* NULL: absent */
int32_t rh_added_size(const struct rh_added *a); /* highest id + 1 */

#endif
