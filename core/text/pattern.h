#ifndef RH_TEXT_PATTERN_H
#define RH_TEXT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Private to the library: the splitting regex of a pre-tokenizer, in PCRE2. */
struct rh_pattern;

RH_MUST_USE enum rh_rc rh_pattern_new(const char *regex, const char *what, struct rh_pattern **out,
                                      struct rh_error *err);
void rh_pattern_free(struct rh_pattern *p);

/* Calls fn for every match and every gap between matches, in order. text: valid UTF-8. Ends with
 * the first failure of fn, which reports it in err, or when fn sets *stop. */
typedef enum rh_rc (*rh_piece_fn)(void *arg, const char *piece, size_t size, bool *stop,
                                  struct rh_error *err);
RH_MUST_USE enum rh_rc rh_pattern_split(struct rh_pattern *p, const char *text, size_t size,
                                        rh_piece_fn fn, void *arg, struct rh_error *err);

#endif
