#ifndef RH_BASE_UTF8_H
#define RH_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, surrogates or values above 10FFFF.
 * *bad (may be NULL) is the offset of the first offending byte. */
bool rh_utf8_valid(const char *text, size_t size, size_t *bad);

#endif
