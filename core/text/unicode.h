#ifndef RH_TEXT_UNICODE_H
#define RH_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Private to the library. Texts are valid UTF-8. */

/* Normalization form C. *out is NULL when the text is in that form because it is ASCII; else free
 * it with rh_unicode_free(). */
RH_MUST_USE enum rh_rc rh_unicode_nfc(const char *text, size_t size, char **out, size_t *out_size,
                                      struct rh_error *err);
void rh_unicode_free(char *text);

/* Length of the character of white space that the text begins or ends with; 0: none. */
size_t rh_unicode_white_at_start(const char *text, size_t size);
size_t rh_unicode_white_at_end(const char *text, size_t size);
/* A word character in the sense of Unicode's UTS 18, annex C: alphabetic, mark, decimal digit,
 * connector or join control. */
bool rh_unicode_word_at_start(const char *text, size_t size);
bool rh_unicode_word_at_end(const char *text, size_t size);

#endif
